"""Observers: valid thresholds for any tensor, and the errors that they promise on raw data."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from carkp.quant import observers
from carkp.quant.histogram import RESOLUTION, AbsHistogram
from carkp.quant.observers import (
    SMALLEST_THRESHOLD,
    UNIT_THRESHOLD,
    _squared_errors,
    entropy_threshold,
    minmax_threshold,
    mse_threshold,
    percentile_threshold,
    threshold,
)

KINDS = ("percentile", "minmax", "mse", "entropy")
RNG = np.random.default_rng(0)
GAUSSIAN = RNG.standard_normal(200_000).astype(np.float32)
RELU6 = np.clip(2 * RNG.standard_normal(200_000), 0, 6).astype(np.float32)
RELU = np.maximum(GAUSSIAN, 0)
HEAVY_TAILED = RNG.standard_t(3, 200_000).astype(np.float32)


def histogram_of(values):
    histogram = AbsHistogram()
    histogram.update(np.asarray(values, np.float32))
    return histogram


def measured_error(values, clip, num_levels):
    """Mean squared error of quantising the raw values."""
    step = clip / num_levels
    quantised = np.clip(np.rint(values.astype(np.float64) / step), -num_levels, num_levels) * step
    return np.mean((quantised - values) ** 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_levels", [1, 7, 127, 255])
@given(
    values=hnp.arrays(
        np.float32,
        st.integers(1, 50),
        elements=st.one_of(st.floats(width=32, allow_nan=False, allow_infinity=False), st.just(0.0), st.just(1.0)),
    ),
)
@settings(deadline=None, max_examples=20)
def test_threshold_is_valid_for_any_tensor(kind, num_levels, values):
    clip = threshold(histogram_of(values), kind, 99.9, num_levels)
    assert type(clip) is float
    if not values.any():
        assert clip == UNIT_THRESHOLD
        return
    assert SMALLEST_THRESHOLD <= clip <= max(np.abs(values).max(), SMALLEST_THRESHOLD)
    step = np.float32(clip / num_levels)
    assert step >= np.finfo(np.float32).tiny
    assert np.isfinite(np.float32(1) / step)


@pytest.mark.parametrize("kind", KINDS)
def test_all_zeros(kind):
    assert threshold(histogram_of(np.zeros(1000)), kind, 99.9, 127) == UNIT_THRESHOLD


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tiny", [1e-45, 9e-41, 1.2e-38])
def test_denormals_and_zeros_get_the_smallest_threshold(kind, tiny):
    assert threshold(histogram_of([0, tiny, -tiny]), kind, 99.9, 127) == SMALLEST_THRESHOLD


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [0.37, -3.0, 1e-30, 1.0, 3e38])
def test_constants_are_not_clipped(kind, constant):
    clip = threshold(histogram_of(np.full(1000, constant)), kind, 99.9, 127)
    assert clip == pytest.approx(max(abs(constant), SMALLEST_THRESHOLD), rel=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_histogram_is_refused(kind):
    with pytest.raises(ValueError, match="empty"):
        threshold(AbsHistogram(), kind, 99.9, 127)


@pytest.mark.parametrize("kind", KINDS)
def test_one_outlier_of_1e30_breaks_nothing(kind):
    clip = threshold(histogram_of(np.append(GAUSSIAN, 1e30)), kind, 99.975, 127)
    assert np.isfinite(clip)
    # only the percentile can tell that it is not the outlier that matters, and is as exact as without it
    if kind == "percentile":
        assert clip == pytest.approx(np.percentile(np.abs(GAUSSIAN), 99.975), rel=0.01)
    else:
        assert clip > 0.98e30


@pytest.mark.parametrize("percentile", [50, 0, -1, 100.1, float("nan")])
def test_percentile_is_checked(percentile):
    with pytest.raises(ValueError, match=rf"^percentile must be in \(50, 100\], got {percentile}$"):
        percentile_threshold(histogram_of(GAUSSIAN), percentile)


@pytest.mark.parametrize("observer", [mse_threshold, entropy_threshold])
def test_number_of_levels_is_checked(observer):
    with pytest.raises(ValueError, match="num_levels must be at least 1, got 0"):
        observer(histogram_of(GAUSSIAN), 0)


def test_threshold_dispatches():
    histogram = histogram_of(GAUSSIAN)
    assert threshold(histogram, "percentile", 99, 127) == percentile_threshold(histogram, 99)
    assert threshold(histogram, "minmax", 99, 127) == minmax_threshold(histogram) == np.abs(GAUSSIAN).max()
    assert threshold(histogram, "mse", 99, 127) == mse_threshold(histogram, 127)
    assert threshold(histogram, "entropy", 99, 127) == entropy_threshold(histogram, 127)
    with pytest.raises(ValueError, match="got 'median'"):
        threshold(histogram, "median", 99, 127)


@pytest.mark.parametrize("values", [GAUSSIAN, RELU, RELU6, HEAVY_TAILED])
@pytest.mark.parametrize("percentile", [90, 99.9, 99.975, 100])
def test_percentile_is_numpys(values, percentile):
    histogram = histogram_of(values)
    expected = np.percentile(np.abs(values).astype(np.float64), percentile, method="inverted_cdf")
    assert percentile_threshold(histogram, percentile) == pytest.approx(expected, rel=RESOLUTION)


def test_percentile_of_a_tensor_with_hardly_a_value_is_the_largest():
    values = np.zeros(100_000)
    values[:3] = 1, 2, 5
    assert percentile_threshold(histogram_of(values), 99.9) == 5


@pytest.mark.parametrize("num_levels", [127, 255])
@pytest.mark.parametrize("values", [GAUSSIAN, RELU, RELU6, HEAVY_TAILED])
def test_mse_threshold_is_the_best_on_the_raw_values(values, num_levels):
    error = measured_error(values, mse_threshold(histogram_of(values), num_levels), num_levels)
    largest = np.abs(values).max()
    best = min(measured_error(values, clip, num_levels) for clip in np.linspace(0.02, 1, 40) * largest)
    assert error <= 1.01 * best


@pytest.mark.parametrize("num_levels", [127, 255])
def test_mse_threshold_beats_the_others_on_heavy_tails(num_levels):
    histogram = histogram_of(HEAVY_TAILED)
    error = measured_error(HEAVY_TAILED, mse_threshold(histogram, num_levels), num_levels)
    for kind in ("minmax", "percentile", "entropy"):
        assert error < 0.95 * measured_error(HEAVY_TAILED, threshold(histogram, kind, 99.975, num_levels), num_levels)


@pytest.mark.parametrize("num_levels", [127, 255, 4000])
@pytest.mark.parametrize("values", [GAUSSIAN, RELU6, HEAVY_TAILED])
def test_squared_errors_are_those_of_the_raw_values(values, num_levels):
    # with 4000 levels a bin is up to four steps wide: its centre would be as good as exact
    largest = float(np.abs(values).max())
    thresholds = np.array([0.01, 0.3, 0.5, 0.9]) * largest
    measured = [measured_error(values, clip, num_levels) for clip in thresholds]
    computed = _squared_errors(histogram_of(values).nonzero_bins(), thresholds, num_levels) / values.size
    np.testing.assert_allclose(computed, measured, rtol=0.02)


@pytest.mark.parametrize("kind", ["mse", "entropy"])
def test_relu6_keeps_its_plateau(kind):
    # a tenth of the positive values is exactly 6
    assert threshold(histogram_of(RELU6), kind, 99.9, 255) == pytest.approx(6, rel=0.01)


@pytest.mark.parametrize("num_levels", [127, 255])
def test_entropy_threshold_of_a_gaussian(num_levels):
    assert 3 < entropy_threshold(histogram_of(GAUSSIAN), num_levels) <= np.abs(GAUSSIAN).max()


def test_entropy_threshold_cuts_off_an_outlier():
    clip = entropy_threshold(histogram_of(np.append(GAUSSIAN, 100)), 127)
    assert 3 < clip < 20
    # nothing but empty bins between it and the rest, so that the last group of most candidates is empty
    clip = entropy_threshold(histogram_of(np.append(GAUSSIAN, 1000)), 127)
    assert 3 < clip < 100


def test_entropy_threshold_of_two_values_is_the_larger():
    # clipping at 1 gives a single spike, "quantised" without divergence; so does not clipping at all
    assert entropy_threshold(histogram_of([1.0, 2.0] * 500), 127) == 2


def test_entropy_threshold_does_not_depend_on_zeros():
    sparse = np.concatenate([HEAVY_TAILED, np.zeros(10 * HEAVY_TAILED.size)])
    assert entropy_threshold(histogram_of(sparse), 127) == entropy_threshold(histogram_of(HEAVY_TAILED), 127)


def naive_divergence(counts, num_kept, num_groups):
    """The algorithm of the talk, bin by bin."""
    reference = counts[:num_kept].copy()
    reference[-1] += counts[num_kept:].sum()
    quantised = np.zeros(num_kept)
    edges = [num_kept * group // num_groups for group in range(num_groups + 1)]
    for start, stop in pairwise(edges):
        filled = reference[start:stop] > 0
        if filled.any():
            quantised[start:stop][filled] = max(counts[start:stop].sum(), 1e-4) / filled.sum()
    p, q = reference / reference.sum(), quantised / counts[:num_kept].sum()
    return np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0]))


@pytest.mark.parametrize("values", [GAUSSIAN[:3000], RELU6, HEAVY_TAILED, np.append(GAUSSIAN, 100)])
def test_entropy_threshold_minimises_the_divergence(values, monkeypatch):
    monkeypatch.setattr(observers, "_NUM_ENTROPY_BINS", 512)
    histogram = histogram_of(values)
    counts, width = histogram.uniform_bins(512)
    largest_bin = int(histogram.largest / width)
    num_kept = range(128, largest_bin + 2)
    divergences = np.array([naive_divergence(counts, kept, 128) for kept in num_kept])
    least = np.flatnonzero(divergences <= divergences.min() + 1e-9)[-1]  # of equal ones the one that clips least
    clip = num_kept[int(least)] * width
    assert entropy_threshold(histogram, 127) == min(clip, histogram.largest)
