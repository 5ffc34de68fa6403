"""The models of the page, opened once: one that is looked at, and one that it is held against.

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
    """An open model; calls wait for each other."""

    def __init__(self, name: str, predictor: Predictor) -> None:
        """``name``: as it was given."""
        self.name, self.kind = name, predictor.kind
        self._predictor, self._lock = predictor, threading.Lock()

    @property
    def label(self) -> str:
        """``int8`` or ``float``, of which the kind says more."""
        first = self.kind.partition(" ")[0]
        return first if first in ("int8", "float") else "model"

    def predict(self, image: Image, boxes: Any) -> tuple[Prediction, float]:
        """What :class:`carkp.Predictor` gives and raises, and the milliseconds that it took."""
        with self._lock:
            start = time.perf_counter()
            prediction = self._predictor(image, boxes)
            return prediction, 1000 * (time.perf_counter() - start)


@dataclass(frozen=True)
class Answer:
    """Of one model."""

    model: ViewedModel
    prediction: Prediction
    milliseconds: float


def labels(models: Sequence[ViewedModel]) -> list[str]:
    """A short name of each, no two the same."""
    found = [model.label for model in models]
    if len(set(found)) == len(found):
        return found
    return [f"{label} {index}" for index, label in enumerate(found, 1)]


def moved_px(answers: Sequence[Answer]) -> NDArray[np.float64] | None:
    """How far the second model's keypoints (N, K) lie from the first's, in pixels; None: there is one model."""
    if len(answers) < 2:
        return None
    first, second = (answer.prediction.points.astype(np.float64) for answer in answers[:2])
    return np.asarray(np.linalg.norm(second - first, axis=-1), np.float64)


def result_document(
    answer: Answer, name: str, image: Image, orientation: str, notes: Sequence[str], boxes: str | None
) -> dict[str, Any]:
    """What ``carkp infer`` writes into ``keypoints.json`` of one picture, which ``name`` is the name of.

    ``boxes``: where they come from; None: the whole picture is the car.
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
