"""Triangles that lie exactly on each other: a wall that a file describes from outside and from inside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carkp.rendered.glb import Column, Kind, Surface
from carkp.synthetic.mesh import Ints

_RESOLUTION_M = 1e-4
"""Vertices that are closer than about this distance count as the same."""


def without_inner_faces(surface: Surface) -> Surface:
    """Return ``surface`` with only the outer one of opaque triangles that coincide: paint, or what faces outwards.

    The rasteriser has no back faces. Without this, both triangles win some of the pixels, in a speckled pattern.
    """
    solid = surface.faces[: surface.num_opaque]
    is_kept = np.ones(len(surface.faces), np.bool_)
    is_kept[: surface.num_opaque] = _outermost(surface, solid, surface.face_materials[: surface.num_opaque])
    if is_kept.all():
        return surface
    return surface._replace(
        faces=np.ascontiguousarray(surface.faces[is_kept]),
        face_materials=np.ascontiguousarray(surface.face_materials[is_kept]),
        num_opaque=int(is_kept[: surface.num_opaque].sum()),
    )


def _outermost(surface: Surface, faces: Ints, materials: Ints) -> NDArray[np.bool_]:
    """Return, (M,), which of the triangles (M, 3) with materials (M,) are the outer ones where some coincide."""
    whole = np.round(surface.vertices / _RESOLUTION_M).astype(np.int64)
    position = np.unique(whole, axis=0, return_inverse=True)[1].reshape(-1)
    corners = np.sort(position[faces], 1)
    _, place, count = np.unique(corners, axis=0, return_inverse=True, return_counts=True)
    place = place.reshape(-1)
    is_flat = (corners[:, 0] == corners[:, 1]) | (corners[:, 1] == corners[:, 2])
    is_kept: NDArray[np.bool_] = (count[place] == 1) | is_flat
    doubled = np.flatnonzero(~is_kept)
    is_paint = surface.materials[materials[doubled], Column.KIND] == Kind.PAINT
    order = doubled[np.lexsort((-_outwardness(surface, faces[doubled]), ~is_paint, place[doubled]))]
    is_first = np.diff(place[order], prepend=-1) != 0
    is_kept[order[is_first]] = True
    return is_kept


def _outwardness(surface: Surface, faces: Ints) -> NDArray[np.float64]:
    """Return, (M,), the cosine of the side from which the corners are counter-clockwise to the direction outwards.

    Outwards: away from the middle of the car at half the triangle's distance along the car.
    """
    a, b, c = (surface.vertices[faces[:, k]].astype(np.float64) for k in range(3))
    normals = np.cross(b - a, c - a)
    middle = (a + b + c) / 3
    height = float(surface.vertices[:, 2].max())
    outwards = middle - np.stack([0.5 * middle[:, 0], np.zeros(len(middle)), np.full(len(middle), 0.45 * height)], 1)
    lengths = np.linalg.norm(normals, axis=1) * np.linalg.norm(outwards, axis=1)
    return np.asarray((normals * outwards).sum(1) / np.maximum(lengths, 1e-12))
