"""Write a set of generated street pictures in CarFusion's raw layout."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from carkp import disk
from carkp.synthetic.backdrop import person
from carkp.synthetic.camera import Development, develop, draw_development
from carkp.synthetic.car_styles import PAINTS, PLAIN_SHARES, STYLE_SHARES, TEST_PAINTS, UNSEEN_SHARES
from carkp.synthetic.frame import CarTruth, FramePainter
from carkp.synthetic.ingredients import Ingredients
from carkp.synthetic.layout import TEST_SCENES, TRAIN_SCENES, VAL_SCENE, box_line, keypoint_lines, split_of
from carkp.synthetic.lighting import CONDITION_SHARES, PLAIN_CONDITION_SHARES, UNSEEN_CONDITION_SHARES
from carkp.synthetic.scene import View, draw_view
from carkp.synthetic.traffic import Fleet, draw_cars, draw_people

GENERATOR_VERSION = 4
"""Raise it whenever the same spec would give other pictures or labels."""

_MARKER = "synthetic.json"
_CARS_A_CAMERA = 60
_FRAMES_A_VIEW = 16
_MIN_VISIBLE, _MIN_VISIBLE_CLOSE_UP = 3, 2
_CLOSE_UP_WIDTH = 0.16  # of a box, as a share of the frame's width
_MIN_WIDTH = 40 / 1280  # of a labelled box, as a share of the frame's width
_MAX_OCCLUDED, _MAX_TRUNCATED, _MAX_TRUNCATED_CLOSE_UP = 0.65, 0.6, 0.85


@dataclass(frozen=True)
class SyntheticSpec:
    """How many labelled cars to draw, in frames of which size, and what beyond plain cars by daylight
    (:data:`carkp.synthetic.ingredients.INGREDIENTS`). The validation scene is car_craig2.
    """

    num_train_cars: int
    num_val_cars: int
    num_test_cars: int
    seed: int
    image_size: tuple[int, int]  # (height, width)
    ingredients: tuple[str, ...]


@dataclass(frozen=True)
class _Task:
    """One camera's share of a scene."""

    root: Path
    scene: str
    scene_index: int
    camera: int
    num_cars: int
    seed: int
    image_size: tuple[int, int]
    ingredients: Ingredients


@dataclass(frozen=True)
class _Done:
    scene: str
    camera: int
    num_cars: int
    num_frames: int
    truth: list[str]


def is_complete(out_dir: Path, spec: SyntheticSpec) -> bool:
    """Whether ``out_dir`` holds a whole set of this spec, drawn by this version of the generator."""
    marker = out_dir / _MARKER
    if not marker.is_file():
        return False
    try:
        found = json.loads(marker.read_text())
    except json.JSONDecodeError:
        return False
    return isinstance(found, dict) and {k: found.get(k) for k in ("generator_version", "spec")} == _identity(spec)


def generate(out_dir: Path, spec: SyntheticSpec, num_workers: int, show_progress: bool = True) -> None:
    """Draw the set that ``spec`` describes into ``out_dir``, which appears only when it is complete.

    The pictures depend on ``spec`` alone, not on ``num_workers``. A generated set that is there already is kept if
    it fits ``spec``; nothing that is there is ever deleted, for others may read it. Of several processes that draw one
    ``out_dir``, one works and the others wait for it.

    Raises:
        FileExistsError: ``out_dir`` holds a set of another spec, or something that is no generated set.
        OSError: the pictures cannot be written; the message says what to do.
        ValueError: a number in ``spec`` makes no sense.
    """
    _check(spec)
    if is_complete(out_dir, spec):
        return
    try:
        with disk.exclusive(out_dir, "draws the pictures"):
            if not is_complete(out_dir, spec):
                _generate(out_dir, spec, num_workers, show_progress)
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(disk.describe_write_error(out_dir, error)) from error


def _generate(out_dir: Path, spec: SyntheticSpec, num_workers: int, show_progress: bool) -> None:
    """Hold the lock of ``out_dir``."""
    _require_free(out_dir)
    disk.remove_leftovers(out_dir)
    partial = disk.partial_path(out_dir)
    try:
        counts = _draw_all(partial, spec, num_workers, show_progress)
        (partial / _MARKER).write_text(json.dumps({**_identity(spec), "counts": counts}, indent=1) + "\n")
        disk.sync_tree(partial)
        partial.rename(out_dir)  # an empty directory makes way, another one does not
        disk.sync_directory(out_dir.parent)
    finally:
        disk.remove(partial)


def _require_free(out_dir: Path) -> None:
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return
    if (out_dir / _MARKER).is_file():
        raise FileExistsError(
            f"{out_dir} holds generated pictures of other settings or of another version of the generator; others may "
            "read them, so they are kept: choose another directory, or delete this one"
        )
    raise FileExistsError(f"{out_dir} exists and holds no generated set ({_MARKER} is missing)")


def _check(spec: SyntheticSpec) -> None:
    for name in ("num_train_cars", "num_val_cars", "num_test_cars", "seed"):
        if getattr(spec, name) < 0:
            raise ValueError(f"{name} must not be negative, got {getattr(spec, name)}")
    Ingredients.of(spec.ingredients)
    if min(spec.image_size) < 96:
        raise ValueError(f"image_size must be at least 96 pixels each way, got {spec.image_size}")


def _identity(spec: SyntheticSpec) -> dict[str, object]:
    fields = asdict(spec)
    lists = {"image_size": list(spec.image_size), "ingredients": sorted(spec.ingredients)}
    return {"generator_version": GENERATOR_VERSION, "spec": {**fields, **lists}}


def _plan(root: Path, spec: SyntheticSpec) -> list[_Task]:
    """Every camera's task; the cars of a group are spread evenly over its scenes and their cameras."""
    groups = (
        (spec.num_train_cars, [scene for scene in TRAIN_SCENES if scene != VAL_SCENE]),
        (spec.num_val_cars, [VAL_SCENE]),
        (spec.num_test_cars, list(TEST_SCENES)),
    )
    index = {scene: k for k, scene in enumerate((*TRAIN_SCENES, *TEST_SCENES))}
    tasks = []
    ingredients = Ingredients.of(spec.ingredients)
    for num_cars, scenes in groups:
        for scene, of_scene in zip(scenes, _shares(num_cars, len(scenes)), strict=True):
            num_cameras = -(-of_scene // _CARS_A_CAMERA)
            for camera, of_camera in enumerate(_shares(of_scene, num_cameras)):
                task = _Task(
                    root, scene, index[scene], camera, of_camera, spec.seed, spec.image_size, ingredients
                )  # fmt: skip
                tasks.append(task)
    return tasks


def _shares(total: int, parts: int) -> list[int]:
    """``total`` in ``parts`` whole numbers as equal as can be."""
    return [total // parts + (k < total % parts) for k in range(parts)] if parts else []


def _draw_all(root: Path, spec: SyntheticSpec, num_workers: int, show_progress: bool) -> dict[str, dict[str, int]]:
    """Draw every scene; the number of cars, frames and cameras of each."""
    for scene in (*TRAIN_SCENES, *TEST_SCENES):
        for kind in ("images_jpg", "gt", "bb"):
            (root / split_of(scene) / scene / kind).mkdir(parents=True)
    tasks = _plan(root, spec)
    done: list[_Done] = []
    total = sum(task.num_cars for task in tasks)
    with tqdm(total=total, desc="drawing cars", unit="car", disable=not show_progress) as progress:
        for result in _run(tasks, num_workers):
            done.append(result)
            progress.update(result.num_cars)
    return _write_truth(root, sorted(done, key=lambda d: (d.scene, d.camera)))


def _run(tasks: list[_Task], num_workers: int) -> Iterator[_Done]:
    if num_workers <= 1 or len(tasks) <= 1:
        yield from map(draw_camera, tasks)
        return
    compile_kernels()
    # Not fork: the caller may have threads running, and a forked child can inherit their locks.
    with ProcessPoolExecutor(min(num_workers, len(tasks)), mp_context=get_context("spawn")) as pool:
        futures: list[Future[_Done]] = [pool.submit(draw_camera, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def compile_kernels() -> None:
    """Fill numba's cache, so that the workers of a pool load the kernels instead of each compiling them."""
    rng = np.random.default_rng(0)
    view = draw_view("clear", (96, 160), rng)
    cars = draw_cars(view, Fleet(STYLE_SHARES, PAINTS), 1, rng)
    frame = FramePainter(view).draw(cars, [person(rng)])
    develop(frame.linear, draw_development(view.luminance, rng, rng), rng)


def _write_truth(root: Path, done: list[_Done]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for scene in (*TRAIN_SCENES, *TEST_SCENES):
        own = [d for d in done if d.scene == scene]
        lines = [line for d in own for line in d.truth]
        (root / split_of(scene) / scene / "truth.jsonl").write_text("".join(line + "\n" for line in lines))
        counts[scene] = {
            "cars": sum(d.num_cars for d in own),
            "frames": sum(d.num_frames for d in own),
            "cameras": len(own),
        }
    return counts


def draw_camera(task: _Task) -> _Done:
    """Draw and write frames of one camera until its cars are labelled."""
    cv2.setNumThreads(1)
    truth: list[str] = []
    num_cars, num_frames, attempt = 0, 0, 0
    while num_cars < task.num_cars:
        key = (task.scene_index, task.camera, attempt)
        view, camera_rng = _open_view(task, key)
        painter = FramePainter(view)
        for n in range(_FRAMES_A_VIEW):
            if num_cars >= task.num_cars:
                break
            rng = np.random.default_rng(np.random.SeedSequence(task.seed, spawn_key=(*key, n)))
            labelled, picture, how = _draw_frame(task, painter, camera_rng, rng, task.num_cars - num_cars)
            if labelled:
                name = f"{task.camera + 1}_{num_frames + 1:05d}"
                _write_frame(task, name, picture, how, labelled)
                truth += [_truth_line(name, k, car, view.condition) for k, car in enumerate(labelled)]
                num_cars, num_frames = num_cars + len(labelled), num_frames + 1
        attempt += 1
    return _Done(task.scene, task.camera, num_cars, num_frames, truth)


def _open_view(task: _Task, key: tuple[int, int, int]) -> tuple[View, int]:
    """The view, and the seed of what its camera does to every frame alike."""
    rng = np.random.default_rng(np.random.SeedSequence(task.seed, spawn_key=key))
    shares = CONDITION_SHARES if task.ingredients.light else PLAIN_CONDITION_SHARES
    if task.scene in TEST_SCENES:
        shares = {**shares, **UNSEEN_CONDITION_SHARES}
    condition = _spread(shares, task.seed + 31 * task.scene_index + 7 * key[2], task.camera)
    return draw_view(condition, task.image_size, rng, task.ingredients), int(rng.integers(2**31))


def _spread(shares: dict[str, float], start: int, position: int) -> str:
    """An item for each position of a sequence, such that also short sequences keep the shares."""
    golden = 0.5 * (math.sqrt(5.0) - 1.0)
    at = (golden * position + 0.37 * start) % 1.0 * sum(shares.values())
    for name, end in zip(shares, accumulate(shares.values()), strict=True):
        if at < end:
            return name
    return list(shares)[-1]


def _draw_frame(
    task: _Task, painter: FramePainter, camera_seed: int, rng: np.random.Generator, limit: int
) -> tuple[list[CarTruth], np.ndarray, Development]:
    """The labelled cars of a new frame, its picture and how it was taken."""
    is_test = task.scene in TEST_SCENES
    parts = task.ingredients
    styles = STYLE_SHARES if parts.vehicles else PLAIN_SHARES
    fleet = Fleet({**styles, **UNSEEN_SHARES} if is_test else styles, TEST_PAINTS if is_test else PAINTS, parts)
    cars = draw_cars(painter.view, fleet, limit, rng)
    frame = painter.draw(cars, draw_people(painter.view, cars, parts.occluders, rng))
    labelled = [car for car in frame.cars if is_labelled(car, task.image_size, parts.close_ups)]
    how = draw_development(painter.view.luminance, rng, np.random.default_rng(camera_seed), parts)
    return labelled, develop(frame.linear, how, rng), how


def is_labelled(car: CarTruth, image_size: tuple[int, int], has_close_ups: bool = True) -> bool:
    """Whether a person could still label the car: big enough, and enough of it in sight.

    Of a big one that the frame cuts a wheel and a light are enough, where there are close-ups.
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


def _write_frame(task: _Task, name: str, picture: np.ndarray, how: Development, cars: list[CarTruth]) -> None:
    folder = task.root / split_of(task.scene) / task.scene
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if how.is_subsampled else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    settings = [cv2.IMWRITE_JPEG_QUALITY, how.quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, encoded = cv2.imencode(".jpg", picture, settings)
    (folder / "images_jpg" / f"{name}.jpg").write_bytes(encoded.tobytes())
    points = [line for k, car in enumerate(cars) for line in keypoint_lines(car, k)]
    (folder / "gt" / f"{name}.txt").write_text("".join(line + "\n" for line in points))
    (folder / "bb" / f"{name}.txt").write_text("".join(box_line(car, task.scene) + "\n" for car in cars))


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
