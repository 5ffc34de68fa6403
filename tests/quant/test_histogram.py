"""The histogram of |x|: exact counts whatever the order, quantiles within a bin of the sorted values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from carkp.quant import histogram as histogram_module
from carkp.quant.histogram import (
    MAX_UNIFORM_BINS,
    NUM_BINS,
    RESOLUTION,
    SMALLEST_BIN_WIDTH,
    SMALLEST_NONZERO,
    AbsHistogram,
)

FLOAT32_MAX = float(np.finfo(np.float32).max)
DENORMAL = float(np.finfo(np.float32).smallest_subnormal)

# All float32 there are, values around 1 with ties and powers of two (they lie on edges), and runs of zeros.
FLOATS = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(-4, 4, width=32),
    st.integers(-8, 8).map(float),
    st.just(0.0),
)
ARRAYS = hnp.arrays(np.float32, st.integers(1, 60), elements=FLOATS)
BATCHES = st.lists(ARRAYS, min_size=1, max_size=5)


def histogram_of(*batches):
    histogram = AbsHistogram()
    for batch in batches:
        histogram.update(batch)
    return histogram


def state(histogram):
    """Everything a histogram knows; compares exactly."""
    counts = histogram.counts
    filled = np.flatnonzero(counts)
    return (
        dict(zip(filled.tolist(), counts[filled].tolist(), strict=True)),
        histogram.count,
        histogram.num_zeros,
        histogram.largest,
    )


def brute_force_counts(values):
    """By the edges, in float64."""
    magnitudes = np.abs(values.astype(np.float64))
    magnitudes[magnitudes < SMALLEST_NONZERO] = 0
    counts, _ = np.histogram(magnitudes, AbsHistogram.edges())
    return counts


def bin_width_at(magnitude):
    """At least the width of the bin that a magnitude is in."""
    return max(RESOLUTION * magnitude, SMALLEST_NONZERO)


@given(batches=BATCHES)
@settings(deadline=None, max_examples=50)
def test_counts_are_those_between_the_edges(batches):
    values = np.concatenate(batches)
    histogram = histogram_of(*batches)
    np.testing.assert_array_equal(histogram.counts, brute_force_counts(values))
    assert histogram.count == values.size
    assert histogram.num_zeros == np.count_nonzero(np.abs(values.astype(np.float64)) < SMALLEST_NONZERO)
    assert histogram.largest == np.abs(values).max()


@pytest.mark.parametrize("size", [1023, 1024, 1025, 2047, 2048, 2049, 3072 + 15, 3072 + 16, 3072 + 17])
def test_counts_at_the_ends_of_blocks(size):
    values = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    values[::2] = 0
    for largest_at in (0, 15, size - 2, size - 1):
        array = values.copy()
        array[largest_at] = -9
        histogram = histogram_of(array)
        np.testing.assert_array_equal(histogram.counts, brute_force_counts(array))
        assert histogram.largest == 9


def test_edges_are_a_thousandth_apart():
    edges = AbsHistogram.edges()
    widths = np.diff(edges)
    assert len(widths) == NUM_BINS
    assert (edges[0], edges[-1]) == (0, 2.0**128)
    assert widths.min() == widths[0] == SMALLEST_BIN_WIDTH
    is_normal = edges[:-1] >= np.finfo(np.float32).smallest_normal
    relative = widths[is_normal] / edges[:-1][is_normal]
    assert RESOLUTION / 2 < relative.min() < relative.max() == RESOLUTION
    assert edges[8] == SMALLEST_NONZERO


@given(batches=BATCHES)
@settings(deadline=None, max_examples=50)
def test_nonzero_bins_hold_all_but_zeros(batches):
    histogram = histogram_of(*batches)
    counts, lower, upper = histogram.nonzero_bins()
    magnitudes = np.abs(np.concatenate(batches).astype(np.float64))
    inside = (lower <= magnitudes[:, None]) & (magnitudes[:, None] < upper)
    np.testing.assert_array_equal(inside.sum(axis=0), counts)
    assert counts.sum() + histogram.num_zeros == histogram.count
    assert counts.all()
    if counts.size:
        assert upper[-1] <= histogram.largest * (1 + 2.0**-23) or histogram.largest < 2.0**-126


@given(values=ARRAYS, num_bins=st.sampled_from([1, 4, 512, MAX_UNIFORM_BINS]))
@settings(deadline=None, max_examples=50)
def test_uniform_bins_are_exact(values, num_bins):
    histogram = histogram_of(values)
    counts, width = histogram.uniform_bins(num_bins)
    magnitudes = np.abs(values.astype(np.float64))
    nonzero = magnitudes[magnitudes >= SMALLEST_NONZERO]
    np.testing.assert_array_equal(counts, np.bincount((nonzero / width).astype(int), minlength=num_bins))
    assert np.frexp(width)[0] == 0.5  # a power of two: no rounding
    assert histogram.largest < width * num_bins
    assert width == SMALLEST_BIN_WIDTH or width * num_bins <= 2 * (histogram.largest or 0.5)  # or from 0 to 1


@pytest.mark.parametrize("num_bins", [0, 100, -8, 4096])
def test_number_of_uniform_bins_is_checked(num_bins):
    with pytest.raises(ValueError, match=f"num_bins .*{num_bins}"):
        AbsHistogram().uniform_bins(num_bins)


@given(batches=BATCHES, data=st.data())
@settings(deadline=None, max_examples=50)
def test_order_and_batching_do_not_matter(batches, data):
    values = np.concatenate(batches)
    shuffled = np.array(data.draw(st.permutations(values.tolist())), np.float32)
    in_batches = state(histogram_of(*batches))
    assert in_batches == state(histogram_of(values))
    assert in_batches == state(histogram_of(*reversed(batches)))
    assert in_batches == state(histogram_of(*np.array_split(shuffled, 3)))


@given(ours=BATCHES, theirs=st.lists(ARRAYS, max_size=3))
@settings(deadline=None, max_examples=50)
def test_merge_is_the_joint_update(ours, theirs):
    histogram, other = histogram_of(*ours), histogram_of(*theirs)
    before = state(other)
    histogram.merge(other)
    assert state(histogram) == state(histogram_of(*ours, *theirs))
    assert state(other) == before
    other.merge(histogram_of(*ours))
    assert state(other) == state(histogram)


@given(batches=BATCHES, share=st.floats(0, 1, exclude_min=True))
@settings(deadline=None, max_examples=50)
def test_quantile_is_within_a_bin_of_numpy(batches, share):
    # "inverted_cdf" names one sample, the ceil(share n)-th smallest. numpy's default interpolates between two samples
    # that can lie any number of bins apart, so no histogram can follow it; "lower" and "higher" are those two. In
    # float64, or numpy takes share as float32.
    histogram = histogram_of(*batches)
    magnitudes = np.abs(np.concatenate(batches).astype(np.float64))
    quantile = histogram.quantile(share)
    sample, lower, higher = (
        np.quantile(magnitudes, share, method=method) for method in ("inverted_cdf", "lower", "higher")
    )
    assert abs(quantile - sample) <= bin_width_at(sample)
    assert quantile >= lower - bin_width_at(lower)
    assert quantile <= higher + bin_width_at(higher)
    assert quantile <= histogram.largest
    assert histogram.quantile(1) == magnitudes.max()


@given(values=ARRAYS, shares=st.tuples(*[st.floats(0, 1, exclude_min=True)] * 2))
@settings(deadline=None, max_examples=50)
def test_quantile_rises_with_the_share(values, shares):
    histogram = histogram_of(values)
    low, high = sorted(shares)
    assert histogram.quantile(low) <= histogram.quantile(high)


def test_percentiles_of_many_samples_are_numpys_default_ones():
    values = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    histogram = histogram_of(values)
    for percentile in (50, 75, 90, 95):  # where the samples lie closer than bins
        expected = np.percentile(np.abs(values).astype(np.float64), percentile)
        assert abs(histogram.quantile(percentile / 100) - expected) <= RESOLUTION * expected


def test_quantile_interpolates_within_the_bin():
    # the third bin above 1024 is [1026, 1027), and the last one ends at the largest, 2049
    histogram = histogram_of(np.array([1024, 1026, 1026, 1026.5, 1026.75, 2048.5, 2049], np.float32))
    assert histogram.nonzero_bins().counts.tolist() == [1, 4, 2]
    assert histogram.quantile(2 / 7) == pytest.approx(1026.25)
    assert histogram.quantile(5 / 7) == pytest.approx(1027)
    assert histogram.quantile(6 / 7) == pytest.approx(2048.5)
    assert 2048.99 < histogram.quantile(0.9999) <= 2049


def test_nothing_overflows_between_denormals_and_the_float32_maximum():
    histogram = histogram_of(
        np.zeros(3, np.float32), np.array([DENORMAL, -DENORMAL, 1.0, FLOAT32_MAX, -FLOAT32_MAX], np.float32)
    )
    assert (histogram.counts[0], histogram.counts[-1], histogram.count) == (5, 2, 8)
    assert histogram.num_zeros == 5
    assert histogram.largest == FLOAT32_MAX
    assert histogram.quantile(1) == FLOAT32_MAX
    assert histogram.nonzero_bins().upper[-1] == histogram.edges()[-1] == 2.0**128


def test_small_denormals_count_as_zeros():
    below = np.nextafter(np.float32(SMALLEST_NONZERO), np.float32(0))
    histogram = histogram_of(np.full(20, DENORMAL, np.float32), np.full(20, below, np.float32))
    assert (histogram.count, histogram.num_zeros, histogram.largest) == (40, 40, below)
    assert histogram.quantile(0.9) == 0
    assert histogram.quantile(1) == below
    assert histogram.nonzero_bins().counts.size == 0
    histogram.update(np.full(1, SMALLEST_NONZERO, np.float32))
    assert (histogram.num_zeros, histogram.nonzero_bins().counts.tolist()) == (40, [1])


def test_zeros_of_either_sign_are_one():
    histogram = histogram_of(np.zeros(50, np.float32), -np.zeros(20, np.float32))
    assert (histogram.count, histogram.num_zeros, histogram.largest) == (70, 70, 0.0)
    assert histogram.quantile(0.5) == histogram.quantile(1) == 0.0
    histogram.update(np.full(1, 3.0, np.float32))
    assert sorted(state(histogram)[0].values()) == [1, 70]
    assert histogram.counts[0] == 70


@pytest.mark.parametrize(
    ("poison", "num_bad"),
    [([np.nan], 1), ([np.inf, 7.0], 1), ([-np.inf, np.nan, -np.nan], 3), ([np.float32(-np.nan)], 1)],
)
def test_update_refuses_nan_and_inf_and_changes_nothing(poison, num_bad):
    histogram = histogram_of(np.array([1, 2, 0], np.float32))
    before, table = state(histogram), histogram._table.copy()
    values = np.concatenate([np.full(10, 100.0), poison]).astype(np.float32)
    with pytest.raises(ValueError, match=f"^{num_bad} of {values.size} values are NaN or infinite$"):
        histogram.update(values)
    assert state(histogram) == before
    np.testing.assert_array_equal(histogram._table, table)


def test_update_refuses_other_types():
    with pytest.raises(TypeError, match="float64"):
        AbsHistogram().update(np.zeros(3))


def test_refusals_of_the_rest():
    with pytest.raises(ValueError, match="empty"):
        AbsHistogram().quantile(0.5)
    for share in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="share"):
            histogram_of(np.ones(1, np.float32)).quantile(share)


def test_shapes_and_memory_orders():
    values = np.random.default_rng(1).standard_normal((2, 3, 5, 7)).astype(np.float32)
    channels_last = torch.from_numpy(values).to(memory_format=torch.channels_last).numpy()
    read_only = values.copy()
    read_only.setflags(write=False)
    expected = state(histogram_of(values.ravel()))
    for other in (
        values,
        channels_last,
        values.T,
        values[::-1, :, ::-1],
        np.repeat(values, 2, axis=3)[..., ::2],
        read_only,
    ):
        assert state(histogram_of(other)) == expected
    assert state(histogram_of(values[0, 0, 0, 0])) == state(histogram_of(values[:1, 0, 0, 0]))
    assert state(histogram_of(values[:0])) == state(AbsHistogram())


def test_dense_arrays_are_not_copied(monkeypatch):
    channels_last = torch.zeros(2, 3, 5, 7).to(memory_format=torch.channels_last).numpy()
    counted = []
    count = histogram_module._count

    def spy(bits, table, step):
        counted.append(bits)
        return count(bits, table, step)

    monkeypatch.setattr(histogram_module, "_count", spy)
    AbsHistogram().update(channels_last)
    assert sum(bits.size for bits in counted) == channels_last.size
    assert all(np.shares_memory(bits, channels_last) for bits in counted)


def test_a_large_array_is_counted_whole_or_not_at_all():
    values = np.random.default_rng(2).standard_normal(2_500_001).astype(np.float32)
    values[::3] = 0
    counted, other = histogram_of(values), histogram_of(values)
    np.testing.assert_array_equal(counted.counts, brute_force_counts(values))
    values[-1] = np.nan
    with pytest.raises(ValueError, match="1 of 2500001"):
        counted.update(values)
    assert state(counted) == state(other)


def test_memory_is_constant():
    histogram = AbsHistogram()
    table = histogram._table
    assert table.nbytes == 2**21
    rng = np.random.default_rng(3)
    for exponent in range(20):
        histogram.update(np.float32(2**exponent) * rng.standard_normal(10_000, dtype=np.float32))
        assert histogram._table is table
    assert histogram.counts.sum() == histogram.count == 200_000
    assert all(np.ndim(value) == 0 for name, value in vars(histogram).items() if name != "_table")
