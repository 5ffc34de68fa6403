"""Programs that stand before the real ones on the PATH while a block of the documentation runs.

They change what a test cannot do as a reader would, and nothing else:

| called as | does |
|---|---|
| ``pip``, ``pytest``, ``python -m venv``, ``python -m pip`` | nothing: the environment of the tests is there already |
| ``mlflow run`` | adds ``--env-manager local``: no environment is built |
| ``mlflow ui``, ``carkp view`` | starts it on a free port, asks its page, and stops it |
| ``mlflow models serve`` without a port | the same |
| ``curl`` | waits for a server that is still starting, and fails on an error of HTTP |
| ``newest-run STAGE`` | prints the id of the newest finished run of a stage: what a reader reads on the screen |

Nothing of carkp or MLflow is imported here, for it runs with every command.
"""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

NAMES = ("pip", "pytest", "python", "python3", "mlflow", "carkp", "curl", "newest-run")
REAL_PROGRAMS = "DOCS_REAL_PROGRAMS"
"""Environment variable: the folder of the programs of the tests' environment."""

SERVER_SECONDS = 60.0


def main(name: str, words: Sequence[str]) -> int:
    """The exit status, where the program is not replaced by the real one."""
    match name, *words:
        case ("pip" | "pytest", *_) | ("python" | "python3", "-m", "pip", *_):
            print(f"[{name}: the environment of the tests is used]")
        case ("python" | "python3", "-m", "venv", folder):
            (Path(folder) / "bin").mkdir(parents=True, exist_ok=True)
            (Path(folder) / "bin" / "activate").touch()
        case ("mlflow", "run", *_) if "--env-manager" not in words:
            _become(name, [*words, "--env-manager", "local"])
        case ("mlflow", "ui", *_):
            port = free_port()
            return _serve(_real(name), [*words, "--port", str(port)], port)
        case ("mlflow", "models", "serve", *_) if "-p" not in words:
            port = free_port()
            return _serve(_real(name), [*words, "--port", str(port)], port, "/ping")
        case ("carkp", "view", *_):
            port = free_port()
            return _serve(_real(name), [*words, "--no-browser", "--port", str(port)], port)
        case ("curl", *_):
            retry = ["--retry", "60", "--retry-delay", "1", "--retry-connrefused", "--retry-max-time", "120"]
            _become(name, ["--fail-with-body", "--silent", "--show-error", *retry, *words])
        case ("newest-run", stage):
            print(newest_run(Path("mlflow.db"), stage))
        case _:
            _become(name, words)
    return 0


def newest_run(database: Path, stage: str) -> str:
    """Id of the newest finished run of a stage.

    Raises:
        LookupError: there is none.
    """
    query = (
        "SELECT runs.run_uuid FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid "
        "WHERE tags.key = 'carkp.stage' AND tags.value = ? AND runs.status = 'FINISHED' "
        "ORDER BY runs.start_time DESC LIMIT 1"
    )
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        found = connection.execute(query, (stage,)).fetchone()
    finally:
        connection.close()
    if found is None:
        raise LookupError(f"{database} has no finished run of {stage}")
    return str(found[0])


def _real(name: str) -> str:
    """The program of the environment, else of the machine."""
    own = Path(os.environ[REAL_PROGRAMS]) / name
    if own.exists():
        return str(own)
    folders = (Path(folder) / name for folder in os.environ["PATH"].split(os.pathsep)[1:])
    return next(str(path) for path in folders if path.exists())


def _become(name: str, words: Sequence[str]) -> None:
    path = _real(name)
    os.execv(path, [path, *words])  # by its path: Python finds its environment by the name that it is called


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _serve(program: str, words: Sequence[str], port: int, path: str = "/") -> int:
    """Start a server, and stop it when its page has come."""
    server = subprocess.Popen([program, *words], start_new_session=True)
    try:
        end = time.monotonic() + SERVER_SECONDS
        while server.poll() is None and time.monotonic() < end:
            if _answers(f"http://127.0.0.1:{port}{path}"):
                print(f"[{Path(program).name} {words[0]} answered with status 200]")
                return 0
            time.sleep(0.2)
        print(f"[no page at port {port}; exit status {server.poll()}]", file=sys.stderr)
        return 1
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(20)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
