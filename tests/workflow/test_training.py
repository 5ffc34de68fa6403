"""What training asks of its data, and where its checkpoints go."""

import errno
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from carkp.config.loading import load_config
from carkp.data.issues import DataError
from carkp.data.store import STORE_NAMES, Record, Stores, StoreWriter, open_stores
from carkp.tracking.tracker import NullTracker
from carkp.training.checkpoint import CheckpointError, load_checkpoint
from carkp.training.distributed import cpu_context
from carkp.training.fit import FitResult
from carkp.workflow.build import build_fit_settings, build_model
from carkp.workflow.scoring import build_scorer
from carkp.workflow.training import Training, predict_all, require_labels, train

ROOT = Path(__file__).parents[2]
ALL = [2] * 12
NONE = [0] * 12
ONE = [0, 0, 0, 2, *[0] * 8]
CONFIG = load_config(ROOT / "configs" / "tiny.yaml", ["train.num_workers=0", "train.batch_size=4", "train.epochs=1"])


def record(number: int, validity: Sequence[int], is_point: bool = False) -> Record:
    """A crop with keypoints spread over it, or all at one place."""
    picture = np.full((40, 60, 3), 90, np.uint8)
    spread = np.linspace(4, 36, 12, dtype=np.float32)
    points = np.stack([spread, spread], axis=1) if not is_point else np.full((12, 2), 9, np.float32)
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    return Record(f"s/scene/{number}_0", "scene", jpeg, points, np.array(validity, np.uint8), (40, 60), 0)


def stores(folder: Path, **splits: list[Record]) -> Stores:
    """Splits that are not given hold eight cars with all keypoints."""
    whole = [record(number, ALL) for number in range(8)]
    for split, name in STORE_NAMES.items():
        with StoreWriter(folder / name) as writer:
            for item in splits.get(split, whole):
                writer.add(item)
    return open_stores(folder)


class Recorder(NullTracker):
    """Notes what is logged; from ``fails_from`` on the disk is full."""

    def __init__(self, fails_from: int = 1000) -> None:
        self.files: list[str] = []
        self.fails_from = fails_from

    def log_file(self, path: Path, folder: str) -> None:
        self.files.append(f"{folder}/{path.name}")
        if len(self.files) >= self.fails_from:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))


def run(data: Stores, out_dir: Path, tracker: NullTracker | None = None) -> FitResult:
    model = build_model(CONFIG)
    settings = build_fit_settings(CONFIG.train, torch.device("cpu"), trusts_start=False)
    training = Training(model.net, model.architecture, settings)
    return train(CONFIG, training, data, out_dir, tracker or Recorder(), build_scorer(CONFIG, cpu_context()))


UNSCORABLE = {
    "one keypoint a car": [record(number, ONE) for number in range(8)],
    "no keypoint": [record(number, NONE) for number in range(8)],
    "all keypoints at one place": [record(number, ALL, is_point=True) for number in range(8)],
    "no car": [],
}


@pytest.mark.parametrize("kind", list(UNSCORABLE))
def test_a_validation_split_without_a_pck_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    data = stores(tmp_path, val=UNSCORABLE[kind])
    monkeypatch.setattr("carkp.training.fit.Trainer.step", lambda self, batch: pytest.fail("a step was done"))
    with pytest.raises(DataError, match=r"val_lmdb: the validation PCK would be NaN.*data\.val_scenes"):
        run(data, tmp_path / "out")


def test_one_car_with_a_pck_is_enough(tmp_path: Path) -> None:
    require_labels(stores(tmp_path, val=[*UNSCORABLE["one keypoint a car"], record(9, [2, 1, *[0] * 10])]))


def test_a_training_split_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train_lmdb: no keypoint of the training split is labelled"):
        run(stores(tmp_path, train=UNSCORABLE["no keypoint"]), tmp_path / "out")
    require_labels(stores(tmp_path / "few", train=UNSCORABLE["one keypoint a car"]))  # one a car can be learnt


@pytest.mark.parametrize("kind", list(UNSCORABLE))
def test_a_test_split_without_a_pck_is_named_before_training_and_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    data = stores(tmp_path, test=UNSCORABLE[kind])
    run(data, tmp_path / "out")
    printed = capsys.readouterr().out
    warning = "warning: "
    assert (warning in printed) == (kind != "no car")  # an empty test split is no surprise
    assert printed.find("test_lmdb: no car of the test split") < printed.index("epoch 1/1")
    net = build_model(CONFIG).net.eval()
    assert list(predict_all(build_scorer(CONFIG, cpu_context()), data, net)) == ["val"]


def test_a_full_disk_under_the_artifacts_names_the_checkpoint_that_is_whole(tmp_path: Path) -> None:
    tracker = Recorder(fails_from=2)
    with pytest.raises(CheckpointError, match=r"checkpoints/last\.pt cannot be written: No space left") as caught:
        run(stores(tmp_path), tmp_path / "out", tracker)
    assert tracker.files == ["checkpoints/best.pt", "checkpoints/last.pt"]
    path = tmp_path / "out" / "checkpoints" / "last.pt"
    assert f"resume={path}" in str(caught.value)
    assert load_checkpoint(path).epoch == 1


def test_what_was_decided_is_kept_in_the_checkpoint(tmp_path: Path) -> None:
    data = stores(tmp_path)
    run(data, tmp_path / "out")
    decided = load_checkpoint(tmp_path / "out" / "checkpoints" / "last.pt").training_state["decided"]
    assert decided["train.precision"] == "float32"
    assert decided["train.nproc"] == "1"
    other = stores(tmp_path / "other", test=[record(0, ALL)])
    run(other, tmp_path / "other_out")
    again = load_checkpoint(tmp_path / "other_out" / "checkpoints" / "last.pt").training_state["decided"]
    assert again["data (digest)"] != decided["data (digest)"]
