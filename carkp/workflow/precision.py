"""The fewest tensors of 16 bits that bring what calibration costs under a limit: the search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from carkp.keypoints.paired import Interval

FIRST_STEPS = 4
"""Sets of one tensor more are tried one by one up to this size, then each half as large again."""


@dataclass(frozen=True)
class Trial:
    """A calibrated network with some tensors of 16 bits, against the float one.

    Attributes:
        wide: the tensors that lead their scales.
        loss: float PCK less its own, as a share, on validation cars, by
            :func:`carkp.keypoints.displacement.expected_loss`.
        shift_px: mean distance of its labelled keypoints from those of the float network, in input pixels.
        predicted_us: of an image on the target.
    """

    wide: tuple[str, ...]
    loss: Interval
    shift_px: float
    predicted_us: float


@dataclass(frozen=True)
class Found:
    """Every trial, by size, and the one that was chosen; None where 16 bits everywhere are too few."""

    trials: Sequence[Trial]
    chosen: Trial | None


def find_fewest(ranked: Sequence[str], max_loss: float, measure: Callable[[tuple[str, ...]], Trial]) -> Found:
    """A set of tensors with a loss of at most ``max_loss`` that no tensor can be left out of.

    The tensors come in the order of ``ranked``, the most sensitive first, until the loss is low enough; then those
    are left out again that are not needed, the least sensitive first.
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
