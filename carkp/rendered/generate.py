"""Generation of a set of pictures rendered from car meshes, in CarFusion's raw layout: one labelled car per picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np

from carkp.rendered.catalog import read_catalog
from carkp.rendered.crop import LabelledPicture, draw_labelled
from carkp.rendered.fleet import MeshFleet, read_fleet
from carkp.rendered.street_scene import draw_street
from carkp.synthetic.blocks import Drawn, PictureSet
from carkp.synthetic.layout import TRAIN_SCENES, box_line, cars_of_scenes, keypoint_lines, split_of
from carkp.synthetic.scene import heading_octant

RENDERER_VERSION = 5
"""Version of the renderer. Raise it whenever the same spec would give other pictures or labels."""

_MARKER = "rendered.json"
_CARS_A_BLOCK = 40
_CARS_A_STREET = 10


@dataclass(frozen=True)
class RenderedSpec:
    """The number of cars to draw, and the meshes. The validation scene is car_craig2.

    ``meshes``: folder as described in ``carkp.rendered.catalog``.
    """

    meshes: Path
    num_train_cars: int
    num_val_cars: int
    num_test_cars: int
    seed: int


@dataclass(frozen=True)
class _Block:
    """Some cars of a scene."""

    meshes: Path
    scene: str
    scene_index: int
    index: int
    num_cars: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.scene}_{self.index + 1}"


def picture_set(spec: RenderedSpec) -> PictureSet[_Block]:
    """Return the set that ``spec`` describes; its pictures depend only on ``spec`` and the meshes, not on the machine.

    Raises:
        CatalogError: the folder of meshes cannot be used.
        ValueError: a number in ``spec`` is negative.
    """
    return PictureSet(
        marker=_MARKER,
        identity=_identity(spec),
        blocks=_plan(spec),
        draw=draw_block,
        prepare=partial(draw_one, _Block(spec.meshes, TRAIN_SCENES[0], 0, 0, 1, 0)),  # fills the cache of kernels
        work="renders the pictures",
        title="rendering cars",
    )


def generate(out_dir: Path, spec: RenderedSpec, num_workers: int, show_progress: bool = True) -> None:
    """Draw the set that ``spec`` describes into ``out_dir``; see :meth:`PictureSet.generate`.

    Raises:
        CatalogError, MeshError: the folder of meshes cannot be used.
        FileExistsError, OSError: as :meth:`PictureSet.generate`.
        ValueError: a number in ``spec`` is negative.
    """
    picture_set(spec).generate(out_dir, num_workers, show_progress)


def _identity(spec: RenderedSpec) -> dict[str, object]:
    """Return the values that determine the pictures: the numbers, and the meshes with their points."""
    meshes = {
        info.name: [info.path.stat().st_size, info.kind, np.nan_to_num(info.points).round(4).tolist()]
        for info in read_catalog(spec.meshes)
    }
    numbers = {key: value for key, value in asdict(spec).items() if key != "meshes"}
    return {"renderer_version": RENDERER_VERSION, "spec": numbers, "meshes": meshes}


def _plan(spec: RenderedSpec) -> list[_Block]:
    return [
        _Block(spec.meshes, scene, index, k, min(_CARS_A_BLOCK, of_scene - first), spec.seed)
        for scene, index, of_scene in cars_of_scenes(spec)
        for k, first in enumerate(range(0, of_scene, _CARS_A_BLOCK))
    ]


@cache
def _fleet(meshes: Path) -> MeshFleet:
    return read_fleet(meshes)


def draw_block(root: Path, block: _Block) -> Drawn:
    """Draw and write the pictures of a block below ``root``."""
    cv2.setNumThreads(1)
    truth = []
    for k, picture in enumerate(_pictures(block)):
        name = f"{block.index + 1}_{k + 1:05d}"
        _write(root, block, name, picture)
        truth.append(_truth_line(name, picture))
    return Drawn(len(truth), len(truth), truth)


def draw_one(block: _Block) -> LabelledPicture:
    """Draw the first picture of a block."""
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


def _write(root: Path, block: _Block, name: str, picture: LabelledPicture) -> None:
    folder = root / split_of(block.scene) / block.scene
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
