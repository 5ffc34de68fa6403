"""Tracking servers that are gone or refuse, databases of another time, and where the project's own one lies."""

import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient
from mlflow.utils import rest_utils

from carkp.project import project_root
from carkp.tracking import store
from carkp.tracking.store import TrackingError, open_experiment, use_default_store


@pytest.fixture
def status() -> list[int]:
    """What the server answers; none: nothing."""
    return [401]


@pytest.fixture
def server(status: list[int]) -> Iterator[str]:
    """A server that has nothing but a status; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0])
            self.end_headers()
            self.wfile.write(b"<html>no</html>")

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()


def refusal(uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said of a tracking URI."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError) as caught:
        use_default_store(wait_s=2.0)
    return str(caught.value)


def test_a_server_that_is_gone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        uri = f"http://127.0.0.1:{held.getsockname()[1]}"
        start = time.monotonic()
        said = refusal(uri, monkeypatch)
    assert time.monotonic() - start < 60
    assert said.startswith(f"{uri}: the tracking server does not answer: ")
    assert "Connection refused" in said
    assert "unset it to track to mlflow.db" in said


def test_a_server_that_says_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # the environment decides where it says how long
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://user:secret@127.0.0.1:{silent.getsockname()[1]}"
        said = refusal(uri, monkeypatch)
    assert "does not answer" in said
    assert "timed out" in said
    assert "secret" not in said


def test_the_proxy_in_between_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    said = refusal("http://tracking.invalid:5000", monkeypatch)
    assert "http://me:***@127.0.0.1:9 works (NO_PROXY=tracking.invalid avoids it)" in said


@pytest.mark.parametrize("code", [401, 403])
def test_a_server_that_refuses(
    project: Path, monkeypatch: pytest.MonkeyPatch, server: str, status: list[int], code: int
) -> None:
    status[0] = code
    said = refusal(server, monkeypatch)
    assert said.startswith(f"{server}: the tracking server refuses this user")
    assert "MLFLOW_TRACKING_USERNAME" in said


def test_a_server_that_is_no_tracking_server(
    project: Path, monkeypatch: pytest.MonkeyPatch, server: str, status: list[int]
) -> None:
    status[0] = 404
    assert "404" in refusal(server, monkeypatch)


def test_patience_is_short_for_the_first_question_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    use_default_store()
    assert rest_utils.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 7


@pytest.mark.parametrize("revision", ["0123456789ab", "0a8213491aaa"])
def test_a_database_of_another_mlflow(project: Path, monkeypatch: pytest.MonkeyPatch, revision: str) -> None:
    MlflowClient(tracking_uri=f"sqlite:///{project}/other.db").search_experiments()
    with sqlite3.connect(project / "other.db") as database:
        database.execute("update alembic_version set version_num = ?", (revision,))
    said = refusal(f"sqlite:////{project}/./other.db", monkeypatch)
    assert f"has the schema {revision}" in said
    assert "mlflow db upgrade sqlite:///" in said
    assert "a newer one" in said


def test_databases_that_cannot_be_opened(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "text.db").write_text("no database at all, but long enough to be looked at " * 20)
    (project / "folder.db").mkdir()
    start = time.monotonic()
    assert "file is not a database" in refusal(f"sqlite:///{project}/text.db", monkeypatch)
    assert "it is a directory" in refusal(f"sqlite:///{project}/folder.db", monkeypatch)
    assert "text.db is not a directory" in refusal(f"sqlite:///{project}/text.db/mlflow.db", monkeypatch)
    said = refusal("postgresql://me:secret@127.0.0.1:9/runs", monkeypatch)  # refused, or no driver
    assert said.startswith("postgresql://me:***@127.0.0.1:9/runs: the tracking database cannot be opened: ")
    assert time.monotonic() - start < 30


def test_a_deleted_experiment_can_be_brought_back(project: Path) -> None:
    use_default_store()
    experiment_id = open_experiment("cars")
    assert open_experiment("cars") == experiment_id
    MlflowClient().delete_experiment(experiment_id)
    with pytest.raises(TrackingError) as caught:
        open_experiment("cars")
    command = (
        f"MLFLOW_TRACKING_URI={mlflow.get_tracking_uri()} mlflow experiments restore --experiment-id {experiment_id}"
    )
    assert "'cars' was deleted" in str(caught.value)
    assert command in str(caught.value)


@pytest.mark.parametrize("name", ["plain", "a b#c?d%41e:ü"])
def test_all_of_the_own_store_lies_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Path, name: str
) -> None:
    root, elsewhere = tmp_path / name, tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(store, "project_root", lambda: root)
    use_default_store()
    client = MlflowClient()
    for experiment_id in (open_experiment("cars"), "0"):
        run_id = client.create_run(experiment_id).info.run_id
        client.log_text(run_id, "content", "a/b.txt")
        assert (root / f"mlruns/{experiment_id}/{run_id}/artifacts/a/b.txt").read_text() == "content"
    assert (root / "mlflow.db").is_file()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("blank", ["", " "])
def test_a_blank_address_is_none(project: Path, monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", blank)
    use_default_store()
    assert mlflow.get_tracking_uri() == f"sqlite:///{project}/mlflow.db"


def test_an_explicit_server_wins(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/chosen.db")
    use_default_store()
    assert MlflowClient().get_experiment(open_experiment("cars")).name == "cars"
    assert (project / "chosen.db").is_file()
    assert not (project / "mlflow.db").exists()


def test_the_project_is_found_from_its_directories(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project_root() == project
    (project / "configs/targets").mkdir(parents=True)
    monkeypatch.chdir(project / "configs/targets")
    assert project_root() == project


def test_a_project_of_somebody_else_is_not_carkp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "MLproject").write_text("name: flowers\nentry_points: {}\n")
    monkeypatch.chdir(tmp_path)
    assert project_root() == Path(__file__).parents[2]
