"""A real ``mlflow server`` is killed in the middle of a training and started again: nothing of it is lost."""

import importlib
import io
import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.stages.conftest import TINY, Project, copy_project
from tests.tracking.servers import TrackingServer

pytestmark = pytest.mark.slow

NUM_EPOCHS = 40
SLOW_EPOCH_S = 4.0
"""So that the training is still at work when the server is back."""

KILLED_AFTER = 3
OUTAGE_S = 60.0
LIMIT_S = 1200.0
TIMED = ("train/samples_per_s", "system/")
"""Metrics that are times, or of the machine: no two trainings have the same."""


@dataclass(frozen=True)
class Finished:
    """A training that has ended: what it said, and its run."""

    status: int
    output: str
    run: Run


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return copy_project(tmp_path_factory.mktemp("outage") / "carkp")


def start(
    project: Project, server: TrackingServer, log: Path, settings: Sequence[str], epoch_s: float
) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.tracking.paced_float", str(epoch_s), "--config", TINY]
    command += ["--set", f"train.epochs={NUM_EPOCHS}"]
    command += [word for setting in settings for word in ("--set", setting)]
    environment = {**project.environment(), "MLFLOW_TRACKING_URI": server.uri}
    with log.open("wb") as file:
        return subprocess.Popen(command, cwd=project.path, env=environment, stdout=file, stderr=file)


def runs(client: MlflowClient, experiment: str) -> list[Run]:
    found = client.get_experiment_by_name(experiment)
    query = "tags.`carkp.stage` = 'float'"
    return [] if found is None else list(client.search_runs([found.experiment_id], query))


def histories(client: MlflowClient, run: Run) -> dict[str, list[tuple[int, float]]]:
    names = [name for name in run.data.metrics if not name.startswith(TIMED)]
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        for name in sorted(names)
    }


def wait_for_epochs(client: MlflowClient, experiment: str, num_epochs: int, training: "subprocess.Popen[bytes]") -> Run:
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        assert training.poll() is None
        for run in runs(client, experiment):
            if len(client.get_metric_history(run.info.run_id, "train/loss")) >= num_epochs:
                return run
        time.sleep(0.2)
    raise AssertionError("the training did not get so far")


def train(project: Project, server: TrackingServer, name: str, outage_s: float = 0.0) -> Finished:
    """Train; where ``outage_s`` is not 0, kill the server after some epochs and start it again after so long."""
    client = MlflowClient(tracking_uri=server.uri)
    log = project.path / f"{name}.log"
    training = start(project, server, log, [f"name={name}"], SLOW_EPOCH_S if outage_s > 0 else 0.0)
    try:
        if outage_s > 0:
            wait_for_epochs(client, name, KILLED_AFTER, training)
            server.kill()
            time.sleep(outage_s)
            assert training.poll() is None, log.read_text()
            server.start()
        status = training.wait(LIMIT_S)
    finally:
        training.kill()
    return Finished(status, log.read_text(), runs(client, name)[0])


@pytest.fixture(scope="module")
def undisturbed(project: Project, server: TrackingServer) -> Finished:
    found = train(project, server, "undisturbed")
    assert found.status == 0, found.output
    return found


def test_a_minute_without_the_server_loses_nothing(
    project: Project, server: TrackingServer, undisturbed: Finished
) -> None:
    disturbed = train(project, server, "disturbed", OUTAGE_S)
    assert disturbed.status == 0, disturbed.output
    assert "The run continues; its reports are kept in" in disturbed.output
    assert "answers again: " in disturbed.output
    client = MlflowClient(tracking_uri=server.uri)
    found, expected = histories(client, disturbed.run), histories(client, undisturbed.run)
    assert found == expected
    assert [step for step, _ in found["train/loss"]] == list(range(1, NUM_EPOCHS + 1))
    moments = [point.timestamp for point in client.get_metric_history(disturbed.run.info.run_id, "train/loss")]
    assert max(later - earlier for earlier, later in itertools.pairwise(moments)) < OUTAGE_S * 1000 / 2
    assert disturbed.run.info.status == "FINISHED"
    assert {**disturbed.run.data.params, "config.name": ""} == {**undisturbed.run.data.params, "config.name": ""}
    assert artifacts(client, disturbed.run) == artifacts(client, undisturbed.run)
    assert list((project.path / "runs" / "spool").iterdir()) == []
    num_points = sum(len(points) for points in found.values())
    print(f"{num_points} points of {len(found)} metrics are those of the undisturbed training")


def test_a_training_that_ends_in_the_outage_is_sent_by_carkp_sync(
    project: Project, server: TrackingServer, undisturbed: Finished
) -> None:
    client = MlflowClient(tracking_uri=server.uri)
    log = project.path / "ended.log"
    training = start(project, server, log, ["name=ended", "tracking.wait_s=2"], epoch_s=0.5)
    try:
        run = wait_for_epochs(client, "ended", KILLED_AFTER, training)
        server.kill()
        status = training.wait(LIMIT_S)
    finally:
        training.kill()
        server.start()
    assert status == 0, log.read_text()
    assert "`carkp sync " in log.read_text()
    assert client.get_run(run.info.run_id).info.status == "RUNNING"
    environment = {**project.environment(), "MLFLOW_TRACKING_URI": ""}  # the reports know their server
    command = [sys.executable, "-m", "carkp.command.main", "sync"]
    for said in ("kept reports were sent to", "there are no reports to send"):
        done = subprocess.run(command, cwd=project.path, env=environment, capture_output=True, text=True, check=True)
        assert said in done.stdout
    ended = client.get_run(run.info.run_id)
    assert ended.info.status == "FINISHED"
    assert histories(client, ended) == histories(client, undisturbed.run)
    assert artifacts(client, ended) == artifacts(client, undisturbed.run)


def test_a_server_that_never_answers_fails_the_stage_within_a_minute(project: Project, fresh_uri: None) -> None:
    """It takes connections and says nothing. The time is that of the stage, without the imports of its program."""
    stage = importlib.import_module("carkp.stages.float")
    error = io.StringIO()
    with socket.socket() as silent, pytest.MonkeyPatch.context() as patch, redirect_stderr(error):
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        patch.chdir(project.path)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        start_s = time.monotonic()
        status = stage.main(["--config", TINY])
        seconds = time.monotonic() - start_s
    assert status == 1
    assert 20 < seconds < 60
    assert f"error: {uri}: the tracking server does not answer: " in error.getvalue()
    assert "carkp waited 30 s (tracking.wait_s). Check that it runs" in error.getvalue()
    print(f"the stage failed after {seconds:.1f} s")


@pytest.fixture
def fresh_uri() -> Iterator[None]:
    """The address that MLflow remembers counts more than the variable."""
    mlflow.set_tracking_uri(None)
    yield
    mlflow.set_tracking_uri(None)


def artifacts(client: MlflowClient, run: Run, folder: str = "") -> set[str]:
    found = set()
    for item in client.list_artifacts(run.info.run_id, folder or None):
        found |= artifacts(client, run, item.path) if item.is_dir else {item.path}
    return found
