"""The models of the page, loaded once: the model to look at, and optionally one to compare it with.

Legend: N cars, K keypoints.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carkp.data.jpeg import Image
from carkp.keypoints.schema import KEYPOINT_NAMES
from carkp.predictor import Prediction, Predictor


class ViewedModel:
    """A loaded model; it handles one call at a time."""

    def __init__(self, name: str, predictor: Predictor) -> None:
        """``name``: the reference that the user gave."""
        self.name, self.kind = name, predictor.kind
        self._predictor, self._lock = predictor, threading.Lock()

    @property
    def label(self) -> str:
        """``int8``, ``float``, or "model" for other kinds."""
        first = self.kind.partition(" ")[0]
        return first if first in ("int8", "float") else "model"

    def predict(self, image: Image, boxes: Any) -> tuple[Prediction, float]:
        """Call :class:`carkp.Predictor`; return its prediction and the milliseconds that it took."""
        with self._lock:
            start = time.perf_counter()
            prediction = self._predictor(image, boxes)
            return prediction, 1000 * (time.perf_counter() - start)


@dataclass(frozen=True)
class Answer:
    """The answer of one model."""

    model: ViewedModel
    prediction: Prediction
    milliseconds: float


def labels(models: Sequence[ViewedModel]) -> list[str]:
    """Return a short, unique name for each model."""
    found = [model.label for model in models]
    if len(set(found)) == len(found):
        return found
    return [f"{label} {index}" for index, label in enumerate(found, 1)]


def moved_px(answers: Sequence[Answer]) -> NDArray[np.float64] | None:
    """Return the distance of the second model's keypoints (N, K) from the first's, in pixels; None with one model."""
    if len(answers) < 2:
        return None
    first, second = (answer.prediction.points.astype(np.float64) for answer in answers[:2])
    return np.asarray(np.linalg.norm(second - first, axis=-1), np.float64)


def result_document(
    answer: Answer, name: str, image: Image, orientation: str, notes: Sequence[str], boxes: str | None
) -> dict[str, Any]:
    """Return what ``carkp infer`` writes into ``keypoints.json`` for one picture, called ``name``.

    ``boxes``: where they come from; None: the whole picture is one car.
    """
    height, width = image.shape[:2]
    return {
        "model": answer.model.name,
        "model_kind": answer.model.kind,
        "orientation": orientation,
        "boxes": boxes,
        "keypoints": list(KEYPOINT_NAMES),
        "images": {name: {"width": width, "height": height, "cars": answer.prediction.cars()}},
        "errors": {},
        "notes": {name: "; ".join(notes)} if notes else {},
    }
