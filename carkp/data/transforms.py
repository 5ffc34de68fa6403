"""Transforms from a crop to the network's input: those of the reference, and additional augmentation.

A transform takes an RGB crop (h, w, 3) with keypoints in crop pixels and returns a YUV444 image (3, H, W) with
keypoints in input pixels. There are two differences from the reference, both corrections: random padding also moves the
keypoints, and a flip also exchanges the validity of left and right.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from carkp.data import colour, geometry
from carkp.data.geometry import Image, Placement, Size
from carkp.keypoints.schema import FLIP_ORDER, MISSING

_FLIP_ORDER = list(FLIP_ORDER)


class Transformed(NamedTuple):
    """A sample as network input.

    Attributes:
        image: YUV444 image, (3, H, W) uint8.
        points: keypoints in input pixels, (K, 2) float32.
        validity: 0 missing, 1 occluded, 2 visible, (K,) uint8.
    """

    image: Image
    points: NDArray[np.float32]
    validity: NDArray[np.uint8]


class View(NamedTuple):
    """A crop as network input, and the map of its pixels.

    Attributes:
        image: YUV444 image, (3, H, W) uint8.
        matrix: map from crop to input pixels, including the flip, (2, 3).
        is_flipped: whether left and right, and so the names of keypoints, are exchanged.
    """

    image: Image
    matrix: geometry.Matrix
    is_flipped: bool


class ViewTransform(Protocol):
    """The interface of a transform for a data set of unlabelled crops."""

    @property
    def input_size(self) -> Size: ...

    @property
    def largest_zoom(self) -> float: ...

    def view(self, image_rgb: Image, rng: np.random.Generator, crop_size: Size | None = None) -> View: ...


class Transform(Protocol):
    """The interface of a transform for a data set."""

    @property
    def input_size(self) -> Size: ...

    @property
    def largest_zoom(self) -> float: ...

    def __call__(
        self,
        image_rgb: Image,
        points: NDArray[np.float32],
        validity: NDArray[np.uint8],
        rng: np.random.Generator,
        crop_size: Size | None = None,
    ) -> Transformed: ...


@dataclass(frozen=True)
class EvalTransform:
    """Resizes the crop to fit the input and pads it right and below. Nothing is random.

    Attributes:
        input_size: (height, width) of the network's input.
    """

    input_size: Size

    @property
    def largest_zoom(self) -> float:
        return 1.0

    def __call__(
        self,
        image_rgb: Image,
        points: NDArray[np.float32],
        validity: NDArray[np.uint8],
        rng: np.random.Generator | None = None,
        crop_size: Size | None = None,
    ) -> Transformed:
        """Transform a crop; points become ``points * fit_scale(...)``.

        ``crop_size`` is as in ``TrainTransform``; ``rng`` is not used.
        """
        view = self.view(image_rgb, rng, crop_size)
        return Transformed(view.image, geometry.move_points(points, view.matrix), validity.copy())

    def view(self, image_rgb: Image, rng: np.random.Generator | None = None, crop_size: Size | None = None) -> View:
        """Transform a crop without keypoints."""
        size = crop_size or image_rgb.shape[:2]
        placement = Placement(False, geometry.fit_scale(size, self.input_size), 0.0, (0.0, 0.0))
        image = geometry.place(image_rgb, placement, size, self.input_size)
        return View(colour.rgb_to_yuv(image), placement.matrix(size), is_flipped=False)


@dataclass(frozen=True)
class TrainTransform:
    """Random flip, placement and noise as in the reference, and additional augmentation.

    The settings after ``noise_sigma`` are off at 0, the scales at 1.

    Attributes:
        input_size: (height, width) of the network's input.
        flip_probability: probability of mirroring left to right.
        random_padding: whether to place the crop at a random offset instead of top left.
        noise_probability: probability of Gaussian noise.
        noise_sigma: standard deviation of this noise in grey levels.
        min_scale: smallest random factor of the fitting scale, at most 1.
        max_scale: largest random factor, at least 1; parts of the crop outside of the input are cut off.
        max_translation: largest shift as a share of the input's extent.
        max_rotation_deg: largest rotation in both directions.
        color_jitter: strength, 0 to 1, of changes of brightness, contrast, saturation, hue and white balance.
        grayscale_probability: probability of removing all colour.
        gamma: largest change of the tone curve's exponent, which is between e^-gamma and e^gamma.
        shade_probability: probability of a shadow with a straight edge.
        blur_probability: probability of a Gaussian blur.
        resolution_probability: probability of reducing the input and enlarging it again.
        jpeg_probability: probability of strong JPEG compression.
        erase_probability: probability of covering a rectangle; keypoints under it stay labelled.
        eval_placement_probability: probability of placing the crop as ``EvalTransform`` does. Strong augmentation alone
            almost never puts a whole crop at the input's border, where evaluation always puts it.
    """

    input_size: Size
    flip_probability: float
    random_padding: bool
    noise_probability: float
    noise_sigma: float
    min_scale: float = 1.0
    max_scale: float = 1.0
    max_translation: float = 0.0
    max_rotation_deg: float = 0.0
    color_jitter: float = 0.0
    grayscale_probability: float = 0.0
    gamma: float = 0.0
    shade_probability: float = 0.0
    blur_probability: float = 0.0
    resolution_probability: float = 0.0
    jpeg_probability: float = 0.0
    erase_probability: float = 0.0
    eval_placement_probability: float = 0.0

    @property
    def largest_zoom(self) -> float:
        return self.max_scale

    def __call__(
        self,
        image_rgb: Image,
        points: NDArray[np.float32],
        validity: NDArray[np.uint8],
        rng: np.random.Generator,
        crop_size: Size | None = None,
    ) -> Transformed:
        """Transform a crop.

        Args:
            image_rgb: RGB image, (h, w, 3) uint8.
            points: keypoints in pixels of the whole crop, (K, 2).
            validity: validity of the keypoints, (K,).
            rng: generator for everything random.
            crop_size: (height, width) of the whole crop, if ``image_rgb`` was decoded at reduced size.
        """
        view = self.view(image_rgb, rng, crop_size)
        moved = geometry.move_points(points, view.matrix)
        if view.is_flipped:
            moved, validity = moved[_FLIP_ORDER], validity[_FLIP_ORDER]
        if self._may_lose_points:
            validity = np.where(geometry.is_inside(moved, self.input_size), validity, MISSING)
        return Transformed(view.image, moved, validity.astype(np.uint8))

    def view(self, image_rgb: Image, rng: np.random.Generator, crop_size: Size | None = None) -> View:
        """Transform a crop without keypoints; arguments as in a call."""
        size = crop_size or image_rgb.shape[:2]
        placement = self.draw_placement(size, rng)
        image = geometry.place(self._alter_crop(image_rgb, rng), placement, size, self.input_size)
        return View(colour.rgb_to_yuv(self._degrade(image, rng)), placement.matrix(size), placement.is_flipped)

    def draw_placement(self, crop_size: Size, rng: np.random.Generator) -> Placement:
        """Draw a random placement of a (height, width) crop in the input."""
        is_flipped = bool(rng.random() < self.flip_probability)
        scale = geometry.fit_scale(crop_size, self.input_size)
        if self.eval_placement_probability and rng.random() < self.eval_placement_probability:
            return Placement(is_flipped, scale, 0.0, (0.0, 0.0))
        scale *= _log_uniform(self.min_scale, self.max_scale, rng)
        offset = np.zeros(2)
        if self.random_padding:
            room = np.subtract(self.input_size, geometry.resized_size(crop_size, scale))[::-1]
            offset = rng.integers(np.minimum(room, 0), np.maximum(room, 0), endpoint=True).astype(np.float64)
        if self.max_translation:
            offset += self.max_translation * rng.uniform(-1, 1, 2) * self.input_size[::-1]
        rotation = self.max_rotation_deg * rng.uniform(-1, 1) if self.max_rotation_deg else 0.0
        return Placement(is_flipped, scale, rotation, (float(offset[0]), float(offset[1])))

    @property
    def _may_lose_points(self) -> bool:
        return self.max_scale > 1 or self.max_translation > 0 or self.max_rotation_deg > 0

    def _alter_crop(self, image: Image, rng: np.random.Generator) -> Image:
        """Change the crop before padding, so that the padding stays black."""
        is_grey = bool(self.grayscale_probability and rng.random() < self.grayscale_probability)
        if self.color_jitter or is_grey:
            image = colour.apply_colour_matrix(image, colour.jitter_matrix(self.color_jitter, is_grey, rng))
        if self.gamma:
            image = colour.apply_gamma(image, float(np.exp(rng.uniform(-self.gamma, self.gamma))))
        if self.shade_probability and rng.random() < self.shade_probability:
            image = colour.shade(image, rng)
        if self.erase_probability and rng.random() < self.erase_probability:
            image = colour.erase(image, rng)
        return image

    def _degrade(self, image: Image, rng: np.random.Generator) -> Image:
        if self.blur_probability and rng.random() < self.blur_probability:
            image = colour.blur(image, rng)
        if self.resolution_probability and rng.random() < self.resolution_probability:
            image = colour.reduce_resolution(image, rng)
        if self.jpeg_probability and rng.random() < self.jpeg_probability:
            image = colour.compress(image, rng)
        if rng.random() < self.noise_probability:
            image = colour.add_noise(image, self.noise_sigma, rng)
        return image


def _log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high)))) if low < high else low
