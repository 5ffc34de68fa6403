from dataclasses import replace

import numpy as np
import pytest

from carkp.keypoints.paired import retention
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
    with pytest.raises(ValueError, match="not of the same samples"):
        retention(exact(50), exact(40), 0.1)


def test_nothing_can_be_kept_of_a_reference_without_a_correct_keypoint():
    reference = exact()
    wrong = replace(reference, points=reference.points + 90)
    assert np.isnan(retention(wrong, reference, 0.1).share)
