"""Intervals of scores, and comparisons of two models on the same samples: retention and paired tests.

Everything resamples or flips whole units. These are clusters of cars (:mod:`carkp.keypoints.clusters`), because an
error in one frame often repeats in its neighbours. PCK is a ratio of sums, so a resample needs only the sums by unit.
Legend: N samples (cars), K keypoints, U units, C columns, R resamples, A thresholds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from carkp.keypoints import metrics
from carkp.keypoints.clusters import Resampled
from carkp.keypoints.predictions import Predictions

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CONFIDENCE = 0.95
NUM_RESAMPLES = 4000
NUM_FLIPS = 10_000

_MAX_DRAWN = 4_000_000
"""Largest count of random numbers drawn at once: limits the memory for a large data set."""


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % interval; the ends are NaN if fewer than two units contribute to it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ScoreIntervals:
    """The three main scores of one model, each with its interval; ``resampled`` says what was resampled."""

    pck: Interval
    pck_hat: Interval
    mean_dist: Interval
    num_cars: int
    num_points: int
    resampled: Resampled


@dataclass(frozen=True)
class Retention:
    """Share of the reference's PCK that another model keeps, with its 95 % interval; NaN if that PCK is 0."""

    share: float
    low: float
    high: float
    resampled: Resampled

    def __str__(self) -> str:
        """Return the share with its interval and the resampled units: ``99.86% (99.68% to 100.05%, 14 clusters)``."""
        if np.isnan(self.share):
            return "an unknown share (float has no correct keypoint)"
        ends = f"{self.low:.2%} to {self.high:.2%}" if np.isfinite(self.low) else "interval not known"
        return f"{self.share:.2%} ({ends}, {self.resampled.short})"


@dataclass(frozen=True)
class PairedTest:
    """Comparison of another model with a reference on the same cars.

    Attributes:
        difference: pck(other) - pck(reference), as a share, with the interval of a paired bootstrap.
        distance_difference: the same for the mean distance, in input pixels; positive if the other model is worse.
        p_value: p-value of the sign-flip test: how often chance alone gives a difference at least as large.
        num_lost: number of keypoints that are correct in the reference and wrong in the other model.
        num_gained: number of keypoints that are wrong in the reference and correct in the other model.
        num_points: number of keypoints that count for ``pck``.
        resampled: description of the units that are resampled, and whose signs are flipped.
        num_moved: number of units in which the two models have different numbers of correct keypoints.
    """

    difference: Interval
    distance_difference: Interval
    p_value: float
    num_lost: int
    num_gained: int
    num_points: int
    resampled: Resampled
    num_moved: int

    @property
    def smallest_p(self) -> float:
        """Smallest possible p-value for this number of moved units: all of them change in the same direction."""
        return smallest_p_value(self.num_moved)


def is_comparable(first: Predictions, second: Predictions) -> bool:
    """Return whether two predictions have the same samples, labels and reference lengths."""
    return not _mismatch(first, second)


def score_intervals(
    predictions: Predictions, alpha: float, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> ScoreIntervals:
    """Return PCK, HAT's PCK and mean distance, each with the interval of a bootstrap over clusters of cars.

    Sources: Field and Welsh, Bootstrapping clustered data, JRSS B 69, 2007 (clusters drawn with replacement); Cameron,
    Gelbach and Miller, REStat 90, 2008 (pairs cluster bootstrap). For the ends see :func:`tail_share`.
    """
    dist, is_labelled, has_length = _distances(predictions)
    is_correct = correct_keypoints(predictions, alpha)
    is_correct_hat = is_labelled & (dist < alpha * predictions.lengths_hat.astype(np.float64)[:, None])
    units = predictions.units
    numerators = units.sums(_columns(is_correct, is_correct_hat, np.where(is_labelled, dist, 0)))
    denominators = units.sums(_columns(has_length, is_labelled, is_labelled))
    pck, pck_hat, mean_dist = ratio_intervals(numerators, denominators, num_resamples, seed)
    return ScoreIntervals(pck, pck_hat, mean_dist, len(predictions), int(is_labelled.sum()), units.resampled)


def retention(
    reference: Predictions, other: Predictions, alpha: float, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Retention:
    """Return ``pck(other) / pck(reference)`` with the interval of a paired bootstrap over clusters of cars.

    Both models are evaluated on the same cars, so the interval is much narrower than those of the two PCKs. Resampling
    whole clusters accounts for errors that occur together (sources: :func:`score_intervals`).

    Raises:
        ValueError: the predictions are of different samples, or their labels or reference lengths differ.
    """
    _require_same_samples(reference, other)
    units = reference.units
    both = units.sums(_columns(*(correct_keypoints(item, alpha) for item in (other, reference))))
    (found,) = ratio_intervals(both[:, :1], both[:, 1:], num_resamples, seed)
    return Retention(found.value, found.low, found.high, units.resampled)


def paired_test(
    reference: Predictions,
    other: Predictions,
    alpha: float,
    num_resamples: int = NUM_RESAMPLES,
    num_flips: int = NUM_FLIPS,
    seed: int = 0,
) -> PairedTest:
    """Test whether ``other`` is better or worse than ``reference``, and by how much.

    The intervals come from a paired bootstrap over clusters of cars. The p-value is that of a two-sided randomisation
    test. It assumes that, if both models were equally good, the sign of each cluster's difference in correct keypoints
    would be a coin toss (Fisher, The Design of Experiments, 1935; by cluster: Canay, Romano and Shaikh, Randomization
    tests under an approximate symmetry assumption, Econometrica 85, 2017). Keypoints that are correct in only one of
    the models are McNemar's discordant pairs (Psychometrika 12, 1947). They are counted, but not tested, because they
    are not independent.

    Raises:
        ValueError: the predictions are of different samples, or their labels or reference lengths differ.
    """
    _require_same_samples(reference, other)
    ours, theirs = (correct_keypoints(item, alpha) for item in (reference, other))
    dist, is_labelled, has_length = _distances(reference)
    farther = np.where(is_labelled, _distances(other)[0] - dist, 0)
    gained = theirs.astype(np.int64) - ours.astype(np.int64)
    units = reference.units
    changes = units.sums(_columns(gained, farther))
    denominators = units.sums(_columns(has_length, is_labelled))
    difference, distance_difference = ratio_intervals(changes, denominators, num_resamples, seed)
    by_unit = np.rint(changes[:, 0]).astype(np.int64)
    return PairedTest(
        difference,
        distance_difference,
        sign_flip_p_value(by_unit, num_flips, seed),
        num_lost=int((gained < 0).sum()),
        num_gained=int((gained > 0).sum()),
        num_points=int(has_length.sum()),
        resampled=units.resampled,
        num_moved=int(np.count_nonzero(by_unit)),
    )


def difference_curve(
    reference: Predictions, other: Predictions, alphas: Floats, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> list[Interval]:
    """Return pck(other) - pck(reference) at each of ``alphas`` (A,), with pointwise paired intervals.

    Raises:
        ValueError: the predictions are of different samples, or their labels or reference lengths differ.
    """
    _require_same_samples(reference, other)
    ours, theirs = (
        np.stack([correct_keypoints(item, float(alpha)).sum(axis=1) for alpha in alphas], axis=1)
        for item in (reference, other)
    )
    scored = np.repeat(_distances(reference)[2].sum(axis=1)[:, None], len(alphas), axis=1)
    changes, denominators = (reference.units.sums(item.astype(np.float64)) for item in (theirs - ours, scored))
    return ratio_intervals(changes, denominators, num_resamples, seed)


def sign_flip_p_value(differences: NDArray[np.int64], num_flips: int = NUM_FLIPS, seed: int = 0) -> float:
    """Return the two-sided p-value of a sign-flip test; null hypothesis: the sum of ``differences`` (U,) is 0.

    A pattern of signs and its opposite give sums that are equally far from 0, so they count as one pattern. If there
    are at most ``num_flips`` patterns, all are counted. Else ``num_flips`` patterns are drawn and the result is
    (1 + b) / (1 + num_flips), where b is the number of patterns with a sum at least as far from 0 as the observed one.
    So it is never 0 (Phipson and Smyth, Permutation P-values Should Never Be Zero, 2010).
    """
    moved = differences[differences != 0]
    observed = abs(int(moved.sum()))
    if moved.size < 2:
        return 1.0
    if moved.size - 1 <= int(np.log2(num_flips)):
        others = np.arange(2 ** (moved.size - 1))[:, None] >> np.arange(moved.size - 1) & 1
        sums = moved[0] + (2 * others - 1) @ moved[1:]
        return float((np.abs(sums) >= observed).mean())
    generator = np.random.default_rng(seed)
    num_as_far = 0
    chunk = max(1, _MAX_DRAWN // moved.size)
    for start in range(0, num_flips, chunk):
        signs = 2 * generator.integers(0, 2, size=(min(chunk, num_flips - start), moved.size)) - 1
        num_as_far += int((np.abs(signs @ moved) >= observed).sum())
    return (1 + num_as_far) / (1 + num_flips)


def smallest_p_value(num_units: int, num_flips: int = NUM_FLIPS) -> float:
    """Return the smallest p-value that ``sign_flip_p_value`` can give for this number n of differences.

    It is 2^-(n - 1), because the sum with all signs flipped is as far from 0 as the observed sum. If patterns are
    drawn, it is 1 / (1 + num_flips).
    """
    exact = 2.0 ** (1 - max(num_units, 1))
    return exact if num_units - 1 <= int(np.log2(num_flips)) else 1 / (1 + num_flips)


def correct_keypoints(predictions: Predictions, alpha: float) -> Bools:
    """Return the mask (N, K) of keypoints that count as correct for ``pck``."""
    dist, _, has_length = _distances(predictions)
    is_near: Bools = dist < alpha * predictions.lengths.astype(np.float64)[:, None]
    return is_near & has_length


def ratio_intervals(numerators: Floats, denominators: Floats, num_resamples: int, seed: int) -> list[Interval]:
    """Return for each of C columns the sum of ``numerators`` divided by the sum of ``denominators``, both (U, C).

    The intervals come from a bootstrap over units. A value is NaN if its denominator is 0. Resamples with a denominator
    of 0 are left out.
    """
    num_columns = numerators.shape[1]
    both = np.concatenate([numerators, denominators], axis=1).astype(np.float64)
    values = _divide(both[:, :num_columns].sum(axis=0), both[:, num_columns:].sum(axis=0))
    sums = resample_sums(both, num_resamples, seed)
    found = _divide(sums[:, :num_columns], sums[:, num_columns:])
    nums = np.count_nonzero((numerators != 0) | (denominators != 0), axis=0).tolist()
    ends = [_ends(found[:, column], num) for column, num in enumerate(nums)]
    return [Interval(float(value), *end) for value, end in zip(values, ends, strict=True)]


def resample_sums(columns: Floats, num_resamples: int, seed: int) -> Floats:
    """Return the sums (R, C) of ``columns`` (U, C) over U units drawn with replacement."""
    num_units = len(columns)
    if num_units == 0:
        return np.zeros((num_resamples, columns.shape[1]))
    generator = np.random.default_rng(seed)
    chances = np.full(num_units, 1 / num_units)
    chunk = max(1, _MAX_DRAWN // num_units)
    sizes = [min(chunk, num_resamples - start) for start in range(0, num_resamples, chunk)]
    return np.concatenate([generator.multinomial(num_units, chances, size=size) @ columns for size in sizes])


def tail_share(num_units: int) -> float:
    """Return the share of the resamples outside of each end of a 95 % interval.

    With few units, percentile intervals are too narrow: they act like a normal interval with a variance that divides
    by n. With this share, the half-width equals that of Student's interval (Hesterberg, What Teachers Should Know About
    the Bootstrap, The American Statistician 69, 2015: expanded percentile interval). It is 2.5 % for many units.
    """
    half_width = special.stdtrit(num_units - 1, (1 + CONFIDENCE) / 2) * np.sqrt(num_units / (num_units - 1))
    return float(special.ndtr(-half_width))


def _distances(predictions: Predictions) -> tuple[Floats, Bools, Bools]:
    """Return distances, the mask of labelled keypoints, and the mask of those that count for ``pck``, each (N, K)."""
    dist = metrics.distances(predictions.points.astype(np.float64), predictions.targets.astype(np.float64))
    is_labelled = predictions.validity > 0
    return dist, is_labelled, is_labelled & (predictions.lengths > 0)[:, None]


def _require_same_samples(reference: Predictions, other: Predictions) -> None:
    found = _mismatch(reference, other)
    if found:
        raise ValueError(found)


def _mismatch(first: Predictions, second: Predictions) -> str:
    """Return the reason why two predictions cannot be paired, "" if they can."""
    if not np.array_equal(first.sample_ids, second.sample_ids):
        return "the two predictions do not have the same samples in the same order"
    same = "the two predictions have the same samples, but"
    is_labelled = first.validity > 0
    if not np.array_equal(is_labelled, second.validity > 0):
        return f"{same} other keypoints of them are labelled"
    if not np.allclose(first.targets[is_labelled], second.targets[is_labelled]):
        return f"{same} their labels have other positions"
    lengths = ((first.lengths, second.lengths), (first.lengths_hat, second.lengths_hat))
    return "" if all(np.allclose(*pair) for pair in lengths) else f"{same} their reference lengths differ"


def _columns(*arrays: NDArray[Any]) -> Floats:
    """Return the sum of each (N, K) array over its keypoints, as columns of (N, C)."""
    return np.stack([array.sum(axis=1) for array in arrays], axis=1).astype(np.float64)


def _divide(numerators: Floats, denominators: Floats) -> Floats:
    is_possible = denominators > 0
    ratios: Floats = np.divide(numerators, denominators, out=np.full(numerators.shape, np.nan), where=is_possible)
    return ratios


def _ends(values: Floats, num_units: int) -> tuple[float, float]:
    """Return the ends of the interval of ``values`` (R,), without NaN values; NaN if there are fewer than 2 units."""
    known = values[np.isfinite(values)]
    if known.size == 0 or num_units < 2:
        return float("nan"), float("nan")
    tail = tail_share(num_units)
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
