"""A disk that is full: clear errors, what was there is whole, and the work goes on once there is room.

The disk is a small tmpfs; mounting one needs root.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from carkp import disk
from carkp.data.issues import DataError
from carkp.data.store import LmdbStore, Record, StoreWriter
from carkp.training.checkpoint import CheckpointError, load_checkpoint, weights_digest
from carkp.training.fit import EpochResult, fit
from carkp.workflow.tables import write_table
from tests.stages.conftest import ROOT, TINY, copy_project
from tests.training.nets import make_settings, make_trainer

FILLER = "filler"


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many MiB."""
    place = tmp_path / "small"
    place.mkdir()

    def mounted(size_mib: int) -> Path:
        words = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(words, capture_output=True, check=False).returncode != 0:
            pytest.skip("a tmpfs cannot be mounted here: that needs root")
        return place

    yield mounted
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def fill(place: Path, left_bytes: int = 0) -> None:
    with (place / FILLER).open("wb", buffering=0) as file:
        free = shutil.disk_usage(place).free - left_bytes
        file.write(bytes(max(free, 0)))


def test_a_training_keeps_its_last_checkpoint_and_goes_on_when_there_is_room(mount: Callable[[int], Path]) -> None:
    place = mount(4)
    settings = make_settings(epochs=3)

    def fill_after_the_first(result: EpochResult) -> None:
        if result.epoch == 1:
            fill(place, left_bytes=8192)

    with pytest.raises(CheckpointError) as caught:
        fit(make_trainer(settings), place / "run", fill_after_the_first)
    message = str(caught.value)
    assert "the checkpoint cannot be written: No space left on device" in message
    assert f"MiB are free on the file system of {place}/run" in message
    assert "The previous checkpoint is intact: free some space" in message
    kept = load_checkpoint(place / "run" / "last.pt")
    assert kept.epoch == 1
    assert not list((place / "run").glob(".*"))
    (place / FILLER).unlink()
    resumed, whole = make_trainer(settings), make_trainer(settings)
    resumed.resume(kept)
    fit(resumed, place / "run", lambda result: None)
    fit(whole, place / "whole", lambda result: None)
    assert weights_digest(resumed.net.state_dict()) == weights_digest(whole.net.state_dict())


def record(number: int) -> Record:
    points, validity = np.zeros((12, 2), np.float32), np.full(12, 2, np.uint8)
    return Record(f"train/s/{number}_0", "s", bytes(50_000), points, validity, (4, 4), 0)


def write_store(path: Path, num_records: int) -> None:
    with StoreWriter(path) as writer:
        for number in range(num_records):
            writer.add(record(number))


def test_a_store_that_does_not_fit_leaves_the_one_that_was_there(mount: Callable[[int], Path]) -> None:
    place = mount(4)
    write_store(place / "train_lmdb", 2)
    before = LmdbStore(place / "train_lmdb").info.digest
    with pytest.raises(DataError, match=r"cannot be written: .* 0 MiB are free .*: free some space"):
        write_store(place / "train_lmdb", 200)
    assert [path.name for path in place.iterdir()] == ["train_lmdb"]
    assert LmdbStore(place / "train_lmdb").info.digest == before


def test_a_file_that_does_not_fit_leaves_the_one_that_was_there(mount: Callable[[int], Path]) -> None:
    place = mount(1)
    write_table([{"a": 1}], place / "table.csv")
    before = (place / "table.csv").read_bytes()
    fill(place)
    with pytest.raises(OSError, match="No space left") as caught:
        disk.write_atomic(place / "table.csv", bytes(100_000))
    assert caught.value.filename == str(place / "table.csv")
    assert (place / "table.csv").read_bytes() == before
    assert sorted(path.name for path in place.iterdir()) == [FILLER, "table.csv"]


FLOAT_ON_A_DISK_THAT_FILLS = """
import sys
from pathlib import Path
from carkp.stages.float import main
from carkp.training.fit import Trainer
from tests.test_full_disk import fill

step = Trainer.step

def step_and_fill(trainer, batch):
    if trainer.num_steps_done == 4:  # in the second epoch
        fill(Path.cwd(), left_bytes=1_000_000)
    return step(trainer, batch)

Trainer.step = step_and_fill
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_the_stage_says_what_is_full_and_the_same_command_goes_on(mount: Callable[[int], Path]) -> None:
    place = mount(600)
    project = copy_project(place / "carkp")
    words = ["--config", TINY, "--set", "train.epochs=3", "--set", "train.num_workers=0", "--resume"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment["PYTHONPATH"] = str(ROOT)

    def call(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], cwd=project.path, env=environment, capture_output=True, text=True, check=False
        )

    first = call("-c", FLOAT_ON_A_DISK_THAT_FILLS, *words, "")
    assert first.returncode == 1, first.stderr
    assert "Traceback" not in first.stderr
    assert "cannot be written: No space left on device" in first.stderr
    assert "free some space" in first.stderr
    (run,) = project.runs("float")
    assert run.info.status == "FAILED"
    (project.path / FILLER).unlink()
    again = call("-m", "carkp.stages.float", *words, f"runs:/{run.info.run_id}")
    assert again.returncode == 0, again.stderr
    assert "continues from" in again.stdout + again.stderr
    assert "1 of 3 epochs are done" in again.stdout + again.stderr
    assert project.runs("float")[0].info.status == "FINISHED"
