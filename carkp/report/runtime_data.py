"""The results of ``benchmark`` for a network in several runtimes: plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from carkp.keypoints.paired import Interval

FASTEST = "batch1_threads1"
"""Name of the setting that the chart shows."""

SETTINGS: Mapping[str, tuple[int, int]] = {
    f"batch{batch}_threads{num_threads}": (batch, num_threads) for batch in (1, 16) for num_threads in (1, 2)
}
"""Name -> images per run, threads."""


def runtime_label(runtime: str, numbers: str, made_by: str) -> str:
    """Return the label of a network in a runtime; ``made_by``: name of the quantiser, "" for float."""
    return f"{runtime} {numbers}{f', {made_by}' if made_by else ''}"


@dataclass(frozen=True)
class RuntimeLatency:
    """Time of a run in milliseconds; ``speedup``: paired ratio of the baseline's time to this one, with interval."""

    median_ms: float
    speedup: Interval


@dataclass(frozen=True)
class RuntimeRow:
    """A network in a runtime.

    Attributes:
        name: unique name.
        runtime, numbers, made_by: name of the runtime, its type of numbers, and name of the quantiser ("" for float).
        size_bytes: size of its files.
        pck: PCK on the scored split.
        difference: its PCK minus that of the baseline on the same cars.
        loss: expected loss relative to the baseline (:func:`carkp.keypoints.displacement.expected_loss`), as a share.
        shift_px: mean distance of its labelled keypoints from those of the baseline, in input pixels.
        latencies: latencies by name of the setting.
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
    """Rows on the test split, the baseline first; ``left_out``: reasons for missing rows; ``machine``: that measured.

    ``alpha`` is the threshold of PCK, ``loss_alpha`` that of the expected loss.
    """

    rows: Sequence[RuntimeRow]
    left_out: Sequence[str]
    machine: str
    alpha: float
    loss_alpha: float
