"""Cameras: the pinhole projection, and the conversion of light to a photograph."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from carkp.synthetic._jit import compiled
from carkp.synthetic.ingredients import ALL, Ingredients
from carkp.synthetic.mesh import Floats
from carkp.synthetic.sensor import PERFECT, Sensor, degrade, disc_kernel, draw_sensor, with_glare

Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]


class Lens(NamedTuple):
    """A camera for the kernels: position, axes right, down and forward, focal length and centre in pixels."""

    x: float
    y: float
    z: float
    rx: float
    ry: float
    rz: float
    dx: float
    dy: float
    dz: float
    fx: float
    fy: float
    fz: float
    focal: float
    centre_x: float
    centre_y: float


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    position: (3,) metres; rotation: (3, 3), rows right, down, forward; size: (height, width).

    shift: position of the optical axis in the picture, in pixels right of and below its middle. It is not zero for a
    window of a larger picture.
    """

    position: Array
    rotation: Array
    focal: float
    size: tuple[int, int]
    shift: tuple[float, float] = (0.0, 0.0)

    @property
    def centre(self) -> tuple[float, float]:
        """Position (x, y) of the optical axis in the picture, in pixels."""
        return (self.size[1] / 2 + self.shift[0], self.size[0] / 2 + self.shift[1])

    def view(self, points: NDArray[np.floating]) -> Array:
        """Convert world points (N, 3) to camera axes: right, down, depth."""
        return np.asarray((points - self.position) @ self.rotation.T)

    def project(self, points: NDArray[np.floating]) -> tuple[Array, Array]:
        """Project world points to image points (N, 2), as the rasteriser and boxes use them, and depths (N,).

        In these image points, pixel corners have integer coordinates; for labels use :func:`label_points`.
        """
        seen = self.view(points)
        depth = np.maximum(seen[:, 2], 1e-6)
        return self.focal * seen[:, :2] / depth[:, None] + np.array(self.centre), seen[:, 2]

    def lens(self, scale: int) -> Lens:
        """Return the lens for pictures that are ``scale`` times as large."""
        x, y = self.centre
        axes = self.rotation.ravel().tolist()
        return Lens._make([*self.position.tolist(), *axes, self.focal * scale, x * scale, y * scale])


def label_points(image_points: Array) -> Array:
    """Convert projected points (N, 2) to labels: pixel centres have integer coordinates (``carkp.data.geometry``)."""
    return image_points - 0.5


def look_at(position: Array, target: Array, roll: float, field_of_view: float, size: tuple[int, int]) -> Camera:
    """Return a camera at ``position`` facing ``target``; roll and the horizontal field of view are in radians."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = math.cos(roll), math.sin(roll)
    rotation = np.stack([c * right + s * down, c * down - s * right, forward])
    return Camera(position, rotation, 0.5 * size[1] / math.tan(0.5 * field_of_view), size)


@dataclass(frozen=True)
class Development:
    """Settings for the photograph of one frame. gain: (3,) per channel, white balance and exposure together."""

    gain: Array
    vignette: float
    blur: float  # sigma, pixels
    motion: tuple[float, float]  # pixels in x and y
    sharpening: float
    contrast: float
    saturation: float
    black: float
    read_noise: float  # grey levels
    shot_noise: float
    quality: int
    is_subsampled: bool = True  # colours at half the resolution
    focus: float = 0.0  # radius of the disc to which a point is blurred, pixels
    glare: float = 0.0  # light that spills from overexposed places
    exposure: float = 1.0  # correct gain, without white balance and random errors of exposure
    sensor: Sensor = PERFECT


def draw_development(
    mean_luminance: float, rng: np.random.Generator, camera: np.random.Generator, ingredients: Ingredients = ALL
) -> Development:
    """Draw the settings of a photograph.

    ``camera`` draws values that are equal for all frames of a camera, ``rng`` those that change between frames.
    """
    shade = min(mean_luminance / _DAYLIGHT, 1.0) ** 0.4 if ingredients.light else 1.0  # night stays dark
    exposure = 0.20 * shade / max(mean_luminance, 1e-3)
    plain = _plain_development(exposure, rng, camera)
    glare = rng.uniform(0.2, 1.3) if ingredients.light else 0.0
    with_sensor = _poor_development(plain, rng, camera) if ingredients.sensor else plain
    return replace(with_sensor, glare=glare, exposure=exposure)


_DAYLIGHT = 0.06
"""Luminance of a street below which a picture becomes darker than by day."""


def _plain_development(exposure: float, rng: np.random.Generator, camera: np.random.Generator) -> Development:
    balance = np.array([1.0 + camera.normal(0, 0.05), 1.0, 1.0 + camera.normal(0, 0.06)]) * (1 + rng.normal(0, 0.01, 3))
    stops = camera.normal(0, 0.32) + rng.normal(0, 0.25)
    blur = camera.choice([0.35, 0.55, 0.8, 1.1]) * rng.uniform(0.9, 1.2)
    is_moved = rng.uniform() < 0.15
    grain = camera.uniform(0.3, 1.0) ** 2
    return Development(
        gain=exposure * 2.0**stops * balance,
        vignette=camera.uniform(0.0, 0.35),
        blur=float(blur),
        motion=(rng.normal(0, 2.0), rng.normal(0, 0.7)) if is_moved else (0.0, 0.0),
        sharpening=float(camera.choice([0.0, 0.4, 0.8])),
        contrast=camera.uniform(0.95, 1.40),
        saturation=camera.uniform(0.85, 1.35),
        black=camera.uniform(0.0, 0.04),
        read_noise=0.5 + 3.0 * grain,
        shot_noise=2.5 * grain,
        quality=int(rng.integers(70, 96)),
    )


def _poor_development(plain: Development, rng: np.random.Generator, camera: np.random.Generator) -> Development:
    """Return ``plain`` with stronger faults for some cameras: colour cast, crushed blacks, blur, noise, strong JPEG."""
    cast = 2.0 ** (camera.normal(0, 0.14, 3) * (camera.uniform() < 0.5))
    stops = camera.normal(-0.25, 0.35) + rng.normal(0, 0.2)
    is_soft, is_noisy, is_hard = camera.uniform() < 0.3, camera.uniform() < 0.3, camera.uniform() < 0.3
    grain = camera.uniform(1.0, 3.2) if is_noisy else 1.0
    is_moved = rng.uniform() < 0.12
    motion = (rng.normal(0, 6.0), rng.normal(0, 2.0)) if is_moved else plain.motion
    return replace(
        plain,
        gain=plain.gain * cast * 2.0**stops,
        vignette=camera.uniform(0.0, 0.6),
        blur=plain.blur + (camera.uniform(0.3, 1.8) if is_soft else 0.0),
        motion=motion,
        focus=float(rng.uniform(1.0, 4.0)) if rng.uniform() < 0.08 else 0.0,
        contrast=camera.uniform(1.3, 2.0) if is_hard else camera.uniform(0.8, 1.4),
        saturation=camera.uniform(0.3, 1.6),
        black=camera.uniform(0.0, 0.12) ** 1.3,
        read_noise=plain.read_noise * grain,
        shot_noise=plain.shot_noise * grain,
        quality=int(rng.integers(28, 70)) if rng.uniform() < 0.35 else plain.quality,
        is_subsampled=bool(rng.uniform() < 0.7),
        sensor=draw_sensor(rng, camera),
    )


_LEVELS = 4096
_BRIGHTEST = 4.0


def tone_curve(contrast: float, black: float) -> Floats:
    """Return grey levels (0..255) for sqrt(linear / 4) in steps of 1/4096.

    The curve has a gamma, a soft shoulder, and contrast about mid grey.
    """
    linear = _BRIGHTEST * (np.arange(_LEVELS + 1) / _LEVELS) ** 2
    rolled = np.where(linear < 0.6, linear, 0.6 + 0.5 * (1 - np.exp(-(linear - 0.6) / 0.5)))
    value = np.clip(rolled, 0, 1.1) ** (1 / 2.2)
    value = 0.5 + contrast * (value - 0.5)
    value = black + (1 - black) * np.clip(value, 0, 1.02)
    return np.asarray(255 * value, np.float32)


@compiled
def _expose(
    linear: Floats, gain: Floats, vignette: float, curve: Floats, sigma: Floats, noise: Floats, out: Bytes
) -> None:
    """Convert linear RGB (H, W, 3) to BGR bytes: gain (3, 3), vignette, tone curve, noise.

    ``sigma``: standard deviation of the noise for each step of the tone curve.
    """
    height, width, _ = linear.shape
    count = len(noise)
    steps = np.float32(len(curve) - 1)
    fall, zero, one = np.float32(vignette), np.float32(0.0), np.float32(1.0)
    across = np.float32(2.0 / width)
    cursor = 0
    for i in range(height):
        dy = (np.float32(i) - np.float32(0.5 * height)) * across
        if cursor + 3 * width >= count:
            cursor = (cursor + 3 * width) % 1009
        for j in range(width):
            dx = np.float32(j) * across - one
            light = np.float32(0.25) * (one - fall * (dx * dx + dy * dy))
            r, g, b = linear[i, j, 0] * light, linear[i, j, 1] * light, linear[i, j, 2] * light
            for channel in range(3):
                v = gain[channel, 0] * r + gain[channel, 1] * g + gain[channel, 2] * b
                step = int(math.sqrt(min(max(v, zero), one)) * steps)
                value = curve[step] + noise[cursor] * sigma[step]
                out[i, j, channel] = np.uint8(min(max(value, zero), np.float32(255.0)))
                cursor += 1


def _mixing(gain: Array, saturation: float) -> Floats:
    """Return the matrix (3, 3) from linear RGB to BGR with white balance, exposure and saturation."""
    grey = np.tile(np.array([0.3, 0.6, 0.1]), (3, 1))
    return np.asarray(((grey + saturation * (np.eye(3) - grey)) * gain)[::-1], np.float32)


def develop(linear: Floats, how: Development, rng: np.random.Generator) -> Bytes:
    """Convert linear RGB light (H, W, 3) to a photograph (H, W, 3) in BGR bytes."""
    lit = with_glare(linear, how.exposure, how.glare) if how.glare > 0 else linear
    seen = cv2.GaussianBlur(lit, (0, 0), how.blur)
    if how.focus > 0:
        seen = cv2.filter2D(seen, -1, disc_kernel(how.focus))
    if how.motion != (0.0, 0.0):
        seen = cv2.filter2D(seen, -1, _motion_kernel(*how.motion))
    curve = tone_curve(how.contrast, how.black)
    sigma = np.sqrt(how.read_noise**2 + how.shot_noise**2 * curve / 128)
    noise = rng.standard_normal(49_999, dtype=np.float32)
    picture = np.empty(linear.shape, np.uint8)
    mixing = np.ascontiguousarray(_mixing(how.gain, how.saturation))
    _expose(np.asarray(seen, np.float32), mixing, how.vignette, curve + np.float32(0.5), sigma, noise, picture)
    if how.sharpening > 0:
        soft = cv2.GaussianBlur(picture, (0, 0), 1.2)
        picture = np.asarray(cv2.addWeighted(picture, 1 + how.sharpening, soft, -how.sharpening, 0), np.uint8)
    return degrade(picture, how.sensor, rng)


def _motion_kernel(dx: float, dy: float) -> Floats:
    """Return a kernel for motion blur: a streak through the middle of a small square."""
    reach = math.ceil(max(abs(dx), abs(dy)) / 2) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for t in np.linspace(-0.5, 0.5, 33):
        x, y = reach + t * dx, reach + t * dy
        i, j = int(y), int(x)
        for a, wa in ((i, i + 1 - y), (i + 1, y - i)):
            for b, wb in ((j, j + 1 - x), (j + 1, x - j)):
                kernel[min(a, 2 * reach), min(b, 2 * reach)] += wa * wb
    return np.asarray(kernel / kernel.sum(), np.float32)
