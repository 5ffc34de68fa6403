"""Sheets of pictures: contact sheets, and predictions beside their labels.

Legend: N pictures, K keypoints, H W height and width; pictures are RGB (H, W, 3) uint8, points are (x, y).
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from carkp.keypoints.schema import MISSING
from carkp.report.drawing import Colour, Points, RgbImage, draw_dot, draw_dots, draw_keypoints, draw_line, marker_size
from carkp.report.palette import ERROR_RGB, LEFT_RGB, MIDDLE_RGB, RIGHT_RGB

GAP = 8
CAPTION_HEIGHT = 22
PAPER, TILE_PAPER, TEXT_RGB = (255, 255, 255), (236, 236, 236), (34, 34, 34)
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45
LEGEND: tuple[tuple[Colour, bool, bool, str], ...] = (
    (RIGHT_RGB, True, True, "car's right"),
    (LEFT_RGB, True, True, "car's left"),
    (RIGHT_RGB, True, False, "occluded"),
    (MIDDLE_RGB, False, True, "right to left"),
    (ERROR_RGB, False, True, "error, up to the label"),
)
"""Colour, whether a dot is drawn, whether it is visible, and the text."""


def contact_sheet(
    images: Sequence[RgbImage], captions: Sequence[str], columns: int = 8, tile_size: int = 192
) -> RgbImage:
    """Draw pictures in a grid on white, each fitted into a square tile, with its caption below.

    Args:
        images: N pictures of any size.
        captions: N short texts, cut to the width of a tile. Letters outside of ASCII become ``?``.
        columns: tiles per row.
        tile_size: size of a tile in pixels.

    Raises:
        ValueError: there are no pictures, the number of captions differs, or ``columns`` is below 1.
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"expected one caption per picture, got {len(captions)} for {len(images)}")
    tiles = [_captioned(fit_tile(image, tile_size), caption) for image, caption in zip(images, captions, strict=True)]
    return _grid(tiles, columns)


def prediction_sheet(
    images: Sequence[RgbImage],
    predicted: Points,
    targets: Points,
    validity: NDArray[np.integer[Any]],
    errors: Sequence[float],
    columns: int = 4,
    scale: int = 2,
) -> RgbImage:
    """Draw pairs of pictures in the given order, label left and prediction right, under a legend.

    The prediction shows only the labelled keypoints, with a pink line from each to its label.

    Args:
        images: N network inputs.
        predicted: predicted keypoints in pixels of the images, (N, K, 2).
        targets: labelled keypoints, (N, K, 2).
        validity: 0 missing, 1 occluded, 2 visible, (N, K).
        errors: N mean distances in pixels of the images, for the captions.
        columns: pairs per row.
        scale: enlargement of the images.

    Raises:
        ValueError: there are no pictures, or arrays have different lengths.
    """
    captions = [f"label | prediction, error {error:.1f} px" for error in errors]
    return captioned_prediction_sheet(images, predicted, targets, validity, captions, columns, scale)


def captioned_prediction_sheet(
    images: Sequence[RgbImage],
    predicted: Points,
    targets: Points,
    validity: NDArray[np.integer[Any]],
    captions: Sequence[str],
    columns: int = 4,
    scale: int = 2,
) -> RgbImage:
    """Draw :func:`prediction_sheet` with the given N ``captions``, cut to the width of a pair.

    Raises:
        ValueError: there are no pictures, or arrays have different lengths.
    """
    lengths = [len(part) for part in (images, predicted, targets, validity, captions)]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(f"expected equal numbers of images, points, targets, validities and captions, got {lengths}")
    tiles = [
        _captioned(_pair(image, predicted[index], targets[index], validity[index], scale), captions[index])
        for index, image in enumerate(images)
    ]
    sheet = _grid(tiles, columns)
    return np.vstack([_legend(sheet.shape[1]), sheet])


def fit_tile(image: RgbImage, tile_size: int) -> RgbImage:
    """Fit ``image`` into a square on light grey, with its aspect ratio kept."""
    height, width = image.shape[:2]
    ratio = tile_size / max(height, width)
    new_width, new_height = max(1, round(width * ratio)), max(1, round(height * ratio))
    method = cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC
    tile = np.full((tile_size, tile_size, 3), TILE_PAPER, dtype=np.uint8)
    top, left = (tile_size - new_height) // 2, (tile_size - new_width) // 2
    resized = cv2.resize(image, (new_width, new_height), interpolation=method)
    tile[top : top + new_height, left : left + new_width] = resized
    return tile


def _pair(
    image: RgbImage, predicted: Points, target: Points, validity: NDArray[np.integer[Any]], scale: int
) -> RgbImage:
    left = draw_keypoints(image, target, validity, scale)
    right = draw_keypoints(image, predicted, validity, scale)
    for index in np.flatnonzero(validity != MISSING):
        ends = np.stack([predicted[index], target[index]])
        if np.isfinite(ends).all():
            draw_line(right, ends, scale, ERROR_RGB, marker_size(right), is_visible=True)
    draw_dots(right, predicted, validity, scale)
    seam = np.full((left.shape[0], 2, 3), PAPER, dtype=np.uint8)
    return np.hstack([left, seam, right])


def _legend(width: int) -> RgbImage:
    """Draw the meaning of colours and dots, in as many rows as needed for ``width``."""
    entries = [_legend_entry(*entry) for entry in LEGEND]
    rows: list[list[RgbImage]] = [[]]
    for entry in entries:
        if rows[-1] and sum(item.shape[1] for item in [*rows[-1], entry]) > width:
            rows.append([])
        rows[-1].append(entry)
    return np.vstack([_padded(np.hstack(row), width) for row in rows])


def _legend_entry(colour: Colour, has_dot: bool, is_visible: bool, words: str) -> RgbImage:
    entry = np.full((CAPTION_HEIGHT + 6, 70 + _text_width(words), 3), PAPER, dtype=np.uint8)
    middle = entry.shape[0] / 2 - 0.5
    draw_line(entry, np.array([[14.0, middle], [42.0, middle]]), 1, colour, 1.0, is_visible)
    if has_dot:
        draw_dot(entry, np.array([28.0, middle]), 1, colour, 1.0, is_visible)
    _text(entry, words, (50, round(middle) + 5))
    return entry


def _padded(row: RgbImage, width: int) -> RgbImage:
    """Cut ``row`` to ``width``, or fill it with white on the right."""
    padding = max(width - row.shape[1], 0)
    return np.pad(row, ((0, 0), (0, padding), (0, 0)), constant_values=PAPER[0])[:, :width]


def _captioned(tile: RgbImage, caption: str) -> RgbImage:
    strip = np.full((CAPTION_HEIGHT, tile.shape[1], 3), PAPER, dtype=np.uint8)
    _text(strip, caption, (1, 15))
    return np.vstack([tile, strip])


def _grid(tiles: Sequence[RgbImage], columns: int) -> RgbImage:
    """Arrange tiles of equal size row by row, with white gaps between and around them."""
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    height, width = tiles[0].shape[:2]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = np.full((GAP + rows * (height + GAP), GAP + columns * (width + GAP), 3), PAPER, dtype=np.uint8)
    for index, tile in enumerate(tiles):
        top, left = GAP + index // columns * (height + GAP), GAP + index % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = tile
    return sheet


def _text(canvas: RgbImage, text: str, corner: tuple[int, int]) -> None:
    """Write ``text``, cut to the canvas, with its lower left corner at (x, y), in place."""
    text = text.encode("ascii", "replace").decode()
    room = canvas.shape[1] - corner[0]
    if _text_width(text) > room:
        while text and _text_width(f"{text}...") > room:
            text = text[:-1]
        text = f"{text}..." if text else ""
    cv2.putText(canvas, text, corner, FONT, FONT_SCALE, TEXT_RGB, 1, cv2.LINE_AA)


def _text_width(text: str) -> int:
    return int(cv2.getTextSize(text, FONT, FONT_SCALE, 1)[0][0])
