"""What displaced keypoints cost in the mean over all directions."""

import numpy as np
import pytest

from carkp.keypoints.displacement import expected_loss, expected_loss_difference, mean_shift_px, share_within
from carkp.keypoints.paired import paired_test
from carkp.keypoints.predictions import Predictions

NUM_CARS, NUM_POINTS, ALPHA = 400, 12, 0.02


def predictions(points: np.ndarray, targets: np.ndarray, validity: np.ndarray) -> Predictions:
    num = len(points)
    return Predictions(
        sample_ids=np.array([f"test/scene{i}/1_{i:05d}_1" for i in range(num)]),
        points=points.astype(np.float32),
        scores=np.ones(points.shape[:2], np.float32),
        targets=targets.astype(np.float32),
        validity=validity,
        lengths=np.full(num, 100, np.float32),
        lengths_hat=np.full(num, 100, np.float32),
        crop_size=np.full((num, 2), 128, np.int32),
        truncated=np.zeros(num, np.int8),
    )


def pair(seed: int, spread: float, bias: float = 0) -> tuple[Predictions, Predictions]:
    """Errors about as large as the threshold, and the same points moved at random."""
    rng = np.random.default_rng(seed)
    targets = rng.uniform(20, 100, (NUM_CARS, NUM_POINTS, 2))
    points = targets + rng.normal(0, 1.5, targets.shape)
    validity = rng.choice(np.array([0, 1, 2], np.uint8), (NUM_CARS, NUM_POINTS))
    moved = points + rng.normal(0, spread, points.shape) + bias
    return predictions(points, targets, validity), predictions(moved, targets, validity)


def test_shares_are_those_of_many_directions() -> None:
    rng = np.random.default_rng(0)
    errors, moves = rng.uniform(0, 3, (5, 7)), rng.uniform(0, 1.5, (5, 7))
    errors[0, 0], moves[0, 1], errors[0, 2] = 0, 0, 1e-12
    thresholds = np.full((5, 7), 2.0)
    phi = (np.arange(20_000) + 0.5) / 20_000 * 2 * np.pi
    squares = errors[..., None] ** 2 + moves[..., None] ** 2 + 2 * (errors * moves)[..., None] * np.cos(phi)
    assert share_within(errors, moves, thresholds) == pytest.approx((np.sqrt(squares) < 2).mean(axis=2), abs=2e-3)


def test_it_is_the_mean_of_the_measured_loss_with_less_chance() -> None:
    measured, expected, widths = [], [], []
    for seed in range(20):
        reference, other = pair(seed, spread=0.3)
        loss = paired_test(other, reference, ALPHA, num_resamples=200, num_flips=100).difference
        found = expected_loss(reference, other, ALPHA)
        measured.append(loss.value)
        expected.append(found.value)
        widths.append((loss.high - loss.low) / (found.high - found.low))
    error = np.std(measured) / np.sqrt(len(measured))
    assert np.mean(expected) == pytest.approx(np.mean(measured), abs=3 * error)
    assert np.std(expected) < np.std(measured) / 5
    assert np.mean(widths) > 5
    assert np.mean(expected) > 0


def test_points_that_stay_cost_nothing() -> None:
    reference, _ = pair(0, spread=0)
    assert expected_loss(reference, reference, ALPHA).value == 0
    assert mean_shift_px(reference, reference) == 0


def test_the_shift_is_over_labelled_points() -> None:
    reference, other = pair(0, spread=0, bias=3)
    assert mean_shift_px(reference, other) == pytest.approx(3 * np.sqrt(2), rel=1e-4)
    unlabelled = predictions(reference.points, reference.targets, np.zeros_like(reference.validity))
    assert np.isnan(mean_shift_px(unlabelled, other))


def test_a_keypoint_that_takes_another_peak_counts_as_the_limit() -> None:
    reference, other = pair(0, spread=0, bias=0.5)
    usual = mean_shift_px(reference, other)
    labelled = reference.validity > 0
    other.points[tuple(np.argwhere(labelled)[0])] += 100
    num_labelled = int(labelled.sum())
    assert mean_shift_px(reference, other, 4.0) == pytest.approx(usual + (4 - usual) / num_labelled, rel=1e-4)
    assert mean_shift_px(reference, other) > mean_shift_px(reference, other, 4.0)


def test_the_difference_of_two_losses_has_a_narrower_interval_than_either() -> None:
    reference, first = pair(0, spread=0.5)
    rng = np.random.default_rng(1)
    points = first.points + rng.normal(0, 0.05, first.points.shape).astype(np.float32)
    second = predictions(points, first.targets, first.validity)
    found = expected_loss_difference(reference, first, second, ALPHA)
    losses = [expected_loss(reference, other, ALPHA) for other in (first, second)]
    assert found.value == pytest.approx(losses[1].value - losses[0].value, abs=1e-12)
    assert found.high - found.low < 0.5 * (losses[0].high - losses[0].low)
    assert expected_loss_difference(reference, first, first, ALPHA).value == 0
