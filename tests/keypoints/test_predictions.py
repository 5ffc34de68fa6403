from pathlib import Path

import numpy as np
import pytest

from carkp.keypoints.predictions import Predictions, load_predictions


def make_predictions(num: int = 5) -> Predictions:
    rng = np.random.default_rng(0)
    targets = rng.uniform(0, 128, (num, 12, 2)).astype(np.float32)
    return Predictions(
        sample_ids=np.array([f"test/scene/{i}_0" for i in range(num)]),
        points=targets + 3,
        scores=np.ones((num, 12), np.float32),
        targets=targets,
        validity=np.full((num, 12), 2, np.uint8),
        lengths=np.full(num, 100, np.float32),
        lengths_hat=np.full(num, 120, np.float32),
        crop_size=np.full((num, 2), 200, np.int32),
        truncated=np.zeros(num, np.int8),
    )


def test_file_round_trip_keeps_every_array(tmp_path: Path) -> None:
    predictions = make_predictions()
    predictions.save(tmp_path / "deep" / "test.npz")
    loaded = load_predictions(tmp_path / "deep" / "test.npz")
    for name, array in vars(predictions).items():
        assert np.array_equal(getattr(loaded, name), array), name


def test_foreign_file_is_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="lacks sample_ids"):
        load_predictions(tmp_path / "foreign.npz")


def test_mean_distances_and_curve() -> None:
    predictions = make_predictions()
    assert predictions.mean_distances() == pytest.approx(np.full(5, np.hypot(3, 3)), rel=1e-5)
    assert predictions.pck_curve(np.array([0.01, 0.1])).tolist() == [0.0, 1.0]
