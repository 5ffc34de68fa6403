"""A simple car, written as a GLB file: a painted box with windows, lamps and wheels."""

import json
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual.material import PBRMaterial
from trimesh.visual.texture import TextureVisuals

LENGTH, WIDTH, HEIGHT, RADIUS = 4.0, 1.8, 1.4, 0.3
WHEEL_X, WHEEL_Y = 1.3, 0.8
# right front, left front, right back, left back wheels, lights and roof corners; x right, y front, z up
POINTS = [
    [side * across, along, up]
    for along, across, up in (
        (WHEEL_X, WHEEL_Y + 0.1, RADIUS),
        (-WHEEL_X, WHEEL_Y + 0.1, RADIUS),
        (LENGTH / 2, 0.7, 0.7),
        (-LENGTH / 2, 0.7, 0.7),
        (0.6, 0.8, HEIGHT),
        (-1.4, 0.8, HEIGHT),
    )
    for side in (1, -1)
]


def write_folder(folder: Path, *names: str, texture_alpha: int = 255) -> Path:
    """A folder of meshes with its ``meshes.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        write_car(folder / f"{name}.glb", texture_alpha)
    entry = {"points": POINTS, "author": "nobody", "license": "CC0-1.0", "source": "https://example.org"}
    (folder / "meshes.json").write_text(json.dumps(dict.fromkeys(names, entry)))
    return folder


def write_car(path: Path, texture_alpha: int = 255) -> None:
    """``texture_alpha``: alpha of the texture of the tyres, which are opaque."""
    scene = trimesh.Scene()
    _add(scene, "Car_Body", "car_Bodymat", (WIDTH, LENGTH, 0.6), (0, 0, 0.65), (0.6, 0.1, 0.1, 1.0))
    _add(scene, "Car_Roof", "car_Bodymat", (1.6, 2.0, 0.05), (0, -0.4, HEIGHT - 0.025), (0.6, 0.1, 0.1, 1.0))
    _add(scene, "Car_Windshield", "Glass_Transparent", (1.6, 2.0, 0.4), (0, -0.4, 1.15), (0.1, 0.1, 0.1, 0.4))
    for side in (1, -1):
        _add(scene, f"Headlights_{side}", "Lamps", (0.3, 0.02, 0.15), (0.7 * side, 2.0, 0.7), (1, 1, 1, 1))
        _add(scene, f"Brakelights_{side}", "Lamps_red", (0.3, 0.02, 0.15), (0.7 * side, -2.0, 0.7), (0.8, 0, 0, 1))
        for name, along in (("f", WHEEL_X), ("r", -WHEEL_X)):
            size, place = (0.2, 2 * RADIUS, 2 * RADIUS), (WHEEL_Y * side, along, RADIUS)
            _add(
                scene,
                f"wheel_{name}{side}",
                "Tire_1k",
                size,
                place,
                (0.02, 0.02, 0.02, 1.0),
                texture=_checks(texture_alpha),
            )
    path.write_bytes(scene.export(file_type="glb"))


def _checks(alpha: int) -> Image.Image:
    squares = np.indices((16, 16)).sum(0) % 2 * 200 + 30
    colours = np.repeat(squares[..., None], 3, -1)
    return Image.fromarray(np.concatenate([colours, np.full((16, 16, 1), alpha)], -1).astype(np.uint8))


def _add(
    scene: trimesh.Scene,
    node: str,
    material: str,
    size: tuple[float, float, float],
    place: tuple[float, float, float],
    colour: tuple[float, float, float, float],
    texture: Image.Image | None = None,
) -> None:
    """A box; size and place are x right, y front, z up, as in ``meshes.json``: glTF has y up and -z forward."""
    box = trimesh.creation.box(extents=(size[0], size[2], size[1]))
    box.apply_translation((place[0], place[2], -place[1]))
    box.unmerge_vertices()
    look = PBRMaterial(
        name=material,
        baseColorFactor=colour,
        metallicFactor=0.0,
        roughnessFactor=0.3,
        alphaMode="BLEND" if colour[3] < 1 else "OPAQUE",
        baseColorTexture=texture,
    )
    uv = np.tile(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]), (len(box.faces), 1))
    box.visual = TextureVisuals(uv=uv, material=look)
    scene.add_geometry(box, node_name=node, geom_name=node)
