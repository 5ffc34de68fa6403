"""Size and orientation from the header of an image file, read without decoding the image."""

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
"""Largest number of pixels: larger images are refused, because the pixels alone would need more than 0.8 GB."""

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
    """Data from the header of an image file.

    Attributes:
        height: height of the stored pixels.
        width: width of the stored pixels.
        orientation: EXIF's orientation, from 1 (upright) to 8; not read if ``is_huge``.
        mode: Pillow's name of the pixel format.
        is_preview: whether the first page of a TIFF is a small copy of the image, as in raw files of cameras.
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
    """Read the header from the content of an image file; None if the format is unknown or it cannot be read."""
    file = _open(data)
    if file is None:
        return None
    is_preview = isinstance(file, TiffImagePlugin.TiffImageFile) and bool(file.tag_v2.get(_KIND_TAG, 0) & _PREVIEW)
    width, height = file.size
    is_huge = width * height > MAX_PIXELS  # Pillow decodes some PNG files to find their EXIF
    return PictureHeader(height, width, UPRIGHT if is_huge else _orientation_of(file, data), file.mode, is_preview)


def count_pages(data: bytes) -> int:
    """Return the number of pages of a TIFF or of images in an animation; 1 for other files."""
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
    """Return EXIF's orientation; broken EXIF data are ignored, as in viewers."""
    is_tiff = isinstance(file, TiffImagePlugin.TiffImageFile)
    if not is_tiff and not any(mark in data for mark in _EXIF_MARKS):
        return UPRIGHT
    try:
        value = file.getexif().get(_ORIENTATION_TAG)
    except _BROKEN:
        return UPRIGHT
    return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT
