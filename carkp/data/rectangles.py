"""The rectangle of a car's crop in a frame."""

from typing import NamedTuple

from carkp.data.frames import Box

MARGIN_X, MARGIN_Y = 0.1, 0.2
"""Margin of a crop as a share of the box, left and above; right and below it is the same if the frame has room."""

MIN_CROP_EXTENT_PX = 2


class CropRectangle(NamedTuple):
    """Corners in whole frame pixels; (x2, y2) is exclusive."""

    x1: int
    y1: int
    x2: int
    y2: int


def crop_rectangle(box: Box, frame_size: tuple[int, int]) -> CropRectangle:
    """Return the crop by HAT's rule in a (height, width) frame: the box with a margin, cut at the frame, rounded down.

    The result is empty (x2 <= x1 or y2 <= y1) if the box is outside of the frame.
    """
    height, width = frame_size
    x1 = max(box.x - MARGIN_X * box.width, 0.0)
    y1 = max(box.y - MARGIN_Y * box.height, 0.0)
    x2 = min(x1 + (1 + 2 * MARGIN_X) * box.width, width)
    y2 = min(y1 + (1 + 2 * MARGIN_Y) * box.height, height)
    return CropRectangle(int(x1), int(y1), int(x2), int(y2))
