"""Cars seen from all sides, predicted turned and mirrored on purpose."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carkp.keypoints.metrics import labelled_extent
from carkp.keypoints.orientation import (
    EXCHANGES,
    Orientation,
    orientation_differences,
    orientation_shares,
    orientations,
)
from carkp.keypoints.predictions import Predictions
from carkp.keypoints.schema import FLIP_ORDER, FRONT_BACK_ORDER, KEYPOINT_NAMES

FRONT, LEFT_FRONT, LEFT, LEFT_REAR, REAR = 0.0, 45.0, 90.0, 135.0, 180.0
"""Headings in degrees: what turns towards the camera."""

_SIDES = [(1.35, 0.3, 0.8), (-1.35, 0.3, 0.8), (2.1, 0.7, 0.7), (-2.1, 0.8, 0.7), (0.6, 1.4, 0.55), (-1.2, 1.4, 0.55)]
CAR = np.array([(x, side * y, z) for x, z, y in _SIDES for side in (-1, 1)])
"""(12, 3) metres: x forward, y left, z up; wheels, lights and roof, front before back, right before left."""


def project(heading_deg: float) -> np.ndarray:
    """(12, 2) pixels of the car from 8 m away, seen from 1.6 m above the ground."""
    angle = np.deg2rad(-heading_deg)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    turned = CAR @ rotation.T
    depth = 8 - turned[:, 0]
    return 300 * np.stack([turned[:, 1] / depth, (1.6 - turned[:, 2]) / depth], axis=1)


def visible(heading_deg: float) -> np.ndarray:
    """(12,) points of the sides that turn towards the camera."""
    angle = np.deg2rad(-heading_deg)
    front, left = np.cos(angle), -np.sin(angle)
    along = np.array([front if "front" in name else -front for name in KEYPOINT_NAMES])
    across = np.array([-left if name.startswith("right") else left for name in KEYPOINT_NAMES])
    return (along > 0.25) | (across > 0.25)


def predictions_of(targets: np.ndarray, points: np.ndarray, is_labelled: np.ndarray) -> Predictions:
    """Each car in a photograph of its own."""
    num = len(targets)
    validity = np.where(is_labelled, 2, 0).astype(np.uint8)
    lengths = labelled_extent(targets, validity).astype(np.float32)
    return Predictions(
        sample_ids=np.array([f"set/{index}/0" for index in range(num)]),
        points=points.astype(np.float32),
        scores=np.ones((num, 12), np.float32),
        targets=targets.astype(np.float32),
        validity=validity,
        lengths=lengths,
        lengths_hat=lengths,
        crop_size=np.full((num, 2), 100, np.int32),
        truncated=np.zeros(num, np.int8),
    )


def judge(heading_deg: float, exchange: Orientation, noise: float = 0.0, seed: int = 0) -> Orientation:
    """What is said of a car whose visible points are labelled, predicted exchanged, ``noise`` of its length off."""
    targets, is_labelled = project(heading_deg)[None], visible(heading_deg)[None]
    points = targets[:, list(EXCHANGES[exchange])]
    length = np.ptp(targets[is_labelled], axis=0).max()
    points = points + np.random.default_rng(seed).normal(0, noise * length, points.shape)
    (found,) = orientations(predictions_of(targets, points, is_labelled))
    return found


def test_orders_are_exchanges() -> None:
    for order, (one, other) in ((FLIP_ORDER, ("right", "left")), (FRONT_BACK_ORDER, ("front", "back"))):
        for index, partner in enumerate(order):
            assert order[partner] == index
            names = KEYPOINT_NAMES[index], KEYPOINT_NAMES[partner]
            assert one in names[0] or other in names[0]
            assert names[0].replace(one, "*").replace(other, one).replace("*", other) == names[1]


@pytest.mark.parametrize("heading", [FRONT, LEFT_FRONT, LEFT, LEFT_REAR, REAR, -45.0, -90.0, -135.0])
@pytest.mark.parametrize("exchange", [Orientation.AS_LABELLED, Orientation.TURNED, Orientation.FRONT_BACK])
def test_turned_cars_are_found_from_every_side(heading: float, exchange: Orientation) -> None:
    for seed in range(5):
        assert judge(heading, exchange, 0.03, seed).is_turned == exchange.is_turned


@pytest.mark.parametrize("heading", [FRONT, LEFT_FRONT, LEFT_REAR, REAR])
def test_mirrored_cars_are_found(heading: float) -> None:
    assert judge(heading, Orientation.MIRRORED, 0.03) is Orientation.MIRRORED


def test_from_the_side_right_and_left_lie_too_close_to_tell() -> None:
    assert judge(LEFT, Orientation.MIRRORED, 0.03) is Orientation.AS_LABELLED


@given(heading=st.floats(-180, 180), seed=st.integers(0, 1000))
def test_a_good_prediction_is_never_exchanged(heading: float, seed: int) -> None:
    assert judge(heading, Orientation.AS_LABELLED, 0.04, seed) is Orientation.AS_LABELLED


@pytest.mark.parametrize("heading", [FRONT, LEFT_FRONT, LEFT, REAR])
def test_a_car_taken_for_one_that_drives_the_other_way_is_turned(heading: float) -> None:
    """The other pose fills the same place in the picture, as a network would fit it."""
    targets, is_labelled = project(heading)[None], visible(heading)[None]
    other = project(heading + 180)
    shares = (other - other.min(axis=0)) / np.ptp(other, axis=0)
    points = shares * np.ptp(targets[0], axis=0) + targets[0].min(axis=0)
    assert orientations(predictions_of(targets, points[None], is_labelled)) == [Orientation.TURNED]


def test_a_lost_car_is_not_turned() -> None:
    """A prediction that fits under no names says nothing of front and back."""
    rng = np.random.default_rng(0)
    targets = np.stack([project(heading) for heading in rng.uniform(-180, 180, 200)])
    low, high = targets.min(axis=(0, 1)), targets.max(axis=(0, 1))
    points = rng.uniform(low, high, targets.shape)
    found = orientations(predictions_of(targets, points, np.ones((200, 12), bool)))
    assert found.count(Orientation.AS_LABELLED) >= 190


def test_one_lost_keypoint_does_not_decide() -> None:
    targets = project(LEFT_FRONT)[None]
    points = targets[:, list(EXCHANGES[Orientation.TURNED])].copy()
    points[0, 5] += 1e4
    assert orientations(predictions_of(targets, points, np.ones((1, 12), bool))) == [Orientation.TURNED]


def test_too_few_points_are_not_judged() -> None:
    targets = np.repeat(project(FRONT)[None], 3, axis=0)
    points = targets[:, list(EXCHANGES[Orientation.TURNED])]
    is_labelled = np.zeros((3, 12), bool)
    is_labelled[0, :3], is_labelled[1, :4] = True, True
    found = orientations(predictions_of(targets, points, is_labelled))
    assert found == [Orientation.UNKNOWN, Orientation.TURNED, Orientation.UNKNOWN]


def mixed(*exchanges: Orientation) -> tuple[Predictions, list[Orientation]]:
    targets = np.repeat(project(LEFT_FRONT)[None], len(exchanges), axis=0)
    points = np.stack([targets[0][list(EXCHANGES[exchange])] for exchange in exchanges])
    predictions = predictions_of(targets, points, np.ones((len(exchanges), 12), bool))
    return predictions, orientations(predictions)


def test_shares_are_of_the_cars_that_can_be_judged() -> None:
    predictions, found = mixed(
        Orientation.TURNED, Orientation.MIRRORED, Orientation.FRONT_BACK, Orientation.AS_LABELLED
    )
    shares = orientation_shares(predictions, [*found[:3], Orientation.UNKNOWN])
    assert shares.turned.value == pytest.approx(2 / 3)
    assert shares.mirrored.value == pytest.approx(1 / 3)
    assert 0 <= shares.turned.low < 2 / 3 < shares.turned.high <= 1


def test_no_turned_car_among_few_proves_little() -> None:
    predictions, found = mixed(*[Orientation.AS_LABELLED] * 20)
    turned = orientation_shares(predictions, found).turned
    assert (turned.value, turned.low) == (0, 0)
    assert (1 - turned.high) ** 20 == pytest.approx(0.025)


def test_differences_are_paired() -> None:
    predictions, better = mixed(Orientation.TURNED, *[Orientation.AS_LABELLED] * 9)
    worse = [Orientation.TURNED, Orientation.TURNED, Orientation.MIRRORED, *better[3:]]
    found = orientation_differences(predictions, better, worse)
    assert found.turned.value == pytest.approx(0.1)
    assert found.mirrored.value == pytest.approx(0.1)
    same = orientation_differences(predictions, better, better).turned
    assert (same.value, same.low, same.high) == (0, 0, 0)
