"""Is the best configuration of a study better than the default? Paired trainings with new seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class MeanDifference:
    """Mean of paired differences with its 95 % interval, from ``num_pairs`` pairs.

    The interval covers the variation over seeds on the same cars, not the variation over cars.
    """

    mean: float
    low: float
    high: float
    num_pairs: int

    @property
    def verdict(self) -> str:
        """The result in words."""
        if not (np.isfinite(self.low) and np.isfinite(self.high)) or self.low <= 0 <= self.high:
            return "no difference shown"
        return "better" if self.mean > 0 else "worse"

    def __str__(self) -> str:
        interval = f"95 % interval over seeds {self.low:+.4f} to {self.high:+.4f}, {self.num_pairs} seeds, same cars"
        return f"{self.mean:+.4f} ({interval}): {self.verdict}"


def mean_difference(first: Sequence[float], second: Sequence[float]) -> MeanDifference:
    """Mean of ``second - first`` with Student's interval for paired samples; infinite for a single pair.

    Raises:
        ValueError: there are no pairs, or the lengths differ.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"expected equal numbers of values, at least one each, got {len(first)} and {len(second)}")
    differences = np.subtract(second, first)
    mean = float(differences.mean())
    num = len(differences)
    if num < 2:
        return MeanDifference(mean, -np.inf, np.inf, num)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, num - 1) * differences.std(ddof=1) / np.sqrt(num))
    return MeanDifference(mean, mean - half, mean + half, num)
