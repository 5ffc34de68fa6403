"""Deferred shading: the surface at every pixel of a drawn picture, light on people, and shadows on the backdrop."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carkp.synthetic._jit import compiled, inlined
from carkp.synthetic.camera import Lens
from carkp.synthetic.lighting import Light, Rgb, haze_share, sky_light
from carkp.synthetic.mesh import Floats, Ints, Mesh
from carkp.synthetic.render import ShadowMap, sunlit

Array = NDArray[np.float64]
Window = tuple[int, int, int, int]
"""First row, first column, end row, end column; all even."""


BEAM = 0.7
"""Strength of the light of headlamps on the road close to them."""

BEAM_REACH = 14.0
"""Distance up to which headlamps light the road at night, in metres."""


class Canvas(NamedTuple):
    """A supersampled picture (H, W, 3) in linear light, and nearness, owner and triangle of each pixel, (H, W) each."""

    picture: Floats
    nearness: Floats
    owner: Ints  # number of the moving object, -1: backdrop
    triangle: Ints


@inlined
def ray(lens: Lens, column: float, row: float) -> Rgb:
    """Return the direction of a picture point, scaled to depth 1."""
    a, b = (column - lens.centre_x) / lens.focal, (row - lens.centre_y) / lens.focal
    return (
        lens.rx * a + lens.dx * b + lens.fx,
        lens.ry * a + lens.dy * b + lens.fy,
        lens.rz * a + lens.dz * b + lens.fz,
    )


@inlined
def weights(mesh: Mesh, index: int, x: float, y: float, z: float) -> Rgb:
    """Return the barycentric weights of a point on a triangle."""
    a, b, c = mesh.faces[index, 0], mesh.faces[index, 1], mesh.faces[index, 2]
    points = mesh.vertices
    ax, ay, az = points[a, 0], points[a, 1], points[a, 2]
    bx, by, bz = points[b, 0] - ax, points[b, 1] - ay, points[b, 2] - az
    cx, cy, cz = points[c, 0] - ax, points[c, 1] - ay, points[c, 2] - az
    px, py, pz = x - ax, y - ay, z - az
    bb, bc, cc = bx * bx + by * by + bz * bz, bx * cx + by * cy + bz * cz, cx * cx + cy * cy + cz * cz
    pb, pc = px * bx + py * by + pz * bz, px * cx + py * cy + pz * cz
    scale = 1.0 / max(bb * cc - bc * bc, 1e-14)
    v = min(max((cc * pb - bc * pc) * scale, 0.0), 1.0)
    w = min(max((bb * pc - bc * pb) * scale, 0.0), 1.0)
    return (max(1.0 - v - w, 0.0), v, w)


@inlined
def blend(table: Floats, faces: Ints, index: int, bary: Rgb, column: int) -> float:
    a, b, c = faces[index, 0], faces[index, 1], faces[index, 2]
    first, second, third = bary
    value: float = first * table[a, column] + second * table[b, column] + third * table[c, column]
    return value


@inlined
def normal_at(mesh: Mesh, index: int, bary: Rgb) -> Rgb:
    table, faces = mesh.normals, mesh.faces
    return (
        blend(table, faces, index, bary, 0),
        blend(table, faces, index, bary, 1),
        blend(table, faces, index, bary, 2),
    )


@inlined
def attributes_at(mesh: Mesh, index: int, bary: Rgb) -> tuple[float, float, float, float]:
    table, faces = mesh.attributes, mesh.faces
    return (
        blend(table, faces, index, bary, 0),
        blend(table, faces, index, bary, 1),
        blend(table, faces, index, bary, 2),
        blend(table, faces, index, bary, 3),
    )


@inlined
def put(picture: Floats, i: int, j: int, light: Light, colour: Rgb, distance: float) -> None:
    """Write a colour as seen through the haze."""
    share = haze_share(light, distance)
    picture[i, j, 0] = colour[0] + (light.horizon_red - colour[0]) * share
    picture[i, j, 1] = colour[1] + (light.horizon_green - colour[1]) * share
    picture[i, j, 2] = colour[2] + (light.horizon_blue - colour[2]) * share


@compiled
def shade_plain(
    window: Window, lens: Lens, light: Light, static: ShadowMap, moving: ShadowMap, mesh: Mesh, canvas: Canvas, own: int
) -> None:
    """Colour the pixels of an object with plain colours (a person) that is given in world axes."""
    for i in range(window[0], window[2]):
        for j in range(window[1], window[3]):
            if canvas.owner[i, j] != own:
                continue
            dx, dy, dz = ray(lens, j + 0.5, i + 0.5)
            q, k = canvas.nearness[i, j], canvas.triangle[i, j]
            x, y, z = lens.x + dx / q, lens.y + dy / q, lens.z + dz / q
            bary = weights(mesh, k, x, y, z)
            n, a = normal_at(mesh, k, bary), attributes_at(mesh, k, bary)
            facing = light.sun_x * n[0] + light.sun_y * n[1] + light.sun_z * n[2]
            lit = max(facing, 0.0) * sunlit(moving, x, y, z, 0.08) * sunlit(static, x, y, z, 0.15)
            ar, ag, ab = sky_light(light, n[2])
            colour = (
                a[0] * (ar + lit * light.sun_red),
                a[1] * (ag + lit * light.sun_green),
                a[2] * (ab + lit * light.sun_blue),
            )
            put(canvas.picture, i, j, light, colour, 1.0 / q)


@compiled
def relight(
    window: Window, lens: Lens, moving: ShadowMap, places: Array, ambient: Floats, sun: Floats, canvas: Canvas
) -> None:
    """Cast the cars' shadows and beams on the backdrop.

    places: (cars, 7): x, y, cosine, sine, half length, half width, strength of the beams as a multiple of the skylight.
    The light of a block of 2x2 pixels on one surface is computed once.
    """
    for i in range(window[0], window[2], 2):
        for j in range(window[1], window[3], 2):
            q, last = canvas.nearness[i, j], canvas.nearness[i + 1, j + 1]
            is_even = abs(q - last) < 0.05 * q
            lit, open_sky = received(lens, moving, places, q, j + 1.0, i + 1.0) if is_even else (1.0, 1.0)
            for di in range(2):
                for dj in range(2):
                    row, column = i + di, j + dj
                    if canvas.owner[row, column] >= 0:
                        continue
                    if not is_even:
                        lit, open_sky = received(
                            lens, moving, places, canvas.nearness[row, column], column + 0.5, row + 0.5
                        )
                    for channel in range(3):
                        value = ambient[row, column, channel] * open_sky + sun[row, column, channel] * lit
                        canvas.picture[row, column, channel] = value


@inlined
def received(lens: Lens, moving: ShadowMap, places: Array, q: float, column: float, row: float) -> tuple[float, float]:
    """Return the shares of sun and of skylight that reach the backdrop past the cars at a picture point."""
    if q <= 0.0:
        return (1.0, 1.0)
    dx, dy, dz = ray(lens, column, row)
    x, y, z = lens.x + dx / q, lens.y + dy / q, lens.z + dz / q
    return (sunlit(moving, x, y, z, 0.03), open_sky_at(places, x, y) if z < 0.3 else 1.0)


@inlined
def open_sky_at(places: Array, x: float, y: float) -> float:
    """Return the share of skylight that reaches a point of the ground past the cars, plus the light of beams."""
    share = 1.0
    for k in range(len(places)):
        ox, oy = x - places[k, 0], y - places[k, 1]
        along = abs(ox * places[k, 2] + oy * places[k, 3]) - places[k, 4]
        across = abs(oy * places[k, 2] - ox * places[k, 3]) - places[k, 5]
        if along < 1.2 and across < 1.2:
            gap = max(along, across) if along < 0.0 or across < 0.0 else math.hypot(along, across)
            share *= contact(gap)
    for k in range(len(places)):
        if places[k, 6] > 0.0:
            ox, oy = x - places[k, 0], y - places[k, 1]
            ahead = ox * places[k, 2] + oy * places[k, 3] - places[k, 4]
            aside = abs(oy * places[k, 2] - ox * places[k, 3]) / (places[k, 5] + 0.22 * max(ahead, 0.0))
            if 0.3 < ahead < BEAM_REACH and aside < 1.0:
                share += places[k, 6] * math.exp(-ahead / 4.0) * (1.0 - aside * aside) * min(ahead - 0.3, 1.0)
    return share


@inlined
def contact(gap: float) -> float:
    """Return the share of skylight on the ground ``gap`` metres outside (negative: under) a car's outline."""
    if gap > 1.0:
        return 1.0
    if gap < -0.7:
        return 0.10
    if gap < 0.0:
        return 0.38 + 0.4 * gap
    return 0.38 + 0.62 * (1.0 - (1.0 - gap) ** 2)
