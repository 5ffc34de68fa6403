"""Files are on the disk before they have their names, whoever writes them; what killed processes left goes."""

import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from carkp import disk
from carkp.data.crops import AnnotationWriter
from carkp.data.store import Record, StoreWriter
from carkp.deploy.compiled import compile_for_onnxruntime
from carkp.deploy.cpu import cpu_features
from carkp.deploy.float_onnx import export_float_onnx
from carkp.deploy.int8_onnx import load_program, save_program
from carkp.deploy.tflite import save_tflite
from carkp.keypoints.predictions import Predictions
from carkp.tracking.store import use_default_store
from carkp.tracking.tracker import tracked_run
from carkp.training.checkpoint import Checkpoint, save_checkpoint
from carkp.workflow.picture_files import write_jpeg
from carkp.workflow.tables import write_table
from tests.tiny_models import TinyModels

ROOT = Path(__file__).parents[1]
NOBODY = 999_999_999
"""No process has this id."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="tells descriptors' files by /proc")


class Steps(list[tuple[str, Path]]):
    """What this process brought to the disk and renamed, in order; renames with the new name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.sources: dict[Path, Path] = {}
        fsync, replace, rename = os.fsync, os.replace, os.rename

        def note_sync(number: int) -> None:
            self.append(("sync", Path(f"/proc/self/fd/{number}").readlink()))
            fsync(number)

        def note_rename(real: Callable[..., None]) -> Callable[..., None]:
            def noted(source: os.PathLike[str], target: os.PathLike[str]) -> None:
                self.append(("rename", Path(target).absolute()))
                self.sources[Path(target).absolute()] = Path(source).absolute()
                real(source, target)

            return noted

        monkeypatch.setattr(os, "fsync", note_sync)
        monkeypatch.setattr(os, "replace", note_rename(replace))
        monkeypatch.setattr(os, "rename", note_rename(rename))

    def assert_durable(self, path: Path, inner: str = "") -> None:
        """``inner``: a file of a directory that is renamed as a whole."""
        renamed = self.index(("rename", path))
        content = self.sources[path] / inner
        assert ("sync", content) in self[:renamed], "renamed before its content was on the disk"
        assert ("sync", path.parent) in self[renamed:], "its name was not brought to the disk"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


def predictions() -> Predictions:
    zeros = np.zeros((1, 12, 2), np.float32)
    sizes, lengths = np.full((1, 2), 9, np.int32), np.ones(1, np.float32)
    return Predictions(
        sample_ids=np.array(["test/scene/1_0"]),
        points=zeros,
        scores=zeros[..., 0],
        targets=zeros,
        validity=np.full((1, 12), 2, np.uint8),
        lengths=lengths,
        lengths_hat=lengths,
        crop_size=sizes,
        truncated=np.zeros(1, np.int8),
    )


WRITERS: dict[str, Callable[[TinyModels, Path], object]] = {
    "checkpoint": lambda _, path: save_checkpoint(Checkpoint({}, {"w": torch.zeros(2)}, {}, 1, {}), path),
    "float ONNX": lambda models, path: export_float_onnx(models.net, (64, 64), path, {}),
    "int8 ONNX": lambda models, path: save_program(load_program(models.int8_onnx), path),
    "optimised ONNX": lambda models, path: compile_for_onnxruntime(models.int8_onnx, path, cpu_features()),
    "tflite": lambda models, path: save_tflite(load_program(models.int8_onnx), path),
    "predictions": lambda _, path: predictions().save(path),
    "table": lambda _, path: write_table([{"a": 1}], path),
    "picture": lambda _, path: write_jpeg(path, np.zeros((4, 4, 3), np.uint8)),
    "copy": lambda models, path: disk.copy_atomic(models.int8_onnx, path),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_is_on_the_disk_before_it_has_its_name(
    kind: str, tiny_models: TinyModels, tmp_path: Path, steps: Steps
) -> None:
    path = tmp_path / "made" / "file.bin"
    WRITERS[kind](tiny_models, path)
    steps.assert_durable(path)
    assert ("sync", tmp_path) in steps, "the name of the folder that was made is lost without"
    assert [item.name for item in path.parent.iterdir()] == ["file.bin"]


def test_a_store_is_on_the_disk_before_it_has_its_name(tmp_path: Path, steps: Steps) -> None:
    points, validity = np.zeros((12, 2), np.float32), np.full(12, 2, np.uint8)
    with StoreWriter(tmp_path / "train_lmdb") as writer:
        writer.add(Record("train/s/1_0", "s", b"jpeg", points, validity, (4, 4), 0))
    steps.assert_durable(tmp_path / "train_lmdb", "data.mdb")


def test_annotations_are_on_the_disk_before_they_have_their_names(tmp_path: Path, steps: Steps) -> None:
    with AnnotationWriter(tmp_path, "train"):
        pass
    for name in ("keypoints_train.json", "meta_train.json"):
        steps.assert_durable(tmp_path / "simple_anno" / name)


def test_a_big_tree_is_brought_to_the_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(disk._MANY + 1):
        (tmp_path / f"{number}").write_bytes(b"x")
    synced: list[Path] = []
    monkeypatch.setattr(disk, "_sync_file_system", synced.append)
    disk.sync_tree(tmp_path)
    assert synced == [tmp_path]
    monkeypatch.undo()
    disk.sync_tree(tmp_path)  # the system takes the call


def test_a_small_tree_is_brought_to_the_disk_file_by_file(tmp_path: Path, steps: Steps) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    disk.sync_tree(tmp_path)
    assert {path for _, path in steps} == {tmp_path / "a/b/c", tmp_path / "a/b", tmp_path / "a", tmp_path}


def test_what_a_run_keeps_is_on_the_disk_before_the_run_counts_as_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "MLproject").write_text("name: carkp\n")
    (tmp_path / "best.pt").write_bytes(b"weights")
    steps = Steps(monkeypatch)
    use_default_store()
    steps.assert_durable(tmp_path / "mlflow.db")
    with tracked_run("float", "durability", 60) as tracker:
        tracker.log_file(tmp_path / "best.pt", "checkpoints")
        tracker.log_text("text", "note.txt")
    (kept,) = (tmp_path / "mlruns").rglob("best.pt")
    steps.assert_durable(kept)
    assert ("sync", kept.parents[1] / "note.txt") in steps


def test_leftovers_of_killed_processes_go_with_the_next_file_and_those_of_the_living_stay(tmp_path: Path) -> None:
    names = [f".unfinished.{socket.gethostname()}.{pid}.00000000.partial" for pid in (NOBODY, os.getpid(), 1)]
    for name in names:
        (tmp_path / name).touch()
    disk.write_atomic(tmp_path / "file", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"file", *names[1:]}


def test_a_half_made_database_is_not_left_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from carkp.tracking import store

    monkeypatch.chdir(tmp_path)
    (tmp_path / "MLproject").write_text("name: carkp\n")

    def killed(uri: str) -> None:
        path = Path(uri.removeprefix("sqlite:///"))
        path.write_bytes(b"half")
        shutil.copytree(path.parent, path.parent.with_name(f".mlflow.db.{socket.gethostname()}.{NOBODY}.0.partial"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "_own_store", killed)
        with pytest.raises(KeyboardInterrupt):
            store._set_up_database(store.default_uri())
    assert not (tmp_path / "mlflow.db").exists()
    monkeypatch.setattr(store, "_own_store", lambda uri: made(Path(uri.removeprefix("sqlite:///"))))
    store._set_up_database(store.default_uri())
    assert (tmp_path / "mlflow.db").read_bytes() == b"whole"
    assert not list(tmp_path.glob("*.partial"))


def made(path: Path) -> object:
    """A store whose database is there."""
    from types import SimpleNamespace

    path.write_bytes(b"whole")
    return SimpleNamespace(engine=SimpleNamespace(dispose=lambda: None))


BY_THEMSELVES = re.compile(
    r"\.write_text\(|\.write_bytes\(|\.open\(\"[wx]|open\([^)]*\"[wx]b?\"|savez|np\.save\(|onnx\.save|torch\.save\("
    r"|os\.replace\(|\.rename\("
)
REASONS = {
    "carkp/disk.py": "the one place that writes; the note beside a lock helps people only",
    "carkp/data/boxes.py": "a temporary folder",
    "carkp/deploy/openvino.py": "a temporary folder",
    "carkp/view/bodies.py": "a temporary folder",
    "carkp/data/crops.py": "the annotations: streamed, then given to disk.publish",
    "carkp/workflow/car_detector.py": "a download: streamed, then given to disk.publish",
    "carkp/synthetic/generate.py": "a tree that is renamed as a whole, after disk.sync_tree",
    "carkp/rendered/generate.py": "a tree that is renamed as a whole, after disk.sync_tree",
    "carkp/synthetic/blocks.py": "a tree that is renamed as a whole, after disk.sync_tree",
    "carkp/keypoints/predictions.py": "into memory, then to disk.write_atomic",
    "carkp/tracking/tracker.py": "a temporary folder",
    "carkp/training/checkpoint.py": "into memory, then to disk.write_atomic",
    "carkp/model/weight_files.py": "words of a message",
    "carkp/workflow/registering.py": "what MLflow copies into its model at once",
    "carkp/config/settings_page.py": "a page of the documentation, made by hand",
    "carkp/measurements/pages.py": "pages of the documentation, made by hand",
}


def test_nothing_writes_files_by_itself_but_where_a_reason_is_given() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "carkp").rglob("*.py")
        if BY_THEMSELVES.search(path.read_text(encoding="utf-8"))
    }
    assert found == set(REASONS)
