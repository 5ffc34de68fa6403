"""Observers: they choose the threshold at which quantisation clips a tensor, from the histogram of its |x|.

Legend: an observer chooses the threshold T > 0, in the tensor's own units. Values above T are clipped to T. Values
below T are rounded to a multiple of the step T / num_levels. num_levels is the number of positive levels: 127 for a
signed symmetric tensor, 255 for an unsigned one. Zero is always exact.

Every threshold is finite and at least ``SMALLEST_THRESHOLD``, so that the step and its reciprocal are normal float32
values. A tensor of zeros only gets ``UNIT_THRESHOLD``. An empty histogram has no threshold.
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
_NUM_ENTROPY_BINS = 2048  # as in the talk; the end of each bin is a candidate threshold
_SMOOTHING = 1e-4  # counts
_ROUNDING = 1e-9  # divergences closer than this are equal


def threshold(histogram: AbsHistogram, kind: ObserverKind, percentile: float, num_levels: int) -> float:
    """Return the threshold that the observer ``kind`` chooses; only the percentile observer uses ``percentile``.

    Raises:
        ValueError: the kind is unknown, or the observer raises it.
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
    """Return the percentile of |x| over all values, including zeros.

    If the percentile is zero, the threshold is the largest |x|: a zero percentile says nothing about the few values
    that are not zero.

    Raises:
        ValueError: the percentile is not in (50, 100], or the histogram is empty.
    """
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile must be in (50, 100], got {percentile}")
    return _valid(histogram.quantile(percentile / 100) or histogram.largest)


def minmax_threshold(histogram: AbsHistogram) -> float:
    """Return the largest |x|.

    Raises:
        ValueError: the histogram is empty.
    """
    _require_values(histogram)
    return _valid(histogram.largest)


def mse_threshold(histogram: AbsHistogram, num_levels: int) -> float:
    """Return the T with the least expected squared error from clipping and rounding.

    The search uses a geometric grid from a hundredth of the largest |x| to the largest |x|, then a finer grid around
    the best point.

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
    """Return the T with the smallest Kullback-Leibler divergence of the quantised from the real distribution.

    Source: S. Migacz, "8-bit Inference with TensorRT", GTC 2017, with its 2048 bins and num_levels + 1 groups of bins.
    The talk leaves some choices open. They are made as follows:
    - Zeros are left out of both distributions. Quantisation keeps them exact, and in the output of a ReLU the first
      bin would otherwise outweigh all others.
    - The count of clipped values is added to the last bin of the reference distribution only. The quantised
      distribution is made from the values below the threshold. So clipping has a cost.
    - The count of a group is spread evenly over those of its bins that are not empty in the reference. If the last
      group holds clipped values only, its bin gets a ten-thousandth of a count: the divergence is large, but finite.
    - Of equal divergences, the largest T wins, which clips least. (Suppose that all values are 1 or 2. Clipping at 1
      leaves only ones and no divergence, because the comparison is with the clipped reference, not the real one.)

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
    """Return the sum of squared errors of all values (thresholds,); values of a bin count as uniform over the bin.

    The integral over a bin is the difference of the antiderivative at its edges. So it is exact for bins that are wider
    than a step and for narrower ones. Neighbours share an edge, so the sum over bins is rearranged to a sum over edges.
    Zeros have no error.
    """
    density = bins.counts / (bins.upper - bins.lower)
    edges, positions = np.unique(np.concatenate([bins.lower, bins.upper]), return_inverse=True)
    weights = np.bincount(positions, weights=np.concatenate([-density, density]))
    steps = thresholds / num_levels
    return np.array([(_integral(edges / step, num_levels) @ weights) * step**3 for step in steps])


def _integral(x: NDArray[np.float64], num_levels: int) -> NDArray[np.float64]:
    """Return the integral from 0 to x of the squared error (t - min(round(t), num_levels))**2 dt; x is in steps.

    Each whole cell around a level adds 1/12, and the distance f to the last level adds f**3 / 3.
    """
    level = np.minimum(np.rint(x), num_levels)
    distance = x - level
    integral: NDArray[np.float64] = level / 12 + distance * distance * distance / 3
    return integral


def _divergences(counts: NDArray[np.float64], num_kept: NDArray[np.int64], num_groups: int) -> NDArray[np.float64]:
    """Return the divergence (candidates,) of the quantised from the reference distribution.

    Each candidate keeps the first num_kept bins. The divergence is sum c/N log((c/N) / (S/Z/M)). Here c are the counts
    of the reference, N is their sum, S a group's count, Z the number of its bins that are not empty, and M the count of
    all kept values. Running sums replace a loop over bins. The divergence is infinite where nothing is kept.
    """
    total = counts.sum()
    sums, num_filled, entropies = (_running_sum(each) for each in (counts, counts > 0, _x_log_x(counts)))
    kept, last = sums[num_kept], counts[num_kept - 1]
    clipped = total - kept
    group_edges = num_kept[:, None] * np.arange(num_groups + 1) // num_groups  # (candidates, num_groups + 1)
    group_sums = np.diff(sums[group_edges], axis=1)
    group_filled = np.diff(num_filled[group_edges], axis=1)
    group_filled[:, -1] += (last == 0) & (clipped > 0)
    spread = np.maximum(group_sums, _SMOOTHING) / np.maximum(group_filled, 1)  # quantised count of each filled bin
    reference = entropies[num_kept] - _x_log_x(last) + _x_log_x(last + clipped)
    quantised = (group_sums * np.log(spread)).sum(axis=1) + clipped * np.log(spread[:, -1])
    divergences = (reference - quantised) / total - np.log(total / np.maximum(kept, 1))
    return np.where(kept > 0, divergences, np.inf)


def _running_sum(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the sums (n + 1,) of the first 0, 1, ... n values."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log_x(x: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = x * np.log(np.maximum(x, 1))  # counts: 0 or at least 1
    return result


def _holds_only_zeros(histogram: AbsHistogram) -> bool:
    """Return whether all values are zero, or so small that the histogram counts them as zero."""
    return histogram.num_zeros == histogram.count


def _require_values(histogram: AbsHistogram) -> None:
    if histogram.count == 0:
        raise ValueError("an empty histogram has no threshold")


def _require_levels(num_levels: int) -> None:
    if num_levels < 1:
        raise ValueError(f"num_levels must be at least 1, got {num_levels}")


def _valid(value: float) -> float:
    """Return the threshold, replaced if it is zero or so small that 1 / step would not be a float32."""
    return max(value, SMALLEST_THRESHOLD) if value > 0 else UNIT_THRESHOLD
