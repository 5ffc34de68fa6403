"""Error analysis of a model: scores by visibility, car size and truncation, and confusion of left and right.

Legend: N samples (cars), K keypoints. Points are (x, y).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from carkp.keypoints import metrics
from carkp.keypoints.paired import NUM_RESAMPLES, Interval, correct_keypoints, ratio_intervals
from carkp.keypoints.predictions import Predictions
from carkp.keypoints.schema import FLIP_ORDER, FLIP_PAIRS, KEYPOINT_NAMES, OCCLUDED, VISIBLE

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SIZE_EDGES_PX = (96, 192, 384)
"""Bounds of the groups by size: the larger extent of the crop in the frame."""

TRUNCATION = {0: "whole", 1: "cut by the frame", -1: "unknown"}
MIN_PAIRS_TO_MIRROR = 2


@dataclass(frozen=True)
class GroupScore:
    """The scores of a group of keypoints.

    Attributes:
        name: name of the group.
        pck, mean_dist: scores with intervals over clusters of cars; the mean distance is in input pixels. NaN for an
            empty group.
        num_cars: number of cars with at least one keypoint in the group.
        num_points: number of labelled keypoints in the group.
        num_units: number of clusters with at least one keypoint in the group, or of cars if cars are resampled.
    """

    name: str
    pck: Interval
    mean_dist: Interval
    num_cars: int
    num_points: int
    num_units: int


@dataclass(frozen=True)
class SideConfusion:
    """Confusion of the two keypoints of a flip pair, over keypoints whose partner is labelled too.

    Attributes:
        name: name of the pair, without the side.
        own, partner, neither: shares of predictions, which add up to 1; NaN without keypoints. ``partner``: within the
            threshold of the partner's label, and nearer to it than to the own label. ``own``: the other predictions
            within the threshold of their own label. ``neither``: the rest.
        num_points: number of keypoints counted.
    """

    name: str
    own: float
    partner: float
    neither: float
    num_points: int


@dataclass(frozen=True)
class MirroredCars:
    """Number of cars that are predicted mirrored, among the cars with enough labelled pairs to decide."""

    num_mirrored: int
    num_cars: int

    @property
    def share(self) -> float:
        return self.num_mirrored / self.num_cars if self.num_cars else float("nan")


def visibility_masks(predictions: Predictions) -> dict[str, Bools]:
    """Return masks (N, K) of visible and of occluded keypoints."""
    return {"visible": predictions.validity == VISIBLE, "occluded": predictions.validity == OCCLUDED}


def label_masks(predictions: Predictions, labels: Sequence[str]) -> dict[str, Bools]:
    """Return masks (N, K) of labelled keypoints for each label of cars, the most frequent label first.

    ``labels``: one label for each of the N cars.
    """
    found = np.array(labels, dtype=np.str_)
    return {name: _of_cars(predictions, found == name) for name, _ in Counter(labels).most_common()}


def size_masks(predictions: Predictions, edges_px: Sequence[int] = SIZE_EDGES_PX) -> dict[str, Bools]:
    """Return masks (N, K) of labelled keypoints by the larger extent of the crop in frame pixels, smallest first."""
    extent = predictions.crop_size.max(axis=1)
    names = [f"below {edges_px[0]} px"]
    names += [f"{low} to {high - 1} px" for low, high in pairwise(edges_px)]
    names.append(f"{edges_px[-1]} px and more")
    places = np.digitize(extent, edges_px)
    return {name: _of_cars(predictions, places == place) for place, name in enumerate(names)}


def truncation_masks(predictions: Predictions) -> dict[str, Bools]:
    """Return masks (N, K) of labelled keypoints of whole cars, of cars cut by the frame, and of unknown ones."""
    return {name: _of_cars(predictions, predictions.truncated == code) for code, name in TRUNCATION.items()}


def source_masks(predictions: Predictions) -> dict[str, Bools]:
    """Return masks (N, K) of labelled keypoints by the source of the cars; empty if there is only one source."""
    names = [name for name in dict.fromkeys(predictions.sources.tolist()) if name]
    return {name: _of_cars(predictions, predictions.sources == name) for name in names}


def score_groups(
    predictions: Predictions,
    masks: Mapping[str, Bools],
    alpha: float,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[GroupScore]:
    """Return PCK, mean distance and counts of each group of keypoints, in the order of ``masks`` (name -> (N, K))."""
    is_labelled = predictions.validity > 0
    has_length = is_labelled & (predictions.lengths > 0)[:, None]
    is_correct = correct_keypoints(predictions, alpha)
    dist = _distances(predictions, predictions.targets)
    groups = [mask & is_labelled for mask in masks.values()]
    units = predictions.units
    numerators = [is_correct & group for group in groups] + [np.where(group, dist, 0) for group in groups]
    denominators = units.sums(_summed([has_length & group for group in groups] + groups))
    found = ratio_intervals(units.sums(_summed(numerators)), denominators, num_resamples, seed)
    num_units = np.count_nonzero(denominators[:, len(groups) :], axis=0).tolist()
    return [
        GroupScore(name, found[index], found[len(groups) + index], int(group.any(axis=1).sum()), int(group.sum()), num)
        for index, (name, group, num) in enumerate(zip(masks, groups, num_units, strict=True))
    ]


def score_keypoints(
    predictions: Predictions, alpha: float, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> list[GroupScore]:
    """Return the scores of each keypoint, in the order of the schema."""
    masks = {}
    for index, name in enumerate(KEYPOINT_NAMES):
        masks[name] = np.zeros(predictions.validity.shape, dtype=np.bool_)
        masks[name][:, index] = True
    return score_groups(predictions, masks, alpha, num_resamples, seed)


def side_confusion(predictions: Predictions, alpha: float) -> list[SideConfusion]:
    """Return for each flip pair how often the model finds the keypoint on the car's other side instead.

    Only labelled keypoints whose partner is labelled too are counted. If both labels are within alpha times the car's
    length of a prediction, the nearer one counts.
    """
    to_own, to_partner, is_counted, reach = _side_distances(predictions, alpha)
    is_partner = (to_partner < reach) & (to_partner < to_own)
    is_own = (to_own < reach) & ~is_partner
    found = []
    for pair in FLIP_PAIRS:
        columns = list(pair)
        counted = is_counted[:, columns]
        own, partner = (_share(mask[:, columns], counted) for mask in (is_own, is_partner))
        name = KEYPOINT_NAMES[pair[0]].removeprefix("right_")
        found.append(SideConfusion(name, own, partner, 1 - own - partner, int(counted.sum())))
    return found


def mirrored_cars(predictions: Predictions, alpha: float) -> MirroredCars:
    """Count the cars that are predicted mirrored.

    In a mirrored car, the mean distance of the keypoints of labelled pairs to their partners' labels is below alpha
    times the car's length, and their mean distance to their own labels is not. Cars with fewer than two labelled pairs
    are not counted.
    """
    to_own, to_partner, is_counted, reach = _side_distances(predictions, alpha)
    num_points = is_counted.sum(axis=1)
    can_tell = num_points >= 2 * MIN_PAIRS_TO_MIRROR
    own, partner = (
        np.where(is_counted, dist, 0).sum(axis=1) / np.maximum(num_points, 1) for dist in (to_own, to_partner)
    )
    is_mirrored = can_tell & (partner < reach[:, 0]) & (own >= reach[:, 0])
    return MirroredCars(int(is_mirrored.sum()), int(can_tell.sum()))


def _side_distances(predictions: Predictions, alpha: float) -> tuple[Floats, Floats, Bools, Floats]:
    """Return distances to the own and to the partner's label, the mask of keypoints with both, and the threshold.

    The first three are (N, K); the threshold, ``reach``, is (N, 1) in input pixels.
    """
    order = list(FLIP_ORDER)
    is_labelled = predictions.validity > 0
    is_counted = is_labelled & is_labelled[:, order] & (predictions.lengths > 0)[:, None]
    reach = alpha * predictions.lengths.astype(np.float64)[:, None]
    targets = predictions.targets
    return _distances(predictions, targets), _distances(predictions, targets[:, order]), is_counted, reach


def _distances(predictions: Predictions, targets: NDArray[np.float32]) -> Floats:
    return metrics.distances(predictions.points.astype(np.float64), targets.astype(np.float64))


def _of_cars(predictions: Predictions, is_chosen: Bools) -> Bools:
    return (predictions.validity > 0) & is_chosen[:, None]


def _summed(arrays: Sequence[NDArray[np.generic]]) -> Floats:
    """Return the sum of each (N, K) array over its keypoints, as columns of (N, C)."""
    return np.stack([np.asarray(array, dtype=np.float64).sum(axis=1) for array in arrays], axis=1)


def _share(mask: Bools, counted: Bools) -> float:
    return float(mask[counted].mean()) if counted.any() else float("nan")
