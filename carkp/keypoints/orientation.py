"""Detection of cars whose keypoints have good positions but wrong names: front and back, or right and left, exchanged.

A prediction is compared with the labels four times: as it is, and with its names exchanged front to back, right to
left, and both. Both are exchanged if the network thinks that the car faces the other way: then front and rear are
exchanged, and also right and left. An exchange of only one of the two gives a mirror image of a car. No car looks like
that, but a network that finds each keypoint independently can predict it.
Legend: N samples (cars), K keypoints, P exchanges. Points are (x, y).
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
"""Cars with fewer labelled keypoints are not judged: a single keypoint with a large error would decide."""

LARGEST_DISTANCE = 0.5
"""Largest distance that counts for a keypoint, as a share of the car's length. Without this limit, a single keypoint
with a large error would decide alone."""

MAX_RATIO = 2 / 3
"""An exchange must reduce the mean distance to this share of the distance as predicted, or less."""

MIN_GAIN = 0.05
"""An exchange must also reduce the mean distance by this share of the car's length: in a side view, right and left lie
close together."""

TIE = 0.02
"""Exchanges fit equally well if their mean distances differ by at most this share of the length. Then the first one in
``EXCHANGES`` counts: a car that is turned round comes before mirror images, which no car looks like."""


class Orientation(StrEnum):
    """The exchange of names that makes a prediction fit its labels clearly better."""

    AS_LABELLED = "as labelled"
    TURNED = "turned round"
    FRONT_BACK = "front and back exchanged"
    MIRRORED = "right and left exchanged"
    UNKNOWN = "too few points"

    @property
    def is_turned(self) -> bool:
        """Whether front and back are exchanged, with or without right and left."""
        return self in (Orientation.TURNED, Orientation.FRONT_BACK)

    @property
    def is_mirrored(self) -> bool:
        """Whether right and left are exchanged, but front and back are correct."""
        return self is Orientation.MIRRORED


_BOTH_ORDER = tuple(FRONT_BACK_ORDER[index] for index in FLIP_ORDER)
EXCHANGES: dict[Orientation, tuple[int, ...]] = {
    Orientation.AS_LABELLED: tuple(range(NUM_KEYPOINTS)),
    Orientation.TURNED: _BOTH_ORDER,
    Orientation.FRONT_BACK: FRONT_BACK_ORDER,
    Orientation.MIRRORED: FLIP_ORDER,
}


def orientations(predictions: Predictions) -> list[Orientation]:
    """Return the orientation of each of the N cars.

    The distances of keypoints are shares of the car's length, at most ``LARGEST_DISTANCE`` each. An exchange counts if
    the mean distance falls to ``MAX_RATIO`` of the distance as predicted or less, and by at least ``MIN_GAIN``. Of
    several exchanges the one with the smallest distance counts, see ``TIE``. Cars with fewer than ``MIN_POINTS``
    labelled keypoints, or without extent, are ``UNKNOWN``.
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
    """Return the mean distance (N, P) of the labelled keypoints under each of ``EXCHANGES``.

    It is a share of the car's length, or in pixels if the car has no length. Each keypoint's distance counts as at most
    ``LARGEST_DISTANCE``.
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
    """Masks (N,) of the cars that are turned, that are mirrored, and that can be judged at all."""

    is_turned: Bools
    is_mirrored: Bools
    is_judged: Bools


@dataclass(frozen=True)
class OrientationShares:
    """Shares of turned and mirrored cars among those that can be judged, with 95 % intervals over clusters of cars."""

    turned: Interval
    mirrored: Interval


def orientation_flags(found: Sequence[Orientation]) -> OrientationFlags:
    """Return the orientations of N cars as masks."""
    return OrientationFlags(
        np.array([item.is_turned for item in found], np.bool_),
        np.array([item.is_mirrored for item in found], np.bool_),
        np.array([item is not Orientation.UNKNOWN for item in found], np.bool_),
    )


def orientation_shares(
    predictions: Predictions, found: Sequence[Orientation], num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> OrientationShares:
    """Return the shares of cars that are turned and that are mirrored.

    The intervals come from a bootstrap over clusters. If no car is wrong, every resample gives 0. Then the upper end is
    the exact binomial one, with one trial per cluster: (1 - high)^U = 2.5 %.
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
    """Return the shares of ``other`` minus those of ``reference``, with paired intervals.

    The two are models on the same cars.
    """
    ours, theirs = orientation_flags(reference), orientation_flags(other)
    columns = [
        theirs.is_turned.astype(np.float64) - ours.is_turned,
        theirs.is_mirrored.astype(np.float64) - ours.is_mirrored,
        ours.is_judged.astype(np.float64),
    ]
    sums = predictions.units.sums(np.stack(columns, axis=1))
    return OrientationShares(*ratio_intervals(sums[:, :2], sums[:, [2, 2]], num_resamples, seed))
