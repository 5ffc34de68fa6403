"""Lighting of everything that does not move: ground, buildings, trees, sky."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from carkp.synthetic._jit import compiled, inlined
from carkp.synthetic.backdrop_paint import facade_colour, foliage_colour
from carkp.synthetic.camera import Lens
from carkp.synthetic.ground import Ground, ground_colour
from carkp.synthetic.lighting import Light, Rgb, haze_share, sky_light, sky_radiance, surroundings
from carkp.synthetic.materials import FACADE, FOLIAGE, PLAIN
from carkp.synthetic.mesh import Floats, Ints, Mesh
from carkp.synthetic.noise import hash_unit, ramp, value_noise
from carkp.synthetic.render import ShadowMap, sunlit
from carkp.synthetic.shading import attributes_at, normal_at, ray, weights

Array = NDArray[np.float64]
_FAR = 250.0
"""Distance of the far end of town, in metres."""
GROUND, SKY = -1, -2
"""Values that replace the number of a triangle."""


@compiled
def find_ground(lens: Lens, nearness: Floats, triangle: Ints) -> None:
    """Let the ground hide everything below it; mark ground and sky in ``triangle``."""
    height, width = nearness.shape
    for i in range(height):
        for j in range(width):
            on_ground = -ray(lens, j + 0.5, i + 0.5)[2] / lens.z
            if on_ground > nearness[i, j] and on_ground > 0.004:
                nearness[i, j] = on_ground
                triangle[i, j] = GROUND
            elif nearness[i, j] <= 0.0:
                triangle[i, j] = SKY


@compiled
def shade_backdrop(
    lens: Lens, light: Light, ground: Ground, facades: Array, shadow: ShadowMap, mesh: Mesh,
    nearness: Floats, triangle: Ints, ambient: Floats, sun: Floats,
) -> None:  # fmt: skip
    """Fill the sky-lit and the sunlit part of a whole picture.

    A block of 2x2 pixels that shows only one surface is shaded once, at its centre.
    """
    height, width = nearness.shape
    for i in range(0, height, 2):
        for j in range(0, width, 2):
            k, q = triangle[i, j], nearness[i, j]
            if triangle[i, j + 1] == k and triangle[i + 1, j] == k and triangle[i + 1, j + 1] == k:
                middle = 0.5 * (q + nearness[i + 1, j + 1])
                direction = ray(lens, j + 1.0, i + 1.0)
                colour, direct = backdrop_light(lens, light, ground, facades, shadow, mesh, k, middle, direction)
                for di in range(2):
                    for dj in range(2):
                        store(ambient, i + di, j + dj, colour)
                        store(sun, i + di, j + dj, direct)
                continue
            for di in range(2):
                for dj in range(2):
                    k, q = triangle[i + di, j + dj], nearness[i + di, j + dj]
                    direction = ray(lens, j + dj + 0.5, i + di + 0.5)
                    colour, direct = backdrop_light(lens, light, ground, facades, shadow, mesh, k, q, direction)
                    store(ambient, i + di, j + dj, colour)
                    store(sun, i + di, j + dj, direct)


@inlined
def store(picture: Floats, i: int, j: int, colour: Rgb) -> None:
    picture[i, j, 0] = colour[0]
    picture[i, j, 1] = colour[1]
    picture[i, j, 2] = colour[2]


@inlined
def backdrop_light(
    lens: Lens, light: Light, ground: Ground, facades: Array, shadow: ShadowMap, mesh: Mesh, k: int, q: float, d: Rgb
) -> tuple[Rgb, Rgb]:
    """Return the sky-lit and the sunlit part of the surface in direction ``d`` at nearness ``q``, with haze."""
    if k == SKY:
        length = math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        r, g, b = far_away(light, d[0] / length, d[1] / length, d[2] / length)
        far = haze_share(light, _FAR) * (1.0 - ramp(0.12, 0.3, d[2] / length))
        keep = 1.0 - far
        hazed_sky = (
            r * keep + light.horizon_red * far,
            g * keep + light.horizon_green * far,
            b * keep + light.horizon_blue * far,
        )
        return hazed_sky, (0.0, 0.0, 0.0)
    if k == GROUND:
        colour, direct, share = shade_ground(lens, light, ground, shadow, d[0], d[1], q)
    else:
        p = (lens.x + d[0] / q, lens.y + d[1] / q, lens.z + d[2] / q)
        bary = weights(mesh, k, p[0], p[1], p[2])
        n, a = normal_at(mesh, k, bary), attributes_at(mesh, k, bary)
        colour, direct, share = shade_thing(light, facades, shadow, mesh.materials[k], p, n, a, d, q)
    keep = 1.0 - share
    hazed = (
        colour[0] * keep + light.horizon_red * share,
        colour[1] * keep + light.horizon_green * share,
        colour[2] * keep + light.horizon_blue * share,
    )
    return hazed, (direct[0] * keep, direct[1] * keep, direct[2] * keep)


@inlined
def shade_ground(
    lens: Lens, light: Light, ground: Ground, shadow: ShadowMap, dx: float, dy: float, q: float
) -> tuple[Rgb, Rgb, float]:
    """Return the sky-lit part, the sunlit part and the share of haze of the ground."""
    x, y = lens.x + dx / q, lens.y + dy / q
    r, g, b = ground_colour(ground, x, y, 2.0 / (q * lens.focal))
    sr, sg, sb = sky_light(light, 1.0)
    lit = sunlit(shadow, x, y, 0.0, 0.08) * light.sun_z
    if light.wet > 0.0:
        mirrored = wet_mirror(light, x, y, dx, dy, -lens.z * q)
        dark = 1.0 - 0.5 * light.wet
        r, g, b = r * dark, g * dark, b * dark
        direct = (r * lit * light.sun_red, g * lit * light.sun_green, b * lit * light.sun_blue)
        colour = (r * sr + mirrored[0], g * sg + mirrored[1], b * sb + mirrored[2])
        return colour, direct, haze_share(light, 1.0 / q)
    direct = (r * lit * light.sun_red, g * lit * light.sun_green, b * lit * light.sun_blue)
    return (r * sr, g * sg, b * sb), direct, haze_share(light, 1.0 / q)


@inlined
def wet_mirror(light: Light, x: float, y: float, dx: float, dy: float, dz: float) -> Rgb:
    """Return the light that a wet road mirrors where a ray (dx, dy, dz) meets it.

    It is more in puddles and at flat angles.
    """
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    fresnel = 0.03 + 0.97 * (1.0 - min(-dz / length, 1.0)) ** 5
    puddle = ramp(0.42, 0.62, 0.7 * value_noise(0.35 * x, 0.35 * y, 31) + 0.3 * value_noise(1.9 * x, 1.9 * y, 32))
    share = fresnel * light.wet * (0.35 + 0.65 * puddle)
    r, g, b = surroundings(light, dx / length, dy / length, -dz / length)
    return (share * r, share * g, share * b)


@inlined
def shade_thing(
    light: Light, facades: Array, shadow: ShadowMap, material: int, p: Rgb, n: Rgb,
    a: tuple[float, float, float, float], d: Rgb, q: float,
) -> tuple[Rgb, Rgb, float]:  # fmt: skip
    """Return sky-lit part, sunlit part and share of haze of a point on a building, a tree or street furniture."""
    nx, ny, nz = n
    if nx * d[0] + ny * d[1] + nz * d[2] > 0.0:
        nx, ny, nz = -nx, -ny, -nz
    mirror = 0.0
    r, g, b = a[0], a[1], a[2]
    if material == FACADE:
        r, g, b, mirror = facade_colour(facades, light, a[0], a[1], a[2], a[3], nz)
    elif material == FOLIAGE:
        r, g, b = foliage_colour(r, g, b, p[0], p[1], p[2])
    facing = nx * light.sun_x + ny * light.sun_y + nz * light.sun_z
    if material == FOLIAGE:
        facing = 0.35 + 0.65 * facing
    lit = max(facing, 0.0)
    if lit > 0.0:
        lit *= sunlit(shadow, p[0] + 0.1 * nx, p[1] + 0.1 * ny, p[2] + 0.1 * nz, 0.12)
    sr, sg, sb = sky_light(light, nz)
    low = 0.6 + 0.4 * min(p[2] / 1.5, 1.0)
    colour = (r * sr * low, g * sg * low, b * sb * low)
    if mirror < 0.0:  # a lit window
        return (r, g, b), (0.0, 0.0, 0.0), haze_share(light, 1.0 / q)
    if material == PLAIN and a[3] > 1.0 and light.night > 0.5:
        colour = (r * a[3], g * a[3], b * a[3])
    if mirror > 0.0:
        length = math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        dot = 2.0 * (d[0] * nx + d[1] * ny + d[2] * nz) / length
        mr, mg, mb = surroundings(light, d[0] / length - dot * nx, d[1] / length - dot * ny, d[2] / length - dot * nz)
        colour = (colour[0] + 0.35 * mirror * mr, colour[1] + 0.35 * mirror * mg, colour[2] + 0.35 * mirror * mb)
    direct = (r * lit * light.sun_red, g * lit * light.sun_green, b * lit * light.sun_blue)
    return colour, direct, haze_share(light, 1.0 / q)


@inlined
def far_away(light: Light, dx: float, dy: float, dz: float) -> Rgb:
    """Return the light of the sky and, below a jagged skyline, of the far end of the town."""
    if dz > 0.3:
        return sky_radiance(light, dx, dy, dz)
    azimuth, seed = math.atan2(dy, dx), int(light.seed)
    column = math.floor(azimuth * 22.0)
    roof = 0.03 + 0.22 * light.skyline * hash_unit(column, 0, seed)
    trees = (
        0.035
        + 0.06 * light.skyline * value_noise(azimuth * 9.0, 0.0, seed)
        + 0.012 * value_noise(azimuth * 70.0, 0.0, seed)
    )
    if dz < max(roof, trees):
        lit = light.horizon_green + 0.3 * light.sun_green
        if dz < trees:
            tone = lit * (0.05 + 0.07 * value_noise(azimuth * 160.0, dz * 160.0, seed + 5))
            return (0.9 * tone, tone, 0.62 * tone)
        is_window = math.floor(azimuth * 420.0) % 2.0 < 0.5 and math.floor(dz * 260.0) % 2.0 < 0.5
        tone = lit * (0.11 + 0.14 * hash_unit(column, 1, seed)) * (0.6 if is_window else 1.0)
        if light.night > 0.5 and is_window and hash_unit(math.floor(azimuth * 420.0), math.floor(dz * 260.0), 9) > 0.6:
            return (0.35, 0.25, 0.12)
        return (1.05 * tone, tone, 0.94 * tone)
    return sky_radiance(light, dx, dy, dz)
