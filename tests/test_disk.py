"""The lock of a directory, leftovers of killed processes, and messages about the disk."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from carkp import disk

ROOT = Path(__file__).parents[1]
HOLD = """
import sys, time
from pathlib import Path
from carkp import disk
with disk.exclusive(Path(sys.argv[1]), "sleeps"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(directory: Path) -> subprocess.Popen:
    """Another process that holds the lock."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, str(directory)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_killed_process_holds_no_lock(tmp_path, capfd):
    process = hold(tmp_path / "data")
    process.send_signal(signal.SIGKILL)
    process.wait()
    began = time.monotonic()
    with disk.exclusive(tmp_path / "data", "works"):
        assert time.monotonic() - began < 5
    assert "waiting" not in capfd.readouterr().err


def test_who_waits_says_for_whom_and_what_to_do(tmp_path, capfd):
    process = hold(tmp_path / "data")
    threading.Timer(1.5, process.kill).start()
    with disk.exclusive(tmp_path / "data", "works"):
        process.wait(5)
    said = capfd.readouterr().err
    assert f"{tmp_path / 'data'}: waiting for process {process.pid} on {socket.gethostname()}, which sleeps" in said
    assert f"kill {process.pid}" in said


def test_two_links_to_a_directory_share_its_lock(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data", target_is_directory=True)
    order = []

    def second() -> None:
        with disk.exclusive(tmp_path / "link", "works"):
            order.append("second")

    thread = threading.Thread(target=second)
    with disk.exclusive(tmp_path / "data", "works"):
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path):
    host = socket.gethostname()
    dead = [f".x.{host}.999999999.00000000.partial", f".x.{host}.{os.getpid()}.00000000.partial"]
    alive = [
        f".x.{host}.1.00000000.partial",
        ".x.elsewhere.example.5.00000000.partial",
        f".y.{host}.999999999.0.partial",
    ]
    for name in (*dead, *alive, "x"):
        (tmp_path / name).mkdir()
    old = tmp_path / ".x.elsewhere.5.00000001.partial"
    old.touch()
    os.utime(old, (1, 1))
    disk.remove_leftovers(tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*alive, "x"])


def test_partial_names_differ(tmp_path):
    assert len({disk.partial_path(tmp_path / "x") for _ in range(10)}) == 10


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "may write to"), (errno.EIO, "MiB are free")],
)
def test_a_write_error_says_what_where_and_what_to_do(tmp_path, number, remedy):
    text = disk.describe_write_error(tmp_path / "a/b", OSError(number, os.strerror(number)))
    assert text.startswith(f"{tmp_path}/a/b cannot be written: {os.strerror(number)}.")
    assert remedy in text


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a place where no file can be made is needed")
def test_where_no_lock_can_be_made_nobody_waits():
    with pytest.raises(OSError, match="/proc"), disk.exclusive(Path("/proc/carkp_data"), "prepares the data"):
        pass


def test_a_name_that_is_too_long_is_one_clear_error(tmp_path):
    path = tmp_path / ("x" * 300)
    with pytest.raises(OSError, match="too long") as caught:
        path.mkdir()
    assert f"{path} cannot be written: File name too long" in disk.describe_write_error(path, caught.value)
