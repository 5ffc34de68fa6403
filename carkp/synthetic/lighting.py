"""Sun and sky: the light of a scene, and the light that surfaces receive. Colours are linear radiance, sky about 1."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from carkp.synthetic._jit import compiled, inlined
from carkp.synthetic.noise import ramp, value_noise

Rgb = tuple[float, float, float]


class Light(NamedTuple):
    """The light of a scene.

    sun_x..z points to the sun; sun_red.. is its irradiance divided by pi; zenith, horizon and ground are radiances.
    """

    sun_x: float
    sun_y: float
    sun_z: float
    sun_red: float
    sun_green: float
    sun_blue: float
    zenith_red: float
    zenith_green: float
    zenith_blue: float
    horizon_red: float
    horizon_green: float
    horizon_blue: float
    ground_red: float
    ground_green: float
    ground_blue: float
    clouds: float
    haze: float  # extinction per metre
    skyline: float  # height of the surroundings above the horizon, as a slope
    seed: float
    night: float  # 1: lamps and windows are lit, and the sun represents the street lamps
    wet: float  # 0 dry road .. 1 puddles


class LightCondition(NamedTuple):
    """Ranges from which the light of a condition is drawn."""

    elevation: tuple[float, float]  # of the sun, degrees
    sun: tuple[float, float]
    sun_colour: Rgb
    zenith: Rgb
    horizon: Rgb
    clouds: tuple[float, float]
    haze: tuple[float, float]
    wet_share: float = 0.0  # probability that the road is wet


CONDITIONS: dict[str, LightCondition] = {
    "clear": LightCondition(
        elevation=(38, 68), sun=(2.4, 3.4), sun_colour=(1.0, 0.96, 0.90),
        zenith=(0.22, 0.40, 0.80), horizon=(0.75, 0.88, 1.05), clouds=(0, 0.3), haze=(0, 0.0008),
    ),
    "cloudy": LightCondition(
        elevation=(30, 60), sun=(1.2, 2.4), sun_colour=(1.0, 0.97, 0.92),
        zenith=(0.40, 0.55, 0.82), horizon=(0.95, 1.0, 1.05), clouds=(0.5, 1.0), haze=(0, 0.001),
    ),
    "overcast": LightCondition(
        elevation=(40, 80), sun=(0.0, 0.25), sun_colour=(1.0, 1.0, 1.0),
        zenith=(0.85, 0.88, 0.92), horizon=(0.95, 0.97, 1.0), clouds=(0.2, 0.6), haze=(0, 0.0015),
    ),
    "hazy": LightCondition(
        elevation=(25, 50), sun=(0.7, 1.5), sun_colour=(1.0, 0.94, 0.84),
        zenith=(0.62, 0.70, 0.82), horizon=(1.05, 1.05, 1.02), clouds=(0.0, 0.3), haze=(0.003, 0.008),
    ),
    "dusk": LightCondition(
        elevation=(12, 20), sun=(0.05, 0.25), sun_colour=(1.0, 0.7, 0.5),
        zenith=(0.30, 0.36, 0.55), horizon=(0.75, 0.62, 0.58), clouds=(0.1, 0.8), haze=(0, 0.001),
    ),
    "low_sun": LightCondition(
        elevation=(16, 24), sun=(1.6, 2.6), sun_colour=(1.0, 0.76, 0.50),
        zenith=(0.25, 0.38, 0.68), horizon=(0.98, 0.84, 0.68), clouds=(0, 0.4), haze=(0, 0.001),
    ),
    "hard": LightCondition(
        elevation=(30, 66), sun=(4.2, 6.0), sun_colour=(1.0, 0.96, 0.88),
        zenith=(0.14, 0.26, 0.55), horizon=(0.50, 0.60, 0.74), clouds=(0, 0.2), haze=(0, 0.0006),
    ),
    "rainy": LightCondition(
        elevation=(40, 80), sun=(0.0, 0.06), sun_colour=(1.0, 1.0, 1.0),
        zenith=(0.60, 0.64, 0.70), horizon=(0.72, 0.75, 0.79), clouds=(0.3, 0.8), haze=(0.001, 0.005), wet_share=1.0,
    ),
    "fog": LightCondition(
        elevation=(40, 80), sun=(0.0, 0.10), sun_colour=(1.0, 1.0, 1.0),
        zenith=(0.80, 0.82, 0.85), horizon=(0.80, 0.82, 0.84), clouds=(0.0, 0.2), haze=(0.010, 0.035), wet_share=0.4,
    ),
    "late_dusk": LightCondition(
        elevation=(40, 70), sun=(0.05, 0.15), sun_colour=(1.0, 0.75, 0.48),
        zenith=(0.05, 0.07, 0.14), horizon=(0.20, 0.17, 0.18), clouds=(0.1, 0.7), haze=(0, 0.002), wet_share=0.3,
    ),
    "night": LightCondition(
        elevation=(40, 75), sun=(0.10, 0.28), sun_colour=(1.0, 0.74, 0.45),
        zenith=(0.010, 0.011, 0.018), horizon=(0.050, 0.043, 0.040), clouds=(0.0, 0.3), haze=(0, 0.002), wet_share=0.4,
    ),
}  # fmt: skip
LIT_CONDITIONS = ("late_dusk", "night")
"""Conditions in which lamps and windows are lit."""
PLAIN_CONDITION_SHARES = {"clear": 0.42, "cloudy": 0.22, "overcast": 0.18, "hazy": 0.10, "dusk": 0.08}
"""Frequency of the conditions without the ingredient ``light``."""
CONDITION_SHARES = {
    "clear": 0.26, "cloudy": 0.15, "overcast": 0.13, "hazy": 0.07, "dusk": 0.06, "hard": 0.10, "rainy": 0.06,
    "fog": 0.04, "late_dusk": 0.05, "night": 0.08,
}  # fmt: skip
UNSEEN_CONDITION_SHARES = {"low_sun": 0.25}
"""Frequency of conditions that exist only in the test scenes: a low, warm sun."""


def draw_light(name: str, rng: np.random.Generator) -> Light:
    condition = CONDITIONS[name]
    elevation, azimuth = math.radians(rng.uniform(*condition.elevation)), rng.uniform(0, 2 * math.pi)
    toward = (math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation))
    strength = rng.uniform(*condition.sun)
    sun = [strength * c for c in condition.sun_colour]
    sky = [0.55 * z + 0.45 * h for z, h in zip(condition.zenith, condition.horizon, strict=True)]
    ground = [0.13 * (a + s * toward[2]) for a, s in zip(sky, sun, strict=True)]
    weather = (rng.uniform(*condition.clouds), rng.uniform(*condition.haze), rng.uniform(0.05, 0.35))
    seed = float(rng.integers(1, 10_000))
    wet = rng.uniform(0.3, 1.0) if rng.uniform() < condition.wet_share else 0.0
    night = float(name in LIT_CONDITIONS)
    return Light._make([*toward, *sun, *condition.zenith, *condition.horizon, *ground, *weather, seed, night, wet])


@inlined
def smooth_sky(light: Light, dx: float, dy: float, dz: float) -> Rgb:
    """Return the sky above the horizon with blurred clouds, as paint mirrors it, without the sun's disc."""
    t = max(dz, 0.0) ** 0.55
    white = 0.35 * light.clouds
    r = light.horizon_red + (light.zenith_red - light.horizon_red) * t
    g = light.horizon_green + (light.zenith_green - light.horizon_green) * t
    b = light.horizon_blue + (light.zenith_blue - light.horizon_blue) * t
    glow = max(dx * light.sun_x + dy * light.sun_y + dz * light.sun_z, 0.0)
    halo = 0.25 * glow**24 + 0.10 * glow**6
    return (
        r + (1.0 - r) * white + halo * light.sun_red,
        g + (1.0 - g) * white + halo * light.sun_green,
        b + (1.0 - b) * white + halo * light.sun_blue,
    )


@compiled
def sky_radiance(light: Light, dx: float, dy: float, dz: float) -> Rgb:
    """Return the sky in a direction above the horizon, with clouds, without the sun's disc."""
    r, g, b = smooth_sky(light, dx, dy, dz)
    if light.clouds > 0.02 and dz > 0.02:
        u, v, seed = dx / (dz + 0.15) * 1.6, dy / (dz + 0.15) * 1.6, int(light.seed)
        n = (
            0.6 * value_noise(u, v, seed)
            + 0.28 * value_noise(2.3 * u, 2.3 * v, seed)
            + 0.12 * value_noise(5 * u, 5 * v, seed)
        )
        c = ramp(0.75 - 0.5 * light.clouds, 1.0 - 0.4 * light.clouds, n) * min(6.0 * dz, 1.0)
        white = 0.95 + 0.15 * light.sun_green / (1.0 + light.sun_green)
        r, g, b = r + (white - r) * c, g + (white - g) * c, b + (1.02 * white - b) * c
    return (r, g, b)


@inlined
def surroundings(light: Light, dx: float, dy: float, dz: float) -> Rgb:
    """Return the light that a mirror shows in a direction: ground, a skyline of buildings and trees, sky."""
    if dz < 0.0:
        fade = 1.0 - 0.35 * ramp(0.0, 0.6, -dz)
        return (light.ground_red * fade, light.ground_green * fade, light.ground_blue * fade)
    azimuth = math.atan2(dy, dx)
    height = light.skyline * (0.4 + 1.2 * value_noise(azimuth * 2.2, light.seed, 11))
    if dz < height:
        tone = 0.10 + 0.25 * value_noise(azimuth * 5.0, light.seed + 7.0, 12)
        lit = light.horizon_green + 0.5 * light.sun_green
        return (1.08 * tone * lit, tone * lit, 0.9 * tone * lit)
    return smooth_sky(light, dx, dy, dz)


@inlined
def sky_light(light: Light, nz: float) -> Rgb:
    """Return the irradiance, divided by pi, from sky and ground on a surface whose normal has this z."""
    up = 0.5 + 0.5 * nz
    r = up * (0.55 * light.zenith_red + 0.45 * light.horizon_red) + (1.0 - up) * light.ground_red
    g = up * (0.55 * light.zenith_green + 0.45 * light.horizon_green) + (1.0 - up) * light.ground_green
    b = up * (0.55 * light.zenith_blue + 0.45 * light.horizon_blue) + (1.0 - up) * light.ground_blue
    return (r, g, b)


@inlined
def haze_share(light: Light, distance: float) -> float:
    return 1.0 - math.exp(-light.haze * distance)
