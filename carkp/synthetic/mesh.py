"""Triangle meshes, and simple solids from which scenes are built. N vertices, M faces; metres, z up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carkp.synthetic._jit import compiled
from carkp.synthetic.materials import PLAIN

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Colour = tuple[float, float, float]


class Mesh(NamedTuple):
    """A triangle mesh, which is also the input of the kernels.

    vertices, normals: (N, 3); attributes: (N, 4), read by the material's shader; faces: (M, 3); materials: (M,).
    """

    vertices: Floats
    normals: Floats
    attributes: Floats
    faces: Ints
    materials: Ints


def join(meshes: Sequence[Mesh]) -> Mesh:
    offsets = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.attributes for mesh in meshes]),
        np.concatenate([mesh.faces + offset for mesh, offset in zip(meshes, offsets, strict=True)]).astype(np.int32),
        np.concatenate([mesh.materials for mesh in meshes]),
    )


def placed(mesh: Mesh, x: float, y: float, heading: float, z: float = 0.0) -> Mesh:
    """Return ``mesh`` turned by ``heading`` (radians, about z) and then moved."""
    turn = turn_about_z(heading)
    offset = np.array([x, y, z], np.float32)
    return Mesh(mesh.vertices @ turn.T + offset, mesh.normals @ turn.T, mesh.attributes, mesh.faces, mesh.materials)


def turn_about_z(heading: float) -> Floats:
    c, s = math.cos(heading), math.sin(heading)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)


def mirrored(mesh: Mesh) -> Mesh:
    """Return ``mesh`` with y negated and the vertex order of the faces reversed."""
    flip = np.array([1, -1, 1], np.float32)
    faces = np.ascontiguousarray(mesh.faces[:, ::-1])
    return Mesh(mesh.vertices * flip, mesh.normals * flip, mesh.attributes, faces, mesh.materials)


@compiled
def smooth_normals(vertices: Floats, faces: Ints) -> Floats:
    """Return vertex normals: the area-weighted mean of the normals of adjacent faces."""
    normals = np.zeros((len(vertices), 3), np.float32)
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for k in (a, b, c):
            normals[k, 0] += nx
            normals[k, 1] += ny
            normals[k, 2] += nz
    for k in range(len(normals)):
        length = math.sqrt(normals[k, 0] ** 2 + normals[k, 1] ** 2 + normals[k, 2] ** 2) + 1e-12
        for axis in range(3):
            normals[k, axis] /= length
    return normals


def unit(vectors: NDArray[np.floating]) -> Floats:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def grid_faces(num_rows: int, num_columns: int) -> Ints:
    """Return two triangles for each cell of a row-major grid of vertices."""
    index = np.arange(num_rows * num_columns, dtype=np.int32).reshape(num_rows, num_columns)
    a, b, c, d = index[:-1, :-1].ravel(), index[:-1, 1:].ravel(), index[1:, :-1].ravel(), index[1:, 1:].ravel()
    return np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)]).astype(np.int32)


def constant(values: Sequence[float], count: int) -> Floats:
    return np.tile(np.asarray(values, np.float32), (count, 1))


def plain(vertices: NDArray[np.floating], faces: Ints, colour: Colour, gloss: float = 0.0) -> Mesh:
    """Build a smooth mesh in one colour."""
    points = vertices.astype(np.float32)
    attributes = constant([*colour, gloss], len(points))
    return Mesh(points, smooth_normals(points, faces), attributes, faces, np.full(len(faces), PLAIN, np.int32))


_BOX_SIDES = np.array(
    [[1, 3, 7, 5], [2, 0, 4, 6], [3, 2, 6, 7], [0, 1, 5, 4], [4, 5, 7, 6], [1, 0, 2, 3]], np.int32
)  # corner index bits: x, y, z; sides +x, -x, +y, -y, +z, -z, each counter-clockwise seen from outside


def box(size: Sequence[float], centre: Sequence[float], colour: Colour, gloss: float = 0.0) -> Mesh:
    """Build an upright box with flat faces."""
    bits = np.array([[(i >> k) & 1 for k in range(3)] for i in range(8)], np.float32)
    corners = (bits - 0.5) * np.asarray(size, np.float32) + np.asarray(centre, np.float32)
    vertices = corners[_BOX_SIDES].reshape(24, 3)
    base = np.arange(0, 24, 4, dtype=np.int32)[:, None]
    faces = np.concatenate([base + np.array([0, 1, 2]), base + np.array([0, 2, 3])]).astype(np.int32)
    return plain(vertices, faces, colour, gloss)


def tube(
    start: Sequence[float], end: Sequence[float], radii: tuple[float, float], colour: Colour, sides: int = 8
) -> Mesh:
    """Build a (tapered) cylinder without lids between two points."""
    return tubes(np.array([[*start, *end, *radii]]), colour, sides)


def tubes(segments: NDArray[np.floating], colour: Colour, sides: int, material: int = PLAIN) -> Mesh:
    """Build cylinders without lids. segments: (S, 8): start, end, radii at both."""
    start, end, radii = segments[:, None, :3], segments[:, None, 3:6], segments[:, 6:]
    axis = unit(end - start)
    across = unit(np.cross(axis, np.where(np.abs(axis[..., 2:]) < 0.9, [0.0, 0.0, 1.0], [1.0, 0.0, 0.0])))
    angle = np.linspace(0, 2 * np.pi, sides + 1)[:, None]
    circle = np.cos(angle) * across + np.sin(angle) * np.cross(axis, across)
    rings = np.stack([start + circle * radii[:, :1, None], end + circle * radii[:, 1:, None]], 1)
    vertices = rings.reshape(-1, 3).astype(np.float32)
    normals = np.stack([circle, circle], 1).reshape(-1, 3).astype(np.float32)
    first = np.arange(len(segments), dtype=np.int32)[:, None, None] * (2 * (sides + 1))
    faces = (grid_faces(2, sides + 1)[None] + first).reshape(-1, 3).astype(np.int32)
    attributes = constant([*colour, 0.0], len(vertices))
    return Mesh(vertices, normals, attributes, faces, np.full(len(faces), material, np.int32))


def ellipsoid(
    centre: Sequence[float], radii: Sequence[float], colour: Colour, sides: int = 10, gloss: float = 0.0
) -> Mesh:
    rows = max(sides // 2, 4) + 1
    polar, angle = np.meshgrid(np.linspace(0, np.pi, rows), np.linspace(0, 2 * np.pi, sides + 1), indexing="ij")
    sphere = np.stack([np.sin(polar) * np.cos(angle), np.sin(polar) * np.sin(angle), np.cos(polar)], -1).reshape(-1, 3)
    vertices = sphere * np.asarray(radii) + np.asarray(centre)
    outwards = np.ascontiguousarray(grid_faces(rows, sides + 1)[:, ::-1])
    mesh = plain(vertices, outwards, colour, gloss)
    return Mesh(mesh.vertices, unit(sphere / np.asarray(radii)), mesh.attributes, mesh.faces, mesh.materials)
