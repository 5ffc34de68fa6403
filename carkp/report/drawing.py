"""Drawing of keypoints on a car's picture: arrays in, an RGB array out.

Legend: K keypoints, H W height and width; pictures are RGB (H, W, 3) uint8, points are (x, y).
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from carkp.keypoints.schema import FLIP_PAIRS, MISSING, SKELETON, VISIBLE
from carkp.report.palette import LEFT_RGB, MIDDLE_RGB, RIGHT_RGB

RgbImage = NDArray[np.uint8]
Points = NDArray[np.floating[Any]]
Colour = tuple[int, int, int]

SUBPIXEL_BITS = 4
"""Number of fractional bits: cv2 takes coordinates in 16ths of a pixel."""

RIGHT = frozenset(right for right, _ in FLIP_PAIRS)
SCORE_THRESHOLDS = (0.1, 0.3)
"""Points with scores below the first threshold are not drawn, below the second they are drawn like occluded points."""

INK = (34, 34, 34)

MIN_EXTENT_FOR_SCORES_PX = 300
"""Smallest extent of a box with enough room for a number beside each keypoint."""

CAR_TEXT_SCALE, KEYPOINT_TEXT_SCALE = 0.5, 0.33

FARTHEST_PX = 2.0**20
"""Largest coordinate that is drawn: OpenCV has no larger pictures, and larger numbers would overflow."""

LARGE_PICTURE_PX = 2000
"""In pictures with more pixels than a square of this extent, boxes and numbers grow with the picture."""


def validity_from_scores(
    scores: NDArray[np.floating[Any]], thresholds: tuple[float, float] = SCORE_THRESHOLDS
) -> NDArray[np.int64]:
    """Return validity codes (K,) for drawing a prediction: missing, occluded and visible for increasing scores.

    A score that is NaN counts as missing.
    """
    return np.asarray(np.digitize(np.nan_to_num(scores), thresholds), dtype=np.int64)


def draw_keypoints(
    image: RgbImage,
    points: Points,
    validity: NDArray[np.integer[Any]],
    scale: int = 3,
    colour: Colour | None = None,
) -> RgbImage:
    """Return the picture, enlarged, with skeleton and keypoints.

    The car's right is orange, its left is blue, lines across are light grey. Visible points are filled, occluded points
    are hollow; missing points and their lines are not drawn. A line to an occluded point is thin.

    Args:
        image: picture, (H, W, 3) uint8 RGB; it is not changed.
        points: keypoints in pixels of ``image``, (K, 2).
        validity: 0 missing, 1 occluded, 2 visible, (K,); see :func:`validity_from_scores`.
        scale: enlargement, at least 1.
        colour: one RGB colour for everything, instead of one colour per side.

    Returns:
        The drawing, (H * scale, W * scale, 3) uint8 RGB.

    Raises:
        ValueError: arrays have other shapes or types, or ``scale`` is below 1.
    """
    _check_drawing(image, points, validity, scale)
    canvas = enlarge(image, scale)
    _draw_car(canvas, points, validity, scale, colour)
    return canvas


def _draw_car(
    canvas: RgbImage, points: Points, validity: NDArray[np.integer[Any]], scale: int, colour: Colour | None = None
) -> None:
    """Draw as :func:`draw_keypoints`, but in place on ``canvas``, which is the picture enlarged by ``scale``."""
    is_drawn = _is_drawn(points, validity)
    size = _marker_size_for_car(canvas, points[is_drawn] * scale)
    for start, end in SKELETON:
        if is_drawn[start] and is_drawn[end]:
            is_visible = bool(validity[start] == VISIBLE and validity[end] == VISIBLE)
            line_colour = colour or _side_colour(start, end)
            draw_line(canvas, points[[start, end]], scale, line_colour, size, is_visible)
    draw_dots(canvas, points, validity, scale, colour, size)


def draw_cars(image: RgbImage, boxes: Points, points: Points, scores: NDArray[np.floating[Any]]) -> RgbImage:
    """Return the picture with every car's box, skeleton, keypoints and confidences.

    The mean score of a car is at its box. Keypoints of large cars have their own scores beside them. Keypoints are
    drawn according to their scores, see :func:`validity_from_scores`.

    Args:
        image: picture, (H, W, 3) uint8 RGB; it is not changed.
        boxes: x, y, width, height in pixels of the picture, (N, 4).
        points: keypoints in pixels of the picture, (N, K, 2).
        scores: scores of the keypoints, (N, K).
    """
    canvas = image.copy()
    for box, car_points, car_scores in zip(boxes, points, scores, strict=True):
        validity = validity_from_scores(car_scores)
        _check_drawing(canvas, car_points, validity, 1)
        _draw_car(canvas, car_points, validity, 1)
        if np.isfinite(box).all():
            _draw_box(canvas, box, f"{car_scores.mean():.2f}")
            if max(box[2:]) >= MIN_EXTENT_FOR_SCORES_PX:
                _write_scores(canvas, car_points, validity, car_scores)
    return canvas


def _draw_box(canvas: RgbImage, box: Points, text: str) -> None:
    growth = _growth(canvas)
    ends = np.clip([*box[:2], *(box[:2] + box[2:])], -FARTHEST_PX, FARTHEST_PX)
    left, top, right, bottom = np.rint(ends).astype(int).tolist()
    cv2.rectangle(canvas, (left, top), (right, bottom), MIDDLE_RGB, max(1, round(growth)), cv2.LINE_AA)
    _write(canvas, text, (max(left, 0), max(top - 3, round(12 * growth))), CAR_TEXT_SCALE)


def _write_scores(
    canvas: RgbImage, points: Points, validity: NDArray[np.integer[Any]], scores: NDArray[np.floating[Any]]
) -> None:
    shift = _growth(canvas) * np.array([7, -5])
    for index in np.flatnonzero(_is_drawn(points, validity)).tolist():
        x, y = np.rint(points[index] + shift).astype(int).tolist()
        _write(canvas, f"{scores[index]:.2f}", (x, y), KEYPOINT_TEXT_SCALE)


def _growth(canvas: RgbImage) -> float:
    """Return the factor by which boxes and numbers are larger than in a picture of normal size, at least 1."""
    return max(1.0, float(np.sqrt(canvas.shape[0] * canvas.shape[1])) / LARGE_PICTURE_PX)


def _write(canvas: RgbImage, text: str, left_bottom: tuple[int, int], scale: float) -> None:
    """Write light text with a dark rim, in place."""
    growth = _growth(canvas)
    for colour, thickness in ((INK, round(3 * growth)), (MIDDLE_RGB, round(growth))):
        cv2.putText(canvas, text, left_bottom, cv2.FONT_HERSHEY_SIMPLEX, scale * growth, colour, thickness, cv2.LINE_AA)


def draw_dots(
    canvas: RgbImage,
    points: Points,
    validity: NDArray[np.integer[Any]],
    scale: int,
    colour: Colour | None = None,
    size: float | None = None,
) -> None:
    """Draw only the dots of :func:`draw_keypoints`, in place on ``canvas``, which is the picture enlarged by ``scale``.

    ``size``: size as returned by ``marker_size``, which is the default.
    """
    for index in map(int, np.flatnonzero(_is_drawn(points, validity))):
        dot_colour = colour or _side_colour(index, index)
        is_visible = bool(validity[index] == VISIBLE)
        draw_dot(canvas, points[index], scale, dot_colour, size or marker_size(canvas), is_visible)


def _marker_size_for_car(canvas: RgbImage, points: Points) -> float:
    """Return ``marker_size``, or less if the car is small in the picture; ``points`` are in canvas pixels."""
    if len(points) < 2:
        return marker_size(canvas)
    extent = float((points.max(axis=0) - points.min(axis=0)).max())
    return min(marker_size(canvas), max(0.4, extent / 300))


def marker_size(canvas: RgbImage) -> float:
    """Return the size of lines and dots: 1 for a picture of 384 pixels, and at least 0.75."""
    return max(0.75, float(max(canvas.shape[:2])) / 384)


def enlarge(image: RgbImage, scale: int) -> RgbImage:
    """Return a copy of ``image``, smoothly enlarged ``scale`` times."""
    height, width = image.shape[:2]
    if scale == 1:
        return image.copy()
    return np.asarray(cv2.resize(image, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC), np.uint8)


def _check_drawing(image: RgbImage, points: Points, validity: NDArray[np.integer[Any]], scale: int) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an RGB image (H, W, 3) of uint8, got {image.shape} {image.dtype}")
    num_keypoints = 2 * len(FLIP_PAIRS)
    if points.shape != (num_keypoints, 2) or validity.shape != (num_keypoints,):
        raise ValueError(f"expected {num_keypoints} points and validities, got {points.shape}, {validity.shape}")
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")


def _is_drawn(points: Points, validity: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Return which points are drawn: not those that are missing, NaN or far outside."""
    return np.asarray((validity != MISSING) & (np.abs(points) <= FARTHEST_PX).all(axis=1))


def _side_colour(start: int, end: int) -> Colour:
    if (start in RIGHT) != (end in RIGHT):
        return MIDDLE_RGB
    return RIGHT_RGB if start in RIGHT else LEFT_RGB


def _fixed(point: Points, scale: int) -> tuple[int, int]:
    """Return the position of ``point`` in the enlarged picture, in cv2's fixed-point numbers."""
    x, y = np.rint(((np.asarray(point) + 0.5) * scale - 0.5) * 2**SUBPIXEL_BITS).astype(int)
    return int(x), int(y)


def draw_line(canvas: RgbImage, ends: Points, scale: int, colour: Colour, size: float, is_visible: bool) -> None:
    """Draw an outlined line in place between two points (2, 2) of the picture that ``canvas`` enlarges."""
    start, end = _fixed(ends[0], scale), _fixed(ends[1], scale)
    thickness = max(1, round((2 if is_visible else 1) * size))
    cv2.line(canvas, start, end, INK, thickness + max(1, round(size)), cv2.LINE_AA, SUBPIXEL_BITS)
    cv2.line(canvas, start, end, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def draw_dot(canvas: RgbImage, point: Points, scale: int, colour: Colour, size: float, is_visible: bool) -> None:
    """Draw an outlined dot in place: filled if visible, else a ring."""
    centre = _fixed(point, scale)
    radius = round(5 * size * 2**SUBPIXEL_BITS)
    outline = max(1, round(size))
    if is_visible:
        cv2.circle(canvas, centre, radius, colour, -1, cv2.LINE_AA, SUBPIXEL_BITS)
        cv2.circle(canvas, centre, radius, INK, outline, cv2.LINE_AA, SUBPIXEL_BITS)
    else:
        cv2.circle(canvas, centre, radius, INK, outline + max(1, round(2 * size)), cv2.LINE_AA, SUBPIXEL_BITS)
        cv2.circle(canvas, centre, radius, colour, max(1, round(1.6 * size)), cv2.LINE_AA, SUBPIXEL_BITS)
