"""Which part of a frame a car's crop is."""

from typing import NamedTuple

from carkp.data.frames import Box

MARGIN_X, MARGIN_Y = 0.1, 0.2
"""Margin of a crop left and above, as a share of the box; right and below it is the same where the frame allows."""

MIN_CROP_EXTENT_PX = 2


class CropRectangle(NamedTuple):
    """Corners in whole frame pixels; (x2, y2) lies outside."""

    x1: int
    y1: int
    x2: int
    y2: int


def crop_rectangle(box: Box, frame_size: tuple[int, int]) -> CropRectangle:
    """HAT's rule in frame pixels of a (height, width) frame: the box with a margin, cut at the frame, rounded down.

    The result is empty (x2 <= x1 or y2 <= y1) where the box lies outside the frame.
    """
    height, width = frame_size
    x1 = max(box.x - MARGIN_X * box.width, 0.0)
    y1 = max(box.y - MARGIN_Y * box.height, 0.0)
    x2 = min(x1 + (1 + 2 * MARGIN_X) * box.width, width)
    y2 = min(y1 + (1 + 2 * MARGIN_Y) * box.height, height)
    return CropRectangle(int(x1), int(y1), int(x2), int(y2))
