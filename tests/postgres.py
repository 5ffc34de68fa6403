"""A PostgreSQL server of a test's own, run by a user who is not root, as it demands."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = "postgres"
START_S = 60.0


@contextmanager
def postgres(num_databases: int) -> Iterator[list[str]]:
    """URLs of so many empty databases. The test is skipped where PostgreSQL or its driver is missing."""
    psycopg = pytest.importorskip("psycopg", reason='no driver: pip install "carkp[postgres]"')
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own folders let no other user in
    try:
        if os.getuid() == 0:
            shutil.chown(folder, USER, USER)
        _call([str(programs / "initdb"), "-D", str(folder / "data"), "-U", USER, "--auth=trust", "--no-sync"], folder)
        port = _free_port()
        with (folder / "log").open("wb") as log:
            command = [str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder)]
            command += ["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=100"]
            server = subprocess.Popen(_as_user(command), cwd=folder, stdout=log, stderr=log)
        try:
            connection = _connect(psycopg, port, server, folder / "log")
            names = [f"carkp_{number}" for number in range(num_databases)]
            for name in names:
                connection.execute(f"CREATE DATABASE {name}")
            connection.close()
            yield [f"postgresql+psycopg://{USER}@127.0.0.1:{port}/{name}" for name in names]
        finally:
            pid = int((folder / "data/postmaster.pid").read_text().split()[0])
            os.kill(pid, 2)  # SIGINT: end connections and stop
            server.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    """Debian keeps them out of the path."""
    found = [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))]
    if named := shutil.which("postgres"):
        found.append(Path(named).resolve().parent)
    if not found or not (found[-1] / "initdb").exists():
        pytest.skip("PostgreSQL is not installed (initdb, postgres): apt-get install postgresql")
    if os.getuid() == 0:
        try:
            pwd.getpwnam(USER)
        except KeyError:
            pytest.skip(f"PostgreSQL does not run as root, and there is no user {USER}")
    return found[-1]


def _as_user(command: list[str]) -> list[str]:
    return ["runuser", "-u", USER, "--", *command] if os.getuid() == 0 else command


def _call(command: list[str], folder: Path) -> None:
    done = subprocess.run(_as_user(command), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _connect(psycopg, port: int, server: "subprocess.Popen[bytes]", log: Path):  # type: ignore[no-untyped-def]
    end = time.monotonic() + START_S
    while True:
        try:
            return psycopg.connect(f"host=127.0.0.1 port={port} user={USER} dbname=postgres", autocommit=True)
        except psycopg.OperationalError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
