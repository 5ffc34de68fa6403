"""Latency of models on this machine, measured in alternation, so that ratios are reliable on a noisy machine too."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carkp.deploy.runtime import Float32Array

NUM_WARM_UP = 5
NUM_RESAMPLES = 2000
SECONDS_TO_SETTLE = 0.005
"""Waiting time until the threads of the previous session stop spinning."""

Milliseconds = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios and its 95 % interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def interleaved_times(
    runs: Mapping[str, Callable[[Float32Array], object]],
    images: Float32Array,
    num_runs: int,
    rng: np.random.Generator,
    batch: int = 1,
    num_threads: int = 1,
    max_seconds: float = float("inf"),
    on_round: Callable[[], object] = bool,
) -> dict[str, Milliseconds]:
    """Measure every model in rounds; in a round each model runs once on the same images, in random order.

    Args:
        runs: name -> function that takes a batch of images; its model is opened with ``num_threads``.
        images: images (N, 3, H, W), at least ``batch`` of them; batches are used in turn.
        num_runs: number of rounds.
        rng: generator for the order within a round.
        batch: number of images per run.
        num_threads: number of threads of the models; with more than one there is a pause before each run.
        max_seconds: time after which no new round begins; at least 2 rounds are measured.
        on_round: function called after every round.

    Returns:
        For every model the milliseconds of each round, (number of rounds,).

    Raises:
        ValueError: there are fewer images than ``batch``, or less than 2 rounds.
    """
    if len(images) < batch or num_runs < 2:
        raise ValueError(f"expected {batch} images and at least 2 runs, got {len(images)} and {num_runs}")
    batches = [images[start : start + batch] for start in range(0, len(images) - batch + 1, batch)]
    for run in runs.values():
        for _ in range(NUM_WARM_UP):
            run(batches[0])
    times: dict[str, list[float]] = {name: [] for name in runs}
    begin = time.perf_counter()
    for number in range(num_runs):
        if number >= 2 and time.perf_counter() - begin > max_seconds:
            break
        for name in rng.permutation(list(runs)):
            if num_threads > 1:
                time.sleep(SECONDS_TO_SETTLE)
            start = time.perf_counter()
            runs[name](batches[number % len(batches)])
            times[name].append(1000 * (time.perf_counter() - start))
        on_round()
    return {name: np.array(values) for name, values in times.items()}


def paired_ratio(above: Milliseconds, below: Milliseconds, rng: np.random.Generator) -> Ratio:
    """Return the median over rounds of ``above / below``, with the percentile interval of a bootstrap over rounds."""
    ratios = above / below
    chosen = rng.integers(0, len(ratios), (NUM_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[chosen], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))
