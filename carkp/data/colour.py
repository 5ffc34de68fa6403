"""Colour: RGB to full-swing YUV444 as the hardware computes it, and changes of colour and sharpness for training.

Images are (H, W, 3) uint8 RGB unless stated otherwise.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

YUV_COEFFICIENTS: tuple[tuple[int, int, int], ...] = ((77, 150, 29), (-43, -84, 127), (127, -106, -21))
"""Rows Y, U, V; columns R, G, B; in 1/256. Each sum is rounded with (sum + 128) >> 8; then 128 is added to U and V."""

# OpenCV rounds to nearest. A sum is a multiple of 1/256, so adding 1/1024 only rounds ties up, as the shift does.
_YUV_MATRIX = np.column_stack((np.array(YUV_COEFFICIENTS) / 256, np.array([0, 128, 128]) + 1 / 1024))
_LUMA = np.array([0.299, 0.587, 0.114])

INPUT_ZERO, INPUT_SCALE = 128, 1 / 128
"""A network's input is (v - INPUT_ZERO) * INPUT_SCALE, where v are the YUV444 bytes."""

MAX_HUE_DEG = 18.0
"""Largest rotation of the hue at colour jitter strength 1."""

MAX_BLUR_SIGMA_PX = 1.5
MAX_ERASED_EXTENT = 0.4
"""Largest side of an erased rectangle, as a share of the image's side."""


def rgb_to_yuv(image: Image) -> Image:
    """Convert to YUV444 (3, H, W); the result equals the integer formula for all 2^24 colours."""
    height, width = image.shape[:2]
    planes = np.empty((3, height, width), np.uint8)
    cv2.split(cv2.transform(image, _YUV_MATRIX), list(planes))
    return planes


def yuv_to_rgb(planes: Image) -> Image:
    """Convert YUV444 (3, H, W) to RGB (H, W, 3) for display; errors are one or two grey levels, as YUV is rounded."""
    yuv = planes.transpose(1, 2, 0).astype(np.float32) - np.array([0, 128, 128], np.float32)
    rgb = yuv @ np.linalg.inv(np.array(YUV_COEFFICIENTS) / 256).T
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def jitter_matrix(strength: float, is_grey: bool, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a random (3, 4) map of RGB 0..255: brightness, contrast, saturation, hue, white balance.

    ``strength`` is from 0 to 1.
    """
    brightness, contrast, saturation = 1 + strength * rng.uniform(-0.5, 0.5, 3)
    balance = 1 + strength * rng.uniform(-0.15, 0.15, 3)
    hue = np.deg2rad(strength * rng.uniform(-MAX_HUE_DEG, MAX_HUE_DEG))
    grey = np.tile(_LUMA, (3, 1))
    colourfulness = 0.0 if is_grey else saturation
    linear = colourfulness * (_turn_about_grey(hue) @ np.diag(balance)) + (1 - colourfulness) * grey
    gain = brightness * contrast
    offset = np.full((3, 1), 128 * brightness * (1 - contrast))
    return np.hstack((gain * linear, offset))


def apply_colour_matrix(image: Image, matrix: NDArray[np.float64]) -> Image:
    return cv2.transform(image, matrix)  # type: ignore[return-value]


def blur(image: Image, rng: np.random.Generator) -> Image:
    """Apply a Gaussian blur of random width."""
    sigma = rng.uniform(0.2, MAX_BLUR_SIGMA_PX)
    return cv2.GaussianBlur(image, (0, 0), sigma)  # type: ignore[return-value]


def apply_gamma(image: Image, exponent: float) -> Image:
    """Map grey levels v to 255 (v / 255)^exponent."""
    table = np.rint(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
    return cv2.LUT(image, table)  # type: ignore[return-value]


def shade(image: Image, rng: np.random.Generator) -> Image:
    """Darken one side of a straight soft edge at a random position, as a shadow does beside a patch of light."""
    height, width = image.shape[:2]
    angle, middle = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.8, 2)
    darkness, softness = rng.uniform(0.25, 0.75), rng.uniform(0.01, 0.15)
    y, x = np.linspace(0, 1, height, dtype=np.float32)[:, None], np.linspace(0, 1, width, dtype=np.float32)
    side = (x - np.float32(middle[0])) * np.float32(np.cos(angle)) + (y - np.float32(middle[1])) * np.float32(
        np.sin(angle)
    )
    share = np.clip(side / np.float32(softness) + np.float32(0.5), 0, 1)
    gain = 1 - np.float32(darkness) * share
    return np.clip(image * gain[..., None], 0, 255).astype(np.uint8)


def reduce_resolution(image: Image, rng: np.random.Generator) -> Image:
    """Reduce the image to 1/4 to 4/5 of its resolution and enlarge it again."""
    height, width = image.shape[:2]
    factor = rng.uniform(0.25, 0.8)
    small = cv2.resize(
        image, (max(1, round(factor * width)), max(1, round(factor * height))), interpolation=cv2.INTER_AREA
    )
    how = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[int(rng.integers(2))]
    return cv2.resize(small, (width, height), interpolation=how)  # type: ignore[return-value]


def compress(image: Image, rng: np.random.Generator) -> Image:
    """Encode the image as a JPEG of quality 12 to 50 and decode it."""
    bgr = np.ascontiguousarray(image[..., ::-1])
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(12, 51))])
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)  # type: ignore[return-value]


def erase(image: Image, rng: np.random.Generator) -> Image:
    """Cover a rectangle with one colour or a piece of the image, as another car or a post would; labels stay."""
    height, width = image.shape[:2]
    erased_height = max(1, int(rng.uniform(0.1, MAX_ERASED_EXTENT) * height))
    erased_width = max(1, int(rng.uniform(0.1, MAX_ERASED_EXTENT) * width))
    y, x = rng.integers(0, height - erased_height + 1), rng.integers(0, width - erased_width + 1)
    cover: NDArray[np.integer] = rng.integers(0, 256, 3)
    if rng.random() < 0.5:
        top, left = rng.integers(0, height - erased_height + 1), rng.integers(0, width - erased_width + 1)
        cover = image[top : top + erased_height, left : left + erased_width][:, ::-1]
    result = image.copy()
    result[y : y + erased_height, x : x + erased_width] = cover
    return result


def add_noise(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Add Gaussian noise of ``sigma`` grey levels, independent for each value."""
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(sigma)
    return cv2.add(image, noise, dtype=cv2.CV_8U)  # type: ignore[return-value]


def _turn_about_grey(angle: float) -> NDArray[np.float64]:
    """Return a rotation of RGB about the axis of greys (Rodrigues' formula)."""
    third, root = 1 / 3, np.sqrt(1 / 3)
    cross = np.array([[0, -root, root], [root, 0, -root], [-root, root, 0]])
    result: NDArray[np.float64] = np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * third
    return result
