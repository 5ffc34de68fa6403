"""How sure a score is, and two models on the same samples: intervals, retention, paired tests.

Everything resamples or flips whole cars and not keypoints: what goes wrong on one car goes wrong together.
Legend: N samples (cars), K keypoints, C columns, R resamples, A thresholds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carkp.keypoints import metrics
from carkp.keypoints.predictions import Predictions

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
NUM_FLIPS = 10_000

_MAX_DRAWN = 4_000_000
"""Numbers drawn at once: bounds the memory of a large data set."""


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ScoreIntervals:
    """The three headline numbers of one model, each with its interval over cars."""

    pck: Interval
    pck_hat: Interval
    mean_dist: Interval
    num_cars: int
    num_points: int


@dataclass(frozen=True)
class Retention:
    """Share of the reference's PCK that another model keeps, with its 95 % interval; NaN of a PCK of 0."""

    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.share:.2%} ({self.low:.2%} to {self.high:.2%})"


@dataclass(frozen=True)
class PairedTest:
    """Another model against a reference on the same cars.

    Attributes:
        difference: pck(other) - pck(reference), as a share, with the interval of a paired bootstrap.
        distance_difference: the same of the mean distance, in input pixels; positive where the other one is worse.
        p_value: of the sign-flip test; how often chance alone gives a difference at least as large.
        num_lost: keypoints that the reference has right and the other wrong.
        num_gained: keypoints that the reference has wrong and the other right.
        num_points: keypoints that count for ``pck``.
    """

    difference: Interval
    distance_difference: Interval
    p_value: float
    num_lost: int
    num_gained: int
    num_points: int


def is_comparable(first: Predictions, second: Predictions) -> bool:
    """Whether two predictions are of the same samples with the same labels and reference lengths."""
    return not _mismatch(first, second)


def score_intervals(
    predictions: Predictions, alpha: float, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> ScoreIntervals:
    """PCK, HAT's PCK and mean distance, each with the percentile interval of a bootstrap over cars.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993 (percentile intervals, clusters resampled).
    """
    dist, is_labelled, has_length = _distances(predictions)
    is_correct = correct_keypoints(predictions, alpha)
    is_correct_hat = is_labelled & (dist < alpha * predictions.lengths_hat.astype(np.float64)[:, None])
    numerators = _columns(is_correct, is_correct_hat, np.where(is_labelled, dist, 0))
    pck, pck_hat, mean_dist = ratio_intervals(
        numerators, _columns(has_length, is_labelled, is_labelled), num_resamples, seed
    )
    return ScoreIntervals(pck, pck_hat, mean_dist, len(predictions), int(is_labelled.sum()))


def retention(
    reference: Predictions, other: Predictions, alpha: float, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Retention:
    """``pck(other) / pck(reference)`` with the percentile interval of a paired bootstrap over samples.

    Both models meet the same cars, so that the interval is much narrower than those of the two PCKs. Resampling cars
    and not keypoints keeps together what goes wrong together (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993).

    Raises:
        ValueError: the predictions are of different samples, or their labels differ.
    """
    _require_same_samples(reference, other)
    ours, theirs = (correct_keypoints(item, alpha).sum(axis=1) for item in (reference, other))
    if not ours.any():
        return Retention(float("nan"), float("nan"), float("nan"))
    sums = resample_sums(np.stack([ours, theirs], axis=1).astype(np.float64), num_resamples, seed)
    low, high = _ends(_divide(sums[:, 1], sums[:, 0]))
    return Retention(float(theirs.sum() / ours.sum()), low, high)


def paired_test(
    reference: Predictions,
    other: Predictions,
    alpha: float,
    num_resamples: int = NUM_RESAMPLES,
    num_flips: int = NUM_FLIPS,
    seed: int = 0,
) -> PairedTest:
    """Is ``other`` better or worse than ``reference``, and by how much?

    The interval is that of a paired bootstrap over cars. The p-value is that of a randomisation test: if both models
    were equally good, the sign of each car's difference in correct keypoints would be a coin toss (Fisher, The Design
    of Experiments, 1935), two-sided. The keypoints that only one of the two has right are McNemar's discordant pairs
    (Psychometrika 12, 1947); they are counted, not tested, for keypoints of one car are not independent.

    Raises:
        ValueError: the predictions are of different samples, or their labels differ.
    """
    _require_same_samples(reference, other)
    ours, theirs = (correct_keypoints(item, alpha) for item in (reference, other))
    dist, is_labelled, has_length = _distances(reference)
    farther = np.where(is_labelled, _distances(other)[0] - dist, 0)
    gained = theirs.astype(np.int64) - ours.astype(np.int64)
    difference, distance_difference = ratio_intervals(
        _columns(gained, farther), _columns(has_length, is_labelled), num_resamples, seed
    )
    return PairedTest(
        difference,
        distance_difference,
        sign_flip_p_value(gained.sum(axis=1), num_flips, seed),
        num_lost=int((gained < 0).sum()),
        num_gained=int((gained > 0).sum()),
        num_points=int(has_length.sum()),
    )


def difference_curve(
    reference: Predictions, other: Predictions, alphas: Floats, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> list[Interval]:
    """pck(other) - pck(reference) at each of ``alphas`` (A,), with pointwise paired intervals.

    Raises:
        ValueError: the predictions are of different samples, or their labels differ.
    """
    _require_same_samples(reference, other)
    ours, theirs = (
        np.stack([correct_keypoints(item, float(alpha)).sum(axis=1) for alpha in alphas], axis=1)
        for item in (reference, other)
    )
    scored = np.repeat(_distances(reference)[2].sum(axis=1)[:, None], len(alphas), axis=1)
    return ratio_intervals((theirs - ours).astype(np.float64), scored.astype(np.float64), num_resamples, seed)


def sign_flip_p_value(differences: NDArray[np.int64], num_flips: int = NUM_FLIPS, seed: int = 0) -> float:
    """Two-sided p-value that the sum of ``differences`` (N,) is 0 but for chance, by random signs.

    (1 + b) / (1 + num_flips), b the flips whose sum is at least as far from 0: never 0 (Phipson and Smyth,
    Permutation P-values Should Never Be Zero, 2010).
    """
    moved = differences[differences != 0]
    if moved.size == 0:
        return 1.0
    generator = np.random.default_rng(seed)
    observed, num_as_far = abs(int(moved.sum())), 0
    chunk = max(1, _MAX_DRAWN // moved.size)
    for start in range(0, num_flips, chunk):
        signs = 2 * generator.integers(0, 2, size=(min(chunk, num_flips - start), moved.size)) - 1
        num_as_far += int((np.abs(signs @ moved) >= observed).sum())
    return (1 + num_as_far) / (1 + num_flips)


def correct_keypoints(predictions: Predictions, alpha: float) -> Bools:
    """(N, K): keypoints that count as correct for ``pck``."""
    dist, _, has_length = _distances(predictions)
    is_near: Bools = dist < alpha * predictions.lengths.astype(np.float64)[:, None]
    return is_near & has_length


def ratio_intervals(numerators: Floats, denominators: Floats, num_resamples: int, seed: int) -> list[Interval]:
    """Sums of ``numerators`` over sums of ``denominators``, both (N, C), with percentile intervals over cars.

    C intervals; NaN where there is nothing to divide by.
    """
    num_columns = numerators.shape[1]
    both = np.concatenate([numerators, denominators], axis=1).astype(np.float64)
    values = _divide(both[:, :num_columns].sum(axis=0), both[:, num_columns:].sum(axis=0))
    sums = resample_sums(both, num_resamples, seed)
    found = _divide(sums[:, :num_columns], sums[:, num_columns:])
    ends = [_ends(found[:, column]) for column in range(num_columns)]
    return [Interval(float(value), *end) for value, end in zip(values, ends, strict=True)]


def resample_sums(columns: Floats, num_resamples: int, seed: int) -> Floats:
    """Sums (R, C) of ``columns`` (N, C) over cars drawn with replacement."""
    num_samples = len(columns)
    generator = np.random.default_rng(seed)
    chances = np.full(num_samples, 1 / num_samples)
    chunk = max(1, _MAX_DRAWN // num_samples)
    sizes = [min(chunk, num_resamples - start) for start in range(0, num_resamples, chunk)]
    return np.concatenate([generator.multinomial(num_samples, chances, size=size) @ columns for size in sizes])


def _distances(predictions: Predictions) -> tuple[Floats, Bools, Bools]:
    """(N, K) each: distances, labelled keypoints, and those of them that count for ``pck``."""
    dist = metrics.distances(predictions.points.astype(np.float64), predictions.targets.astype(np.float64))
    is_labelled = predictions.validity > 0
    return dist, is_labelled, is_labelled & (predictions.lengths > 0)[:, None]


def _require_same_samples(reference: Predictions, other: Predictions) -> None:
    found = _mismatch(reference, other)
    if found:
        raise ValueError(found)


def _mismatch(first: Predictions, second: Predictions) -> str:
    """Why two predictions cannot be paired; "" where they can."""
    if not np.array_equal(first.sample_ids, second.sample_ids):
        return "the two predictions are not of the same samples in the same order"
    same = "the two predictions are of the same samples, but"
    is_labelled = first.validity > 0
    if not np.array_equal(is_labelled, second.validity > 0):
        return f"{same} other keypoints of them are labelled"
    if not np.allclose(first.targets[is_labelled], second.targets[is_labelled]):
        return f"{same} their labels lie elsewhere"
    lengths = ((first.lengths, second.lengths), (first.lengths_hat, second.lengths_hat))
    return "" if all(np.allclose(*pair) for pair in lengths) else f"{same} their reference lengths differ"


def _columns(*arrays: NDArray[Any]) -> Floats:
    """(N, C): each (N, K) array summed over its keypoints."""
    return np.stack([array.sum(axis=1) for array in arrays], axis=1).astype(np.float64)


def _divide(numerators: Floats, denominators: Floats) -> Floats:
    is_possible = denominators > 0
    ratios: Floats = np.divide(numerators, denominators, out=np.full(numerators.shape, np.nan), where=is_possible)
    return ratios


def _ends(values: Floats) -> tuple[float, float]:
    """Ends of the percentile interval of ``values`` (R,), those left out that could not be formed."""
    known = values[np.isfinite(values)]
    if known.size == 0:
        return float("nan"), float("nan")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
