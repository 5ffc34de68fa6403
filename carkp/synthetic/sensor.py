"""Faults of poor cameras: glare, defocus, colour noise, few grey levels, low resolution, strong compression.

None of them moves anything in the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from carkp.synthetic.mesh import Floats

Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Sensor:
    """Changes to the developed picture. Each is off at 0, ``scale`` at 1."""

    chroma_noise: float = 0.0  # grey levels
    levels: int = 0  # number of levels left in each channel
    scale: float = 1.0  # factor by which the picture is reduced before it is enlarged again
    first_quality: int = 0  # quality of a JPEG compression before the last one


PERFECT = Sensor()


def draw_sensor(rng: np.random.Generator, camera: np.random.Generator) -> Sensor:
    """Draw the faults of a sensor; ``camera`` draws values that are equal for all frames of a camera."""
    is_small, is_old, is_packed = camera.uniform() < 0.3, camera.uniform() < 0.06, camera.uniform() < 0.25
    chroma = camera.uniform(0, 1) ** 3 * 14.0
    scale = camera.uniform(0.3, 0.75) if is_small else 1.0
    return Sensor(
        chroma_noise=chroma if chroma > 1.0 else 0.0,
        levels=int(rng.integers(10, 40)) if is_old else 0,
        scale=float(scale),
        first_quality=int(rng.integers(18, 60)) if is_packed else 0,
    )


def degrade(picture: Bytes, sensor: Sensor, rng: np.random.Generator) -> Bytes:
    """Return ``picture`` (H, W, 3), BGR, with the faults of this sensor."""
    height, width = picture.shape[:2]
    if sensor.scale < 1.0:
        small = (max(int(width * sensor.scale), 8), max(int(height * sensor.scale), 8))
        picture = np.asarray(cv2.resize(picture, small, interpolation=cv2.INTER_AREA), np.uint8)
    if sensor.chroma_noise > 0:
        picture = _with_chroma_noise(picture, sensor.chroma_noise, rng)
    if sensor.levels > 0:
        picture = np.asarray(cv2.LUT(picture, _steps(sensor.levels)), np.uint8)
    if sensor.first_quality > 0:
        _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, sensor.first_quality])
        picture = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    if sensor.scale < 1.0:
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return picture


def _with_chroma_noise(picture: Bytes, sigma: float, rng: np.random.Generator) -> Bytes:
    """Add blotches of colour that are a few pixels wide."""
    height, width = picture.shape[:2]
    blotches = rng.standard_normal((height // 3 + 1, width // 3 + 1, 3), dtype=np.float32) * np.float32(sigma)
    noise = cv2.resize(blotches, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.add(picture, noise, dtype=cv2.CV_8U), np.uint8)


def _steps(levels: int) -> Bytes:
    """Return a table (256,) that leaves only ``levels`` different values."""
    step = 255.0 / (levels - 1)
    return np.asarray(np.rint(np.rint(np.arange(256) / step) * step), np.uint8)


_GLARE_SCALE = 4
_BRIGHTEST = 14.0


def with_glare(linear: Floats, exposure: float, strength: float) -> Floats:
    """Add light that spills from overexposed places to ``linear`` (H, W, 3): narrow and wide halos, a faint streak."""
    height, width = linear.shape[:2]
    small = (width // _GLARE_SCALE, height // _GLARE_SCALE)
    mean = cv2.resize(linear, small, interpolation=cv2.INTER_AREA)
    reduced = np.clip(mean * np.float32(exposure) - np.float32(1.2), 0, np.float32(_BRIGHTEST))
    if not reduced.any():
        return linear
    reach = width / 1280
    halo = 0.30 * cv2.GaussianBlur(reduced, (0, 0), 1.2 * reach + 0.3)
    halo += 0.22 * cv2.GaussianBlur(reduced, (0, 0), 5.0 * reach + 0.3)
    halo += 0.16 * cv2.GaussianBlur(reduced, (0, 0), 22.0 * reach + 0.3)
    halo += 0.12 * cv2.GaussianBlur(reduced, (0, 0), sigmaX=14.0 * reach + 0.3, sigmaY=0.5)
    spill = cv2.resize(halo, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.scaleAdd(spill, strength / exposure, linear), np.float32)


def disc_kernel(radius: float) -> Floats:
    """Return the kernel of a point out of focus: a disc with a soft rim, ``radius`` in pixels."""
    reach = math.ceil(radius) + 1
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.clip(radius + 0.5 - np.hypot(rows, columns), 0, 1).astype(np.float32)
    return np.asarray(kernel / kernel.sum(), np.float32)
