"""Processes: started, and ended in good order."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from multiprocessing import parent_process
from types import FrameType, MappingProxyType
from typing import Any

from carkp.cores import num_usable_cores
from carkp.workflow.agent_watch import watch_agent
from carkp.workflow.stage_server import ServerGoneError, StageServer

_LAUNCHER = re.compile(r"PET_.*|TORCHELASTIC_.*|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)")
"""Variables of another launcher, which torchrun would take for its own settings or hand on."""

_THREAD_COUNTS = re.compile(r" *[1-9]\d*( *, *[1-9]\d*)* *")

_SERVER: ContextVar[StageServer | None] = ContextVar("stage_server", default=None)

_KILLED = -9
"""Exit status of a process that SIGKILL ended, which Windows has no name for."""

_INTERRUPT_GRACE_S = 15.0


class Terminated(KeyboardInterrupt):
    """This process was sent SIGTERM."""


@contextmanager
def orderly_interrupts() -> Iterator[None]:
    """Within, SIGTERM (``kill``, ``docker stop``, ``scancel``) raises ``Terminated``, so that runs are closed.

    Once this process was interrupted, by SIGTERM or from the keyboard, it ignores further SIGTERMs: ``mlflow run`` and
    whoever signals a group of processes send more than one, and the second would end the closing. Nor does it mind
    that children end: torch raises an error where a loader process does, which would take the interruption's place.
    Processes forked meanwhile end at once by SIGTERM, as they would without. Outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own_pid = os.getpid()

    def terminate(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != own_pid:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        mind_nothing()
        raise Terminated

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own_pid:
            mind_nothing()
        signal.default_int_handler(number, frame)

    def mind_nothing() -> None:
        signal.signal(signal.SIGTERM, _do_nothing)
        child_ends = getattr(signal, "SIGCHLD", None)  # Windows has none
        if child_ends is not None and callable(handler := signal.getsignal(child_ends)):
            before[child_ends] = handler
            signal.signal(child_ends, _do_nothing)

    before: dict[signal.Signals, Any] = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a job in the background ignores it
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """SIG_IGN would be inherited by children, and Python complains of a signal that was on its way."""
    del number, frame


def end_with_parent() -> None:
    """Send SIGTERM to this process, which multiprocessing started, as soon as the one that started it is gone."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def launch(command: Sequence[str], run_id: str, on_start: Callable[[int], None]) -> int:
    """The exit status of a stage that joins the run; what it prints is shown as it comes.

    Where this process is interrupted, the stage is ended too. Within :func:`stages_served` a server starts it.
    """
    environment = {**os.environ, "MLFLOW_RUN_ID": run_id}
    server = _SERVER.get()
    if server is None or not server.takes(command):
        return _call(command, environment, on_start)
    try:
        return server.launch(command, environment, on_start)
    except ServerGoneError as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return _KILLED


@contextmanager
def stages_served(modules: Sequence[str]) -> Iterator[None]:
    """Within, ``launch`` takes a process that has imported the modules of the stages, where the system can fork one.

    To be entered before this process has threads.
    """
    server = StageServer.if_possible(modules)
    if server is None:
        yield
        return
    with server:
        token = _SERVER.set(server)
        try:
            yield
        finally:
            _SERVER.reset(token)


def run_under_torchrun(
    module: str,
    arguments: Sequence[str],
    nproc: int,
    options: Sequence[str] = ("--standalone", "--nnodes=1"),
    variables: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Run ``python -m module arguments`` in ``nproc`` processes of this machine; the exit status of the whole.

    ``options`` of torchrun say how the processes meet, and ``variables`` are set where the environment has them not.
    """
    command = [sys.executable, "-m", "torch.distributed.run", *options, f"--nproc-per-node={nproc}"]
    environment = {name: value for name, value in os.environ.items() if not _LAUNCHER.fullmatch(name)}
    environment = {**variables, **environment}
    if not _THREAD_COUNTS.fullmatch(environment.get("OMP_NUM_THREADS", "")):
        cores = num_usable_cores()
        environment["OMP_NUM_THREADS"] = str(max(1, cores // nproc))
    return _call([*command, "-m", "--", module, *arguments], environment, watch_agent)


def _call(
    command: Sequence[str], environment: Mapping[str, str], on_start: Callable[[int], None] = lambda pid: None
) -> int:
    """The exit status of a child that does not outlive an interruption of this process."""
    sys.stdout.flush()
    with subprocess.Popen(command, env=environment) as process:
        try:
            on_start(process.pid)
            return process.wait()
        except BaseException as reason:
            try:
                if isinstance(reason, KeyboardInterrupt) and not isinstance(reason, Terminated):
                    with suppress(subprocess.TimeoutExpired):  # the terminal has interrupted the child as well
                        process.wait(_INTERRUPT_GRACE_S)
            finally:
                process.terminate()
            process.wait()
            raise
