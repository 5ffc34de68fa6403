"""The histogram of |x|: exact counts whatever the order, quantiles within a bin of the sorted values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from carkp.quant.histogram import SMALLEST_BIN_WIDTH, AbsHistogram

NUM_BINS = 64
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


def histogram_of(*batches, num_bins=NUM_BINS, num_threads=1):
    histogram = AbsHistogram(num_bins, num_threads)
    for batch in batches:
        histogram.update(batch)
    return histogram


def state(histogram):
    """Everything a histogram knows; compares exactly."""
    return (
        histogram.counts.tolist(),
        histogram.bin_width,
        histogram.count,
        histogram.num_zeros,
        histogram.largest,
    )


def brute_force_counts(values, histogram):
    exact = np.abs(values.astype(np.float64)) / histogram.bin_width  # a power of two: no rounding
    return np.bincount(np.floor(exact).astype(int), minlength=histogram.num_bins)


@given(batches=BATCHES)
@settings(deadline=None, max_examples=50)
def test_counts_are_those_of_the_bin_rule(batches):
    values = np.concatenate(batches)
    histogram = histogram_of(*batches)
    np.testing.assert_array_equal(histogram.counts, brute_force_counts(values, histogram))
    assert histogram.count == values.size
    assert histogram.num_zeros == np.count_nonzero(values == 0)
    assert histogram.largest == np.abs(values).max()


@given(values=ARRAYS)
@settings(deadline=None, max_examples=50)
def test_limit_is_the_smallest_power_of_two_above_the_largest(values):
    histogram = histogram_of(values)
    limit = histogram.bin_width * NUM_BINS
    assert np.frexp(limit)[0] == 0.5
    assert limit > histogram.largest
    assert histogram.bin_width == SMALLEST_BIN_WIDTH or limit / 2 <= histogram.largest
    np.testing.assert_array_equal(histogram.edges(), [i * histogram.bin_width for i in range(NUM_BINS + 1)])


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
    quantile, width = histogram.quantile(share), histogram.bin_width
    assert abs(quantile - np.quantile(magnitudes, share, method="inverted_cdf")) <= width
    assert quantile >= np.quantile(magnitudes, share, method="lower") - width
    assert quantile <= np.quantile(magnitudes, share, method="higher") + width
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
    histogram = histogram_of(values, num_bins=8192)
    for percentile in (50, 75, 90, 95):  # where the samples lie closer than bins
        expected = np.percentile(np.abs(values).astype(np.float64), percentile)
        assert abs(histogram.quantile(percentile / 100) - expected) <= histogram.bin_width


def test_quantile_interpolates_within_the_bin():
    histogram = histogram_of(np.array([1.0, 3.0, 3.0, 3.0, 3.0, 3.9], np.float32), num_bins=4)  # bins of 1
    assert histogram.counts.tolist() == [0, 1, 0, 5]
    assert histogram.quantile(2 / 6) == pytest.approx(3.2)
    assert histogram.quantile(5 / 6) == pytest.approx(3.8)
    assert histogram.quantile(0.9999) == pytest.approx(3.9)  # 3.9999 would be above the largest


def test_bins_are_nested_where_a_value_lies_on_the_limit():
    one, larger = np.ones(1, np.float32), np.full(1, 1.5, np.float32)
    assert state(histogram_of(one, larger)) == state(histogram_of(larger, one))
    assert histogram_of(one, larger, num_bins=4).counts.tolist() == [0, 0, 1, 1]


def test_nothing_overflows_between_denormals_and_the_float32_maximum():
    histogram = histogram_of(
        np.zeros(3, np.float32), np.array([DENORMAL, -DENORMAL, 1.0, FLOAT32_MAX, -FLOAT32_MAX], np.float32)
    )
    assert (histogram.counts[0], histogram.counts[-1], histogram.count) == (6, 2, 8)
    assert histogram.num_zeros == 3
    assert histogram.largest == FLOAT32_MAX
    assert histogram.quantile(1) == FLOAT32_MAX
    assert np.isfinite(histogram.edges()).all()


def test_denormals_alone():
    histogram = histogram_of(np.array([DENORMAL, 0], np.float32))
    assert histogram.largest == DENORMAL
    assert histogram.num_zeros == 1
    assert 0 < histogram.quantile(0.9) <= DENORMAL


def test_zeros_are_counted_before_there_is_a_range():
    histogram = histogram_of(np.zeros(5, np.float32), -np.zeros(2, np.float32))
    assert (histogram.count, histogram.num_zeros, histogram.largest) == (7, 7, 0.0)
    assert histogram.quantile(0.5) == histogram.quantile(1) == 0.0
    histogram.update(np.full(1, 3.0, np.float32))
    assert histogram.counts[[0, NUM_BINS * 3 // 4]].tolist() == [7, 1]


@pytest.mark.parametrize(
    ("poison", "num_bad"),
    [([np.nan], 1), ([np.inf, 7.0], 1), ([-np.inf, np.nan, -np.nan], 3), ([np.float32(-np.nan)], 1)],
)
def test_update_refuses_nan_and_inf_and_changes_nothing(poison, num_bad):
    histogram = histogram_of(np.array([1, 2, 0], np.float32))
    before = state(histogram)
    values = np.concatenate([np.full(10, 100.0), poison]).astype(np.float32)
    with pytest.raises(ValueError, match=f"^{num_bad} of {values.size} values are NaN or infinite$"):
        histogram.update(values)
    assert state(histogram) == before


def test_update_refuses_other_types():
    with pytest.raises(TypeError, match="float64"):
        AbsHistogram().update(np.zeros(3))


@pytest.mark.parametrize("num_bins", [0, 2, 100, -8, 1 << 17])
def test_number_of_bins_is_checked(num_bins):
    with pytest.raises(ValueError, match=f"num_bins .*{num_bins}"):
        AbsHistogram(num_bins)


def test_refusals_of_the_rest():
    with pytest.raises(ValueError, match="num_threads must be at least 1, got 0"):
        AbsHistogram(num_threads=0)
    with pytest.raises(ValueError, match="64 and 128 bins"):
        AbsHistogram(64).merge(AbsHistogram(128))
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
    assert state(histogram_of(values[:0])) == state(AbsHistogram(NUM_BINS))


def test_dense_arrays_are_not_copied(monkeypatch):
    channels_last = torch.zeros(2, 3, 5, 7).to(memory_format=torch.channels_last).numpy()
    seen = []
    monkeypatch.setattr(AbsHistogram, "_map", lambda self, function, chunks: seen.extend(chunks) or [])
    AbsHistogram().update(channels_last)
    assert sum(chunk.size for chunk in seen) >= channels_last.size
    assert all(np.shares_memory(chunk, channels_last) for chunk in seen)


def test_threads_count_the_same():
    values = np.random.default_rng(2).standard_normal(2_500_001).astype(np.float32)
    values[::3] = 0
    single, double = histogram_of(values), histogram_of(values, num_threads=2)
    assert state(single) == state(double)
    np.testing.assert_array_equal(single.counts, brute_force_counts(values, single))
    values[-1] = np.nan
    with pytest.raises(ValueError, match="1 of 2500001"):
        double.update(values)
    assert state(single) == state(double)


def test_memory_is_constant():
    histogram = AbsHistogram(NUM_BINS)
    size = histogram.counts.nbytes
    rng = np.random.default_rng(3)
    for exponent in range(20):
        histogram.update(np.float32(2**exponent) * rng.standard_normal(10_000, dtype=np.float32))
        assert histogram.counts.nbytes == size
    assert histogram.counts.sum() == histogram.count == 200_000
    assert all(np.ndim(value) == 0 for name, value in vars(histogram).items() if name != "counts")
