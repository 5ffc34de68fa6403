"""Pictures of single cars in a report: float beside int8, each with its error, as JPEG.

Legend: N samples, K keypoints; points are (x, y) in pixels of the network's input.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from carkp.keypoints.paired import correct_keypoints
from carkp.keypoints.predictions import Predictions
from carkp.keypoints.schema import MISSING, VISIBLE
from carkp.report.drawing import Points, RgbImage, draw_dots, draw_keypoints, draw_line, marker_size
from carkp.report.palette import ERROR_RGB
from carkp.report.parts import Picture

LABEL_RGB = (255, 255, 255)
SCALE = 2
SEAM_PX = 4
BLACK, MARGIN_PX = 16, 6
JPEG_QUALITY = 72


def worst_cars(predictions: Predictions, num: int) -> list[int]:
    """Return the indices of the samples with the largest mean distance, the worst first."""
    return _ordered(predictions)[:num]


def median_cars(predictions: Predictions, num: int) -> list[int]:
    """Return the indices of the samples in the middle of the order by mean distance."""
    order = _ordered(predictions)
    start = max(0, (len(order) - num) // 2)
    return order[start : start + num]


def car_picture(
    crop: bytes, reference: Predictions | None, other: Predictions, index: int, alpha: float, name: str, label: str
) -> Picture:
    """Draw a car with the prediction of ``reference`` (if there is one) beside that of ``other``, named ``label``."""
    models = [other] if reference is None else [reference, other]
    image = decode_rgb(crop)
    is_labelled = other.validity[index] > 0
    drawn = [array[index][is_labelled] for array in (other.targets, *(model.points for model in models))]
    image = image[: _shown_height(image, *drawn)]
    halves = [_drawn(image, model.points[index], model.targets[index], model.validity[index]) for model in models]
    seam = np.full((halves[0].shape[0], SEAM_PX, 3), 255, dtype=np.uint8)
    canvas = halves[0] if len(halves) == 1 else np.hstack([halves[0], seam, halves[1]])
    labels = [label] if reference is None else ["float", label]
    errors = [
        f"{text} {model.mean_distances()[index]:.1f} px, {int(correct_keypoints(model, alpha)[index].sum())} right"
        for text, model in zip(labels, models, strict=True)
    ]
    sample = str(other.sample_ids[index])
    caption = f"{' | '.join(errors)} (of {int(is_labelled.sum())}). {sample}"
    return Picture(encode_jpeg(canvas), name, caption, f"Car {sample} with predicted and labelled keypoints")


def decode_rgb(content: bytes) -> RgbImage:
    """Decode a JPEG as RGB (H, W, 3).

    Raises:
        ValueError: the picture cannot be decoded.
    """
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("not a picture that can be read")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def encode_jpeg(image: RgbImage, quality: int = JPEG_QUALITY) -> bytes:
    is_ok, content = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert is_ok
    return content.tobytes()


def shrunk_jpeg(content: bytes, width: int, quality: int = JPEG_QUALITY) -> bytes:
    """Reduce a JPEG to at most ``width`` pixels in width, and encode it again."""
    image = decode_rgb(content)
    if image.shape[1] > width:
        height = round(image.shape[0] * width / image.shape[1])
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return encode_jpeg(image, quality)


def _ordered(predictions: Predictions) -> list[int]:
    """Return the indices of samples with a mean distance, the worst first."""
    distances = predictions.mean_distances()
    scored = np.flatnonzero(np.isfinite(distances))
    return [int(index) for index in scored[np.argsort(-distances[scored], kind="stable")]]


def _drawn(image: RgbImage, predicted: Points, target: Points, validity: NDArray[np.integer[Any]]) -> RgbImage:
    """Draw the prediction in the colours of the sides, labels as white dots, and pink lines between the two."""
    canvas = draw_keypoints(image, predicted, validity, SCALE)
    size = marker_size(canvas)
    for index in np.flatnonzero(validity != MISSING).tolist():
        ends = np.stack([predicted[index], target[index]])
        if np.isfinite(ends).all():
            draw_line(canvas, ends, SCALE, ERROR_RGB, size, is_visible=False)
    draw_dots(canvas, predicted, validity, SCALE, size=0.9 * size)
    draw_dots(canvas, target, np.minimum(validity, 1) * VISIBLE, SCALE, LABEL_RGB, 0.6 * size)
    return canvas


def _shown_height(image: RgbImage, *points: Points) -> int:
    """Return the number of rows of ``image`` without the black padding below, but with all points and their dots."""
    lit = np.flatnonzero((image > BLACK).any(axis=(1, 2)))
    lowest = max(float(np.nanmax(part[:, 1], initial=0)) for part in points) + MARGIN_PX
    return min(int(image.shape[0]), max(int(lit[-1]) + 1 if lit.size else 0, round(lowest)))
