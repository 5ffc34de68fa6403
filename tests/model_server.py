"""Registered models for tests: a store of their own, and ``mlflow models serve`` on a free port."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from carkp.data import jpeg

JSON = "application/json"
START_TIMEOUT_S = 120


def encoded(image: np.ndarray) -> str:
    """A BGR picture as a request holds it."""
    return base64.b64encode(jpeg.encode_bgr(image, 95)).decode()


@contextlib.contextmanager
def tracking_store(folder: Path) -> Iterator[str]:
    """Works in ``folder`` with a tracking store of its own; gives the store's URI."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        yield uri


@contextlib.contextmanager
def serving(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, timeout_s: float = START_TIMEOUT_S
) -> Iterator[str]:
    """The address of ``mlflow models serve <words>``, run in ``folder``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["mlflow", "models", "serve", *words, "-p", str(port)],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, process, log, timeout_s)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/ping", timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"the server does not answer: {log.read_text()}")


def post(address: str, body: bytes, content_type: str = JSON) -> tuple[int, Any]:
    """Status and JSON of the answer."""
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
