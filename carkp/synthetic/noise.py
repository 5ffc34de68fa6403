"""Procedural noise for textures: hashed lattice values and their smooth interpolation."""

import math

from carkp.synthetic._jit import compiled, inlined


@inlined
def hash_unit(i: int, j: int, seed: int) -> float:
    """Return a value in [0, 1) that depends only on the lattice point and the seed."""
    h = (i * 374761393 + j * 668265263 + seed * 144269501) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 40503177) & 0xFFFFFFFF
    h ^= h >> 16
    return h / 4294967296.0


@compiled
def value_noise(x: float, y: float, seed: int) -> float:
    """Return smooth noise in [0, 1) with features one unit wide."""
    i, j = math.floor(x), math.floor(y)
    fx, fy = x - i, y - j
    fx, fy = fx * fx * (3.0 - 2.0 * fx), fy * fy * (3.0 - 2.0 * fy)
    low = hash_unit(i, j, seed) * (1.0 - fx) + hash_unit(i + 1, j, seed) * fx
    high = hash_unit(i, j + 1, seed) * (1.0 - fx) + hash_unit(i + 1, j + 1, seed) * fx
    return low * (1.0 - fy) + high * fy


@inlined
def ramp(low: float, high: float, x: float) -> float:
    """Return the smoothstep function: 0 below ``low``, 1 above ``high``."""
    t = min(max((x - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)
