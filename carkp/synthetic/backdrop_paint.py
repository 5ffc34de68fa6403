"""Surfaces of things beside the streets: facades with windows and shop fronts, and foliage."""

import math

import numpy as np
from numpy.typing import NDArray

from carkp.synthetic._jit import inlined
from carkp.synthetic.lighting import Light, Rgb
from carkp.synthetic.noise import hash_unit, value_noise

Array = NDArray[np.float64]


@inlined
def facade_colour(
    table: Array, light: Light, u: float, v: float, building: float, height: float, up: float
) -> tuple[float, float, float, float]:
    """Return the reflectance, and the share of glass that mirrors the sky (0..1).

    If the share is -1, the colour is the radiance of a lit window.

    ``table`` has one row per building: wall red, green, blue; trim red, green, blue; window period along the wall and
    upwards; window width and height as shares of the period; 1 for brick; height of the shop front (0: none); period of
    the belt courses in height; seed.
    """
    row = table[int(building + 0.5)]
    seed = int(row[13])
    if up > 0.5:
        return (0.12, 0.12, 0.12, 0.0)
    if row[11] > 0.5 and v < row[11]:
        return shop_front(row, light, u, v, seed)
    if v > height - 0.7 or (row[11] > 0.5 and v < row[11] + 0.5):
        return (row[3], row[4], row[5], 0.0)
    t = (v - row[11]) / row[12]
    if t - math.floor(t) < 0.05:
        return (0.9 * row[3], 0.9 * row[4], 0.9 * row[5], 0.0)
    cu, cv = u / row[6], (v - row[11]) / row[7]
    iu, iv = math.floor(cu), math.floor(cv)
    du, dv = abs(cu - iu - 0.5) / (0.5 * row[8]), abs(cv - iv - 0.52) / (0.5 * row[9])
    if du < 1.0 and dv < 1.0:
        if du > 0.90 or dv > 0.93 or abs(cv - iv - 0.52) < 0.012 or (row[8] > 0.5 and abs(cu - iu - 0.5) < 0.012):
            return (0.8 * row[3], 0.8 * row[4], 0.8 * row[5], 0.0)
        blind = hash_unit(iu, iv, seed)
        if blind > 0.55 and cv - iv - 0.52 > 0.5 * row[9] * (1.0 - 2.4 * (blind - 0.55)):
            return (0.40, 0.38, 0.33, 0.15)
        if light.night > 0.5 and hash_unit(iu, iv, seed + 7) < 0.28:
            warm = 0.15 + 0.5 * hash_unit(iu, iv, seed + 8)
            return (warm, 0.74 * warm, 0.42 * warm, -1.0)
        return (0.03, 0.035, 0.04, 0.35 + 0.65 * hash_unit(iu, iv, seed + 1))
    if du < 1.15 and -1.25 < (cv - iv - 0.52) / (0.5 * row[9]) < -0.95:
        return (row[3], row[4], row[5], 0.0)
    return wall(row, u, v, seed)


@inlined
def wall(row: Array, u: float, v: float, seed: int) -> tuple[float, float, float, float]:
    stain = 0.85 + 0.3 * value_noise(0.6 * u, 0.25 * v, seed + 2)
    if row[10] > 0.5:
        course = math.floor(v / 0.075)
        stain *= 0.85 + 0.3 * hash_unit(math.floor(u / 0.22 + 0.5 * (course % 2)), course, seed + 3)
    return (row[0] * stain, row[1] * stain, row[2] * stain, 0.0)


@inlined
def shop_front(row: Array, light: Light, u: float, v: float, seed: int) -> tuple[float, float, float, float]:
    """Return reflectance and glass share of a shop front: sign band, mullions, glass with dim goods, plinth."""
    shop = math.floor(u / 7.0)
    if v > row[11] - 0.75:
        hue = hash_unit(shop, 0, seed + 4)
        letter = hash_unit(math.floor(u / 0.3), 0, seed + 5) > 0.5 and abs(v - row[11] + 0.38) < 0.17
        inside = 0.2 < u / 7.0 - shop < 0.8
        if letter and inside:
            return (0.6, 0.6, 0.55, 0.0)
        return (0.05 + 0.25 * hue, 0.08 + 0.1 * hash_unit(shop, 1, seed), 0.30 - 0.25 * hue, 0.0)
    t = u / 1.75
    if v < 0.4 or abs(t - math.floor(t) - 0.5) > 0.46:
        return (0.5 * row[3], 0.5 * row[4], 0.5 * row[5], 0.0)
    goods = 0.02 + 0.16 * value_noise(1.3 * u, 1.6 * v, seed + 6) ** 2
    if light.night > 0.5 and hash_unit(shop, 2, seed) > 0.35:
        return (0.25 + 5.0 * goods, 0.22 + 4.4 * goods, 0.15 + 3.4 * goods, -1.0)
    return (goods, 0.95 * goods, 0.85 * goods, 0.7)


@inlined
def foliage_colour(r: float, g: float, b: float, x: float, y: float, z: float) -> Rgb:
    tone = 0.55 + 0.9 * value_noise(9.0 * x + 3.0 * z, 9.0 * y + 5.0 * z, 21)
    return (r * tone, g * tone, b * tone)
