"""Search for the fewest tensors of 16 bits that bring the loss of calibration below a limit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from carkp.keypoints.paired import Interval

FIRST_STEPS = 4
"""Up to this size, sets grow by one tensor per trial; after that by half their size."""


@dataclass(frozen=True)
class Trial:
    """A calibrated network with some tensors of 16 bits, compared with the float network.

    Attributes:
        wide: names of the tensors of 16 bits; each stands for all tensors that share its scale.
        loss: float PCK minus own PCK, as a share, on validation cars, by
            :func:`carkp.keypoints.displacement.expected_loss`.
        shift_px: mean distance of its labelled keypoints from those of the float network, in input pixels.
        predicted_us: predicted time of an image on the target.
    """

    wide: tuple[str, ...]
    loss: Interval
    shift_px: float
    predicted_us: float


@dataclass(frozen=True)
class Found:
    """All trials by size, and the chosen one; None if even 16 bits everywhere lose too much."""

    trials: Sequence[Trial]
    chosen: Trial | None


def find_fewest(ranked: Sequence[str], max_loss: float, measure: Callable[[tuple[str, ...]], Trial]) -> Found:
    """Find a set of tensors with a loss of at most ``max_loss`` from which no tensor can be removed.

    Tensors are added in the order of ``ranked``, the most sensitive first, until the loss is low enough. Then tensors
    that are not needed are removed again, the least sensitive first.
    """
    trials: dict[tuple[str, ...], Trial] = {}

    def is_enough(wide: tuple[str, ...]) -> bool:
        if wide not in trials:
            trials[wide] = measure(wide)
        return trials[wide].loss.value <= max_loss

    def first(num: int) -> tuple[str, ...]:
        return tuple(ranked[:num])

    def found(chosen: tuple[str, ...] | None) -> Found:
        by_size = sorted(trials.values(), key=lambda trial: len(trial.wide))
        return Found(by_size, None if chosen is None else trials[chosen])

    if is_enough(()):
        return found(())
    if not is_enough(first(len(ranked))):
        return found(None)
    too_few, enough = 0, 1
    while not is_enough(first(enough)):
        too_few, enough = enough, min(len(ranked), max(enough + 1, enough * 3 // 2 if enough >= FIRST_STEPS else 0))
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if is_enough(first(middle)) else (middle, enough)
    chosen = first(enough)
    for name in reversed(chosen):
        fewer = tuple(other for other in chosen if other != name)
        if fewer and is_enough(fewer):
            chosen = fewer
    return found(chosen)
