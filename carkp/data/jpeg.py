"""JPEG in memory: decode, encode, read the size. Pictures are (H, W, 3) uint8, BGR unless a name says RGB."""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

_START, _END = b"\xff\xd8", b"\xff\xd9"
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_REDUCED_FLAGS: dict[int, int] = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def decode_bgr(data: bytes, reduction: int = 1) -> Image | None:
    """Decode a picture, at 1/``reduction`` (1, 2, 4 or 8) of its size, rounded up; None where it cannot be decoded.

    A reduced pixel is the mean of a square of ``reduction`` pixels. EXIF orientation is ignored, as labels ignore it.
    """
    if not data:
        return None
    flags = _REDUCED_FLAGS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return image  # type: ignore[return-value]


def decode_rgb(data: bytes, reduction: int = 1) -> Image | None:
    """``decode_bgr`` with the channels in RGB order."""
    image = decode_bgr(data, reduction)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def encode_bgr(image: Image, quality: int) -> bytes:
    """Encode with ``quality`` from 1 to 100."""
    is_done, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))
    if not is_done:
        raise ValueError(f"a picture of shape {image.shape} cannot be encoded as JPEG")
    return data.tobytes()


def is_cut_short(data: bytes) -> bool:
    """Whether a JPEG lacks its end marker: OpenCV would decode it and paint the rest grey."""
    return data.startswith(_START) and _END not in data[-4096:]


def read_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) from a JPEG's header; None where there is none."""
    if not data.startswith(_START):
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
