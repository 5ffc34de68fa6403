"""Boxes given to a stage, and the messages if there are none."""

from collections.abc import Sequence
from pathlib import Path

from carkp.data.boxes import BoxSource, read_boxes
from carkp.data.files import expand_path
from carkp.data.issues import DataError
from carkp.entry_points import INSTALL_TRAIN

AUTO = "auto"
"""Value of ``boxes`` that asks for the detector; a file of that name must be given as ``./auto``."""

MAX_CAR_EXTENT_PX = 640
"""A longer picture is usually much larger than one car."""

WAYS_TO_BOXES = (
    "carkp finds keypoints in a box, it does not find cars. Give boxes=<file or folder> of your detector or labelling "
    "tool (YOLO, COCO, KITTI, Pascal VOC, MOT, CSV, JSON: docs/boxes.md), or boxes=auto, which finds cars"
)


def open_boxes(text: str, pictures: Sequence[Path]) -> BoxSource | None:
    """Open the boxes for ``pictures`` and videos that the parameter ``boxes`` names; None if it is empty.

    Raises:
        DataError: they cannot be read, are of one picture where there are several, or the detector is not available.
    """
    if not text:
        return None
    if text == AUTO:
        try:
            from carkp.workflow.car_detector import open_detector
        except ImportError as error:
            raise DataError(f"boxes={AUTO} needs torch and torchvision ({error}): {INSTALL_TRAIN}") from error
        return open_detector()
    book = read_boxes(expand_path(text))
    book.refuse_several(pictures)
    return book


def describe_whole_picture(size: tuple[int, int]) -> str:
    """Return a notice for a (height, width) picture that is taken as one car; "" if it is small enough to be one."""
    height, width = size
    if max(size) <= MAX_CAR_EXTENT_PX:
        return ""
    return (
        f"the whole picture, {width}x{height} pixels, was used as one car, because no boxes were given. {WAYS_TO_BOXES}"
    )
