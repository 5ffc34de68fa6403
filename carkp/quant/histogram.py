"""A streaming histogram of |x|: all that calibration needs to know of a tensor, in constant memory."""

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., Any])

SMALLEST_BIN_WIDTH = 2.0**-126
"""Smallest normal float32: its reciprocal is still a float32, and what lies below fits into the first bin."""

_INFINITY_BITS = 0x7F800000
_CHUNK = 1 << 20  # elements: 1 ms of work, and no uint32 counter of a kernel can overflow


class AbsHistogram:
    """Counts of |x| in equal bins over [0, limit); the limit is the smallest power of two above all values seen.

    When a larger value comes the limit doubles and neighbouring bins are added together. A value's bin is
    ``floor(|x| / bin_width)``, exact as the width is a power of two, so a bin of the doubled range is the union of two:
    the counts depend on the values only, not on their order or on how they were cut into batches. (For that the limit
    lies above the largest value, not at it: a 1.0 that was put under a limit of 1 would be one bin off under 2.)

    The resolution is relative to the largest value, between 1 / num_bins and 2 / num_bins of it: behind an outlier
    thousands of times larger than the rest, all the rest is in the first bin.

    Attributes:
        counts: (num_bins,), how many values lie in each bin.
        bin_width: a power of two, at least ``SMALLEST_BIN_WIDTH``.
        count: values seen.
        num_zeros: values that were exactly zero; they are in the first bin too.
        largest: the largest |x| seen, exact; 0 as long as there is none.
    """

    def __init__(self, num_bins: int = 8192, num_threads: int = 1) -> None:
        """An empty histogram; ``num_threads`` share the work on arrays of more than a million elements.

        Raises:
            ValueError: ``num_bins`` is not a power of two from 4 to 65536, or ``num_threads`` is below 1.
        """
        if num_bins.bit_count() != 1 or not 4 <= num_bins <= 65536:
            raise ValueError(f"num_bins must be a power of two from 4 to 65536, got {num_bins}")
        if num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {num_threads}")
        self.num_threads = num_threads
        self.counts: NDArray[np.int64] = np.zeros(num_bins, np.int64)
        self.bin_width = SMALLEST_BIN_WIDTH
        self.count = 0
        self.num_zeros = 0
        self.largest = 0.0

    @property
    def num_bins(self) -> int:
        return len(self.counts)

    def edges(self) -> NDArray[np.float64]:
        """(num_bins + 1,): lower edges of the bins, and the limit."""
        return np.arange(self.num_bins + 1, dtype=np.float64) * self.bin_width

    def update(self, values: NDArray[np.float32]) -> None:
        """Count the values of an array of any shape; an array that is dense in any memory order is not copied.

        Raises:
            TypeError: the values are not float32.
            ValueError: some values are NaN or infinite. The histogram is then as it was.
        """
        if values.dtype != np.float32:
            raise TypeError(f"values must be float32, got {values.dtype}")
        flat = values.ravel(order="K")  # memory order: a view also of a channels_last tensor
        chunks = [flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK)]
        surveys = self._map(_survey, [chunk.view(np.uint32) for chunk in chunks])
        largest_bits = max((bits for bits, _ in surveys), default=0)
        if largest_bits >= _INFINITY_BITS:
            raise ValueError(f"{np.count_nonzero(~np.isfinite(flat))} of {flat.size} values are NaN or infinite")
        self._widen(float(np.uint32(largest_bits).view(np.float32)))
        bin_chunk = functools.partial(_bin, bins_per_unit=np.float32(1 / self.bin_width), num_bins=self.num_bins)
        for counts in self._map(bin_chunk, chunks):
            self.counts += counts
        self.count += flat.size
        self.num_zeros += sum(int(num_zeros) for _, num_zeros in surveys)

    def merge(self, other: "AbsHistogram") -> None:
        """Count what ``other`` has counted too; ``other`` stays as it was.

        Raises:
            ValueError: the histograms differ in their number of bins.
        """
        if other.num_bins != self.num_bins:
            raise ValueError(f"histograms of {self.num_bins} and {other.num_bins} bins cannot be merged")
        self._widen(other.largest)
        self.counts += _fold(other.counts, round(self.bin_width / other.bin_width))
        self.count += other.count
        self.num_zeros += other.num_zeros

    def quantile(self, share: float) -> float:
        """The |x| that a share of all values, zeros included, does not exceed; interpolated linearly within its bin.

        With r = share * count it is less than one bin width from the ceil(r)-th smallest |x| (numpy's method
        "inverted_cdf"): both are in the first bin at whose end at least r values have been counted. 0 if r values are
        exactly zero, ``largest`` for a share of 1.

        Raises:
            ValueError: the share is not in (0, 1], or the histogram is empty.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], got {share}")
        if self.count == 0:
            raise ValueError("an empty histogram has no quantiles")
        rank = share * self.count
        if rank <= self.num_zeros:
            return 0.0
        if share == 1:
            return self.largest
        cumulative = np.cumsum(self.counts)
        index = int(np.searchsorted(cumulative, rank))
        below = int(cumulative[index - 1]) if index else self.num_zeros
        within = (rank - below) / (int(cumulative[index]) - below)
        return min((index + within) * self.bin_width, self.largest)

    def _widen(self, largest: float) -> None:
        """Move the limit above ``largest``."""
        if largest <= self.largest:
            return
        _, exponent = math.frexp(largest)  # 2**exponent is the smallest power of two above it
        bin_width = max(2.0**exponent / self.num_bins, SMALLEST_BIN_WIDTH)
        self.counts = _fold(self.counts, round(bin_width / self.bin_width))
        self.bin_width, self.largest = bin_width, largest

    def _map(self, function: Callable[..., Any], chunks: list[NDArray[Any]]) -> list[Any]:
        if self.num_threads == 1 or len(chunks) < 2:
            return [function(chunk) for chunk in chunks]
        return list(_pool(self.num_threads).map(function, chunks))


@functools.cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    """One for the process: starting threads takes as long as binning a million values."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix="histogram")


def _fold(counts: NDArray[np.int64], factor: int) -> NDArray[np.int64]:
    """The counts in bins ``factor`` (a power of two) times as wide."""
    folded: NDArray[np.int64] = counts.copy()
    if factor == 1:
        return folded
    num_groups = max(len(counts) // factor, 1)
    folded[:num_groups] = counts.reshape(num_groups, -1).sum(axis=1)
    folded[num_groups:] = 0
    return folded


def _compiled(function: Function) -> Function:
    """Compile ``function`` with numba; the machine code is kept on disk and runs without the interpreter's lock."""
    return cast(Function, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


@_compiled
def _survey(bits: NDArray[np.uint32]) -> tuple[np.uint32, np.uint32]:
    """Bit pattern of the largest |x|, and the number of zeros.

    Without their sign, float32 sort as their bit patterns do, and infinity and NaN come last: one vectorised pass.
    """
    largest, num_zeros = np.uint32(0), np.uint32(0)
    for i in range(bits.shape[0]):
        magnitude = bits[i] & np.uint32(0x7FFFFFFF)
        largest = max(largest, magnitude)
        num_zeros += np.uint32(magnitude == 0)
    return largest, num_zeros


@_compiled
def _bin(values: NDArray[np.float32], bins_per_unit: np.float32, num_bins: int) -> NDArray[np.int64]:
    """(num_bins,) counts of |values|, all of them below the limit; fewer than 2**32 values.

    Four counters a bin, used in turn: an increment has to wait for the one before it if both are of one counter, as
    they often are where half of the values are zero. The mask changes no index; it keeps writes in bounds should
    another thread write to the array.
    """
    counts = np.zeros((4, num_bins), np.uint32)
    first, second, third, fourth = counts[0], counts[1], counts[2], counts[3]
    mask, one = np.uint32(num_bins - 1), np.uint32(1)
    num_whole = values.shape[0] // 4 * 4
    for i in range(0, num_whole, 4):
        first[np.uint32(abs(values[i]) * bins_per_unit) & mask] += one
        second[np.uint32(abs(values[i + 1]) * bins_per_unit) & mask] += one
        third[np.uint32(abs(values[i + 2]) * bins_per_unit) & mask] += one
        fourth[np.uint32(abs(values[i + 3]) * bins_per_unit) & mask] += one
    for i in range(num_whole, values.shape[0]):
        first[np.uint32(abs(values[i]) * bins_per_unit) & mask] += one
    totals: NDArray[np.int64] = counts.astype(np.int64).sum(axis=0)
    return totals
