import numpy as np
import pytest

from carkp.keypoints import metrics


def make_car(extent: float = 100.0) -> np.ndarray:
    points = np.zeros((1, 12, 2))
    points[0, :, 0] = np.linspace(10, 10 + extent, 12)
    points[0, :, 1] = np.linspace(20, 60, 12)
    return points


def all_visible() -> np.ndarray:
    return np.full((1, 12), 2, np.uint8)


def test_labelled_extent_is_the_larger_side() -> None:
    assert metrics.labelled_extent(make_car(100), all_visible())[0] == 100


def test_unlabelled_points_do_not_stretch_the_reference_length() -> None:
    """Defect 3 of the original: its length counts unlabelled points at the place where the crop left them."""
    points, validity = make_car(60), all_visible()
    points[0, :, 0] += 40
    points[0, 3] = (-200.0, -150.0)
    validity[0, 3] = 0
    assert metrics.labelled_extent(points, validity)[0] == pytest.approx(60)
    assert metrics.hat_extent(points, (128, 128))[0] == pytest.approx(110)


def test_a_lenient_length_makes_pck_hat_higher_than_pck() -> None:
    points, validity = make_car(60), all_visible()
    points[0, :, 0] += 40
    points[0, 3] = (-200.0, -150.0)
    validity[0, 3] = 0
    predicted = points + np.array([8.0, 0.0])
    scores = metrics.score(
        predicted,
        points,
        validity,
        metrics.labelled_extent(points, validity),
        metrics.hat_extent(points, (128, 128)),
        0.1,
    )
    assert scores.pck == 0.0
    assert scores.pck_hat == 1.0
    assert scores.mean_dist == pytest.approx(8.0)


def test_distance_equal_to_the_threshold_is_a_miss() -> None:
    assert metrics.pck(np.array([[10.0, 9.99]]), np.array([100.0]), np.array([[True, True]]), 0.1) == 0.5


def test_occluded_points_are_scored_and_missing_ones_are_not() -> None:
    points, validity = make_car(), all_visible()
    validity[0, 0], validity[0, 1] = 1, 0
    predicted = points.copy()
    predicted[0, 0] += 50
    predicted[0, 1] += 500
    lengths = metrics.labelled_extent(points, validity)
    scores = metrics.score(predicted, points, validity, lengths, lengths, 0.1)
    assert scores.num_points == 11
    assert scores.pck == pytest.approx(10 / 11)
    assert scores.pck_per_keypoint[0] == 0.0
    assert np.isnan(scores.pck_per_keypoint[1])


def test_a_lone_labelled_point_has_no_length_and_is_left_out_of_pck_alone() -> None:
    points = np.concatenate([make_car(), make_car()])
    validity = np.concatenate([all_visible(), np.zeros((1, 12), np.uint8)])
    validity[1, 5] = 2
    lengths = metrics.labelled_extent(points, validity)
    scores = metrics.score(points + 1, points, validity, lengths, lengths, 0.1)
    assert scores.pck == 1.0
    assert scores.num_without_length == 1
    assert scores.num_points == 13


def test_curve_is_monotone_and_agrees_with_pck() -> None:
    rng = np.random.default_rng(0)
    dist, lengths, scored = rng.uniform(0, 40, (50, 12)), np.full(50, 100.0), rng.random((50, 12)) > 0.2
    alphas = np.linspace(0.01, 0.4, 20)
    curve = metrics.pck_curve(dist, lengths, scored, alphas)
    assert (np.diff(curve) >= 0).all()
    assert curve[5] == metrics.pck(dist, lengths, scored, float(alphas[5]))


def test_nothing_labelled_gives_nan_and_bad_alpha_an_error() -> None:
    scores = metrics.score(make_car(), make_car(), np.zeros((1, 12), np.uint8), np.zeros(1), np.ones(1), 0.1)
    assert np.isnan(scores.pck)
    assert np.isnan(scores.mean_dist)
    with pytest.raises(ValueError, match="alpha"):
        metrics.pck(np.zeros((1, 1)), np.ones(1), np.ones((1, 1), bool), 0.0)
