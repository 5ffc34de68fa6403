"""A frame and its cars, as every reader returns them."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carkp.data.traits import NO_TRAITS, Traits
from carkp.keypoints.schema import NUM_KEYPOINTS

SPLITS: tuple[str, ...] = ("train", "test")
"""CarFusion's own splits; validation scenes are taken from train when stores are packed."""

SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training", "trainset", "trainval"),
    "val": ("val", "valid", "validation", "valset"),
    "test": ("test", "testing", "testset"),
}
"""Names of the splits that a source can have. A source's own validation split is used unchanged."""

IMAGE_SUFFIXES: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Suffixes of a frame's images; if it has several images, the first kind counts."""


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
        points: coordinates, (0, 0) if never labelled, (K, 2) float32.
        validity: 0 missing, 1 occluded, 2 visible, (K,) uint8.
    """

    points: NDArray[np.float32]
    validity: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Instance:
    """A car with its box; if it has no keypoint labels, all its keypoints are missing."""

    instance_id: int
    box: Box
    keypoints: Keypoints
    traits: Traits = NO_TRAITS


@dataclass(frozen=True, eq=False)
class Frame:
    """An image with its cars."""

    split: str
    scene: str
    frame_id: str
    image: Path
    instances: tuple[Instance, ...]


def hull_box(car: Keypoints) -> Box | None:
    """Return the smallest upright box around the labelled keypoints; None if it has no area."""
    labelled = car.points[car.validity > 0].astype(float)
    if not len(labelled):
        return None
    low, high = labelled.min(axis=0).tolist(), labelled.max(axis=0).tolist()
    box = Box(low[0], low[1], high[0] - low[0], high[1] - low[1])
    return box if box.width > 0 and box.height > 0 else None


def no_keypoints() -> Keypoints:
    """Return the keypoints of an unlabelled car; the arrays may be filled in."""
    return Keypoints(np.zeros((NUM_KEYPOINTS, 2), np.float32), np.zeros(NUM_KEYPOINTS, np.uint8))
