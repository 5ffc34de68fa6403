"""The share of the sky that is visible from each vertex of a mesh, from parallel views in many directions."""

from __future__ import annotations

import math

import numpy as np

from carkp.rendered.glb import Surface
from carkp.synthetic._jit import compiled
from carkp.synthetic.mesh import Floats
from carkp.synthetic.render import ShadowMap, shadow_map

NUM_DIRECTIONS = 40
_MAP_PX = 160


def with_open_sky(surface: Surface) -> Surface:
    """Return ``surface`` with each vertex's visible share of the sky, weighted by the cosine to its normal."""
    seen = np.zeros(len(surface.vertices), np.float32)
    total = np.full(len(surface.vertices), 1e-6, np.float32)
    solid = np.ascontiguousarray(surface.faces[: surface.num_opaque])
    ground = _ground(surface)
    for direction in _directions():
        shadow = shadow_map(surface.vertices, solid, direction, surface.vertices, _MAP_PX)
        _count(surface.vertices, surface.normals, shadow, seen, total)
    return surface._replace(open_sky=np.clip(seen / total * ground, 0.0, 1.0))


def _ground(surface: Surface) -> Floats:
    """Return factors that darken vertices near the ground, above all those facing it: the car shades the ground."""
    low = 1.0 - np.clip(surface.vertices[:, 2] / 1.2, 0, 1)
    facing_down = np.clip(-surface.normals[:, 2], 0, 1)
    return np.asarray(
        (0.5 + 0.5 * np.clip(surface.vertices[:, 2] / 0.6, 0, 1)) * (1 - 0.85 * low * facing_down), np.float32
    )


def _directions() -> list[tuple[float, float, float]]:
    """Return directions spread evenly over the hemisphere and a little below the horizon."""
    golden = math.pi * (3.0 - math.sqrt(5.0))
    found = []
    for k in range(NUM_DIRECTIONS):
        z = -0.25 + 1.2 * (k + 0.5) / NUM_DIRECTIONS
        radius = math.sqrt(max(1.0 - z * z, 0.0))
        found.append((radius * math.cos(golden * k), radius * math.sin(golden * k), z))
    return found


@compiled
def _count(vertices: Floats, normals: Floats, shadow: ShadowMap, seen: Floats, total: Floats) -> None:
    """Add the cosine of each vertex that faces the direction to ``total``, and also to ``seen`` if it is not hidden."""
    size = shadow.nearness.shape[0]
    for k in range(len(vertices)):
        nx, ny, nz = normals[k, 0], normals[k, 1], normals[k, 2]
        cosine = nx * shadow.sx + ny * shadow.sy + nz * shadow.sz
        if cosine <= 0.0:
            continue
        total[k] += cosine
        x, y, z = vertices[k, 0] + 0.03 * nx, vertices[k, 1] + 0.03 * ny, vertices[k, 2] + 0.03 * nz
        u = int((shadow.ux * x + shadow.uy * y + shadow.uz * z - shadow.origin_u) * shadow.scale)
        v = int((shadow.vx * x + shadow.vy * y + shadow.vz * z - shadow.origin_v) * shadow.scale)
        own = shadow.sx * x + shadow.sy * y + shadow.sz * z + 0.03
        if u < 0 or v < 0 or u >= size or v >= size or shadow.nearness[v, u] <= own:
            seen[k] += cosine
