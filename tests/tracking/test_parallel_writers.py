"""Several processes write into one SQLite tracking store at once."""

import multiprocessing
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from carkp.tracking.delivery import spool_root
from carkp.tracking.store import use_default_store
from carkp.tracking.sync import sync
from carkp.tracking.tracker import tracked_run

NUM_PROCESSES = 8


def write(project: Path, number: int, num_reports: int, start: Barrier) -> None:
    """A run with so many metrics, as many parameters, and a tag."""
    os.chdir(project)
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    start.wait(120)
    with tracked_run("float", "parallel", 60.0) as tracker:
        tracker.set_tags({"number": str(number)})
        for step in range(num_reports):
            tracker.log_metrics({"loss": number + step / 1000}, step)
            tracker.log_params({f"p{step}": step})


def write_at_once(project: Path, num_reports: int) -> list[int | None]:
    """Exit statuses of the processes."""
    context = multiprocessing.get_context("fork")
    start = context.Barrier(NUM_PROCESSES)
    writers = [
        context.Process(target=write, args=(project, number, num_reports, start)) for number in range(NUM_PROCESSES)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(540)
    return [writer.exitcode for writer in writers]


@pytest.mark.slow
def test_a_database_that_is_locked_for_long_loses_nothing(
    project: Path, empty_database: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """For longer than MLflow waits, which gives up a request after 20 s: a run begins, reports and ends."""
    shutil.copy(empty_database, project / "mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    use_default_store()
    with locked(project / "mlflow.db", 25.0), tracked_run("float", "locked", 60.0) as tracker:
        tracker.log_metrics({"loss": 0.5}, 0)
        with locked(project / "mlflow.db", 25.0):
            tracker.log_metrics({"loss": 0.25}, 1)
            tracker.log_params({"lr": 0.1})
    assert "is locked" in capfd.readouterr().err
    client = MlflowClient()
    assert [point.value for point in client.get_metric_history(tracker.run_id, "loss")] == [0.5, 0.25]
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.data.params) == ("FINISHED", {"lr": "0.1"})
    assert len(client.search_runs([run.info.experiment_id])) == 1


@contextmanager
def locked(database: Path, seconds: float) -> Iterator[None]:
    """Another one writes, until so many seconds have passed."""
    connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    release = threading.Timer(seconds, connection.rollback)
    release.start()
    yield
    release.join()
    connection.close()


@pytest.mark.parametrize("num_reports", [pytest.param(8, id="8"), pytest.param(100, id="100", marks=pytest.mark.slow)])
def test_of_eight_processes_nothing_is_lost(project: Path, empty_database: Path, num_reports: int) -> None:
    shutil.copy(empty_database, project / "mlflow.db")
    assert write_at_once(project, num_reports) == [0] * NUM_PROCESSES
    assert list(sync(spool_root())) == []
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("parallel")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(int(run.data.tags["number"]) for run in runs) == list(range(NUM_PROCESSES))
    for run in runs:
        number = int(run.data.tags["number"])
        points = client.get_metric_history(run.info.run_id, "loss")
        assert [(point.step, point.value) for point in points] == [
            (step, number + step / 1000) for step in range(num_reports)
        ]
        assert run.data.params == {f"p{step}": str(step) for step in range(num_reports)}
        assert run.info.status == "FINISHED"
