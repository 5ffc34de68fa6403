"""What ``benchmark`` found of a network in several runtimes: plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from carkp.keypoints.paired import Interval

FASTEST = "batch1_threads1"
"""The setting that the chart shows."""

SETTINGS: Mapping[str, tuple[int, int]] = {
    f"batch{batch}_threads{num_threads}": (batch, num_threads) for batch in (1, 16) for num_threads in (1, 2)
}
"""Name -> images a run, threads."""


def runtime_label(runtime: str, numbers: str, made_by: str) -> str:
    """What a network in a runtime is called; ``made_by``: what quantised it, "" for float."""
    return f"{runtime} {numbers}{f', {made_by}' if made_by else ''}"


@dataclass(frozen=True)
class RuntimeLatency:
    """Of a run, in milliseconds; ``speedup``: of the baseline's runs over this one's, paired, with its interval."""

    median_ms: float
    speedup: Interval


@dataclass(frozen=True)
class RuntimeRow:
    """A network in a runtime.

    Attributes:
        name: unique.
        runtime, numbers, made_by: which, what it computes in, what quantised it ("" for float).
        size_bytes: of its files.
        pck: on the scored split.
        difference: its pck less that of the baseline on the same cars.
        loss: expected loss against the baseline (:func:`carkp.keypoints.displacement.expected_loss`), as a share.
        shift_px: mean distance of its labelled keypoints from those of the baseline, in input pixels.
        latencies: by name of the setting.
    """

    name: str
    runtime: str
    numbers: str
    made_by: str
    size_bytes: int
    pck: Interval
    difference: Interval
    loss: Interval
    shift_px: float
    latencies: Mapping[str, RuntimeLatency]

    @property
    def label(self) -> str:
        return runtime_label(self.runtime, self.numbers, self.made_by)


@dataclass(frozen=True)
class RuntimeContent:
    """Rows on the test split, the baseline first, what was left out and why, and where it was measured.

    ``alpha`` is the threshold of pck, ``loss_alpha`` that of the expected loss.
    """

    rows: Sequence[RuntimeRow]
    left_out: Sequence[str]
    machine: str
    alpha: float
    loss_alpha: float
