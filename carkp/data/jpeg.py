"""JPEG in memory: decode, encode, read the size. Images are (H, W, 3) uint8, BGR unless a name says RGB."""

import re

import cv2
import numpy as np
from numpy.typing import NDArray

from carkp.data import containers
from carkp.data.headers import MAX_PIXELS, read_header

Image = NDArray[np.uint8]

MAX_EXTENT_PX = 65_500
"""Largest width and height: encoders cannot write larger JPEG files."""

START = b"\xff\xd8"
_SCAN_MARKER, _END_MARKER = 0xDA, 0xD9
_STANDALONE_MARKERS = frozenset((0x00, 0x01, 0xD8, *range(0xD0, 0xD8)))
"""Markers that no length follows."""

_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A marker that ends compressed data; inside of these, 0xff is followed by zero, another 0xff or a restart marker."""

_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_REDUCED_FLAGS: dict[int, int] = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def decode_bgr(data: bytes, reduction: int = 1) -> Image | None:
    """Decode an image at 1/``reduction`` (1, 2, 4 or 8) of its size, rounded up; None if it cannot be decoded.

    The result is also None if the image has more than ``MAX_PIXELS``, or if its header does not give its size. A
    reduced pixel is the mean of a square with sides of ``reduction`` pixels. EXIF orientation is ignored, because
    labels ignore it.
    """
    if not data or not _is_decodable(data):
        return None
    flags = _REDUCED_FLAGS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return image  # type: ignore[return-value]


def _is_decodable(data: bytes) -> bool:
    """Return whether the header gives a size that is not too large: decoders allocate the whole image at once."""
    size = read_size(data)
    if size is None:
        header = read_header(data)
        size = None if header is None else (header.height, header.width)
    return size is not None and 0 < size[0] * size[1] <= MAX_PIXELS


def decode_rgb(data: bytes, reduction: int = 1) -> Image | None:
    """Decode as ``decode_bgr``, with the channels in RGB order."""
    image = decode_bgr(data, reduction)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def encode_bgr(image: Image, quality: int) -> bytes:
    """Encode an image as JPEG with ``quality`` from 1 to 100.

    Raises:
        ValueError: the image cannot be encoded as JPEG.
    """
    reason = ""
    try:
        is_done, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))
    except cv2.error as error:
        is_done, reason = False, f": {error}"
    if not is_done:
        raise ValueError(f"a picture of shape {image.shape} cannot be encoded as JPEG{reason}")
    return data.tobytes()


def is_cut_short(data: bytes) -> bool:
    """Return whether the end of an image file is missing; some decoders would fill the rest with grey.

    Bytes after the end are allowed. In a JPEG, markers are followed one by one, and compressed data are searched for
    the marker that ends them. For other formats see :mod:`carkp.data.containers`.
    """
    if not data.startswith(START):
        return containers.is_cut_short(data)
    position = len(START)
    while True:
        marker, position = _next_marker(data, position)
        if marker is None:
            return True
        if marker == _END_MARKER:
            return False
        if marker not in _STANDALONE_MARKERS:
            position += int.from_bytes(data[position : position + 2], "big")
        if marker == _SCAN_MARKER:
            end = _SCAN_END.search(data, position)
            if end is None:
                return True
            position = end.start()


def _next_marker(data: bytes, position: int) -> tuple[int | None, int]:
    """Return the next marker from ``position`` on, or None, and its end; other bytes are skipped, as decoders do."""
    position = data.find(b"\xff", position)
    while 0 <= position < len(data) - 1:
        if data[position + 1] != 0xFF:  # another 0xff is a fill byte
            return data[position + 1], position + 2
        position += 1
    return None, position


def read_size(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) from the header of a JPEG; None if there is none."""
    if not data.startswith(START):
        return None
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _FRAME_MARKERS:
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            width = int.from_bytes(data[position + 7 : position + 9], "big")
            return (height, width) if height and width else None
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None
