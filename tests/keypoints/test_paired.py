from dataclasses import replace

import numpy as np
import pytest

from carkp.keypoints.paired import (
    difference_curve,
    is_comparable,
    paired_test,
    resample_sums,
    retention,
    score_intervals,
    sign_flip_p_value,
)
from tests.keypoints.test_predictions import make_predictions


def exact(num: int = 50):
    """Predictions that are their own targets, on objects 100 px wide."""
    predictions = make_predictions(num)
    return replace(
        predictions,
        points=predictions.targets.copy(),
        validity=np.full_like(predictions.validity, 2),
        lengths=np.full(num, 100, np.float32),
    )


def moved(reference, cars, px: float = 50, keypoints=slice(None)):
    """``reference`` with keypoints of some cars moved to the right."""
    points = reference.points.copy()
    points[cars, keypoints, 0] += px
    return replace(reference, points=points)


def test_a_model_keeps_all_of_itself():
    found = retention(exact(), exact(), 0.1)
    assert (found.share, found.low, found.high) == (1, 1, 1)


def test_share_and_interval_of_a_model_that_loses_one_car_in_ten():
    reference = exact(200)
    points = reference.points.copy()
    points[::10] += 50
    found = retention(reference, replace(reference, points=points), 0.1)
    assert found.share == pytest.approx(0.9)
    spread = 1.96 * np.sqrt(0.9 * 0.1 / 200)  # whole cars are lost: a binomial of 200 trials
    assert found.low == pytest.approx(0.9 - spread, abs=0.01)
    assert found.high == pytest.approx(0.9 + spread, abs=0.01)
    assert str(found).startswith("90.00% (")


def test_other_samples_are_refused():
    with pytest.raises(ValueError, match="do not have the same samples"):
        retention(exact(50), exact(40), 0.1)
    with pytest.raises(ValueError, match="do not have the same samples"):
        paired_test(exact(50), exact(40), 0.1)


def test_other_labels_are_refused():
    reference = exact()
    fewer = replace(reference, validity=np.where(np.arange(12) == 3, 0, reference.validity).astype(np.uint8))
    with pytest.raises(ValueError, match="other keypoints"):
        paired_test(reference, fewer, 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": exact().targets + 1}, "labels have other positions"),
        ({"lengths": exact().lengths * 2}, "reference lengths differ"),
        ({"lengths_hat": exact().lengths_hat * 2}, "reference lengths differ"),
    ],
)
def test_other_targets_and_lengths_are_refused(changes, message):
    reference = exact()
    other = replace(reference, **changes)
    assert not is_comparable(reference, other)
    for compared in (retention, paired_test):
        with pytest.raises(ValueError, match=message):
            compared(reference, other, 0.1)


def test_targets_count_where_they_are_labelled():
    reference = exact()
    hidden = replace(reference, validity=np.where(np.arange(12) == 3, 0, reference.validity).astype(np.uint8))
    targets = reference.targets.copy()
    targets[:, 3] = -1
    assert is_comparable(hidden, replace(hidden, targets=targets))
    assert not is_comparable(reference, replace(reference, targets=targets))
    assert is_comparable(reference, moved(reference, slice(None)))


def test_nothing_can_be_kept_of_a_reference_without_a_correct_keypoint():
    reference = exact()
    wrong = replace(reference, points=reference.points + 90)
    assert np.isnan(retention(wrong, reference, 0.1).share)


def test_resamples_without_a_correct_keypoint_have_no_ratio():
    everything = exact(3)
    reference, other = moved(everything, slice(1, 3)), moved(everything, slice(2, 3))
    found = retention(reference, other, 0.1)
    assert found.share == 2
    assert found.high == 3  # the first car once, the second twice


def test_intervals_are_around_the_scores_and_as_wide_as_cars_make_them():
    predictions = moved(exact(400), slice(0, 100))  # a quarter of the cars is wrong in every keypoint
    found, scores = score_intervals(predictions, 0.1), predictions.score(0.1)
    assert (found.pck.value, found.pck_hat.value, found.mean_dist.value) == pytest.approx(
        (scores.pck, scores.pck_hat, scores.mean_dist)
    )
    spread = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert found.pck.low == pytest.approx(0.75 - spread, abs=0.008)
    assert found.pck.high == pytest.approx(0.75 + spread, abs=0.008)
    assert found.mean_dist.low == pytest.approx(50 * (0.25 - spread), abs=0.5)
    assert (found.num_cars, found.num_points) == (400, 4800)


def test_a_model_tested_against_itself_shows_nothing():
    found = paired_test(exact(), exact(), 0.1)
    assert (found.difference.value, found.difference.low, found.difference.high) == (0, 0, 0)
    assert found.p_value == 1
    assert (found.num_lost, found.num_gained, found.num_points) == (0, 0, 600)


def test_a_loss_on_many_cars_is_shown_and_counted():
    reference = exact(100)
    found = paired_test(reference, moved(reference, slice(0, 20), keypoints=slice(0, 2)), 0.1)
    assert found.difference.value == pytest.approx(-40 / 1200)
    assert found.difference.high < 0
    assert found.p_value < 0.001
    assert (found.num_lost, found.num_gained) == (40, 0)
    assert found.distance_difference.value == pytest.approx(50 * 40 / 1200, rel=1e-5)
    assert found.distance_difference.low > 0


def test_a_loss_on_one_car_is_not_shown_however_many_keypoints_it_has():
    reference = exact(100)
    found = paired_test(reference, moved(reference, [0]), 0.1)
    assert found.num_lost == 12
    assert found.difference.low < 0
    assert found.difference.high == 0
    assert found.p_value > 0.9  # one coin: either sign is as far from 0


def test_sign_flip_p_value_is_that_of_all_flips():
    # 5 cars, each one keypoint worse: 2 of 32 sign patterns are as far from 0 as the one that was seen
    assert sign_flip_p_value(np.array([-1] * 5 + [0] * 50)) == pytest.approx(2 / 32, abs=0.01)
    assert sign_flip_p_value(np.array([2, -2, 0])) == 1
    assert sign_flip_p_value(np.array([-1] * 40)) == pytest.approx(1 / 10_001)


def test_large_sets_are_drawn_in_pieces_and_give_the_same(monkeypatch: pytest.MonkeyPatch):
    columns = np.random.default_rng(1).random((40, 2))
    whole = resample_sums(columns, 30, seed=3)
    monkeypatch.setattr("carkp.keypoints.paired._MAX_DRAWN", 100)
    assert np.allclose(resample_sums(columns, 30, seed=3), whole)
    assert whole.mean(axis=0) == pytest.approx(columns.sum(axis=0), rel=0.1)


def test_difference_curve_meets_the_paired_test_at_its_alpha():
    reference = exact(60)
    other = moved(reference, slice(0, 9), px=12)
    at_once = paired_test(reference, other, 0.1).difference
    near, far = difference_curve(reference, other, np.array([0.1, 0.2]))
    assert near == at_once
    assert (far.value, far.low, far.high) == (0, 0, 0)
