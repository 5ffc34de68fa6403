"""What is left of a run whose process was killed."""

import os
import socket
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from carkp.processes import PROCESS_TAG, process_name
from carkp.tracking import tracker
from carkp.tracking.runs import local_artifacts
from carkp.tracking.store import open_experiment, use_default_store
from carkp.workflow.killed import end_killed_runs

UNFINISHED = (".unfinished.host.5.00000000.partial", ".artifact.uploading.x7")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "MLproject").write_text("name: carkp\n")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    use_default_store()
    return tmp_path


def begun(process: str, stage: str) -> str:
    """A run that is under way, with a finished file and two that are not."""
    tags = {PROCESS_TAG: process, "carkp.stage": stage}
    run_id = MlflowClient().create_run(open_experiment("killed"), tags=tags).info.run_id
    for folder in (local_artifacts(run_id), Path("runs") / run_id):
        assert folder is not None
        (folder / "checkpoints").mkdir(parents=True)
        for name in ("last.pt", *UNFINISHED):
            (folder / "checkpoints" / name).touch()
    return run_id


def left(run_id: str) -> set[str]:
    folder = local_artifacts(run_id)
    assert folder is not None
    return {path.name for place in (folder, Path("runs") / run_id) for path in place.rglob("*") if path.is_file()}


def test_runs_of_killed_processes_are_ended_and_those_of_others_left_alone(project: Path) -> None:
    host, pid, start = process_name(os.getpid()).split()
    gone = f"{host} {pid} {float(start) - 100:.0f}"
    dead, alive, other = begun(gone, "float"), begun(process_name(os.getpid()), "float"), begun(gone, "qat")
    far, own = begun("elsewhere 5 0", "float"), begun(gone, "float")
    end_killed_runs("float", own)
    states = {run_id: MlflowClient().get_run(run_id).info.status for run_id in (dead, alive, other, far, own)}
    assert [run_id for run_id, status in states.items() if status == "KILLED"] == [dead]
    assert left(dead) == {"last.pt"}
    assert left(alive) == left(far) == {"last.pt", *UNFINISHED}


@pytest.mark.parametrize("is_given", [False, True])
def test_a_run_that_was_killed_as_soon_as_it_began_is_found(
    project: Path, monkeypatch: pytest.MonkeyPatch, is_given: bool
) -> None:
    if is_given:  # as `mlflow run` does
        given = MlflowClient().create_run(open_experiment("killed")).info.run_id
        monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with monkeypatch.context() as patch:
        patch.setattr(tracker, "process_name", lambda pid: f"{socket.gethostname()} {pid} 1")  # one that is gone
        patch.setattr(tracker, "MlflowTracker", _kill)
        with pytest.raises(_KilledError), tracker.tracked_run("float", "killed", 0.0):
            pass
    end_killed_runs("float", "another")
    (run,) = MlflowClient().search_runs([open_experiment("killed")])
    assert run.info.status == "KILLED"


def test_a_trial_that_was_killed_before_its_study_knew_its_run_is_found(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = MlflowClient().create_run(open_experiment("killed")).info.run_id
    with monkeypatch.context() as patch:
        patch.setattr(tracker, "process_name", lambda pid: f"{socket.gethostname()} {pid} 1")
        patch.setattr(tracker, "MlflowTracker", _kill)
        with pytest.raises(_KilledError), tracker.nested_run(study, "trial", "killed"):
            pass
    end_killed_runs("trial", "")
    (trial,) = [run for run in MlflowClient().search_runs([open_experiment("killed")]) if run.info.run_id != study]
    assert trial.info.status == "KILLED"


class _KilledError(BaseException):
    """In the place of SIGKILL."""


def _kill(*arguments: object) -> None:
    raise _KilledError
