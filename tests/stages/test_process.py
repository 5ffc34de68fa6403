"""Processes are told apart, and end in good order."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from carkp.stages._process import Terminated, interrupted_by_sigterm, is_alive, process_name

LAUNCHER = """
import sys
from carkp.stages._process import interrupted_by_sigterm, launch
with interrupted_by_sigterm():
    launch([sys.executable, "-c", "import time; time.sleep(60)"], "run", lambda pid: print(pid, flush=True))
"""


def test_processes_are_told_apart() -> None:
    own = process_name(os.getpid())
    assert is_alive(own)
    host, pid, start = own.split()
    assert not is_alive(f"{host} {pid} {float(start) - 100:.0f}")
    assert is_alive(f"elsewhere {pid} 0")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        name = process_name(child.pid)
        assert is_alive(name)
        child.kill()
    assert not is_alive(name)


def test_sigterm_ends_the_stage_with_its_pipeline() -> None:
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        stage = psutil.Process(int(process.stdout.readline()))
        process.terminate()
        assert process.wait(timeout=30) != 0
    assert not stage.is_running()


def test_sigterm_interrupts_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), interrupted_by_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_ends_forked_processes_at_once(tmp_path: Path) -> None:
    cleaned = tmp_path / "cleaned"
    reader, writer = os.pipe()
    with interrupted_by_sigterm():
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, b"ready")
                signal.pause()
            finally:
                cleaned.touch()
                os._exit(0)
        os.read(reader, 5)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert not cleaned.exists()


def test_other_threads_keep_the_handler() -> None:
    seen = []

    def work() -> None:
        with interrupted_by_sigterm():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
