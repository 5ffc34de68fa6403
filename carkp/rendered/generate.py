"""Write a set of pictures rendered from car meshes in CarFusion's raw layout: one labelled car a picture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from carkp import disk
from carkp.rendered.catalog import read_catalog
from carkp.rendered.crop import LabelledPicture, draw_labelled
from carkp.rendered.fleet import MeshFleet, read_fleet
from carkp.rendered.street_scene import draw_street
from carkp.synthetic.layout import TEST_SCENES, TRAIN_SCENES, VAL_SCENE, box_line, keypoint_lines, split_of
from carkp.synthetic.scene import heading_octant

RENDERER_VERSION = 2
"""Raise it whenever the same spec would give other pictures or labels."""

_MARKER = "rendered.json"
_CARS_A_BLOCK = 40
_CARS_A_STREET = 10


@dataclass(frozen=True)
class RenderedSpec:
    """How many cars to draw, from which meshes. The validation scene is car_craig2.

    ``meshes``: a folder as ``carkp.rendered.catalog`` describes it.
    """

    meshes: Path
    num_train_cars: int
    num_val_cars: int
    num_test_cars: int
    seed: int


@dataclass(frozen=True)
class _Block:
    """Some cars of a scene: what one worker draws in one go, and what a killed run has to draw again at most."""

    root: Path
    meshes: Path
    scene: str
    scene_index: int
    index: int
    num_cars: int
    seed: int

    @property
    def marker(self) -> Path:
        return self.root / "blocks" / f"{self.scene}_{self.index}.jsonl"


def is_complete(out_dir: Path, spec: RenderedSpec) -> bool:
    """Whether ``out_dir`` holds a whole set of this spec, drawn by this version of the renderer."""
    return _read_identity(out_dir / _MARKER) == _identity(spec)


def generate(out_dir: Path, spec: RenderedSpec, num_workers: int, show_progress: bool = True) -> None:
    """Draw the set that ``spec`` describes into ``out_dir``, which appears only when it is complete.

    The pictures depend on ``spec`` and the meshes alone, not on ``num_workers``. Killed, the next call goes on where
    this one was. A set that is there already is kept if it fits ``spec``.

    Raises:
        CatalogError, MeshError: the folder of meshes cannot be used.
        FileExistsError: ``out_dir`` holds something else.
        OSError: the pictures cannot be written; the message says what to do.
        ValueError: a number in ``spec`` makes no sense.
    """
    _check(spec)
    if is_complete(out_dir, spec):
        return
    read_fleet(spec.meshes)
    try:
        with disk.exclusive(out_dir, "renders the pictures"):
            if not is_complete(out_dir, spec):
                _generate(out_dir, spec, num_workers, show_progress)
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(disk.describe_write_error(out_dir, error)) from error


def _generate(out_dir: Path, spec: RenderedSpec, num_workers: int, show_progress: bool) -> None:
    """Hold the lock of ``out_dir``."""
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise FileExistsError(f"{out_dir} holds something else: choose another directory, or delete this one")
    unfinished = out_dir.with_name(f".{out_dir.name}.unfinished")
    if _read_identity(unfinished / _MARKER) != _identity(spec):
        disk.remove(unfinished)
        _begin(unfinished, spec)
    blocks = _plan(unfinished, spec)
    left = [block for block in blocks if not block.marker.is_file()]
    done = sum(block.num_cars for block in blocks) - sum(block.num_cars for block in left)
    total = sum(block.num_cars for block in blocks)
    with tqdm(total=total, initial=done, desc="rendering cars", unit="car", disable=not show_progress) as progress:
        for num_cars in _run(left, num_workers):
            progress.update(num_cars)
    _write_truth(unfinished, blocks)
    disk.sync_tree(unfinished)
    unfinished.rename(out_dir)  # an empty directory makes way
    disk.sync_directory(out_dir.parent)


def _begin(root: Path, spec: RenderedSpec) -> None:
    for scene in (*TRAIN_SCENES, *TEST_SCENES):
        for kind in ("images_jpg", "gt", "bb"):
            (root / split_of(scene) / scene / kind).mkdir(parents=True)
    (root / "blocks").mkdir()
    disk.write_atomic(root / _MARKER, (json.dumps(_identity(spec), indent=1) + "\n").encode())


def _check(spec: RenderedSpec) -> None:
    for name in ("num_train_cars", "num_val_cars", "num_test_cars", "seed"):
        if getattr(spec, name) < 0:
            raise ValueError(f"{name} must not be negative, got {getattr(spec, name)}")


def _identity(spec: RenderedSpec) -> dict[str, object]:
    """What decides the pictures: the numbers, and which meshes with which points."""
    meshes = {
        info.name: [info.path.stat().st_size, info.kind, np.nan_to_num(info.points).round(4).tolist()]
        for info in read_catalog(spec.meshes)
    }
    numbers = {key: value for key, value in asdict(spec).items() if key != "meshes"}
    return {"renderer_version": RENDERER_VERSION, "spec": numbers, "meshes": meshes}


def _read_identity(marker: Path) -> dict[str, object] | None:
    try:
        found = json.loads(marker.read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None


def _plan(root: Path, spec: RenderedSpec) -> list[_Block]:
    groups = (
        (spec.num_train_cars, [scene for scene in TRAIN_SCENES if scene != VAL_SCENE]),
        (spec.num_val_cars, [VAL_SCENE]),
        (spec.num_test_cars, list(TEST_SCENES)),
    )
    index = {scene: k for k, scene in enumerate((*TRAIN_SCENES, *TEST_SCENES))}
    blocks = []
    for num_cars, scenes in groups:
        for position, scene in enumerate(scenes):
            of_scene = num_cars // len(scenes) + (position < num_cars % len(scenes))
            for k, first in enumerate(range(0, of_scene, _CARS_A_BLOCK)):
                count = min(_CARS_A_BLOCK, of_scene - first)
                blocks.append(_Block(root, spec.meshes, scene, index[scene], k, count, spec.seed))
    return blocks


def _run(blocks: list[_Block], num_workers: int) -> Iterator[int]:
    if num_workers <= 1 or len(blocks) <= 1:
        yield from map(draw_block, blocks)
        return
    draw_one(_Block(Path(), blocks[0].meshes, TRAIN_SCENES[0], 0, 0, 1, 0))  # fills the cache of compiled kernels
    # Not fork: the caller may have threads running, and a forked child can inherit their locks.
    with ProcessPoolExecutor(min(num_workers, len(blocks)), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(draw_block, block) for block in blocks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@cache
def _fleet(meshes: Path) -> MeshFleet:
    return read_fleet(meshes)


def draw_block(block: _Block) -> int:
    """Draw and write the pictures of a block; the number of its cars."""
    cv2.setNumThreads(1)
    truth = []
    for k, picture in enumerate(_pictures(block)):
        name = f"{block.index + 1}_{k + 1:05d}"
        _write(block, name, picture)
        truth.append(_truth_line(name, picture))
    disk.write_atomic(block.marker, "".join(line + "\n" for line in truth).encode())
    return block.num_cars


def draw_one(block: _Block) -> LabelledPicture:
    """The first picture of a block."""
    return next(_pictures(block))


def _pictures(block: _Block) -> Iterator[LabelledPicture]:
    fleet = _fleet(block.meshes)
    for first in range(0, block.num_cars, _CARS_A_STREET):
        key = (block.scene_index, block.index, first)
        rng = np.random.default_rng(np.random.SeedSequence(block.seed, spawn_key=key))
        wanted = min(_CARS_A_STREET, block.num_cars - first)
        street = draw_street(rng)
        while wanted:
            picture = draw_labelled(street, fleet.draw, rng)
            if picture is not None:
                yield picture
                wanted -= 1


def _write(block: _Block, name: str, picture: LabelledPicture) -> None:
    folder = block.root / split_of(block.scene) / block.scene
    _, encoded = cv2.imencode(".jpg", picture.picture, [cv2.IMWRITE_JPEG_QUALITY, picture.quality])
    (folder / "images_jpg" / f"{name}.jpg").write_bytes(encoded.tobytes())
    (folder / "gt" / f"{name}.txt").write_text("".join(line + "\n" for line in keypoint_lines(picture, 0)))
    (folder / "bb" / f"{name}.txt").write_text(box_line(picture, block.scene) + "\n")


def _truth_line(name: str, picture: LabelledPicture) -> str:
    return json.dumps({
        "frame": name,
        "instance": 0,
        "style": picture.kind,
        "mesh": picture.name,
        "octant": heading_octant(picture.heading),
        "heading": round(picture.heading, 1),
        "truncated": round(picture.truncated, 3),
        "occluded": round(picture.occluded, 3),
        "distance": round(picture.distance, 2),
        "light": picture.condition,
    })  # fmt: skip


def _write_truth(root: Path, blocks: list[_Block]) -> None:
    for scene in (*TRAIN_SCENES, *TEST_SCENES):
        lines = "".join(block.marker.read_text() for block in blocks if block.scene == scene)
        (root / split_of(scene) / scene / "truth.jsonl").write_text(lines)
    shutil.rmtree(root / "blocks")
