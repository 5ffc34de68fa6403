"""Clusters by sample id, and what intervals and tests make of them."""

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from carkp.keypoints import metrics
from carkp.keypoints.breakdown import score_groups
from carkp.keypoints.clusters import MIN_CLUSTERS, Cluster, Level, cluster_of, units_of
from carkp.keypoints.paired import paired_test, ratio_intervals, retention, score_intervals, sign_flip_p_value
from carkp.keypoints.predictions import Predictions
from tests.keypoints.test_predictions import make_predictions

ALPHA = 0.1


def recorded(sizes: list[int], frames_of: int = 3) -> Predictions:
    """Exact predictions of cars 100 px long; ``sizes``: how many each camera saw, ``frames_of`` cars a frame."""
    made = make_predictions(sum(sizes))
    ids = [
        f"test/car_penn{1 + camera % 2}/{camera}_{1 + car // frames_of:05d}_{car % frames_of}"
        for camera, size in enumerate(sizes)
        for car in range(size)
    ]
    return replace(made, sample_ids=np.array(ids), points=made.targets.copy())


def camera_of(predictions: Predictions) -> np.ndarray:
    """The camera of each car, told without the function under test: ``recorded`` numbers them."""
    return np.array([int(str(sample_id).split("/")[2].split("_")[0]) for sample_id in predictions.sample_ids])


def missed(predictions: Predictions, is_missed: np.ndarray) -> Predictions:
    """``predictions`` with the keypoints of ``is_missed`` (N, K) 50 px off."""
    points = predictions.points.copy()
    points[..., 0] += 50 * is_missed
    return replace(predictions, points=points)


@pytest.mark.parametrize(
    ("sample_id", "name", "level"),
    [
        ("test/car_penn1/3_00012_0", "test/car_penn1/3", Level.CAMERA),
        ("test/car_penn1/3_00013_7", "test/car_penn1/3", Level.CAMERA),
        ("test/car_penn2/3_00012_0", "test/car_penn2/3", Level.CAMERA),
        ("train/car_penn1/3_00012_0", "train/car_penn1/3", Level.CAMERA),
        ("test/car_penn1/GOPR_02_00012_0", "test/car_penn1/GOPR_02", Level.CAMERA),
        ("test/car_penn1/morning/3_00012_0", "test/car_penn1/morning/3", Level.CAMERA),
        ("test/car_penn1/00012_0", "test/car_penn1", Level.SCENE),
        ("test/car_penn1/picture", "test/car_penn1", Level.SCENE),
        ("test/car_penn1/3_left_0", "test/car_penn1", Level.SCENE),
        ("own@test/car_penn1/3_00012_0", "own@test/car_penn1/3", Level.CAMERA),
        ("own@test//3_00012_0", "own@test//3_00012_0", Level.CROP),
        ("test/3_00012_0", "test/3_00012_0", Level.CROP),
        ("3_00012_0", "3_00012_0", Level.CROP),
        ("", "", Level.CROP),
    ],
)
def test_an_id_names_scene_and_camera_else_the_scene_else_nothing(sample_id: str, name: str, level: Level) -> None:
    assert cluster_of(sample_id) == Cluster(name, level)


@pytest.mark.parametrize(
    ("ids", "text", "short", "warning"),
    [
        ([f"test/s/{camera}_1_0" for camera in range(12)], "12 clusters (scene and camera)", "12 clusters", ""),
        ([f"test/s/{camera}_1_0" for camera in range(4)], "4 clusters (scene and camera)",
         "4 clusters, too few to rely on", "a p-value cannot be below 0.12"),
        ([f"test/s/1_{frame}_0" for frame in range(50)], "50 cars of one recording",
         "one recording: valid for this one only", "valid for this recording only"),
        ([f"test/s{scene}/x" for scene in range(10)], "10 clusters (scene)", "10 clusters", ""),
        ([f"test/s/{camera}_1_0" for camera in range(9)] + ["test/s/x", "test/t/y"],
         "11 clusters (9 by scene and camera, 2 by scene)", "11 clusters", ""),
        ([f"crop{car}" for car in range(20)], "20 cars", "20 single cars: the ids name no scene",
         "sample ids name no scene"),
    ],
)  # fmt: skip
def test_what_is_resampled_is_said_and_doubts_with_it(ids: list[str], text: str, short: str, warning: str) -> None:
    found = units_of(ids, np.ones(len(ids), np.bool_)).resampled
    assert str(found) == text
    assert found.short == short
    assert (warning in found.warning) if warning else found.warning == ""


def test_ten_clusters_are_the_fewest_without_a_warning() -> None:
    few, enough = (recorded([5] * num).units.resampled for num in (MIN_CLUSTERS - 1, MIN_CLUSTERS))
    assert f"fewer than {MIN_CLUSTERS}" in few.warning
    assert enough.warning == ""


def test_clusters_without_a_labelled_keypoint_do_not_count() -> None:
    predictions = recorded([5] * 12)
    validity = predictions.validity.copy()
    validity[camera_of(predictions) == 4] = 0
    validity[:3, :] = 0  # a part of a cluster is no matter
    hidden = replace(predictions, validity=validity)
    assert hidden.units.resampled.num_clusters == 11
    assert (score_intervals(hidden, ALPHA).pck.value, score_intervals(hidden, ALPHA).pck.low) == (1, 1)
    sums = hidden.units.sums(np.ones((60, 1)))
    assert sorted(sums[:, 0].tolist()) == [5.0] * 11  # cars without a label of a cluster that has some stay in it


def test_nothing_labelled_and_nothing_right_give_no_number_and_no_error() -> None:
    predictions = recorded([5] * 4)
    nothing = replace(predictions, validity=np.zeros_like(predictions.validity))
    found = score_intervals(nothing, ALPHA)
    assert np.isnan([found.pck.value, found.pck.low, found.mean_dist.high]).all()
    assert paired_test(nothing, nothing, ALPHA).p_value == 1
    wrong = missed(predictions, np.ones((20, 12), np.bool_))
    kept = retention(wrong, predictions, ALPHA)
    assert np.isnan([kept.share, kept.low, kept.high]).all()
    assert str(kept) == "an unknown share (float has no correct keypoint)"


def test_a_single_recording_resamples_its_cars_and_says_so() -> None:
    predictions = recorded([40])
    is_missed = np.zeros((40, 12), np.bool_)
    is_missed[:10] = True
    found = score_intervals(missed(predictions, is_missed), ALPHA)
    spread = 1.96 * np.sqrt(0.75 * 0.25 / 40)
    assert found.pck.low == pytest.approx(0.75 - spread, abs=0.03)
    assert "valid for this recording only" in found.resampled.warning
    assert "one recording: valid for this one only" in str(retention(predictions, predictions, ALPHA))


def test_a_group_that_one_cluster_alone_has_no_interval() -> None:
    predictions = recorded([5] * 12)
    mask = np.zeros(predictions.validity.shape, np.bool_)
    mask[camera_of(predictions) == 2] = True
    (found,) = score_groups(predictions, {"one camera": mask}, ALPHA)
    assert (found.num_units, found.pck.value) == (1, 1)
    assert np.isnan([found.pck.low, found.pck.high]).all()


def test_intervals_are_those_of_a_loop_over_drawn_clusters() -> None:
    """Draw cameras one by one, put their cars together and score them with the metrics."""
    rng = np.random.default_rng(5)
    sizes = [3, 8, 5, 1, 9, 4, 6, 2, 7, 5, 3, 4]
    predictions = recorded(sizes)
    camera = camera_of(predictions)
    is_missed = rng.random((len(camera), 12)) < rng.beta(1, 3, len(sizes))[camera][:, None]
    predictions = missed(predictions, is_missed)
    num, seed = 300, 7
    draws = np.random.default_rng(seed).multinomial(len(sizes), [1 / len(sizes)] * len(sizes), size=num)
    scores = []
    for counts in draws:
        places = [place for place, count in enumerate(counts) for _ in range(count)]
        drawn = [car for place in places for car in np.flatnonzero(camera == place)]
        parts = (predictions.points, predictions.targets, predictions.validity, predictions.lengths,
                 predictions.lengths_hat)  # fmt: skip
        scores.append(metrics.score(*(part[drawn] for part in parts), ALPHA))
    ratio = np.sqrt(len(sizes) / (len(sizes) - 1))
    tail = stats.norm.cdf(-stats.t.ppf(0.975, len(sizes) - 1) * ratio)
    found = score_intervals(predictions, ALPHA, num, seed)
    for name in ("pck", "pck_hat", "mean_dist"):
        low, high = np.quantile([getattr(score, name) for score in scores], [tail, 1 - tail])
        interval = getattr(found, name)
        assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-6), name
        assert interval.value == pytest.approx(getattr(predictions.score(ALPHA), name)), name


def simulated_coverage(num_clusters: int, num_cars: int, num_sets: int) -> tuple[float, float]:
    """How often the intervals by cluster and by car hold the true share of right keypoints: Beta(6, 2) by cluster."""
    rng = np.random.default_rng(1)
    truth, hits = 0.75, np.zeros(2)
    place = np.repeat(np.arange(num_clusters), num_cars)
    for _ in range(num_sets):
        share = rng.beta(6, 2, num_clusters)[place]
        right = rng.binomial(12, share)[:, None].astype(np.float64)
        total = np.full_like(right, 12)
        by_cluster = [np.add.reduceat(part, np.arange(0, len(place), num_cars)) for part in (right, total)]
        for kind, (numerators, denominators) in enumerate((by_cluster, (right, total))):
            (found,) = ratio_intervals(numerators, denominators, 400, seed=3)
            hits[kind] += found.low <= truth <= found.high
    return tuple(hits / num_sets)


@pytest.mark.parametrize("num_clusters", [10, 14, 40])
def test_intervals_by_cluster_cover_and_those_by_car_do_not(num_clusters: int) -> None:
    by_cluster, by_car = simulated_coverage(num_clusters, 20, 400)
    assert 0.91 <= by_cluster <= 0.98
    assert by_car < 0.70


def test_scores_and_tests_take_whole_clusters() -> None:
    """One camera of twelve is bad throughout: by car that is sure, by cluster it is one event."""
    predictions = recorded([30] * 12)
    is_missed = np.zeros((360, 12), np.bool_)
    is_missed[camera_of(predictions) == 3, :2] = True
    worse = missed(predictions, is_missed)
    alone = np.array([f"car{index}" for index in range(360)])
    by_car = paired_test(replace(predictions, sample_ids=alone), replace(worse, sample_ids=alone), ALPHA)
    by_cluster = paired_test(predictions, worse, ALPHA)
    assert by_car.difference.value == by_cluster.difference.value
    assert by_car.difference.high < 0
    assert by_car.p_value < 0.001
    assert by_cluster.p_value == 1
    assert by_cluster.difference.high == 0
    assert (by_cluster.num_moved, by_cluster.smallest_p, by_cluster.resampled.num_clusters) == (1, 1, 12)


@pytest.mark.parametrize("num_clusters", [2, 3, 6, 11])
def test_the_smallest_p_value_is_that_of_all_clusters_to_one_side(num_clusters: int) -> None:
    predictions = recorded([4] * num_clusters)
    is_missed = np.zeros((4 * num_clusters, 12), np.bool_)
    is_missed[:, 0] = True
    found = paired_test(predictions, missed(predictions, is_missed), ALPHA)
    assert found.p_value == found.smallest_p == 2.0 ** -(num_clusters - 1)


def test_few_signs_are_all_tried() -> None:
    rng = np.random.default_rng(2)
    for size in (2, 5, 9):
        differences = rng.integers(-6, 7, size)
        patterns = np.array(np.meshgrid(*[[-1, 1]] * size)).reshape(size, -1).T
        expected = (np.abs(patterns @ differences) >= abs(differences.sum())).mean()
        assert sign_flip_p_value(differences) == pytest.approx(expected)


def test_ten_thousand_resamples_of_forty_clusters_take_no_time() -> None:
    predictions = recorded([50] * 40)
    is_missed = np.random.default_rng(0).random((2000, 12)) < 0.1
    worse = missed(predictions, is_missed)
    start = time.process_time()
    score_intervals(predictions, ALPHA, num_resamples=10_000)
    paired_test(predictions, worse, ALPHA, num_resamples=10_000)
    assert time.process_time() - start < 5
