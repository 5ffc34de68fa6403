from dataclasses import replace

import numpy as np
import pytest

from carkp.keypoints.breakdown import (
    label_masks,
    mirrored_cars,
    score_groups,
    score_keypoints,
    side_confusion,
    size_masks,
    source_masks,
    truncation_masks,
    visibility_masks,
)
from carkp.keypoints.sample_ids import id_in
from carkp.keypoints.schema import FLIP_ORDER, KEYPOINT_NAMES
from tests.keypoints.test_paired import exact

ALPHA = 0.1


def spread(num: int = 40):
    """Exact predictions whose labels lie at least 30 px apart."""
    predictions = exact(num)
    grid = np.stack(np.meshgrid(np.arange(4) * 30.0, np.arange(3) * 30.0), axis=-1).reshape(12, 2)
    targets = np.broadcast_to(grid, (num, 12, 2)).astype(np.float32)
    return replace(predictions, targets=targets, points=targets.copy())


def test_labels_of_cars_make_groups_the_largest_first() -> None:
    predictions = spread(5)
    validity = predictions.validity.copy()
    validity[:, 0] = 0
    masks = label_masks(replace(predictions, validity=validity), ["van", "car", "van", "bus", "van"])
    assert list(masks) == ["van", "car", "bus"]
    assert np.stack(list(masks.values())).sum(axis=(1, 2)).tolist() == [33, 11, 11]
    assert masks["bus"][3, 1:].all()


def test_visibility_splits_every_labelled_keypoint() -> None:
    predictions = spread()
    validity = predictions.validity.copy()
    validity[:, :3], validity[:, 3] = 1, 0
    points = predictions.points.copy()
    points[:20, :3, 0] += 50  # half of the occluded ones are wrong
    predictions = replace(predictions, validity=validity, points=points)
    visible, occluded = score_groups(predictions, visibility_masks(predictions), ALPHA)
    assert (visible.name, visible.num_points, visible.pck.value, visible.mean_dist.value) == ("visible", 320, 1, 0)
    assert (occluded.name, occluded.num_points, occluded.num_cars) == ("occluded", 120, 40)
    assert occluded.pck.value == pytest.approx(0.5)
    assert occluded.mean_dist.value == pytest.approx(25)
    assert occluded.pck.low < 0.5 < occluded.pck.high


def test_sizes_go_by_the_larger_side() -> None:
    predictions = spread(4)
    crop_size = np.array([[10, 95], [96, 20], [500, 10], [191, 191]], np.int32)
    masks = size_masks(replace(predictions, crop_size=crop_size))
    assert list(masks) == ["below 96 px", "96 to 191 px", "192 to 383 px", "384 px and more"]
    assert [mask.any(axis=1).tolist() for mask in masks.values()] == [
        [True, False, False, False],
        [False, True, False, True],
        [False] * 4,
        [False, False, True, False],
    ]


def test_truncation_knows_that_it_may_be_unknown_and_empty_groups_have_no_score() -> None:
    predictions = replace(spread(5), truncated=np.array([0, 0, -1, -1, -1], np.int8))
    whole, cut, unknown = score_groups(predictions, truncation_masks(predictions), ALPHA)
    assert (whole.num_cars, cut.num_cars, unknown.num_cars) == (2, 0, 3)
    assert np.isnan(cut.pck.value)
    assert np.isnan(cut.mean_dist.low)


def test_cars_of_several_sources_are_told_apart() -> None:
    predictions = spread(4)
    assert source_masks(predictions) == {}
    names = np.array(["own", "drawn", "own", "own"])
    ids = np.array([id_in(name, sample) for name, sample in zip(names, predictions.sample_ids, strict=True)])
    mixed = replace(predictions, sample_ids=ids)
    assert [(group.name, group.num_cars) for group in score_groups(mixed, source_masks(mixed), ALPHA)] == [
        ("own", 3),
        ("drawn", 1),
    ]
    assert mixed.of_sources(["drawn"]).sample_ids.tolist() == [ids[1]]
    assert len(mixed.of_sources(["drawn", "own"])) == 4


def test_keypoints_score_as_the_metrics_do() -> None:
    predictions = spread()
    points = predictions.points.copy()
    points[:10, 4, 0] += 50
    predictions = replace(predictions, points=points)
    found = score_keypoints(predictions, ALPHA)
    assert [group.name for group in found] == list(KEYPOINT_NAMES)
    assert [group.pck.value for group in found] == pytest.approx(predictions.score(ALPHA).pck_per_keypoint.tolist())


def test_sides_that_are_exchanged_are_found_and_unlabelled_partners_are_not_counted() -> None:
    predictions = spread(10)
    points = predictions.points.copy()
    points[:3, [0, 1]] = points[:3, [1, 0]]  # front wheels of three cars
    points[3, 2, 1] += 15  # between all labels
    validity = predictions.validity.copy()
    validity[:, 5] = 0
    front_wheel, back_wheel, front_light, *_ = side_confusion(
        replace(predictions, points=points, validity=validity), ALPHA
    )
    assert (front_wheel.name, front_wheel.num_points) == ("front_wheel", 20)
    assert (front_wheel.own, front_wheel.partner, front_wheel.neither) == pytest.approx((0.7, 0.3, 0))
    assert (back_wheel.own, back_wheel.partner, back_wheel.neither) == pytest.approx((0.95, 0, 0.05))
    assert front_light.num_points == 0
    assert np.isnan(front_light.own)


def test_mirrored_cars_are_counted_whole() -> None:
    predictions = spread(10)
    points = predictions.points.copy()
    points[:2] = points[:2][:, list(FLIP_ORDER)]
    points[2, [0, 1]] = points[2, [1, 0]]  # one pair alone is no mirrored car
    validity = predictions.validity.copy()
    validity[9, 2:] = 0  # one pair is too little to tell
    found = mirrored_cars(replace(predictions, points=points, validity=validity), ALPHA)
    assert (found.num_mirrored, found.num_cars) == (2, 9)
    assert found.share == pytest.approx(2 / 9)
