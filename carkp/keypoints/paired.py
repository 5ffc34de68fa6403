"""Two models on the same samples: how much of the one's PCK the other keeps, and how sure that is."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carkp.keypoints import metrics
from carkp.keypoints.predictions import Predictions

Floats = NDArray[np.float64]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Retention:
    """Share of the reference's PCK that another model keeps, with its 95 % interval; NaN of a PCK of 0."""

    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.share:.2%} ({self.low:.2%} to {self.high:.2%})"


def retention(
    reference: Predictions, other: Predictions, alpha: float, num_resamples: int = 2000, seed: int = 0
) -> Retention:
    """``pck(other) / pck(reference)`` with the percentile interval of a paired bootstrap over samples.

    Both models meet the same cars, so that the interval is much narrower than those of the two PCKs. Resampling cars
    and not keypoints keeps together what goes wrong together (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993).

    Raises:
        ValueError: the predictions are of different samples.
    """
    if not np.array_equal(reference.sample_ids, other.sample_ids):
        raise ValueError("the two predictions are not of the same samples in the same order")
    ours, theirs = _num_correct(reference, alpha), _num_correct(other, alpha)
    if not ours.any():
        return Retention(float("nan"), float("nan"), float("nan"))
    num_samples = len(ours)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(num_samples, np.full(num_samples, 1 / num_samples), size=num_resamples)
    shares = (draws @ theirs) / np.maximum(draws @ ours, 1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(shares, [tail, 1 - tail])
    return Retention(float(theirs.sum() / ours.sum()), float(low), float(high))


def _num_correct(predictions: Predictions, alpha: float) -> Floats:
    """(N,): keypoints that count for ``pck``."""
    is_scored = (predictions.validity > 0) & (predictions.lengths > 0)[:, None]
    dist = metrics.distances(predictions.points.astype(np.float64), predictions.targets.astype(np.float64))
    correct: Floats = ((dist < alpha * predictions.lengths.astype(np.float64)[:, None]) & is_scored).sum(axis=1)
    return correct.astype(np.float64)
