import numpy as np
import pytest
from scipy import stats

from carkp.tuning.confirm import mean_difference


def test_interval_is_students() -> None:
    first, second = [0.90, 0.91, 0.93], [0.92, 0.915, 0.96]
    found = mean_difference(first, second)
    expected = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(np.mean(second) - np.mean(first))


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([0.9, 0.9, 0.9], [0.95, 0.951, 0.949], "better"),
        ([0.9, 0.9, 0.9], [0.85, 0.851, 0.849], "worse"),
        ([0.9, 0.9, 0.9], [0.95, 0.85, 0.91], "no difference shown"),
        ([0.9], [0.99], "no difference shown"),
        ([0.9, 0.8], [0.9, 0.8], "no difference shown"),
    ],
)
def test_verdict(first: list[float], second: list[float], verdict: str) -> None:
    found = mean_difference(first, second)
    assert found.verdict == verdict
    assert verdict in str(found)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], [1.0, 2.0])])
def test_pairs_are_required(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="equal numbers"):
        mean_difference(first, second)
