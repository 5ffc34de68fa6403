"""Affine maps from a crop to the network's input, applied to the image and to the points.

Convention for all points in carkp (labels, generated points, crops, heatmaps, predictions): a pixel's centre has
integer coordinates. Boxes and crop rectangles count pixels instead: they start at a column and a row, and have a width
and a height. Resizing by s maps (x, y) to (s x, s y), without half-pixel shift, for both points and images. Matrices
are (2, 3) float64 and map crop pixels to input pixels. Sizes are (height, width), points (x, y).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Image = NDArray[np.uint8]
Size = tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """The steps that map a crop to the input, in this order.

    Attributes:
        is_flipped: whether the crop is mirrored left to right.
        scale: input pixels per crop pixel.
        rotation_deg: rotation about the crop's centre, positive from x to y.
        offset: position (x, y) in input pixels of the resized crop's top left corner, before the rotation.
    """

    is_flipped: bool
    scale: float
    rotation_deg: float
    offset: tuple[float, float]

    def matrix(self, crop_size: Size) -> Matrix:
        """Return the map from crop to input pixels for a crop of ``crop_size`` (height, width)."""
        height, width = crop_size
        matrix = np.array([[self.scale, 0, self.offset[0]], [0, self.scale, self.offset[1]]])
        if self.rotation_deg:
            centre = matrix @ np.array([(width - 1) / 2, (height - 1) / 2, 1])
            matrix = compose(_rotation(self.rotation_deg, centre), matrix)
        if self.is_flipped:
            matrix = compose(matrix, np.array([[-1.0, 0, width - 1], [0, 1, 0]]))
        return matrix


def fit_scale(crop_size: Size, input_size: Size) -> float:
    """Return the scale at which a crop just fits the input; input points divided by it are crop points."""
    return min(input_size[0] / crop_size[0], input_size[1] / crop_size[1])


def resized_size(crop_size: Size, scale: float) -> Size:
    """Return the (height, width) of a crop resized by ``scale``, rounded, at least one pixel."""
    return max(1, round(crop_size[0] * scale)), max(1, round(crop_size[1] * scale))


def compose(after: Matrix, before: Matrix) -> Matrix:
    """Return the map that applies ``before`` first, then ``after``."""
    result: Matrix = after[:, :2] @ before
    result[:, 2] += after[:, 2]
    return result


def invert(matrix: Matrix) -> Matrix:
    """Return the inverse map; ``matrix`` must not be singular."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack((linear, -linear @ matrix[:, 2]))


def move_points(points: NDArray[np.float32], matrix: Matrix) -> NDArray[np.float32]:
    """Apply the map to points (K, 2)."""
    return (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def place(image: Image, placement: Placement, crop_size: Size, input_size: Size) -> Image:
    """Draw the crop into the input; the rest is black (0).

    ``image`` may be the crop decoded at 1/2, 1/4 or 1/8 of ``crop_size`` (height, width): with reduction r, pixel u is
    the mean of r crop pixels along each axis, with its centre at r u + (r - 1) / 2. An upright crop has sharp edges, as
    after a resize; a rotated one fades out over one crop pixel.
    """
    matrix = placement.matrix(crop_size)
    reduction = round(max(crop_size) / max(image.shape[:2]))
    if reduction > 1:
        shift = (reduction - 1) / 2
        matrix = compose(matrix, np.array([[reduction, 0, shift], [0, reduction, shift]], np.float64))
    is_upright = placement.rotation_deg == 0
    border = cv2.BORDER_REPLICATE if is_upright else cv2.BORDER_CONSTANT
    size = input_size[1], input_size[0]
    placed: Image = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border)  # type: ignore[assignment]
    if is_upright:
        _blacken_outside(placed, placement.offset, resized_size(crop_size, placement.scale))
    return placed


def is_inside(points: NDArray[np.float32], size: Size) -> NDArray[np.bool_]:
    """Return which of ``points`` (K, 2) lie on a pixel of an image of ``size`` (height, width)."""
    extent = np.array([size[1], size[0]])
    return np.asarray(((points >= -0.5) & (points <= extent - 0.5)).all(axis=1))


def choose_reduction(crop_size: Size, input_size: Size, max_scale: float) -> int:
    """Return the largest reduction (8, 4, 2 or 1) in decoding after which the crop still needs no enlargement.

    ``max_scale`` is the largest zoom in addition to :func:`fit_scale`.
    """
    scale = fit_scale(crop_size, input_size) * max_scale
    return next((reduction for reduction in (8, 4, 2) if scale * reduction <= 1), 1)


def reduce_image(image: Image, reduction: int) -> Image:
    """Reduce ``image`` to 1/``reduction`` (1, 2, 4 or 8) of its size, like reduced decoding of a JPEG; no copy for 1.

    A reduced pixel is the mean of a square; an odd last row or column is left out.
    """
    while reduction > 1:
        height, width = image.shape[:2]
        even = image[: max(height - height % 2, 1), : max(width - width % 2, 1)]
        size = max(width // 2, 1), max(height // 2, 1)
        image = np.asarray(cv2.resize(even, size, interpolation=cv2.INTER_AREA), np.uint8)  # steps of 2 have fast code
        reduction //= 2
    return image


def _blacken_outside(image: Image, offset: tuple[float, float], size: Size) -> None:
    left, top = round(offset[0]), round(offset[1])
    image[: max(top, 0)] = 0
    image[max(top + size[0], 0) :] = 0
    image[:, : max(left, 0)] = 0
    image[:, max(left + size[1], 0) :] = 0


def _rotation(angle_deg: float, centre: NDArray[np.float64]) -> Matrix:
    angle = np.deg2rad(angle_deg)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack((linear, centre - linear @ centre))
