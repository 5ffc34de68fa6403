"""Cars whose keypoints lie well but go by wrong names: the front is taken for the back, or the right for the left.

A prediction is held against the labels four times: as it is, and with its names exchanged front to back, right to left,
and both. Both is what a car that is taken for one that drives the other way gets: who takes the front for the rear also
takes the right for the left. The exchange of one alone makes a mirror image of a car, which none is; a network that
finds each keypoint by itself can still give it.
Legend: N samples (cars), K keypoints, P pairs of exchanges. Points are (x, y).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from carkp.keypoints import metrics
from carkp.keypoints.paired import CONFIDENCE, NUM_RESAMPLES, Interval, ratio_intervals
from carkp.keypoints.predictions import Predictions
from carkp.keypoints.schema import FLIP_ORDER, FRONT_BACK_ORDER, NUM_KEYPOINTS

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MIN_POINTS = 4
"""Cars with fewer labelled keypoints cannot be judged: a single lost one would decide."""

LARGEST_DISTANCE = 0.5
"""Of a keypoint, as a share of the car's length: a lost one counts no more than this, or it would decide alone."""

MAX_RATIO = 2 / 3
"""Exchanged names must bring the mean distance to this share of what it is as predicted, or less."""

MIN_GAIN = 0.05
"""And make it smaller by this share of the car's length: seen from the side, right and left lie close together."""

TIE = 0.02
"""Exchanges whose mean distances differ by less than this share of the length fit equally well: the first one of
``EXCHANGES`` counts, a car that is turned round before mirror images, which no car is."""


class Orientation(StrEnum):
    """Which exchange of names makes a prediction fit its labels clearly better."""

    AS_LABELLED = "as labelled"
    TURNED = "turned round"
    FRONT_BACK = "front and back exchanged"
    MIRRORED = "right and left exchanged"
    UNKNOWN = "too few points"

    @property
    def is_turned(self) -> bool:
        """Front taken for back, whatever became of right and left."""
        return self in (Orientation.TURNED, Orientation.FRONT_BACK)

    @property
    def is_mirrored(self) -> bool:
        """Right taken for left, with front and back right."""
        return self is Orientation.MIRRORED


_BOTH_ORDER = tuple(FRONT_BACK_ORDER[index] for index in FLIP_ORDER)
EXCHANGES: dict[Orientation, tuple[int, ...]] = {
    Orientation.AS_LABELLED: tuple(range(NUM_KEYPOINTS)),
    Orientation.TURNED: _BOTH_ORDER,
    Orientation.FRONT_BACK: FRONT_BACK_ORDER,
    Orientation.MIRRORED: FLIP_ORDER,
}


def orientations(predictions: Predictions) -> list[Orientation]:
    """What became of each of the N cars.

    A car counts as exchanged where its mean distance, in shares of its length and each keypoint's at most
    ``LARGEST_DISTANCE``, falls to ``MAX_RATIO`` of what it is as predicted, and by ``MIN_GAIN`` at least; of several
    exchanges the one with the smallest distance counts, see ``TIE``. Cars with fewer than ``MIN_POINTS`` labelled
    keypoints, or without extent, are ``UNKNOWN``.
    """
    names = list(EXCHANGES)
    errors = exchanged_distances(predictions)
    best = (errors[:, 1:] <= errors[:, 1:].min(axis=1, keepdims=True) + TIE).argmax(axis=1) + 1
    own, found = errors[:, 0], errors[np.arange(len(errors)), best]
    is_clear = (found <= MAX_RATIO * own) & (own - found >= MIN_GAIN)
    can_tell = ((predictions.validity > 0).sum(axis=1) >= MIN_POINTS) & (predictions.lengths > 0)
    chosen = np.where(is_clear, best, 0).tolist()
    return [
        names[place] if judged else Orientation.UNKNOWN for place, judged in zip(chosen, can_tell.tolist(), strict=True)
    ]


def exchanged_distances(predictions: Predictions) -> Floats:
    """(N, P): mean distance of the labelled keypoints under each of ``EXCHANGES``, in shares of the car's length.

    Where a car has none, in pixels.
    """
    is_labelled = predictions.validity > 0
    lengths = np.where(predictions.lengths > 0, predictions.lengths, 1).astype(np.float64)[:, None]
    targets = predictions.targets.astype(np.float64)
    num_points = np.maximum(is_labelled.sum(axis=1), 1)
    columns = []
    for order in EXCHANGES.values():
        dist = metrics.distances(predictions.points[:, list(order)].astype(np.float64), targets)
        shares = np.minimum(dist / lengths, LARGEST_DISTANCE)
        columns.append(np.where(is_labelled, shares, 0).sum(axis=1) / num_points)
    return np.stack(columns, axis=1)


@dataclass(frozen=True, eq=False)
class OrientationFlags:
    """(N,) each: which cars are turned or mirrored, and which can be judged at all."""

    is_turned: Bools
    is_mirrored: Bools
    is_judged: Bools


@dataclass(frozen=True)
class OrientationShares:
    """Shares of the cars that can be judged, with their 95 % intervals over clusters of cars."""

    turned: Interval
    mirrored: Interval


def orientation_flags(found: Sequence[Orientation]) -> OrientationFlags:
    """The orientations of N cars as masks."""
    return OrientationFlags(
        np.array([item.is_turned for item in found], np.bool_),
        np.array([item.is_mirrored for item in found], np.bool_),
        np.array([item is not Orientation.UNKNOWN for item in found], np.bool_),
    )


def orientation_shares(
    predictions: Predictions, found: Sequence[Orientation], num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> OrientationShares:
    """How many of the cars are turned, and mirrored.

    The intervals are of a bootstrap over clusters. It knows no other share than 0 where no car is wrong: there the
    upper end is the exact binomial one of as many trials as there are clusters, (1 - high)^U = 2.5 %.
    """
    flags = orientation_flags(found)
    columns = np.stack([flags.is_turned, flags.is_mirrored, flags.is_judged], axis=1).astype(np.float64)
    sums = predictions.units.sums(columns)
    num_units = int(np.count_nonzero(sums[:, 2]))
    intervals = ratio_intervals(sums[:, :2], sums[:, [2, 2]], num_resamples, seed)
    return OrientationShares(*(_with_end(interval, num_units) for interval in intervals))


def _with_end(found: Interval, num_units: int) -> Interval:
    if found.value != 0:
        return found
    tail = (1 - CONFIDENCE) / 2
    return Interval(0.0, 0.0, 1 - tail ** (1 / num_units))


def orientation_differences(
    predictions: Predictions,
    reference: Sequence[Orientation],
    other: Sequence[Orientation],
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> OrientationShares:
    """Shares of ``other`` less those of ``reference``, two models on the same cars, with paired intervals."""
    ours, theirs = orientation_flags(reference), orientation_flags(other)
    columns = [
        theirs.is_turned.astype(np.float64) - ours.is_turned,
        theirs.is_mirrored.astype(np.float64) - ours.is_mirrored,
        ours.is_judged.astype(np.float64),
    ]
    sums = predictions.units.sums(np.stack(columns, axis=1))
    return OrientationShares(*ratio_intervals(sums[:, :2], sums[:, [2, 2]], num_resamples, seed))
