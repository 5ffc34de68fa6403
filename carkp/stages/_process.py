"""Processes: named in runs so that others can tell whether they are still there, started, and ended in good order."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

PROCESS_TAG = "carkp.process"

_START_TOLERANCE_S = 1.0
_INTERRUPT_GRACE_S = 15.0


class Terminated(KeyboardInterrupt):
    """This process was sent SIGTERM."""


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Within, SIGTERM (``kill``, ``docker stop``, ``scancel``) raises ``Terminated``, so that runs are closed.

    Processes forked meanwhile end at once by it, as they would without. Outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own_pid = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != own_pid:
            os.kill(os.getpid(), number)
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def launch(command: Sequence[str], run_id: str, on_start: Callable[[int], None]) -> int:
    """The exit status of a stage that joins the run; what it prints is shown as it comes.

    Where this process is interrupted, the stage is ended too.
    """
    sys.stdout.flush()
    with subprocess.Popen(command, env={**os.environ, "MLFLOW_RUN_ID": run_id}) as process:
        try:
            on_start(process.pid)
            return process.wait()
        except BaseException as reason:
            if isinstance(reason, KeyboardInterrupt) and not isinstance(reason, Terminated):
                with suppress(subprocess.TimeoutExpired):  # the terminal has interrupted the stage as well
                    process.wait(_INTERRUPT_GRACE_S)
            process.terminate()
            raise


def process_name(pid: int) -> str:
    """Host, process id and start: unlike the id alone it never names another process later."""
    return f"{socket.gethostname()} {pid} {psutil.Process(pid).create_time():.0f}"


def is_alive(name: str) -> bool:
    """Whether the process is there; of one on another machine this cannot be known, and it counts as alive."""
    host, pid, start = name.split()
    if host != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(pid))
        is_same = abs(process.create_time() - float(start)) <= _START_TOLERANCE_S
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
