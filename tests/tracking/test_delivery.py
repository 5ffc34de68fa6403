"""Outages of the tracking server: what a run reports meanwhile arrives later, in order, once."""

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE
from mlflow.tracking import MlflowClient
from mlflow.utils import rest_utils
from mlflow.utils.rest_utils import MlflowHostCreds, http_request_safe

from carkp.command.main import group
from carkp.tracking import delivery, sync
from carkp.tracking import tracker as tracker_module
from carkp.tracking.delivery import spool_root
from carkp.tracking.outage import is_outage, patience
from carkp.tracking.reports import send
from carkp.tracking.spool import Report
from carkp.tracking.store import TrackingError, require_answer
from carkp.tracking.tracker import MlflowTracker, Tracker, tracked_run
from tests.tracking.relu import write_relu


@pytest.fixture(autouse=True)
def no_system_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests count reports, and those of the sampler come when they come."""
    monkeypatch.setattr(tracker_module, "_system_metrics", lambda *_: nullcontext())


@dataclass
class Network:
    """Between a run and its database.

    Attributes:
        is_down: requests do not arrive.
        loses_answers: they arrive, and nobody is told.
        arrived: kinds of the reports that did.
    """

    is_down: bool = False
    loses_answers: bool = False
    arrived: list[str] = field(default_factory=list)

    def send(self, client: MlflowClient, run_id: str, report: Report) -> None:
        if not self.is_down:
            send(client, run_id, report)
            self.arrived.append(report.kind)
        if self.is_down or self.loses_answers:
            raise MlflowException("API request to http://127.0.0.1:9 failed with exception Connection refused")


@pytest.fixture
def network(project: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Network:
    shutil.copy(empty_database, project / "mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    found = Network()
    monkeypatch.setattr(delivery, "_FIRST_PAUSE_S", 0.02)
    for module in (delivery, sync):
        monkeypatch.setattr(module, "send", found.send)
    return found


def history(run_id: str, name: str = "loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in MlflowClient().get_metric_history(run_id, name)]


def synced() -> list[int]:
    """How many reports of each spool were sent."""
    return [sent.num_sent for sent in sync.sync(spool_root())]


def report_everything(tracker: MlflowTracker, folder: Path) -> None:
    write_relu(folder / "relu.onnx")
    tracker.log_params({"lr": 0.1})
    tracker.set_tags({"colour": "red"})
    tracker.log_text("b", "texts/b.txt")
    tracker.log_figure(Figure(), "figures/f.png")
    tracker.log_dataset("cars", "0123", "here", "training")
    tracker.log_onnx_model(folder / "relu.onnx", "relu", np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
    tracker.describe("A note.", "red")


@pytest.mark.parametrize("loses_answers", [False, True])
def test_what_is_reported_in_an_outage_arrives_in_order_and_once(
    network: Network, tmp_path: Path, loses_answers: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracked_run("float", "tiny", 60.0) as tracker:
        tracker.log_metrics({"loss": 5.0}, 0)
        network.is_down, network.loses_answers = not loses_answers, loses_answers
        tracker.log_metrics({"loss": 4.0}, 1)
        tracker.log_metrics({"loss": 3.0}, 2)
        report_everything(tracker, tmp_path)
        time.sleep(0.3)
        network.is_down = network.loses_answers = False
        tracker.log_metrics({"loss": 2.0}, 3)
    run = MlflowClient().get_run(tracker.run_id)
    assert history(tracker.run_id) == [(0, 5.0), (1, 4.0), (2, 3.0), (3, 2.0)]
    assert run.data.params == {"lr": "0.1"}
    assert (run.data.tags["colour"], run.data.tags["mlflow.note.content"]) == ("red", "A note.")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "float red")
    assert {item.path for item in MlflowClient().list_artifacts(tracker.run_id)} == {"texts", "figures"}
    assert len(run.inputs.dataset_inputs) == 1
    (model,) = MlflowClient().search_logged_models([run.info.experiment_id])
    assert (model.name, str(model.status), model.params) == ("relu", "READY", {"lr": "0.1"})
    assert network.arrived[-12:-9] == ["metrics"] * 3 or loses_answers
    assert list(spool_root().iterdir()) == []
    said = capsys.readouterr().err
    assert "The run continues" in said
    assert "answers again: " in said


def test_a_run_that_ends_in_an_outage_is_sent_later_and_once(
    network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracked_run("float", "tiny", 60.0, wait_s=0.1) as tracker:
        network.is_down = True
        tracker.log_metrics({"loss": 4.0}, 1)
        report_everything(tracker, tmp_path)
    (folder,) = spool_root().iterdir()
    said = capsys.readouterr().err
    assert f"9 reports of the run {tracker.run_id} were not sent. They are kept in {folder}" in said
    assert f"`carkp sync {folder}` sends them" in said
    assert MlflowClient().get_run(tracker.run_id).info.status == "RUNNING"
    network.is_down = False
    done = CliRunner().invoke(group, ["sync", str(folder)])
    assert done.exit_code == 0
    assert f"float tiny ({tracker.run_id}): 9 kept reports were sent to sqlite" in done.stdout
    run = MlflowClient().get_run(tracker.run_id)
    assert (run.info.status, run.data.params) == ("FINISHED", {"lr": "0.1"})
    assert history(tracker.run_id) == [(1, 4.0)]
    assert "there are no reports to send" in CliRunner().invoke(group, ["sync"]).stdout
    assert "no such folder" in CliRunner().invoke(group, ["sync", str(folder)]).output


def test_one_outage_after_the_other(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    with tracked_run("float", "tiny", 60.0) as tracker:
        for step in range(12):
            network.is_down = step % 4 in (1, 2)
            tracker.log_metrics({"loss": step / 8}, step)
            end = time.monotonic() + 20
            while step % 4 == 3 and list(spool_root().iterdir()):  # the server is back
                assert time.monotonic() < end
                time.sleep(0.01)
    assert history(tracker.run_id) == [(step, step / 8) for step in range(12)]
    assert MlflowClient().get_run(tracker.run_id).info.status == "FINISHED"
    assert capsys.readouterr().err.count("answers again: ") == 3
    assert list(spool_root().iterdir()) == []


def test_the_time_of_a_report_is_when_it_was_made(network: Network) -> None:
    before = time.time_ns() // 1_000_000
    with tracked_run("float", "tiny", 60.0, wait_s=0.1) as tracker:
        network.is_down = True
        tracker.log_metrics({"loss": 4.0}, 1)
    after = time.time_ns() // 1_000_000
    network.is_down = False
    time.sleep(0.05)
    assert synced() == [2]
    (point,) = MlflowClient().get_metric_history(tracker.run_id, "loss")
    assert before <= point.timestamp <= after
    assert before <= MlflowClient().get_run(tracker.run_id).info.end_time <= after


@pytest.mark.parametrize("killed_at", [0, 3, 5, 8])
def test_killed_while_it_is_sent_it_counts_once(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """The worst moment: the server has a report, and the spool does not know yet."""
    with tracked_run("float", "tiny", 60.0, wait_s=0.1) as tracker:
        network.is_down = True
        tracker.log_metrics({"loss": 4.0}, 1)
        report_everything(tracker, tmp_path)
    network.is_down = False

    def die(client: MlflowClient, run_id: str, report: Report) -> None:
        send(client, run_id, report)
        network.arrived.append(report.kind)
        if len(network.arrived) == killed_at + 1:
            raise KeyboardInterrupt

    network.arrived.clear()
    monkeypatch.setattr(sync, "send", die)
    with pytest.raises(KeyboardInterrupt):
        synced()
    monkeypatch.setattr(sync, "send", network.send)
    assert synced() == [9 - killed_at]
    run = MlflowClient().get_run(tracker.run_id)
    assert history(tracker.run_id) == [(1, 4.0)]
    assert (run.info.status, run.data.params, run.data.tags["colour"]) == ("FINISHED", {"lr": "0.1"}, "red")
    assert len(run.inputs.dataset_inputs) == 1
    assert len(MlflowClient().search_logged_models([run.info.experiment_id])) == 1


def test_what_the_server_refuses_is_an_error_at_once(network: Network) -> None:
    with tracked_run("float", "tiny", 60.0) as tracker:
        tracker.log_params({"lr": 0.1})
        with pytest.raises(MlflowException, match="Changing param values"):
            tracker.log_params({"lr": 0.2})
    assert not spool_root().exists()


def test_what_the_server_refuses_later_fails_the_run(network: Network) -> None:
    ids = []

    def work() -> None:
        with tracked_run("float", "tiny", 60.0) as tracker:
            ids.append(tracker.run_id)
            tracker.log_params({"lr": 0.1})
            network.is_down = True
            tracker.log_params({"lr": 0.2})
            tracker.log_metrics({"loss": 4.0}, 1)
            network.is_down = False
            for _ in range(500):
                tracker.set_tags({"colour": "red"})
                time.sleep(0.02)

    with pytest.raises(TrackingError, match="refused a report"):
        work()
    run = MlflowClient().get_run(ids[0])
    assert (run.info.status, run.data.params, history(ids[0])) == ("FAILED", {"lr": "0.1"}, [(1, 4.0)])
    (folder,) = spool_root().iterdir()
    assert "Changing param values" in json.loads((folder / "refused.jsonl").read_text())["reason"]
    done = CliRunner().invoke(group, ["sync"])
    assert done.exit_code == 1
    assert "1 were refused" in done.stdout


def test_the_next_stage_sends_what_is_left(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(tracker: Tracker) -> None:
        network.is_down = True
        tracker.log_metrics({"loss": 4.0}, 1)
        raise KeyError("odd")

    with pytest.raises(KeyError), tracked_run("float", "tiny", 60.0, wait_s=0.1) as tracker:
        fail(tracker)
    network.is_down = False
    with tracked_run("calops", "tiny", 60.0):
        pass
    assert f"float tiny ({tracker.run_id}): 3 kept reports were sent" in capsys.readouterr().err
    run = MlflowClient().get_run(tracker.run_id)
    assert (run.info.status, run.data.tags["carkp.error"]) == ("FAILED", "KeyError: 'odd'")


def test_a_server_that_is_still_gone_is_named(network: Network) -> None:
    with tracked_run("float", "tiny", 60.0, wait_s=0.1) as tracker:
        network.is_down = True
        tracker.log_metrics({"loss": 4.0}, 1)
    with pytest.raises(TrackingError, match=r"2 reports are still in .*spool"):
        synced()
    network.is_down = False
    assert synced() == [2]
    assert history(tracker.run_id) == [(1, 4.0)]


def test_no_password_is_kept(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracked_run("float", "tiny", 60.0, wait_s=0.1) as tracker:
        network.is_down = True
        tracker.log_metrics({"loss": 4.0}, 1)
    (folder,) = spool_root().iterdir()
    address = json.loads((folder / "address.json").read_text())
    secret = "http://me:secret@127.0.0.1:9"
    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "get_tracking_uri", lambda: secret)
        kept = delivery.Delivery(tracker.run_id, "float tiny")._address
    assert kept.uri == "http://me:***@127.0.0.1:9"
    (folder / "address.json").write_text(json.dumps({**address, "uri": kept.uri}))
    assert sync._with_password(kept.uri, secret) == secret
    with pytest.raises(TrackingError, match="the password of this tracking server is not kept"):
        synced()


@pytest.fixture
def status() -> Iterator[tuple[str, list[int]]]:
    """A server that answers so; its address."""
    answered = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answered[0])
            self.end_headers()
            self.wfile.write(b"{}" if answered[0] == 200 else b"no")

        def log_message(self, *_: object) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=lambda: httpd.serve_forever(poll_interval=0.01), daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", answered
    httpd.shutdown()


@pytest.mark.parametrize(
    ("code", "is_kept"), [(500, True), (502, True), (503, True), (429, True), (400, False), (401, False), (404, False)]
)
def test_what_is_an_outage(status: tuple[str, list[int]], code: int, is_kept: bool) -> None:
    uri, answered = status
    answered[0] = code
    with patience(1), pytest.raises(MlflowException) as caught:
        http_request_safe(MlflowHostCreds(uri), "/api/2.0/mlflow/runs/get", "GET")
    assert is_outage(caught.value) == is_kept


def test_patience_is_of_one_thread_and_of_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    before, timeout = dict(os.environ), rest_utils.MLFLOW_HTTP_REQUEST_TIMEOUT
    with patience(3.0), ThreadPoolExecutor(1) as other:
        assert (timeout.get(), rest_utils.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()) == (3, 0)
        assert other.submit(timeout.get).result() == 120
        assert dict(os.environ) == before
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
        assert timeout.get() == 7


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (MlflowException("(sqlite3.OperationalError) database is locked", TEMPORARILY_UNAVAILABLE), True),
        (MlflowException("(sqlite3.OperationalError) database or disk is full", TEMPORARILY_UNAVAILABLE), False),
        (MlflowException("(psycopg2.OperationalError) server closed the connection", TEMPORARILY_UNAVAILABLE), True),
        (MlflowException("something odd", INTERNAL_ERROR), False),
        (ConnectionRefusedError(), True),
        (OSError(28, "No space left on device"), False),
        (FileNotFoundError("last.pt"), False),
    ],
)
def test_other_failures_that_pass(error: Exception, is_kept: bool) -> None:
    assert is_outage(error) == is_kept


def test_a_silent_server_holds_up_one_report_shortly(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(delivery, "_REPORT_TIMEOUT_S", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        mlflow.set_tracking_uri(f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracker = MlflowTracker("0123456789abcdef0123456789abcdef", "float", "tiny")
        start = time.monotonic()
        for step in range(20):
            tracker.log_metrics({"loss": 1.0}, step)
        tracker.end(0.0)
        assert 1.0 <= time.monotonic() - start < 4.0
    assert "21 reports of the run" in capsys.readouterr().err


def test_the_start_waits_for_a_server_that_comes(
    project: Path, monkeypatch: pytest.MonkeyPatch, status: tuple[str, list[int]]
) -> None:
    uri, answered = status
    answered[0] = 503
    monkeypatch.setattr(delivery.MlflowClient, "search_experiments", ask(uri))
    threading.Timer(1.0, lambda: answered.__setitem__(0, 200)).start()
    with pytest.raises(TrackingError, match=r"does not answer: too many 503.*carkp waited 0.1 s"):
        require_answer(f"{uri}/", 0.1)
    require_answer(uri, 20.0)


def ask(uri: str) -> Any:
    """A stand-in for a question that the little server can answer."""

    def search(*_: object, **__: object) -> None:
        http_request_safe(MlflowHostCreds(uri), "/api/2.0/mlflow/experiments/search", "GET")

    return search
