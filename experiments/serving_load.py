"""Do the servers answer everyone correctly while other clients are slow, too large or wrong?

Command:  python experiments/serving_load.py       (10 minutes a server; `--minutes 1` for a look)
Asks:     `mlflow models serve` and `carkp view`, one after the other, on 127.0.0.1 with carkp-car12. Clients send
          requests without a pause. Each ordinary client has its own pictures, whose keypoints were computed before, and
          compares every answer with them. At the same time one client sends bodies in small pieces, one sends too large
          ones, one damaged ones, and one disconnects in the middle. Memory of the server's processes is read all the
          time.
Expect:   no answer of another client's picture, no failure of the server, and memory that does not grow after the first
          quarter. The times are of clients that wait for each other: two cores are fully used.
"""

import base64
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

from carkp.measurements.record import Column, Goal, Measurement, Table
from carkp.predictor import Predictor
from carkp.project import project_root
from carkp.shipped import DEFAULT_MODEL, find_shipped

STUDY = "serving_load"
HOST = "127.0.0.1"
NUM_PICTURES = 3
"""Number of pictures of each ordinary client."""

TIMEOUT_S = 120
SAMPLE_S = 2.0
SLOW_STEP_S = 0.25
LIMIT_MIB = 2
"""Limit on the pictures of a request. The default is larger and would only make the test slow."""

RETURN_LARGE_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""Makes glibc return freed blocks of 1 MiB to the system, as docs/serving.md recommends for servers."""

SCRIPT = """from mlflow.models import set_model

from carkp.serving import KeypointModel

set_model(KeypointModel())
"""
COLUMNS = (
    Column(name="server", heading="server"),
    Column(name="answers", heading="answers to ordinary clients", format=",d"),
    Column(name="p50_ms", heading="p50, ms", format=".0f"),
    Column(name="p99_ms", heading="p99, ms", format=".0f"),
    Column(name="mixed_up", heading="wrong answers", format="d"),
    Column(name="failures", heading="failures of the server", format="d"),
    Column(name="others", heading="slow, too large, damaged, broken off", format=",d"),
    Column(name="first_mib", heading="memory after a quarter, MiB", format=".0f"),
    Column(name="last_mib", heading="at the end", format=".0f"),
    Column(name="growth", heading="growth", format=".1%"),
)
GOALS = {"mixed_up": Goal(at_most=0), "failures": Goal(at_most=0), "growth": Goal(at_most=0.05)}


@dataclass(frozen=True)
class Asked:
    """A picture (PNG), its box, and the cars that the model finds in it."""

    data: bytes
    box: list[float]
    cars: list[dict[str, Any]]

    @property
    def row(self) -> dict[str, Any]:
        return {"image": base64.b64encode(self.data).decode(), "boxes": [self.box]}


@dataclass
class Log:
    """Observations of the clients; several threads write here."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    mixed_up: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, seconds: float, is_right: bool) -> None:
        with self.lock:
            self.seconds.append(seconds)
            self.mixed_up += not is_right

    def count(self, kind: str, status: int | str, is_expected: bool) -> None:
        with self.lock:
            self.statuses[f"{kind}: {status}"] += 1
            if not is_expected:
                self.failures[f"{kind}: {status}"] += 1


def make_pictures(client: int, predictor: Predictor) -> list[Asked]:
    """Make pictures that no other client has."""
    rng = np.random.default_rng(client)
    found = []
    for _ in range(NUM_PICTURES):
        small = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
        image = np.asarray(cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC), np.uint8)
        box = [float(value) for value in (*rng.integers(0, 60, 2), *rng.integers(120, 200, 2))]
        data = bytes(cv2.imencode(".png", image)[1])
        found.append(Asked(data, box, predictor(np.ascontiguousarray(image[..., ::-1]), [box]).cars()))
    return found


Send = Callable[[http.client.HTTPConnection, Asked], tuple[int, list[dict[str, Any]] | None]]
"""Sends a picture; returns the status and the cars of the answer, None without cars."""


def ask_mlflow(connection: http.client.HTTPConnection, asked: Asked) -> tuple[int, list[dict[str, Any]] | None]:
    status, answer = _post(connection, "/invocations", json.dumps({"dataframe_records": [asked.row]}).encode())
    return status, answer["predictions"][0]["cars"] if status == 200 else None


def ask_view(connection: http.client.HTTPConnection, asked: Asked) -> tuple[int, list[dict[str, Any]] | None]:
    """Ask for a picture. 404: so many other pictures arrived in between that the server removed this one."""
    status, answer = _post(connection, "/api/sources?name=x.png", asked.data)
    if status != 200:
        return status, None
    status, answer = _post(
        connection, "/api/predict", json.dumps({"key": answer["key"], "frame": 0, "boxes": [asked.box]}).encode()
    )
    return status, answer["results"][0]["document"]["images"]["x.png"]["cars"] if status == 200 else None


def _post(connection: http.client.HTTPConnection, path: str, body: bytes) -> tuple[int, Any]:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    try:
        return response.status, json.loads(content)
    except ValueError:
        return response.status, None


@dataclass(frozen=True)
class Server:
    """A running server: its port, how an ordinary client asks it, and the path that takes bodies."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    send: Send
    path: str

    def memory_mib(self) -> float:
        """Return the memory of its process and of all child processes."""
        total = 0
        root = psutil.Process(self.process.pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total / 2**20

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(HOST, self.port, timeout=TIMEOUT_S)

    def open(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), timeout=TIMEOUT_S)

    def head(self, length: int) -> bytes:
        lines = (f"POST {self.path} HTTP/1.1", f"Host: {HOST}:{self.port}", "Content-Type: application/json")
        return "\r\n".join([*lines, f"Content-Length: {length}", "Connection: close", "", ""]).encode()


def ordinary(server: Server, log: Log, pictures: list[Asked], end: threading.Event) -> None:
    connection, number = server.connect(), 0
    while not end.is_set():
        asked = pictures[number % len(pictures)]
        number += 1
        start = time.perf_counter()
        try:
            status, cars = server.send(connection, asked)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            log.count("ordinary", type(error).__name__, False)
            continue
        if cars is None:
            log.count("ordinary", status, status == 404 and server.send is ask_view)
        else:
            log.answered(time.perf_counter() - start, cars == asked.cars)


def body_of(server: Server, asked: Asked) -> bytes:
    return asked.data if server.send is ask_view else json.dumps({"dataframe_records": [asked.row]}).encode()


def slow(server: Server, log: Log, pictures: list[Asked], end: threading.Event) -> None:
    """Send bodies in forty pieces."""
    body = body_of(server, pictures[0])
    while not end.is_set():
        with contextlib.suppress(OSError), server.open() as connection:
            connection.sendall(server.head(len(body)))
            for start in range(0, len(body), len(body) // 40 + 1):
                connection.sendall(body[start : start + len(body) // 40 + 1])
                if end.wait(SLOW_STEP_S):
                    return
            log.count("slow", _status_of(connection), True)


def too_large(server: Server, log: Log, pictures: list[Asked], end: threading.Event) -> None:
    """Send bodies that are too large; the server should refuse them and keep nothing."""
    text = base64.b64encode(bytes(2 * LIMIT_MIB * 2**20)).decode()
    large = json.dumps({"dataframe_records": [{"image": text}]}).encode()
    length = 80 * 2**20
    while not end.wait(1.0):
        connection = server.connect()
        try:
            if server.send is ask_view:
                connection.request("POST", server.path, b"\x89PNG" + bytes(2**16), {"Content-Length": str(length)})
            else:
                connection.request("POST", server.path, large, {"Content-Type": "application/json"})
            status = connection.getresponse().status
            log.count("too large", status, status in (400, 413))
        except OSError as error:
            log.count("too large", type(error).__name__, True)
        finally:
            connection.close()


def damaged(server: Server, log: Log, pictures: list[Asked], end: threading.Event) -> None:
    """Send bodies that are changed as by the fuzzer."""
    from tests.fuzz.mutations import mutate

    connection, rng = server.connect(), random.Random(1)
    body = body_of(server, pictures[0])
    while not end.is_set():
        changed = mutate(body, rng, "image" if server.send is ask_view else "request")
        try:
            status, answer = _post(connection, server.path, changed)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            log.count("damaged", type(error).__name__, True)
            continue
        is_of_mlflow = status >= 500 and answer is None  # errors of MLflow's parser, before the request reaches carkp
        is_unexpected = "unexpected error" in json.dumps(answer) or (status >= 500 and not is_of_mlflow)
        log.count("damaged", f"{status} of MLflow's parser" if is_of_mlflow else status, not is_unexpected)


def broken_off(server: Server, log: Log, pictures: list[Asked], end: threading.Event) -> None:
    """Disconnect in the middle of a body."""
    body = body_of(server, pictures[0])
    while not end.wait(0.2):
        with contextlib.suppress(OSError), server.open() as connection:
            connection.sendall(server.head(len(body)) + body[: len(body) // 2])
            log.count("broken off", "left", True)


def _status_of(connection: socket.socket) -> int:
    answer = connection.recv(64)
    return int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0


OTHERS = (slow, too_large, damaged, broken_off)


def load(server: Server, pictures: list[list[Asked]], seconds: float) -> Log:
    """Run all clients for ``seconds``."""
    log, end = Log(), threading.Event()
    threads = [threading.Thread(target=ordinary, args=(server, log, own, end)) for own in pictures]
    threads += [threading.Thread(target=client, args=(server, log, pictures[0], end)) for client in OTHERS]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        log.memory.append(server.memory_mib())
        time.sleep(min(SAMPLE_S, seconds / 20))
    end.set()
    for thread in threads:
        thread.join(TIMEOUT_S)
    return log


def row_of(name: str, log: Log) -> dict[str, Any]:
    """Return a row of the table.

    Memory is the median of an eighth of the time, so that one large request counts little.
    """
    p50, p99 = np.percentile(np.array(log.seconds) * 1e3, (50, 99))
    part = max(len(log.memory) // 8, 1)
    first, last = (float(np.median(log.memory[at : at + part])) for at in (2 * part, len(log.memory) - part))
    return {
        "server": name,
        "answers": len(log.seconds),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "mixed_up": log.mixed_up,
        "failures": log.failures.total(),
        "others": sum(count for kind, count in log.statuses.items() if not kind.startswith("ordinary")),
        "first_mib": first,
        "last_mib": last,
        "growth": last / first - 1,
    }


@contextlib.contextmanager
def running(words: list[str], folder: Path, port: int, ping: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, and wait until it answers."""
    environment = {**os.environ, **RETURN_LARGE_BLOCKS, "PYTHONPATH": str(project_root())}
    environment["MLFLOW_PYFUNC_INFERENCE_CONFIG"] = json.dumps({"max_request_mib": LIMIT_MIB})
    log = (folder / "server.log").open("wb")
    process = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(process, port, ping, folder / "server.log")
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
        log.close()


def _wait_for(process: subprocess.Popen[bytes], port: int, ping: str, log: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            connection = http.client.HTTPConnection(HOST, port, timeout=2)
            connection.request("GET", ping)
            connection.getresponse().read()
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise SystemExit(f"the server does not answer: {log.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
        return port


@contextlib.contextmanager
def mlflow_server(folder: Path, model: Path) -> Iterator[Server]:
    """Run ``mlflow models serve`` with the model as ``export`` registers it, but without a registry."""
    import mlflow.pyfunc

    from carkp.serving import SIGNATURE

    script = folder / "served_model.py"
    script.write_text(SCRIPT)
    artifacts = {"model": str(model)}
    mlflow.pyfunc.save_model(
        folder / "served",
        python_model=str(script),
        artifacts=artifacts,
        signature=SIGNATURE,
        pip_requirements=["numpy"],
    )
    port = free_port()
    words = ["mlflow", "models", "serve", "-m", str(folder / "served"), "--env-manager", "local", "-p", str(port)]
    with running(words, folder, port, "/ping") as process:
        yield Server("`mlflow models serve`", port, process, ask_mlflow, "/invocations")


@contextlib.contextmanager
def view_server(folder: Path, model: Path) -> Iterator[Server]:
    port = free_port()
    module = [sys.executable, "-m", "carkp.command.main"]
    words = [*module, "view", "--model", str(model), "--no-browser", "--port", str(port)]
    with running(words, folder, port, "/api/state") as process:
        yield Server("`carkp view`", port, process, ask_view, "/api/sources?name=x.png")


SERVERS = {"mlflow": mlflow_server, "view": view_server}


def measure(name: str, minutes: float, num_clients: int, model: Path) -> tuple[dict[str, Any], Log]:
    """Return a row of the table, and the observations."""
    predictor = Predictor.load(model)
    pictures = [make_pictures(client, predictor) for client in range(num_clients)]
    with tempfile.TemporaryDirectory() as folder, SERVERS[name](Path(folder), model) as server:
        log = load(server, pictures, 60 * minutes)
        return row_of(server.name, log), log


def measurements(rows: list[dict[str, Any]]) -> list[Measurement]:
    """Return the measurements for ``--record``."""
    texts = {
        "mixed_up": ("answers that were not of the client's own picture", ",d"),
        "failures": ("failures of the server: status 500, or no answer to an ordinary client", ",d"),
        "growth": ("growth of memory from the first quarter to the end", ".1%"),
    }
    return [
        Measurement(name=name, quantity=text, value=[row[name] for row in rows], format=form, goal=GOALS[name])
        for name, (text, form) in texts.items()
    ]


def main() -> int:
    from carkp.tracking.tracker import Tracker
    from carkp.workflow.cli import Parameter, execute
    from carkp.workflow.recording import Findings, parse_study, write_record

    parameters = [
        Parameter("minutes", "10", "of each server"),
        Parameter("clients", "4", "ordinary clients"),
        Parameter("servers", "mlflow,view", "which, with commas"),
    ]
    arguments = parse_study(STUDY, str(__doc__), parameters)
    values = arguments.values
    sys.path.insert(0, str(project_root()))  # for tests.fuzz, which damages bodies

    def work(tracker: Tracker, _: Path) -> None:
        rows, num_of_parser = [], 0
        for name in values["servers"].split(","):
            row, log = measure(name, float(values["minutes"]), int(values["clients"]), find_shipped(DEFAULT_MODEL).onnx)
            rows.append(row)
            num_of_parser += sum(count for kind, count in log.statuses.items() if kind.endswith("parser"))
            print(row, flush=True)
            print(dict(sorted(log.statuses.items())), flush=True)
        tracker.log_metrics({f"{name}/mixed_up": row["mixed_up"] for name, row in zip("ab", rows, strict=False)})
        note = (
            f"{values['minutes']} minutes each, {values['clients']} ordinary clients and {len(OTHERS)} others. "
            f"MLflow's own parser answered {num_of_parser:,} damaged bodies with status 500, before they came to carkp."
        )
        table = Table(name="servers", columns=list(COLUMNS), rows=rows)
        write_record(arguments, STUDY, Findings(measurements(rows), [table], packages=["mlflow", "uvicorn"], note=note))

    execute(STUDY, arguments.config, work)
    return 0


if __name__ == "__main__":
    from carkp.workflow.cli import guarded

    sys.exit(guarded(main))
