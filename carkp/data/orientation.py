"""Orientation of pictures and videos: whether the orientation stored in a file is applied.

``ignore`` uses the pixels as they are stored. The labels of CarFusion and of most data sets belong to these pixels.
``apply`` turns the image upright, as viewers and browsers do. It is right for boxes that were drawn in a viewer.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from carkp.data.issues import DataError

IGNORE, APPLY = "ignore", "apply"
ORIENTATIONS = (IGNORE, APPLY)

Image = NDArray[np.uint8]

_TURNS: dict[int, Callable[[Image], Image]] = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda image: np.rot90(image),
}
"""EXIF's orientation -> function that turns the stored pixels upright."""

_OPPOSITES = {6: 8, 8: 6}


def check_orientation(orientation: str) -> str:
    """Return the orientation; raise DataError if it is neither ``ignore`` nor ``apply``."""
    if orientation not in ORIENTATIONS:
        raise DataError(f"orientation={orientation}: expected one of {', '.join(ORIENTATIONS)}")
    return orientation


def turn_upright(image: Image, exif: int) -> Image:
    """Return stored pixels (H, W, 3) as a viewer shows them, by EXIF's orientation 1 to 8."""
    return np.ascontiguousarray(_TURNS[exif](image))


def turn_back(image: Image, exif: int) -> Image:
    """Undo :func:`turn_upright`."""
    return turn_upright(image, _OPPOSITES.get(exif, exif))
