"""The z-buffer rasteriser, and shadow maps made with it. Buffers hold nearness: 1 / depth, or 0 if infinitely far."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carkp.synthetic._jit import compiled, inlined
from carkp.synthetic.mesh import Floats, Ints

NEAR = 0.3
"""Triangles are cut at this depth, in metres."""


@compiled
def _fill(
    nearness: Floats, triangle: Ints, index: int,
    u0: float, v0: float, q0: float, u1: float, v1: float, q1: float, u2: float, v2: float, q2: float,
) -> None:  # fmt: skip
    """Draw one triangle whose nearness q is linear over the picture; pixel centres are at half-integers."""
    height, width = nearness.shape
    left, right = max(math.ceil(min(u0, u1, u2) - 0.5), 0), min(math.floor(max(u0, u1, u2) + 0.5), width)
    upper, lower = max(math.ceil(min(v0, v1, v2) - 0.5), 0), min(math.floor(max(v0, v1, v2) + 0.5), height)
    if left >= right or upper >= lower:
        return
    area = (u1 - u0) * (v2 - v0) - (u2 - u0) * (v1 - v0)
    if abs(area) < 1e-9:
        return
    inverse = 1.0 / area
    a1, b1 = (v2 - v0) * inverse, -(u2 - u0) * inverse
    a2, b2 = -(v1 - v0) * inverse, (u1 - u0) * inverse
    slope = (q1 - q0) * a1 + (q2 - q0) * a2
    for i in range(upper, lower):
        dy = i + 0.5 - v0
        dx = left + 0.5 - u0
        w1, w2 = a1 * dx + b1 * dy, a2 * dx + b2 * dy
        q = q0 + (q1 - q0) * w1 + (q2 - q0) * w2
        for j in range(left, right):
            if w1 >= 0.0 and w2 >= 0.0 and w1 + w2 <= 1.0 and q > nearness[i, j]:
                nearness[i, j] = q
                triangle[i, j] = index
            w1 += a1
            w2 += a2
            q += slope


@compiled
def draw_seen(
    view: Floats, faces: Ints, focal: float, centre_x: float, centre_y: float, nearness: Floats, triangle: Ints,
    is_closed: bool,
) -> None:  # fmt: skip
    """Draw triangles given in camera axes (N, 3): right, down, depth.

    Triangles of a closed mesh, which are counter-clockwise seen from outside, are left out if they face away.
    """
    count = len(view)
    screen = np.empty((count, 3), np.float32)
    for k in range(count):
        q = 1.0 / max(view[k, 2], NEAR)
        screen[k, 0] = focal * view[k, 0] * q + centre_x
        screen[k, 1] = focal * view[k, 1] * q + centre_y
        screen[k, 2] = q
    for index in range(len(faces)):
        a, b, c = faces[index, 0], faces[index, 1], faces[index, 2]
        num_in_front = int(view[a, 2] > NEAR) + int(view[b, 2] > NEAR) + int(view[c, 2] > NEAR)
        if num_in_front == 3:
            du, dv = screen[b, 0] - screen[a, 0], screen[b, 1] - screen[a, 1]
            if is_closed and du * (screen[c, 1] - screen[a, 1]) >= (screen[c, 0] - screen[a, 0]) * dv:
                continue
            _fill(
                nearness, triangle, index, screen[a, 0], screen[a, 1], screen[a, 2],
                screen[b, 0], screen[b, 1], screen[b, 2], screen[c, 0], screen[c, 1], screen[c, 2],
            )  # fmt: skip
        elif num_in_front > 0:
            _fill_cut(view, faces, index, focal, centre_x, centre_y, nearness, triangle)


@compiled
def _fill_cut(
    view: Floats,
    faces: Ints,
    index: int,
    focal: float,
    centre_x: float,
    centre_y: float,
    nearness: Floats,
    triangle: Ints,
) -> None:
    """Draw the part beyond ``NEAR`` of a triangle that crosses this depth."""
    cut = np.empty((4, 3), np.float32)
    count = 0
    for k in range(3):
        p, n = faces[index, k], faces[index, (k + 1) % 3]
        zp, zn = view[p, 2], view[n, 2]
        if zp > NEAR:
            for axis in range(3):
                cut[count, axis] = view[p, axis]
            count += 1
        if (zp > NEAR) != (zn > NEAR):
            t = (NEAR - zp) / (zn - zp)
            for axis in range(3):
                cut[count, axis] = view[p, axis] + t * (view[n, axis] - view[p, axis])
            count += 1
    for k in range(count):
        q = 1.0 / cut[k, 2]
        cut[k, 0] = focal * cut[k, 0] * q + centre_x
        cut[k, 1] = focal * cut[k, 1] * q + centre_y
        cut[k, 2] = q
    for k in range(2, count):
        _fill(
            nearness, triangle, index, cut[0, 0], cut[0, 1], cut[0, 2],
            cut[k - 1, 0], cut[k - 1, 1], cut[k - 1, 2], cut[k, 0], cut[k, 1], cut[k, 2],
        )  # fmt: skip


@compiled
def draw_parallel(points: Floats, faces: Ints, nearness: Floats, triangle: Ints) -> None:
    """Draw triangles given as (column, row, nearness) (N, 3)."""
    for index in range(len(faces)):
        a, b, c = faces[index, 0], faces[index, 1], faces[index, 2]
        _fill(
            nearness, triangle, index, points[a, 0], points[a, 1], points[a, 2],
            points[b, 0], points[b, 1], points[b, 2], points[c, 0], points[c, 1], points[c, 2],
        )  # fmt: skip


class ShadowMap(NamedTuple):
    """Nearness to the sun over a plane perpendicular to its rays.

    Texel (row, column) of a point p = (v . p - origin_v, u . p - origin_u) * scale.
    """

    nearness: Floats
    ux: float
    uy: float
    uz: float
    vx: float
    vy: float
    vz: float
    sx: float
    sy: float
    sz: float
    origin_u: float
    origin_v: float
    scale: float


def shadow_map(
    vertices: Floats, faces: Ints, sun: tuple[float, float, float], within: NDArray[np.floating], size: int
) -> ShadowMap:
    """Return the shadow map, ``size`` texels wide, of the part of the plane around the points ``within`` (N, 3)."""
    toward = np.asarray(sun) / np.linalg.norm(sun)
    u = np.cross([0.0, 0.0, 1.0], toward)
    u = u / np.linalg.norm(u) if np.linalg.norm(u) > 1e-6 else np.array([1.0, 0.0, 0.0])
    basis = np.stack([u, np.cross(toward, u), toward])
    inside = within @ basis.T
    low, high = inside[:, :2].min(0) - 0.3, inside[:, :2].max(0) + 0.3
    scale = size / float((high - low).max())
    nearness = np.full((size, size), -1e9, np.float32)
    flat = vertices @ basis.T
    texels = np.concatenate([(flat[:, :2] - low) * scale, flat[:, 2:]], 1).astype(np.float32)
    draw_parallel(texels, faces, nearness, np.empty((size, size), np.int32))
    return ShadowMap._make([nearness, *basis.ravel().tolist(), float(low[0]), float(low[1]), scale])


@inlined
def sunlit(shadow: ShadowMap, x: float, y: float, z: float, bias: float) -> float:
    """Return the share of sun (0..1) that reaches a point, interpolated between four texels."""
    size = shadow.nearness.shape[0]
    u = (shadow.ux * x + shadow.uy * y + shadow.uz * z - shadow.origin_u) * shadow.scale - 0.5
    v = (shadow.vx * x + shadow.vy * y + shadow.vz * z - shadow.origin_v) * shadow.scale - 0.5
    i, j = math.floor(v), math.floor(u)
    if i < 0 or j < 0 or i >= size - 1 or j >= size - 1:
        return 1.0
    own = shadow.sx * x + shadow.sy * y + shadow.sz * z + bias
    fu, fv = u - j, v - i
    grid = shadow.nearness
    low = (1.0 - fu) * (1.0 if grid[i, j] <= own else 0.0) + fu * (1.0 if grid[i, j + 1] <= own else 0.0)
    high = (1.0 - fu) * (1.0 if grid[i + 1, j] <= own else 0.0) + fu * (1.0 if grid[i + 1, j + 1] <= own else 0.0)
    return low + (high - low) * fv
