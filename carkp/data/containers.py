"""Checks whether the end of an image file other than JPEG, or of a video file, is missing.

Decoders do not always report it: some fill the rest with grey, or return the existing frames and stop.
"""

import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from PIL import TiffImagePlugin

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND"
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UNCOMPRESSED_BMP = (0, 3, 6)
_SLACK_BYTES = 16
"""Tolerance: some writers get the length of a video wrong by a few bytes."""

_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES = 273, 279, 324, 325


def is_tiff(data: bytes) -> bool:
    return data.startswith(_TIFF_STARTS)


def is_cut_short(data: bytes) -> bool:
    """Return whether a PNG, WebP, TIFF or BMP file ends too early or has damaged blocks; False for other formats."""
    try:
        if data.startswith(_PNG_START):
            return _is_png_cut(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _number(data, 4, "<I") + 8 > len(data)
        if is_tiff(data):
            return _is_tiff_cut(data)
        if data.startswith(b"BM") and len(data) > 2:
            return _is_bmp_cut(data)
    except struct.error:  # the header itself is incomplete
        return True
    return False


def _number(data: bytes, position: int, form: str) -> int:
    number: int = struct.unpack_from(form, data, position)[0]
    return number


def _is_png_cut(data: bytes) -> bool:
    """Return whether chunks are missing at the end, or the checksum of a chunk needed for decoding is wrong."""
    position, view = len(_PNG_START), memoryview(data)
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        checksum = _number(data, end, ">I")
        if kind[:1].isupper() and zlib.crc32(view[position + 4 : end]) != checksum:
            return True
        if kind == _PNG_END:
            return False
        position = end + 4


def _is_tiff_cut(data: bytes) -> bool:
    """Return whether a strip or tile of the first page lies beyond the end of the file."""
    try:
        tags = TiffImagePlugin.TiffImageFile(io.BytesIO(data)).tag_v2
    except (SyntaxError, OSError, ValueError, OverflowError):
        return False  # only the decoder can judge this kind of TIFF
    for starts, lengths in ((_STRIPS, _STRIP_BYTES), (_TILES, _TILE_BYTES)):
        pairs = zip(tags.get(starts, ()), tags.get(lengths, ()), strict=False)
        if any(start + length > len(data) for start, length in pairs):
            return True
    return False


def _is_bmp_cut(data: bytes) -> bool:
    """Return whether rows are missing. The file size in the header is not used, because it is wrong in many files."""
    start, header_size = struct.unpack_from("<II", data, 10)
    if header_size < 40:  # header of OS/2
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        return bool(start + (width * bits + 31) // 32 * 4 * height > len(data))
    width, height, _, bits, compression, num_bytes = struct.unpack_from("<iiHHII", data, 18)
    if compression in _UNCOMPRESSED_BMP:
        num_bytes = (abs(width) * bits + 31) // 32 * 4 * abs(height)
    return bool(start + num_bytes > len(data))


def is_video_cut_short(path: Path) -> bool:
    """Return whether an MP4, MOV, AVI, Matroska or WebM file is shorter than its header says; False for others.

    Raises:
        OSError: the file cannot be read.
    """
    limit = path.stat().st_size + _SLACK_BYTES
    with path.open("rb") as file:
        start = file.read(12)
        try:
            if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
                return _is_mp4_longer(file, limit)
            if start[:4] == b"RIFF":
                return _is_riff_longer(file, limit)
            if start[:4] == b"\x1aE\xdf\xa3":
                return _is_matroska_longer(file, limit)
        except struct.error:  # after the last complete block
            return False
    return False


def _is_mp4_longer(file: BinaryIO, limit: int) -> bool:
    """Return whether a box with frames or their index ends after ``limit``."""
    position = 0
    while position <= limit:
        file.seek(position)
        size, kind = struct.unpack(">I4s", file.read(8))
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
        if kind in (b"mdat", b"moov", b"moof") and position + size > limit:
            return True
        if size < 8:  # 0 means up to the end
            return False
        position += size
    return False


def _is_riff_longer(file: BinaryIO, limit: int) -> bool:
    """Return whether a part of an AVI file ends after ``limit``; long files have several parts."""
    position = 0
    while True:
        file.seek(position)
        name, size = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF":
            return False
        position += 8 + int(size)
        if position > limit:
            return True


def _is_matroska_longer(file: BinaryIO, limit: int) -> bool:
    """Return whether the segment, which contains everything, ends after ``limit``; live recordings give no end."""
    file.seek(4)
    header_size = _read_matroska_size(file)
    if header_size is None:
        return False
    file.seek(header_size, io.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return False
    size = _read_matroska_size(file)
    return size is not None and file.tell() + size > limit


def _read_matroska_size(file: BinaryIO) -> int | None:
    """Read a number of 1 to 8 bytes; leading zero bits give its length. None if all bits are one, for "unknown"."""
    (first,) = struct.unpack("B", file.read(1))
    num_more = 8 - first.bit_length()
    value = int.from_bytes(bytes([first]) + file.read(num_more), "big") & ((1 << 7 * (num_more + 1)) - 1)
    return None if value == (1 << 7 * (num_more + 1)) - 1 else value
