"""The expected loss of PCK when another model moves keypoints a little.

It varies less by chance than a count of the keypoints that crossed the threshold.

Legend: N samples (cars), K keypoints, e the error vector of the reference, d the distance by which another model moves
the point, t the threshold.
"""

import math

import numpy as np
from numpy.typing import NDArray

from carkp.keypoints import metrics
from carkp.keypoints.paired import NUM_RESAMPLES, Interval, ratio_intervals
from carkp.keypoints.predictions import Predictions

Floats = NDArray[np.float64]

BAND = np.linspace(0.5, 1.5, 41)
"""Thresholds over which an expected loss is averaged, in units of alpha."""


def mean_shift_px(reference: Predictions, other: Predictions, limit_px: float = math.inf) -> float:
    """Return the mean distance between the labelled keypoints of two predictions of the same cars, in input pixels.

    A distance counts as ``limit_px`` at most: a keypoint that takes another peak of its heatmap may move by 100 px, and
    a few of them would outweigh all others. NaN without a labelled keypoint.
    """
    distances = _distances(reference.points, other.points)[reference.validity > 0]
    return float(np.minimum(distances, limit_px).mean()) if distances.size else float("nan")


def expected_loss(reference: Predictions, other: Predictions, alpha: float, seed: int = 0) -> Interval:
    """Return the expected PCK of ``reference`` minus that of ``other``, with an interval.

    ``other`` moves each point by some distance. If the direction of the move is independent of the error, it is chance
    which points cross the threshold, and to which side. Two averages remove this chance: over all directions of each
    move, and over thresholds around ``alpha`` (``BAND``), which are close to other keypoints. The result is roughly the
    loss that other cars of the same kind would show at ``alpha``. It does not show a common bias of all points, towards
    or away from their labels; :func:`carkp.keypoints.paired.paired_test` does.

    The bootstrap is that of ``paired_test``, over clusters of cars.
    """
    return _mean(reference, _lost(reference, other, alpha), seed)


def expected_loss_difference(
    reference: Predictions, first: Predictions, second: Predictions, alpha: float, seed: int = 0
) -> Interval:
    """Return the expected loss of ``second`` minus that of ``first``, both relative to ``reference``.

    The interval uses the same resampled cars for both.
    """
    return _mean(reference, _lost(reference, second, alpha) - _lost(reference, first, alpha), seed)


def _lost(reference: Predictions, other: Predictions, alpha: float) -> Floats:
    """Return the expected loss of every point (N, K), including points without a label."""
    errors = _distances(reference.points, reference.targets)
    moves = _distances(reference.points, other.points)
    lengths = np.broadcast_to(reference.lengths.astype(np.float64)[:, None], errors.shape)
    lost = np.zeros_like(errors)
    for factor in BAND:
        thresholds = factor * alpha * lengths
        lost += ((errors < thresholds) - share_within(errors, moves, thresholds)) / len(BAND)
    return lost


def _mean(reference: Predictions, lost: Floats, seed: int) -> Interval:
    """Return the mean over the points that PCK counts, with the interval of a bootstrap over clusters of cars."""
    is_scored = (reference.validity > 0) & (reference.lengths > 0)[:, None]
    units = reference.units
    changes = units.sums(np.where(is_scored, lost, 0.0).sum(axis=1)[:, None])
    counts = units.sums(is_scored.astype(np.float64).sum(axis=1)[:, None])
    return ratio_intervals(changes, counts, NUM_RESAMPLES, seed)[0]


def share_within(errors: Floats, moves: Floats, thresholds: Floats) -> Floats:
    """Return the share of directions (N, K) in which a point with error ``|e|``, moved by d, has an error below t.

    ``|e + d|^2 = e^2 + d^2 + 2 e d cos(phi)`` is below t^2 for ``cos(phi) < (t^2 - e^2 - d^2) / (2 e d) = c``. This
    holds for a share of ``1 - arccos(c) / pi`` of all phi.
    """
    products = 2 * errors * moves
    is_on_circle = products > 0
    cosines = np.divide(thresholds**2 - errors**2 - moves**2, products, out=np.zeros_like(products), where=is_on_circle)
    shares = 1 - np.arccos(np.clip(cosines, -1, 1)) / np.pi
    result: Floats = np.where(is_on_circle, shares, np.maximum(errors, moves) < thresholds)
    return result


def _distances(first: NDArray[np.float32], second: NDArray[np.float32]) -> Floats:
    return metrics.distances(first.astype(np.float64), second.astype(np.float64))
