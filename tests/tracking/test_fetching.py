"""Artifacts on another machine are copied. No copy is left when the process ends, and a failed copy says why."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from carkp.tracking import runs
from carkp.tracking.store import TrackingError
from tests.tracking.servers import TrackingServer

FETCH = """
import multiprocessing, sys
from carkp.tracking.runs import fetch_artifact, fetch_reference

def fetch(run_id):
    for path in (fetch_artifact(run_id, "tables/check.csv"), fetch_reference(f"runs:/{run_id}/tables/check.csv")):
        print(path, path.read_text(), flush=True)
    assert (fetch_artifact(run_id, "tables") / "check.csv").read_text() == "content"

"""
ENDS = {
    "done": "fetch(sys.argv[1])",
    "failed": "fetch(sys.argv[1])\nraise SystemExit('failed')",
    "forked": (
        "child = multiprocessing.get_context('fork').Process(target=fetch, args=sys.argv[1:])\n"
        "child.start()\nchild.join()\nassert child.exitcode == 0"
    ),
}


@pytest.fixture(scope="module")
def run_id(server: TrackingServer) -> str:
    client = MlflowClient(tracking_uri=server.uri)
    run = client.create_run("0").info.run_id
    client.log_text(run, "content", "tables/check.csv")
    return str(run)


@pytest.fixture
def elsewhere(server: TrackingServer, run_id: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a run whose artifacts only the server can reach."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    mlflow.set_tracking_uri(server.uri)
    return run_id


@pytest.fixture
def local(client: MlflowClient) -> str:
    """The id of a run whose artifacts are on this machine."""
    run = client.create_run("0").info.run_id
    client.log_text(run, "content", "tables/check.csv")
    return str(run)


@pytest.mark.parametrize("end", ENDS)
def test_no_copy_is_left(server: TrackingServer, run_id: str, tmp_path: Path, end: str) -> None:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server.uri, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", FETCH + ENDS[end], run_id]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.count("content")) == (1 if end == "failed" else 0, 2), done.stderr
    assert done.stdout.count(str(tmp_path)) == 2, "the files were not copied: this test would show nothing"
    assert list(tmp_path.iterdir()) == []


def test_files_on_this_machine_are_not_copied(local: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    path = runs.fetch_artifact(local, "tables/check.csv")
    assert path.read_text() == "content"
    assert path.is_relative_to(tmp_path / "mlruns")
    assert runs.fetch_reference(f"runs:/{local}/tables/check.csv") == path
    assert runs.fetch_reference(f"runs:/{local}/tables/") == path.parent
    assert runs.describe_place(local, "tables/check.csv") == str(path)


def test_a_place_elsewhere_is_named_by_its_reference(elsewhere: str) -> None:
    assert runs.describe_place(elsewhere, "tables/check.csv") == f"runs:/{elsewhere}/tables/check.csv"


def test_what_is_not_there_is_named(elsewhere: str) -> None:
    with pytest.raises(TrackingError, match="has no artifact tables/other"):
        runs.fetch_artifact(elsewhere, "tables/other.csv")
    for nothing in (f"runs:/{elsewhere}/tables/other.csv", f"runs:/{'0' * 32}/tables/check.csv", "models:/nothing/1"):
        with pytest.raises(TrackingError, match="no such artifact in"):
            runs.fetch_reference(nothing)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), MlflowException(os.strerror(errno.ENOSPC))]
)
def test_a_full_disk_is_named(elsewhere: str, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fill(**_: object) -> None:
        raise error

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", fill)
    with pytest.raises(TrackingError, match=r"cannot be copied to .*No space left on device.*MiB are free"):
        runs.fetch_artifact(elsewhere, "tables/check.csv")
    for reference in (f"runs:/{elsewhere}/tables/check.csv", "models:/m/1"):
        with pytest.raises(TrackingError, match=r"cannot be copied to .*No space left on device.*MiB are free"):
            runs.fetch_reference(reference)


def test_a_run_that_cannot_be_asked_for_is_not_missing(local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MlflowException("the server is down")

    monkeypatch.setattr(runs, "MlflowClient", lambda: type("Client", (), {"get_run": fail, "list_artifacts": fail})())
    with pytest.raises(TrackingError, match=r"cannot be copied to .*the server is down"):
        runs.fetch_artifact(local, "tables/check.csv")
