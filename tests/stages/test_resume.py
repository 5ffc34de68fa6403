"""A float training that is killed in the middle of an epoch, and what may go on from it."""

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from mlflow.entities import Run

from carkp.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, weights_digest
from carkp.workflow import training
from carkp.workflow.resuming import CODE
from carkp.workflow.reuse import INPUTS_TAG
from tests.stages.conftest import TINY, Project, copy_project

STEPS_AN_EPOCH = 7  # 28 cars in batches of 4
KILLED_AT = 2 * STEPS_AN_EPOCH + 3
SETTINGS = [
    "train.epochs=4", "train.batch_size=4", "train.ema_decay=0.9", "train.warmup_epochs=0.5",
    "model.drop_path_rate=0.3", "augment.max_rotation_deg=10", "augment.noise_probability=0.5",
]  # fmt: skip
MEASURED = ["train/loss", "train/lr", "val/pck", "val/pck_hat", "val/mean_dist", "test/pck", "test/mean_dist"]


@dataclass(frozen=True)
class Killed:
    """A training that was killed in its third epoch, and the same one that was not, on prepared ``data``."""

    project: Project
    data: Path
    run: Run
    whole: Run

    @property
    def own_last(self) -> Path:
        """What the training itself wrote; the artifact is a copy."""
        return self.project.path / "runs" / self.run.info.run_id / "checkpoints" / "last.pt"

    def artifact(self, run: Run, name: str) -> Path:
        return Path(run.info.artifact_uri.removeprefix("file://")) / "checkpoints" / name

    def checkpoint(self, run: Run, name: str) -> Checkpoint:
        return load_checkpoint(self.artifact(run, name))

    def resume(self, reference: str, *changes: str, **words: str) -> tuple[int, str]:
        overrides = [word for text in (*named("killed"), *changes) for word in ("--set", text)]
        given = {"data": str(self.data), **words}
        more = [word for name, value in given.items() for word in (f"--{name}", value)]
        done = self.project.stage("float", "--resume", reference, *overrides, *more)
        return done.returncode, done.stderr

    def newest(self) -> Run:
        return self.project.runs("float")[0]

    def histories(self, run: Run) -> dict[str, list[tuple[int, float]]]:
        client = self.project.client
        return {
            name: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
            for name in MEASURED
        }


def named(name: str) -> list[str]:
    return [f"name={name}", *SETTINGS]


def killed_in_the_middle_of_an_epoch(project: Project, data: Path, folder: Path) -> int:
    """Exit status of a float stage that got SIGKILL after the third step of its third epoch."""
    marker, words = folder / "stalled", [word for text in named("killed") for word in ("--set", text)]
    command = [
        sys.executable,
        "-m",
        "tests.stages.stalled_float",
        str(KILLED_AT),
        str(marker),
        "--config",
        TINY,
        "--data",
        str(data),
        *words,
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=project.path, env=project.environment(), stdout=log, stderr=log)
        try:
            while not marker.exists():
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
        finally:
            process.kill()
        return process.wait(60)


@pytest.fixture(scope="module")
def killed(trained: Project, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    project = copy_project(tmp_path_factory.mktemp("killed") / "carkp")
    # other tests leave runs in this project that failed
    data = next(Path(run.data.tags["carkp.data_dir"]) for run in trained.runs("data") if run.info.status == "FINISHED")
    status = killed_in_the_middle_of_an_epoch(project, data, tmp_path_factory.mktemp("marker"))
    assert status == -signal.SIGKILL
    run = project.runs("float")[0]
    done = project.stage("float", "--data", str(data), *(word for text in named("whole") for word in ("--set", text)))
    assert done.returncode == 0, done.stderr
    return Killed(project, data, run, project.runs("float")[0])


def test_the_kill_came_in_the_middle_of_an_epoch(killed: Killed) -> None:
    assert killed.run.info.status == "RUNNING"  # nothing could be closed
    last = load_checkpoint(killed.own_last)
    assert (last.epoch, last.training_state["num_steps_done"]) == (2, 2 * STEPS_AN_EPOCH)
    assert len(killed.histories(killed.run)["train/loss"]) == 2


@pytest.mark.parametrize("reference", ["latest", "file", pytest.param("run", marks=pytest.mark.slow)])
def test_a_killed_training_resumes_to_the_bit(killed: Killed, reference: str, tmp_path: Path) -> None:
    """Order of samples, augmentation, stochastic depth, optimiser, schedule, moving average and choice of the epoch."""
    lone = tmp_path / "somewhere" / "last.pt"
    lone.parent.mkdir()
    lone.write_bytes(killed.own_last.read_bytes())  # without the best.pt beside it
    references = {"latest": "latest", "run": f"runs:/{killed.run.info.run_id}", "file": str(lone)}
    artifact = killed.artifact(killed.run, "last.pt")
    artifact.write_bytes(killed.own_last.read_bytes()[:10_000])  # a kill while it was copied: nobody may notice
    status, error = killed.resume(references[reference])
    assert status == 0, error
    resumed = killed.newest()
    assert resumed.data.tags["carkp.resumed_from"] == str(lone if reference == "file" else killed.own_last)
    assert resumed.info.run_id not in (killed.run.info.run_id, killed.whole.info.run_id)
    for name in ("best.pt", "last.pt"):
        ours, theirs = killed.checkpoint(resumed, name), killed.checkpoint(killed.whole, name)
        assert ours.epoch == theirs.epoch
        assert weights_digest(ours.weights) == weights_digest(theirs.weights)
    assert resumed.data.tags["carkp.model_digest"] == killed.whole.data.tags["carkp.model_digest"]
    assert resumed.data.tags[INPUTS_TAG] == killed.whole.data.tags[INPUTS_TAG]
    assert killed.histories(resumed) == killed.histories(killed.whole)
    assert [step for step, _ in killed.histories(resumed)["train/loss"]] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("reference", "change", "text"),
    [
        ("latest", "seed=1", "seed: 0 -> 1"),
        ("run", "seed=1", "seed: 0 -> 1"),
        ("file", "seed=1", "seed: 0 -> 1"),
        ("latest", "train.lr=0.003", "train.lr: 0.0015 -> 0.003"),
        ("latest", "train.weight_decay=0", "train.weight_decay: 0.05 -> 0.0"),
        ("run", "train.epochs=5", "train.epochs: 4 -> 5"),
        ("file", "augment.noise_probability=0", "augment.noise_probability: 0.5 -> 0.0"),
    ],
)
def test_a_run_of_another_configuration_is_refused(killed: Killed, reference: str, change: str, text: str) -> None:
    references = {"latest": "latest", "run": killed.run.info.run_id, "file": str(killed.own_last)}
    status, error = killed.resume(references[reference], change)
    assert status == 1
    assert "Traceback" not in error
    assert f"\n  {text}\n" in error
    assert "train again without resume" in error
    assert "checkpoints" not in killed.project.artifacts(killed.newest())  # nothing of the other run came along


def test_another_number_of_processes_is_refused(killed: Killed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "is_under_torchrun", lambda: True)  # so that no other process is started
    status, error = killed.resume("latest", nproc="2")
    assert status == 1
    assert "\n  train.nproc: 1 -> 2\n" in error


def test_other_data_are_refused(killed: Killed) -> None:
    """Generated anew with another seed: the settings of the training are the same."""
    status, error = killed.resume(str(killed.own_last), "synthetic.seed=5", data="latest")
    assert status == 1
    assert "data (digest): " in error


@pytest.mark.parametrize(
    "kept", [pytest.param("another", id="other code"), pytest.param(None, id="earlier", marks=pytest.mark.slow)]
)
def test_a_result_of_two_versions_of_the_code_does_not_pass_for_one(
    killed: Killed, tmp_path: Path, kept: str | None
) -> None:
    """It can be made, with a word, and nothing takes it for what the code at hand makes of these inputs."""
    last = load_checkpoint(killed.own_last)
    decided = {name: value for name, value in last.training_state["decided"].items() if name != CODE}
    decided |= {} if kept is None else {CODE: kept}
    path = tmp_path / "last.pt"
    save_checkpoint(replace(last, training_state={**last.training_state, "decided": decided}), path)
    status, error = killed.resume(str(path))
    assert status == 0, error
    assert f"warning: {path}: its epochs were trained with other code" in error
    resumed = killed.newest()
    assert INPUTS_TAG in killed.whole.data.tags
    assert INPUTS_TAG not in resumed.data.tags
    assert killed.checkpoint(resumed, "last.pt").training_state["decided"][CODE] == "several"
