"""A streaming histogram of |x|: all that calibration needs to know about a tensor, in constant memory."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., Any])

_SHIFT = 13  # low bits of the 23-bit float32 mantissa that the bin index leaves out
_NUM_LANES = 8  # a power of two: zeros are spread over the first bins, and these bins count as zero
_NUM_ENTRIES = 1 << (31 - _SHIFT)  # entries of a table: all bit patterns, including infinity and NaN
_INFINITY_BITS = 0x7F800000
_BLOCK = 1024  # elements: their bins stay in the first-level cache
_LINE = 16  # elements: a cache line

NUM_BINS = _INFINITY_BITS >> _SHIFT
"""Number of bins of a histogram: 1024 between each power of two and the next one, over the float32 range."""

RESOLUTION = 2.0 ** (_SHIFT - 23)
"""Largest width of a bin relative to its values, for normal float32; the smallest relative width is half of it."""

SMALLEST_BIN_WIDTH = 2.0 ** (_SHIFT - 149)
"""Width of the bins of denormal float32 values and of the first power of two above them."""

SMALLEST_NONZERO = _NUM_LANES * SMALLEST_BIN_WIDTH
"""Smaller |x| count as zero: 2**-133, about 9e-41."""

MAX_UNIFORM_BINS = 2048
"""Twice the number of bins of a power of two. Up to this number, each equal bin is a union of the histogram's bins."""


class Bins(NamedTuple):
    """Bins in ascending order: counts[i] values are at least lower[i] and less than upper[i]; all (bins,)."""

    counts: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


class UniformBins(NamedTuple):
    """Counts (bins,) of |x| in equal bins from 0."""

    counts: NDArray[np.float64]
    width: float


class AbsHistogram:
    """Counts of |x|. A bin holds all float32 values with the same exponent and the same first 10 mantissa bits.

    A bin's index is the bit pattern without the sign, shifted right. So the bins cover all finite float32: each power
    of two is cut into equal bins. No range must be chosen, and the counts depend on the values only, not on their order
    or their batches. The resolution is relative to the value: outliers do not make the other bins coarser.

    Values below ``SMALLEST_NONZERO``, deep within the denormal float32 range, count as zeros.

    The table has 2 MiB. But the system provides memory by the page, and only for pages with counts. That is about
    100 KiB for an activation, because most of its values lie within 12 powers of two.

    Attributes:
        count: number of values seen.
        largest: the largest |x| seen, exact; 0 if there is none yet.
    """

    def __init__(self) -> None:
        # Each histogram has its own array: for 4 MiB and more numpy asks for huge pages, which are provided whole.
        self._table: NDArray[np.int64] = np.zeros(_NUM_ENTRIES, np.int64)
        self.count = 0
        self.largest = 0.0

    @property
    def num_zeros(self) -> int:
        """Number of values seen that were zero, or below ``SMALLEST_NONZERO``."""
        return int(self._table[:_NUM_LANES].sum())

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of values in each bin (NUM_BINS,); zeros are in the first bin, and the next seven are empty."""
        counts = self._table[:NUM_BINS].copy()
        counts[0] = counts[:_NUM_LANES].sum()
        counts[1:_NUM_LANES] = 0
        return counts

    @staticmethod
    def edges() -> NDArray[np.float64]:
        """Return the lower edges of the bins, then 2**128, the first number too large for float32: (NUM_BINS + 1,)."""
        return _from_bits(np.arange(NUM_BINS + 1, dtype=np.uint32) << np.uint32(_SHIFT))

    def nonzero_bins(self) -> Bins:
        """Return the bins that are not empty, without zeros; the last one ends right above ``largest``."""
        counts = self.counts
        counts[0] = 0
        filled = np.flatnonzero(counts).astype(np.uint32)
        upper = _from_bits((filled + np.uint32(1)) << np.uint32(_SHIFT))
        above_largest = _from_bits(np.array([self.largest], np.float32).view(np.uint32) + np.uint32(1))
        lower = _from_bits(filled << np.uint32(_SHIFT))
        return Bins(counts[filled].astype(np.float64), lower, np.minimum(upper, above_largest))

    def uniform_bins(self, num_bins: int) -> UniformBins:
        """Return exact counts, without zeros, in equal bins from 0 to the smallest power of two above ``largest``.

        Raises:
            ValueError: ``num_bins`` is not a power of two up to ``MAX_UNIFORM_BINS``.
        """
        if num_bins.bit_count() != 1 or not 1 <= num_bins <= MAX_UNIFORM_BINS:
            raise ValueError(f"num_bins must be a power of two from 1 to {MAX_UNIFORM_BINS}, got {num_bins}")
        _, exponent = math.frexp(self.largest)  # 2**exponent is the smallest power of two above it
        width = max(2.0**exponent / num_bins, SMALLEST_BIN_WIDTH)
        bins = self.nonzero_bins()
        indices = (bins.lower / width).astype(np.int64)
        counts = np.bincount(indices, weights=bins.counts, minlength=num_bins)
        return UniformBins(counts.astype(np.float64), width)

    def update(self, values: NDArray[np.float32]) -> None:
        """Count the values of an array of any shape; a dense array of any memory order is not copied.

        Raises:
            TypeError: the values are not float32.
            ValueError: some values are NaN or infinite. The histogram is then unchanged.
        """
        if values.dtype != np.float32:
            raise TypeError(f"values must be float32, got {values.dtype}")
        bits = values.ravel(order="K").view(np.uint32)  # memory order: a view also of a channels_last tensor
        largest_bits = int(_count(bits, self._table, 1))
        if largest_bits >= _INFINITY_BITS:
            num_bad = int(self._table[NUM_BINS:].sum())
            _count(bits, self._table, -1)
            raise ValueError(f"{num_bad} of {bits.size} values are NaN or infinite")
        self.count += bits.size
        self.largest = max(self.largest, float(np.uint32(largest_bits).view(np.float32)))

    def merge(self, other: "AbsHistogram") -> None:
        """Add the counts of ``other``, which stays unchanged."""
        counts = other.counts
        filled = np.flatnonzero(counts)  # writing to all bins would take memory for all of them
        self._table[filled] += counts[filled]
        self.count += other.count
        self.largest = max(self.largest, other.largest)

    def quantile(self, share: float) -> float:
        """Return the |x| that a share of all values, including zeros, does not exceed.

        It is interpolated linearly within its bin. Let r = share * count. The result is less than one bin width away
        from the ceil(r)-th smallest |x| (numpy's method "inverted_cdf"), because both lie in the first bin that brings
        the running count to at least r. It is 0 if r values count as zero, and ``largest`` for a share of 1.

        Raises:
            ValueError: the share is not in (0, 1], or the histogram is empty.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], got {share}")
        if self.count == 0:
            raise ValueError("an empty histogram has no quantiles")
        rank = share * self.count
        if share == 1:
            return self.largest
        if rank <= self.num_zeros:
            return 0.0
        bins = self.nonzero_bins()
        cumulative = self.num_zeros + np.cumsum(bins.counts)
        index = int(np.searchsorted(cumulative, rank))
        beyond = (cumulative[index] - rank) / bins.counts[index]
        value = bins.upper[index] - beyond * (bins.upper[index] - bins.lower[index])
        return min(float(value), self.largest)


def _from_bits(bits: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Return the float32 values of these bit patterns; infinity becomes the next number after the largest, 2**128."""
    return np.where(bits == _INFINITY_BITS, 2.0**128, bits.view(np.float32).astype(np.float64))


def _compiled(function: Function) -> Function:
    """Compile ``function`` with numba; the machine code is cached on disk and runs without the GIL."""
    return cast(Function, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


@_compiled
def _count(bits: NDArray[np.uint32], table: NDArray[np.int64], step: int) -> np.uint32:
    """Add ``step`` to each value's entry of the table, and return the bit pattern of the largest |x|.

    Without their sign, float32 values sort like their bit patterns; infinity and NaN come last.

    There are two loops over a block. The first is vectorised if nothing in it is wider than 32 bits (numba would widen
    any result). The second writes as fast as the processor can: one entry per cycle. But an increment must wait for
    the one before it if both change the same entry. That happens often where half of the values are zero, so the entry
    of value i is at least i % 8. The second loop also reads from each cache line of the next block, which brings it
    into the cache. This is a fifth faster on arrays larger than the cache.
    """
    largest = np.uint32(0)
    entries = np.empty(_BLOCK, np.uint32)
    for start in range(0, bits.shape[0], _BLOCK):
        block = bits[start : start + _BLOCK]
        for i in range(block.shape[0]):
            magnitude = np.uint32(block[i] & np.uint32(0x7FFFFFFF))
            largest = np.uint32(max(largest, magnitude))
            lane = np.uint32(np.uint32(i) & np.uint32(_NUM_LANES - 1))
            entries[i] = max(np.uint32(magnitude >> np.uint32(_SHIFT)), lane)
        ahead = bits[start + _BLOCK : start + 2 * _BLOCK]
        num_ahead = ahead.shape[0] // _LINE * _LINE
        for line in range(0, num_ahead, _LINE):
            largest = np.uint32(max(largest, np.uint32(ahead[line] & np.uint32(0x7FFFFFFF))))
            for i in range(_LINE):
                table[entries[line + i]] += step
        for i in range(num_ahead, block.shape[0]):
            table[entries[i]] += step
    return largest
