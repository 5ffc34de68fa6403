"""Observers: from the histogram of a tensor's |x| to the threshold at which quantisation clips it.

Legend: an observer chooses the threshold T > 0, in the tensor's own units. What lies above is clipped to T; what lies
below is rounded to a multiple of the step T / num_levels. num_levels is the number of positive levels: 127 of a signed
symmetric tensor, 255 of an unsigned one. Zero is always exact.

Every threshold is finite and such that the step and its reciprocal are normal float32: at least
``SMALLEST_THRESHOLD``. Of a tensor that is zero throughout it is ``UNIT_THRESHOLD``; an empty histogram has none.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from carkp.quant.histogram import AbsHistogram, Bins

ObserverKind = Literal["percentile", "minmax", "mse", "entropy"]

UNIT_THRESHOLD = 1.0
SMALLEST_THRESHOLD = 2.0**-100

_SMALLEST_SHARE = 0.01  # of the largest |x|: where the search for the least squared error begins
_NUM_COARSE, _NUM_FINE = 97, 33
_NUM_ENTROPY_BINS = 2048  # as in the talk; a candidate threshold at the end of each
_SMOOTHING = 1e-4  # counts
_ROUNDING = 1e-9  # divergences closer than this are equal


def threshold(histogram: AbsHistogram, kind: ObserverKind, percentile: float, num_levels: int) -> float:
    """The threshold that the observer ``kind`` chooses; ``percentile`` matters to the percentile observer only.

    Raises:
        ValueError: unknown kind, or as the observer itself.
    """
    match kind:
        case "percentile":
            return percentile_threshold(histogram, percentile)
        case "minmax":
            return minmax_threshold(histogram)
        case "mse":
            return mse_threshold(histogram, num_levels)
        case "entropy":
            return entropy_threshold(histogram, num_levels)
        case _:
            raise ValueError(f"observer must be percentile, minmax, mse or entropy, got {kind!r}")


def percentile_threshold(histogram: AbsHistogram, percentile: float) -> float:
    """The percentile of |x| over all values, zeros included.

    If the percentile itself is zero, it says nothing of the few values that are not: T is then the largest |x|.

    Raises:
        ValueError: the percentile is not in (50, 100], or the histogram is empty.
    """
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile must be in (50, 100], got {percentile}")
    return _valid(histogram.quantile(percentile / 100) or histogram.largest)


def minmax_threshold(histogram: AbsHistogram) -> float:
    """The largest |x|.

    Raises:
        ValueError: the histogram is empty.
    """
    _require_values(histogram)
    return _valid(histogram.largest)


def mse_threshold(histogram: AbsHistogram, num_levels: int) -> float:
    """The T of least expected squared error of clipping and rounding.

    Searched on a geometric grid from a hundredth of the largest |x| to all of it, then on a finer one around the best.

    Raises:
        ValueError: ``num_levels`` is below 1, or the histogram is empty.
    """
    _require_levels(num_levels)
    _require_values(histogram)
    largest = histogram.largest
    if _holds_only_zeros(histogram):
        return _valid(largest)
    coarse = np.geomspace(_SMALLEST_SHARE * largest, largest, _NUM_COARSE)
    bins = histogram.nonzero_bins()
    best = int(np.argmin(_squared_errors(bins, coarse, num_levels)))
    fine = np.linspace(coarse[max(best - 1, 0)], coarse[min(best + 1, _NUM_COARSE - 1)], _NUM_FINE)
    return _valid(float(fine[np.argmin(_squared_errors(bins, fine, num_levels))]))


def entropy_threshold(histogram: AbsHistogram, num_levels: int) -> float:
    """The T at which the quantised distribution is closest to the real one, by Kullback-Leibler divergence.

    Source: S. Migacz, "8-bit Inference with TensorRT", GTC 2017, with its 2048 bins and num_levels + 1 groups of them.
    What the talk leaves open is decided thus:
    - Zeros are left out of both distributions: quantisation keeps them, and in a ReLU's output they would
      outweigh everything else in the first bin.
    - What is clipped is added to the last bin of the reference distribution only; the quantised one is made of what
      lies below the threshold. So clipping costs.
    - A group's count is spread evenly over those of its bins that the reference has values in. If the last group holds
      nothing but what was clipped, its bin gets a ten-thousandth of a count: the divergence is large, but finite.
    - Of equal divergences the one that clips least counts. (If all values were 1 or 2, clipping at 1 would leave only
      ones and no divergence: it compares with the clipped reference, not with the real one.)

    Raises:
        ValueError: ``num_levels`` is below 1, or the histogram is empty.
    """
    _require_levels(num_levels)
    _require_values(histogram)
    if _holds_only_zeros(histogram):
        return _valid(histogram.largest)
    counts, width = histogram.uniform_bins(_NUM_ENTROPY_BINS)
    num_used = int(histogram.largest / width) + 1
    num_kept = np.arange(min(num_levels + 1, num_used), num_used + 1)
    divergences = _divergences(counts, num_kept, num_levels + 1)
    best = num_kept[divergences <= divergences.min() + _ROUNDING][-1]
    return _valid(min(float(best * width), histogram.largest))


def _squared_errors(bins: Bins, thresholds: NDArray[np.float64], num_levels: int) -> NDArray[np.float64]:
    """(thresholds,): the sum of squared errors of all values, those of a bin taken as uniformly distributed over it.

    A bin's integral is the difference of the antiderivative at its edges, so it is exact for bins wider than a step and
    for narrower ones. The sum over bins is rearranged to one over edges, as neighbours share one. Zeros have no error.
    """
    density = bins.counts / (bins.upper - bins.lower)
    edges, positions = np.unique(np.concatenate([bins.lower, bins.upper]), return_inverse=True)
    weights = np.bincount(positions, weights=np.concatenate([-density, density]))
    steps = thresholds / num_levels
    return np.array([(_integral(edges / step, num_levels) @ weights) * step**3 for step in steps])


def _integral(x: NDArray[np.float64], num_levels: int) -> NDArray[np.float64]:
    """Integral from 0 to x of the squared error (t - min(round(t), num_levels))**2 dt; x in steps.

    Each whole cell around a level adds 1/12, and the distance f to the last level adds f**3 / 3.
    """
    level = np.minimum(np.rint(x), num_levels)
    distance = x - level
    integral: NDArray[np.float64] = level / 12 + distance * distance * distance / 3
    return integral


def _divergences(counts: NDArray[np.float64], num_kept: NDArray[np.int64], num_groups: int) -> NDArray[np.float64]:
    """(candidates,): divergence of the quantised from the reference distribution, each keeping the first num_kept bins.

    With c the counts of the reference, N their sum, S a group's count, Z its number of bins that are not empty and M
    the count of what is kept, it is sum c/N log((c/N) / (S/Z/M)). Running sums give it without a loop over bins. It is
    infinite where nothing is kept.
    """
    total = counts.sum()
    sums, num_filled, entropies = (_running_sum(each) for each in (counts, counts > 0, _x_log_x(counts)))
    kept, last = sums[num_kept], counts[num_kept - 1]
    clipped = total - kept
    group_edges = num_kept[:, None] * np.arange(num_groups + 1) // num_groups  # (candidates, num_groups + 1)
    group_sums = np.diff(sums[group_edges], axis=1)
    group_filled = np.diff(num_filled[group_edges], axis=1)
    group_filled[:, -1] += (last == 0) & (clipped > 0)
    spread = np.maximum(group_sums, _SMOOTHING) / np.maximum(group_filled, 1)  # each filled bin's count, quantised
    reference = entropies[num_kept] - _x_log_x(last) + _x_log_x(last + clipped)
    quantised = (group_sums * np.log(spread)).sum(axis=1) + clipped * np.log(spread[:, -1])
    divergences = (reference - quantised) / total - np.log(total / np.maximum(kept, 1))
    return np.where(kept > 0, divergences, np.inf)


def _running_sum(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """(n + 1,): the sum of the first 0, 1, ... n values."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log_x(x: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = x * np.log(np.maximum(x, 1))  # counts: 0 or at least 1
    return result


def _holds_only_zeros(histogram: AbsHistogram) -> bool:
    """Also if some are too small for the histogram to tell them from zero."""
    return histogram.num_zeros == histogram.count


def _require_values(histogram: AbsHistogram) -> None:
    if histogram.count == 0:
        raise ValueError("an empty histogram has no threshold")


def _require_levels(num_levels: int) -> None:
    if num_levels < 1:
        raise ValueError(f"num_levels must be at least 1, got {num_levels}")


def _valid(value: float) -> float:
    """The threshold, or what stands for it if it is zero or so small that 1 / step would not be a float32."""
    return max(value, SMALLEST_THRESHOLD) if value > 0 else UNIT_THRESHOLD
