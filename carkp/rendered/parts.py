"""The named parts of a car's mesh, in which keypoints are found. N vertices, M triangles; metres in the car's axes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

from carkp.rendered.glb import AXES, MeshError

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """Triangles of one object of the file that share a material.

    name: names of the object, its mesh and its material; vertices: (N, 3), x forward, y left, z up; faces: (M, 3);
    uvs: (N, 2); colour: (4,) sRGB and alpha in 0..1; texture: (H, W, 4) bytes or None; is_see_through: whether the
    material is blended.
    """

    name: str
    vertices: Array
    faces: Indices
    uvs: Array
    colour: Array
    texture: Bytes | None
    is_see_through: bool

    @property
    def triangles(self) -> Array:
        """Corners of each triangle, (M, 3, 3)."""
        return self.vertices[self.faces]


def load_parts(path: Path) -> tuple[Part, ...]:
    """Load the parts of a GLB file.

    Raises:
        MeshError: the file cannot be read, or has no triangle.
    """
    try:
        scene: Any = trimesh.load_scene(str(path), process=False)
    except Exception as error:  # trimesh raises many kinds of errors
        raise MeshError(f"{path}: not a readable GLB file: {error}") from error
    textures: dict[int, Bytes] = {}
    parts = tuple(part for node in scene.graph.nodes_geometry if (part := _part(scene, node, textures)) is not None)
    if not parts:
        raise MeshError(f"{path}: the file contains no triangle")
    return parts


def _part(scene: Any, node: str, textures: dict[int, Bytes]) -> Part | None:
    """Return the part of one object, if it has triangles; ``textures``: pictures that were already read, by id."""
    transform, name = scene.graph[node]
    mesh = scene.geometry[name]
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
        return None
    vertices = mesh.vertices @ (AXES @ transform[:3, :3]).T + AXES @ transform[:3, 3]
    uvs = getattr(mesh.visual, "uv", None)
    material = getattr(mesh.visual, "material", None)
    picture = getattr(material, "baseColorTexture", None)
    if picture is not None and id(picture) not in textures:
        textures[id(picture)] = np.asarray(picture.convert("RGBA"))
    return Part(
        name=" ".join(dict.fromkeys([str(node), str(name), str(getattr(material, "name", ""))])),
        vertices=np.asarray(vertices, float),
        faces=np.asarray(mesh.faces, np.int64),
        uvs=np.zeros((len(vertices), 2)) if uvs is None or len(uvs) != len(vertices) else np.asarray(uvs, float),
        colour=_colour(getattr(material, "baseColorFactor", None)),
        texture=None if picture is None else textures[id(picture)],
        is_see_through=getattr(material, "alphaMode", None) == "BLEND",
    )


def _colour(factor: Any) -> Array:
    """Convert a material's factor to sRGB and alpha; in glTF it is linear, in trimesh bytes or numbers."""
    if factor is None:
        return np.ones(4)
    linear = np.asarray(factor, float) / (255.0 if np.asarray(factor).dtype == np.uint8 else 1.0)
    return np.append(np.clip(linear[:3], 0, 1) ** (1 / 2.2), linear[3])
