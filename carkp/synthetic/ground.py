"""The ground as a surface to shade: streets that meet at the origin, kerbs, pavements, markings, a car park."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carkp.synthetic._jit import compiled, inlined
from carkp.synthetic.lighting import Rgb
from carkp.synthetic.noise import hash_unit, ramp, value_noise

ARM_COS, ARM_SIN, ARM_HALF_WIDTH, ARM_LANES, ARM_PARKING, ARM_CLEAR = range(6)
"""Columns of ``Ground.arms``: cosine and sine of the direction, half the width of the carriageway, lanes per direction,
width of the parking lane, and the distance at which the junction ends."""


class Ground(NamedTuple):
    """The ground of a scene.

    arms: (A, 6) float64, streets that start at the origin. The car park is a rectangle; ``park_length`` 0 means none.
    """

    arms: NDArray[np.float64]
    pavement: float  # width
    park_x: float
    park_y: float
    park_cos: float
    park_sin: float
    park_length: float
    park_depth: float
    asphalt: float  # reflectance
    paving: float
    verge: float  # 0 lawn .. 1 plaza
    zebra: float
    wear: float
    seed: float


@compiled
def road_distance(ground: Ground, x: float, y: float) -> float:
    """Return the distance to the edge of the carriageway, negative on it; corners are rounded."""
    nearest = 1e9
    for k in range(len(ground.arms)):
        c, s, half = ground.arms[k, 0], ground.arms[k, 1], ground.arms[k, 2]
        along, side = x * c + y * s, abs(y * c - x * s) - half
        distance = side if along > 0 else math.hypot(max(side, 0.0), along)
        if k == 0:
            nearest = distance
        else:
            h = min(max(0.5 + 0.5 * (nearest - distance) / 4.0, 0.0), 1.0)
            nearest = nearest + (distance - nearest) * h - 4.0 * h * (1.0 - h)
    return nearest


@inlined
def parking_lot(ground: Ground, x: float, y: float) -> tuple[float, float]:
    """Return the position along and across the car park; far outside if there is no car park."""
    if ground.park_length <= 0.0:
        return (1e6, 1e6)
    dx, dy = x - ground.park_x, y - ground.park_y
    return (dx * ground.park_cos + dy * ground.park_sin, dy * ground.park_cos - dx * ground.park_sin)


@inlined
def ground_colour(ground: Ground, x: float, y: float, pixel: float) -> Rgb:
    """Return the reflectance of the ground; details smaller than ``pixel`` metres fade out."""
    seed = int(ground.seed)
    fine = 1.0 / (1.0 + (pixel / 0.04) ** 2)
    grain = fine * (hash_unit(math.floor(x * 60.0), math.floor(y * 60.0), seed) - 0.5)
    coarse = value_noise(0.35 * x, 0.35 * y, seed) - 0.5
    edge = road_distance(ground, x, y)
    along, across = parking_lot(ground, x, y)
    if edge < 0.0:
        return road_colour(ground, x, y, pixel, grain, coarse, edge)
    if abs(along) < ground.park_length and abs(across) < ground.park_depth:
        return park_colour(ground, along, across, grain, coarse)
    if edge < 0.17:
        tone = 0.85 * ground.paving + 0.1 * grain
        return (tone, tone, 0.96 * tone)
    if edge < ground.pavement:
        return paving_colour(ground, x, y, pixel, grain, coarse)
    return verge_colour(ground, x, y, grain, coarse)


@inlined
def road_colour(ground: Ground, x: float, y: float, pixel: float, grain: float, coarse: float, edge: float) -> Rgb:
    seed = int(ground.seed)
    tone = ground.asphalt * (1.0 + 0.35 * coarse + 0.5 * grain)
    tone *= 0.9 + 0.2 * value_noise(1.7 * x, 1.7 * y, seed + 1)
    patch = hash_unit(math.floor(x / 5.3), math.floor(y / 3.1), seed + 2)
    if patch > 0.86:
        tone *= 0.72
    crack = abs(value_noise(0.5 * x + 0.3 * y, 0.5 * y, seed + 3) - 0.5)
    if crack < 0.010 + 0.3 * pixel and value_noise(0.2 * x, 0.2 * y, seed + 4) > 0.5:
        tone *= 0.7 + 0.3 * min(crack / (0.010 + 0.3 * pixel), 1.0)
    tone *= 1.0 - 0.18 * ramp(-0.7, 0.0, edge)
    white, yellow = road_paint(ground, x, y)
    if white + yellow > 0.0:
        worn = ground.wear * value_noise(2.6 * x, 2.6 * y, seed + 5)
        left = 1.0 - 0.5 * worn
        if worn < 0.75 and white > 0.0:
            return (0.55 * left, 0.55 * left, 0.53 * left)
        if worn < 0.75:
            return (0.48 * left, 0.32 * left, 0.03)
    return (tone, tone, 1.02 * tone)


@inlined
def road_paint(ground: Ground, x: float, y: float) -> tuple[float, float]:
    """Return whether there is white and yellow paint (1 or 0) at a point of the carriageway."""
    for k in range(len(ground.arms)):
        arm = ground.arms[k]
        along, side = x * arm[0] + y * arm[1], y * arm[0] - x * arm[1]
        if along < arm[5] - 3.6 or abs(side) > arm[2]:
            continue
        if along < arm[5]:
            if ground.zebra > 0.5 and along < arm[5] - 0.5:
                t = side / 1.15
                return (1.0 if t - math.floor(t) < 0.52 else 0.0, 0.0)
            border = abs(along - arm[5] + 0.6) < 0.16 or abs(along - arm[5] + 3.4) < 0.16
            return (1.0 if border else 0.0, 0.0)
        lane = (arm[2] - arm[4]) / arm[3]
        if along - arm[5] < 1.3:
            return (1.0 if along - arm[5] > 0.85 and 0.2 < side < arm[2] - arm[4] else 0.0, 0.0)
        if 0.06 < abs(side) < 0.17:
            return (0.0, 1.0)
        if arm[4] > 0.0 and abs(abs(side) - arm[2] + arm[4]) < 0.05:
            return (1.0, 0.0)
        if arm[3] > 1.5 and abs(abs(side) - lane) < 0.07:
            t = along / 9.0
            return (1.0 if t - math.floor(t) < 0.34 else 0.0, 0.0)
        return (0.0, 0.0)
    return (0.0, 0.0)


@inlined
def park_colour(ground: Ground, along: float, across: float, grain: float, coarse: float) -> Rgb:
    """Return the colour of the car park: stalls 2.7 m wide on both long sides of a lane."""
    t = along / 2.7
    on_line = abs(t - math.floor(t + 0.5)) < 0.02 and abs(across) > ground.park_depth - 5.2
    if on_line:
        return (0.5, 0.5, 0.48)
    tone = 1.15 * ground.asphalt * (1.0 + 0.4 * coarse + 0.5 * grain)
    return (tone, tone, tone)


@inlined
def paving_colour(ground: Ground, x: float, y: float, pixel: float, grain: float, coarse: float) -> Rgb:
    """Return the colour of the pavement: concrete slabs with joints."""
    u, v = x / 1.5, y / 1.5
    fu, fv = u - math.floor(u), v - math.floor(v)
    slab = hash_unit(math.floor(u), math.floor(v), int(ground.seed) + 6)
    tone = ground.paving * (0.92 + 0.14 * slab + 0.25 * coarse + 0.25 * grain)
    if pixel < 0.08 and (fu < 0.015 or fv < 0.015):
        tone *= 0.65
    return (tone, 0.98 * tone, 0.92 * tone)


@inlined
def verge_colour(ground: Ground, x: float, y: float, grain: float, coarse: float) -> Rgb:
    """Return the colour of the lawn or plaza behind the pavement."""
    if ground.verge > 0.5:
        tone = 0.9 * ground.paving * (1.0 + 0.3 * coarse + 0.3 * grain)
        return (tone, 0.93 * tone, 0.84 * tone)
    tone = 1.0 + 0.5 * coarse + 0.8 * grain + 0.3 * (value_noise(3.0 * x, 3.0 * y, int(ground.seed) + 8) - 0.5)
    return (0.075 * tone, 0.11 * tone, 0.035 * tone)
