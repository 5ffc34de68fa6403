"""Writing of pictures to files."""

from pathlib import Path

import cv2
import numpy as np

from carkp.data import jpeg
from carkp.data.jpeg import Image
from carkp.disk import write_atomic

_JPEG_QUALITY = 88


def write_jpeg(path: Path, image_rgb: Image) -> None:
    """Write an RGB picture.

    Raises:
        OSError: the file cannot be written, or JPEG cannot hold the picture.
    """
    try:
        data = jpeg.encode_bgr(np.asarray(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), np.uint8), _JPEG_QUALITY)
    except ValueError as error:
        raise OSError(f"{path}: cannot write the picture: {error}") from error
    write_atomic(path, data)


def write_picture(stem: Path, image_rgb: Image) -> Path:
    """Write an RGB picture as JPEG, or as PNG if it is too large for JPEG; ``stem`` is the path without suffix.

    Raises:
        OSError: the file cannot be written.
    """
    if max(image_rgb.shape[:2]) <= jpeg.MAX_EXTENT_PX:
        path = stem.with_name(f"{stem.name}.jpg")
        write_jpeg(path, image_rgb)
        return path
    path = stem.with_name(f"{stem.name}.png")
    is_done, data = cv2.imencode(".png", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))
    if not is_done:
        raise OSError(f"{path}: cannot write the picture")
    write_atomic(path, data.tobytes())
    return path
