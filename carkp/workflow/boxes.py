"""The boxes that a stage is given, and what is said where it is given none."""

from collections.abc import Sequence
from pathlib import Path

from carkp.data.boxes import BoxSource, read_boxes
from carkp.data.files import expand_path
from carkp.data.issues import DataError
from carkp.entry_points import INSTALL_TRAIN

AUTO = "auto"
"""What ``boxes`` is called where the detector finds them; a file of that name has to be given as ``./auto``."""

MAX_CAR_EXTENT_PX = 640
"""A picture that is longer is much larger than a car, as a rule."""

WAYS_TO_BOXES = (
    "carkp finds keypoints in a box, it does not find cars. Give boxes=<file or folder> of your detector or labelling "
    "tool (YOLO, COCO, KITTI, Pascal VOC, MOT, CSV, JSON: docs/boxes.md), or boxes=auto, which finds them"
)


def open_boxes(text: str, pictures: Sequence[Path]) -> BoxSource | None:
    """The boxes that the parameter ``boxes`` names, of ``pictures`` and videos; None where it is empty.

    Raises:
        DataError: they cannot be read, are of one picture where there are several, or the detector cannot be had.
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
    """What is said of a (height, width) picture that is taken as one car as a whole; empty where it may be one."""
    height, width = size
    if max(size) <= MAX_CAR_EXTENT_PX:
        return ""
    return f"the whole picture, {width}x{height} pixels, was taken as one car, for there are no boxes. {WAYS_TO_BOXES}"
