"""A PostgreSQL server with a data folder of its own, started as the user postgres."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.slurm_cluster import free_ports, wait_until

USER = "postgres"


def find_program(name: str) -> str | None:
    """Of the newest version that Debian's packages have installed."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(found[-1]) if found else shutil.which(name)


def is_there() -> bool:
    return find_program("initdb") is not None and any(user.pw_name == USER for user in pwd.getpwall())


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database. The folder lies where another user may go, unlike those of pytest."""
    folder, (port,) = Path(tempfile.mkdtemp(prefix="carkp-postgres-")), free_ports(1)
    data = folder / "data"
    shutil.chown(folder, USER, USER)
    try:
        _call("initdb", f"--pgdata={data}", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
        server = subprocess.Popen(
            [str(find_program("postgres")), "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"],
            user=USER, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_until(lambda: _is_ready(port), 60)
            yield f"postgresql://{USER}@127.0.0.1:{port}/{USER}"
        finally:
            server.terminate()
            server.wait()
    finally:
        shutil.rmtree(folder)


def _is_ready(port: int) -> bool:
    command = [str(find_program("pg_isready")), "--host=127.0.0.1", f"--port={port}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _call(name: str, *arguments: str) -> None:
    command = [str(find_program(name)), *arguments]
    environment = {**os.environ, "HOME": "/"}
    subprocess.run(command, user=USER, cwd="/", env=environment, check=True, capture_output=True, timeout=120)
