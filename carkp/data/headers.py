"""What the header of a picture file says, read without decoding: size and orientation."""

import io
import struct
from dataclasses import dataclass

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.Image import DecompressionBombError
from PIL.ImageFile import ImageFile

UPRIGHT = 1

MAX_PIXELS = 2**28
"""Pictures of more are refused: their pixels alone would need more than 0.8 GB."""

_ORIENTATION_TAG = 0x0112
_KIND_TAG, _PREVIEW = 254, 1
_EXIF_MARKS = (b"Exif\0", b"EXIF", b"eXIf", b"Raw profile type exif", b"adobe:ns:meta")
_BROKEN = (
    SyntaxError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    EOFError,
    struct.error,
    DecompressionBombError,
)

_READERS: dict[bytes, type[ImageFile]] = {
    b"\xff\xd8": JpegImagePlugin.JpegImageFile,
    b"\x89PNG": PngImagePlugin.PngImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"II": TiffImagePlugin.TiffImageFile,
    b"MM": TiffImagePlugin.TiffImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"GIF8": GifImagePlugin.GifImageFile,
    b"P": PpmImagePlugin.PpmImageFile,
}


@dataclass(frozen=True)
class PictureHeader:
    """What a header says.

    Attributes:
        height: of the stored pixels.
        width: of the stored pixels.
        orientation: EXIF's, from 1 (upright) to 8; not read where ``is_huge``.
        mode: Pillow's name of what the pixels are.
        is_preview: whether the first page of a TIFF is a small copy of the picture, as in cameras' raw files.
    """

    height: int
    width: int
    orientation: int
    mode: str
    is_preview: bool

    @property
    def is_huge(self) -> bool:
        return self.height * self.width > MAX_PIXELS


def read_header(data: bytes) -> PictureHeader | None:
    """The header of a picture file's content; None where it is of an unknown format or cannot be read."""
    file = _open(data)
    if file is None:
        return None
    is_preview = isinstance(file, TiffImagePlugin.TiffImageFile) and bool(file.tag_v2.get(_KIND_TAG, 0) & _PREVIEW)
    width, height = file.size
    is_huge = width * height > MAX_PIXELS  # Pillow decodes some PNG files to find their EXIF
    return PictureHeader(height, width, UPRIGHT if is_huge else _orientation_of(file, data), file.mode, is_preview)


def count_pages(data: bytes) -> int:
    """Pages of a TIFF, pictures of an animation; 1 for any other."""
    try:
        return int(getattr(_open(data), "n_frames", 1))
    except _BROKEN:
        return 1


def _open(data: bytes) -> ImageFile | None:
    reader = next((reader for start, reader in _READERS.items() if data.startswith(start)), None)
    try:
        return None if reader is None else reader(io.BytesIO(data))
    except _BROKEN:
        return None


def _orientation_of(file: ImageFile, data: bytes) -> int:
    """Broken EXIF counts as none, as in viewers."""
    is_tiff = isinstance(file, TiffImagePlugin.TiffImageFile)
    if not is_tiff and not any(mark in data for mark in _EXIF_MARKS):
        return UPRIGHT
    try:
        value = file.getexif().get(_ORIENTATION_TAG)
    except _BROKEN:
        return UPRIGHT
    return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT
