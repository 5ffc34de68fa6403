"""CarFusion's raw layout: scenes, and the lines of the annotation files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from carkp.keypoints.schema import CARFUSION_IDS
from carkp.synthetic.scene import Box

Array = NDArray[np.float64]

TRAIN_SCENES = (
    "car_butler1", "car_butler2", "car_craig1", "car_craig2", "car_fifth1", "car_fifth2",
    "car_morewood1", "car_morewood2",
)  # fmt: skip
TEST_SCENES = ("car_penn1", "car_penn2")
VAL_SCENE = "car_craig2"
VISIBLE_CODE, OCCLUDED_CODE = 1, 2

_COMMA_SCENES = {"car_butler2", "car_craig2", "car_fifth2", "car_morewood2", "car_penn2"}
"""Scenes in which boxes are written as ``[x, y, h, w]``; in the others they are ``[x y w h]``."""


class Labelled(Protocol):
    """The labels of a car in the files. points: (12, 2); is_visible, is_inside: (12,)."""

    @property
    def points(self) -> Array: ...

    @property
    def is_visible(self) -> NDArray[np.bool_]: ...

    @property
    def is_inside(self) -> NDArray[np.bool_]: ...

    @property
    def box(self) -> Box: ...


class CarNumbers(Protocol):
    """The number of cars in each part of a generated set, and its seed."""

    @property
    def num_train_cars(self) -> int: ...

    @property
    def num_val_cars(self) -> int: ...

    @property
    def num_test_cars(self) -> int: ...

    @property
    def seed(self) -> int: ...


class SceneCars(NamedTuple):
    """The number of cars in a scene. ``number``: number of the scene, for seeds."""

    scene: str
    number: int
    num_cars: int


def cars_of_scenes(numbers: CarNumbers) -> Iterator[SceneCars]:
    """Yield all scenes; the cars of training, validation and test are spread evenly over the scenes of each.

    Raises:
        ValueError: a number is negative.
    """
    for name in ("num_train_cars", "num_val_cars", "num_test_cars", "seed"):
        if getattr(numbers, name) < 0:
            raise ValueError(f"{name} must not be negative, got {getattr(numbers, name)}")
    number = {scene: k for k, scene in enumerate((*TRAIN_SCENES, *TEST_SCENES))}
    for num_cars, scenes in (
        (numbers.num_train_cars, [scene for scene in TRAIN_SCENES if scene != VAL_SCENE]),
        (numbers.num_val_cars, [VAL_SCENE]),
        (numbers.num_test_cars, list(TEST_SCENES)),
    ):
        for scene, of_scene in zip(scenes, split_evenly(num_cars, len(scenes)), strict=True):
            yield SceneCars(scene, number[scene], of_scene)


def split_evenly(total: int, parts: int) -> list[int]:
    """Split ``total`` into ``parts`` integers that are as equal as possible."""
    return [total // parts + (k < total % parts) for k in range(parts)] if parts else []


def split_of(scene: str) -> str:
    return "test" if scene in TEST_SCENES else "train"


def keypoint_lines(car: Labelled, instance: int) -> list[str]:
    """Return a line for each keypoint inside the frame."""
    return [
        f"{car.points[k, 0]:.2f},{car.points[k, 1]:.2f},{CARFUSION_IDS[k]},{instance},"
        f"{VISIBLE_CODE if car.is_visible[k] else OCCLUDED_CODE}"
        for k in range(len(CARFUSION_IDS))
        if car.is_inside[k]
    ]


def box_line(car: Labelled, scene: str) -> str:
    x, y = round(car.box.left), round(car.box.top)
    width, height = round(car.box.right) - x, round(car.box.bottom) - y
    if scene in _COMMA_SCENES:
        return f"[{x}, {y}, {height}, {width}],car"
    return f"[{x} {y} {width} {height}],car"
