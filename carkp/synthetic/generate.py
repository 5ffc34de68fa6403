"""Generation of a set of street pictures in CarFusion's raw layout."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import cv2
import numpy as np

from carkp.synthetic.backdrop import person
from carkp.synthetic.blocks import Drawn, PictureSet
from carkp.synthetic.camera import Development, develop, draw_development
from carkp.synthetic.car_styles import PAINTS, PLAIN_SHARES, STYLE_SHARES, TEST_PAINTS, UNSEEN_SHARES
from carkp.synthetic.frame import CarTruth, FramePainter
from carkp.synthetic.ingredients import Ingredients
from carkp.synthetic.layout import TEST_SCENES, box_line, cars_of_scenes, keypoint_lines, split_evenly, split_of
from carkp.synthetic.lighting import CONDITION_SHARES, PLAIN_CONDITION_SHARES, UNSEEN_CONDITION_SHARES
from carkp.synthetic.scene import View, draw_view
from carkp.synthetic.traffic import Fleet, draw_cars, draw_people

GENERATOR_VERSION = 6
"""Version of the generator. Raise it whenever the same spec would give other pictures or labels."""

_MARKER = "synthetic.json"
_CARS_A_CAMERA = 60
_FRAMES_A_VIEW = 16
_MIN_VISIBLE, _MIN_VISIBLE_CLOSE_UP = 3, 2
_CLOSE_UP_WIDTH = 0.16  # of a box, as a share of the frame's width
_MIN_WIDTH = 40 / 1280  # of a labelled box, as a share of the frame's width
_MAX_OCCLUDED, _MAX_TRUNCATED, _MAX_TRUNCATED_CLOSE_UP = 0.65, 0.6, 0.85


@dataclass(frozen=True)
class SyntheticSpec:
    """The number of labelled cars to draw, the frame size, and the ingredients.

    Ingredients add to plain cars by daylight (:data:`carkp.synthetic.ingredients.INGREDIENTS`). The validation scene is
    car_craig2.
    """

    num_train_cars: int
    num_val_cars: int
    num_test_cars: int
    seed: int
    image_size: tuple[int, int]  # (height, width)
    ingredients: tuple[str, ...]


@dataclass(frozen=True)
class _Camera:
    """One camera's share of a scene."""

    scene: str
    scene_index: int
    index: int
    num_cars: int
    seed: int
    image_size: tuple[int, int]
    ingredients: Ingredients

    @property
    def name(self) -> str:
        return f"{self.scene}_{self.index + 1}"


def picture_set(spec: SyntheticSpec) -> PictureSet[_Camera]:
    """Return the set that ``spec`` describes; its pictures depend only on ``spec``, not on the machine.

    Raises:
        ValueError: a value in ``spec`` is invalid.
    """
    _check(spec)
    return PictureSet(
        marker=_MARKER,
        identity=_identity(spec),
        blocks=_plan(spec),
        draw=draw_camera,
        prepare=compile_kernels,
        work="draws the pictures",
        title="drawing cars",
    )


def generate(out_dir: Path, spec: SyntheticSpec, num_workers: int, show_progress: bool = True) -> None:
    """Draw the set that ``spec`` describes into ``out_dir``; see :meth:`PictureSet.generate`.

    Raises:
        FileExistsError, OSError: as :meth:`PictureSet.generate`.
        ValueError: a value in ``spec`` is invalid.
    """
    picture_set(spec).generate(out_dir, num_workers, show_progress)


def _check(spec: SyntheticSpec) -> None:
    Ingredients.of(spec.ingredients)
    if min(spec.image_size) < 96:
        raise ValueError(f"image_size must be at least 96 pixels in both directions, got {spec.image_size}")


def _identity(spec: SyntheticSpec) -> dict[str, object]:
    fields = asdict(spec)
    lists = {"image_size": list(spec.image_size), "ingredients": sorted(spec.ingredients)}
    return {"generator_version": GENERATOR_VERSION, "spec": {**fields, **lists}}


def _plan(spec: SyntheticSpec) -> list[_Camera]:
    """Return every camera; the cars of a scene are spread evenly over its cameras."""
    plan = []
    ingredients = Ingredients.of(spec.ingredients)
    for scene, index, of_scene in cars_of_scenes(spec):
        num_cameras = -(-of_scene // _CARS_A_CAMERA)
        for number, of_camera in enumerate(split_evenly(of_scene, num_cameras)):
            plan.append(_Camera(scene, index, number, of_camera, spec.seed, spec.image_size, ingredients))
    return plan


def compile_kernels() -> None:
    """Fill numba's cache, so that workers load the kernels instead of compiling them again."""
    rng = np.random.default_rng(0)
    view = draw_view("clear", (96, 160), rng)
    cars = draw_cars(view, Fleet(STYLE_SHARES, PAINTS), 1, rng)
    frame = FramePainter(view).draw(cars, [person(rng)])
    develop(frame.linear, draw_development(view.luminance, rng, rng), rng)


def draw_camera(root: Path, camera: _Camera) -> Drawn:
    """Draw and write frames of one camera below ``root`` until there are enough labelled cars."""
    cv2.setNumThreads(1)
    truth: list[str] = []
    num_cars, num_frames, attempt = 0, 0, 0
    while num_cars < camera.num_cars:
        key = (camera.scene_index, camera.index, attempt)
        view, camera_rng = _open_view(camera, key)
        painter = FramePainter(view)
        for n in range(_FRAMES_A_VIEW):
            if num_cars >= camera.num_cars:
                break
            rng = np.random.default_rng(np.random.SeedSequence(camera.seed, spawn_key=(*key, n)))
            labelled, picture, how = _draw_frame(camera, painter, camera_rng, rng, camera.num_cars - num_cars)
            if labelled:
                name = f"{camera.index + 1}_{num_frames + 1:05d}"
                _write_frame(root, camera, name, picture, how, labelled)
                truth += [_truth_line(name, k, car, view.condition) for k, car in enumerate(labelled)]
                num_cars, num_frames = num_cars + len(labelled), num_frames + 1
        attempt += 1
    return Drawn(num_cars, num_frames, truth)


def _open_view(camera: _Camera, key: tuple[int, int, int]) -> tuple[View, int]:
    """Return the view, and the seed for the effects of its camera that are equal in all frames."""
    rng = np.random.default_rng(np.random.SeedSequence(camera.seed, spawn_key=key))
    shares = CONDITION_SHARES if camera.ingredients.light else PLAIN_CONDITION_SHARES
    if camera.scene in TEST_SCENES:
        shares = {**shares, **UNSEEN_CONDITION_SHARES}
    condition = _spread(shares, camera.seed + 31 * camera.scene_index + 7 * key[2], camera.index)
    return draw_view(condition, camera.image_size, rng, camera.ingredients), int(rng.integers(2**31))


def _spread(shares: dict[str, float], start: int, position: int) -> str:
    """Return the item at a position of a sequence in which even short sections keep the shares."""
    golden = 0.5 * (math.sqrt(5.0) - 1.0)
    at = (golden * position + 0.37 * start) % 1.0 * sum(shares.values())
    for name, end in zip(shares, accumulate(shares.values()), strict=True):
        if at < end:
            return name
    return list(shares)[-1]


def _draw_frame(
    camera: _Camera, painter: FramePainter, camera_seed: int, rng: np.random.Generator, limit: int
) -> tuple[list[CarTruth], np.ndarray, Development]:
    """Draw a new frame; return its labelled cars, its picture and the settings of the photograph."""
    is_test = camera.scene in TEST_SCENES
    parts = camera.ingredients
    styles = STYLE_SHARES if parts.vehicles else PLAIN_SHARES
    fleet = Fleet({**styles, **UNSEEN_SHARES} if is_test else styles, TEST_PAINTS if is_test else PAINTS, parts)
    cars = draw_cars(painter.view, fleet, limit, rng)
    frame = painter.draw(cars, draw_people(painter.view, cars, parts.occluders, rng))
    labelled = [car for car in frame.cars if is_labelled(car, camera.image_size, parts.close_ups)]
    how = draw_development(painter.view.luminance, rng, np.random.default_rng(camera_seed), parts)
    return labelled, develop(frame.linear, how, rng), how


def is_labelled(car: CarTruth, image_size: tuple[int, int], has_close_ups: bool = True) -> bool:
    """Return whether a person could label the car: it is big enough, and enough of it is visible.

    With close-ups, two visible keypoints are enough for a big car, and the frame may cut more of it.
    """
    smallest = _MIN_WIDTH * image_size[1]
    is_close = has_close_ups and car.box.width > _CLOSE_UP_WIDTH * image_size[1]
    return (
        car.style != "bus"
        and int(car.is_visible.sum()) >= (_MIN_VISIBLE_CLOSE_UP if is_close else _MIN_VISIBLE)
        and car.box.width >= smallest
        and car.visible_area >= 0.3 * smallest**2
        and car.occluded <= _MAX_OCCLUDED
        and car.truncated <= (_MAX_TRUNCATED_CLOSE_UP if is_close else _MAX_TRUNCATED)
    )


def _write_frame(
    root: Path, camera: _Camera, name: str, picture: np.ndarray, how: Development, cars: list[CarTruth]
) -> None:
    folder = root / split_of(camera.scene) / camera.scene
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if how.is_subsampled else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    settings = [cv2.IMWRITE_JPEG_QUALITY, how.quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, encoded = cv2.imencode(".jpg", picture, settings)
    (folder / "images_jpg" / f"{name}.jpg").write_bytes(encoded.tobytes())
    points = [line for k, car in enumerate(cars) for line in keypoint_lines(car, k)]
    (folder / "gt" / f"{name}.txt").write_text("".join(line + "\n" for line in points))
    (folder / "bb" / f"{name}.txt").write_text("".join(box_line(car, camera.scene) + "\n" for car in cars))


def _truth_line(name: str, instance: int, car: CarTruth, condition: str) -> str:
    return json.dumps({
        "frame": name,
        "instance": instance,
        "style": car.style,
        "colour": car.paint,
        "octant": car.octant,
        "heading": round(car.heading, 1),
        "truncated": round(car.truncated, 3),
        "occluded": round(car.occluded, 3),
        "distance": round(car.distance, 2),
        "light": condition,
    })  # fmt: skip
