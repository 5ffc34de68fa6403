"""A frame and its cars, as every reader gives them."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carkp.data.traits import NO_TRAITS, Traits
from carkp.keypoints.schema import NUM_KEYPOINTS

SPLITS: tuple[str, ...] = ("train", "test")
"""CarFusion's own splits; validation scenes are taken out of train when stores are packed."""

SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training", "trainset", "trainval"),
    "val": ("val", "valid", "validation", "valset"),
    "test": ("test", "testing", "testset"),
}
"""What people call the splits that a source can have. A source's own validation split is used as it is."""

IMAGE_SUFFIXES: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Of a frame's pictures; where it has several, the first kind counts."""


class Box(NamedTuple):
    """A rectangle in frame pixels: top left corner, then extent."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, eq=False)
class Keypoints:
    """The twelve keypoints of a car in frame pixels.

    Attributes:
        points: (K, 2) float32, (0, 0) where never labelled.
        validity: (K,) uint8, 0 missing, 1 occluded, 2 visible.
    """

    points: NDArray[np.float32]
    validity: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Instance:
    """A car with its box; without a label all its keypoints are missing."""

    instance_id: int
    box: Box
    keypoints: Keypoints
    traits: Traits = NO_TRAITS


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture with its cars."""

    split: str
    scene: str
    frame_id: str
    image: Path
    instances: tuple[Instance, ...]


def hull_box(car: Keypoints) -> Box | None:
    """The smallest upright box that holds the labelled keypoints; None where that has no area."""
    labelled = car.points[car.validity > 0].astype(float)
    if not len(labelled):
        return None
    low, high = labelled.min(axis=0).tolist(), labelled.max(axis=0).tolist()
    box = Box(low[0], low[1], high[0] - low[0], high[1] - low[1])
    return box if box.width > 0 and box.height > 0 else None


def no_keypoints() -> Keypoints:
    """Keypoints of a car that nobody labelled; the arrays may be filled in."""
    return Keypoints(np.zeros((NUM_KEYPOINTS, 2), np.float32), np.zeros(NUM_KEYPOINTS, np.uint8))
