"""Start of processes, and their orderly end."""

import os
import re
import signal
import subprocess
import sys
import tempfile
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
"""Variables of another launcher, which torchrun would use as its own settings or pass on."""

_THREAD_COUNTS = re.compile(r" *[1-9]\d*( *, *[1-9]\d*)* *")

_SERVER: ContextVar[StageServer | None] = ContextVar("stage_server", default=None)

_KILLED = -9
"""Exit status of a process that SIGKILL ended; Windows does not define SIGKILL."""

_INTERRUPT_GRACE_S = 15.0

_REPEAT_AFTER_S = 0.05


class Terminated(KeyboardInterrupt):
    """This process received SIGTERM."""


@contextmanager
def orderly_interrupts() -> Iterator[None]:
    """Make SIGTERM (``kill``, ``docker stop``, ``scancel``) raise ``Terminated`` in the block, so that runs are closed.

    After an interruption, by SIGTERM or from the keyboard, this process ignores further SIGTERMs. ``mlflow run``, and
    others that signal a group of processes, send more than one, and a second one would stop the closing. From then on
    the process also ignores the end of children, even after the block: torch raises an error if a loader process ends,
    which would replace the interruption, or be printed when the loader is destroyed later. Processes forked in the
    block end at once by SIGTERM, as usual. Outside the main thread nothing changes.

    Python drops an exception that is raised in a ``__del__`` method, and a loader of torch takes a while in its own. An
    interruption that is lost in this way is repeated.
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

    def repeat_if_dropped(dropped: "sys.UnraisableHookArgs") -> None:
        is_ours = os.getpid() == own_pid and threading.current_thread() is threading.main_thread()
        if not isinstance(dropped.exc_value, KeyboardInterrupt) or not is_ours:
            unraisable_hook(dropped)
            return
        repeated.cancel()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        repeated.send(signal.SIGTERM if isinstance(dropped.exc_value, Terminated) else signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own_pid:
            mind_nothing()
        signal.default_int_handler(number, frame)

    def mind_nothing() -> None:
        signal.signal(signal.SIGTERM, _do_nothing)
        child_ends = getattr(signal, "SIGCHLD", None)  # Windows has no SIGCHLD
        if child_ends is not None and callable(signal.getsignal(child_ends)):
            signal.signal(child_ends, _do_nothing)

    repeated = _RepeatedSignal()
    handlers: dict[signal.Signals, Any] = {signal.SIGTERM: terminate}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background job ignores SIGINT
        handlers[signal.SIGINT] = interrupt
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    unraisable_hook, sys.unraisablehook = sys.unraisablehook, repeat_if_dropped
    try:
        yield
    finally:
        sys.unraisablehook = unraisable_hook
        repeated.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


class _RepeatedSignal:
    """A signal that the main thread gets a moment later. At most one is pending, and none after ``cancel``."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def send(self, number: signal.Signals) -> None:
        self._timer = threading.Timer(_REPEAT_AFTER_S, _signal_main_thread, [number])
        self._timer.start()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            self._timer = None


def _signal_main_thread(number: signal.Signals) -> None:
    pthread_kill = getattr(signal, "pthread_kill", None)
    if pthread_kill is None:  # Windows
        signal.raise_signal(number)
    else:
        pthread_kill(threading.main_thread().ident, number)  # also interrupts a sleep


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Ignore a signal. Children would inherit SIG_IGN, and Python complains if a signal arrives just then."""
    del number, frame


def end_with_parent() -> None:
    """Send SIGTERM to this process, started by multiprocessing, as soon as its parent process is gone."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def launch(command: Sequence[str], run_id: str, on_start: Callable[[int], None]) -> int:
    """Run a stage that joins the run, and return its exit status; its output is shown at once.

    If this process is interrupted, the stage is ended too. Within :func:`stages_served` a server starts the stage.
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
    """Let ``launch`` fork a process that has already imported the stages' modules, if the system can fork.

    Enter this block before this process has threads.
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
    """Run ``python -m module arguments`` in ``nproc`` processes of this machine; return the exit status.

    ``options`` tell torchrun how the processes meet. ``variables`` are set if the environment does not have them.
    """
    command = [sys.executable, "-m", "torch.distributed.run", *options, f"--nproc-per-node={nproc}"]
    environment = {name: value for name, value in os.environ.items() if not _LAUNCHER.fullmatch(name)}
    environment = {**variables, **environment}
    if not _THREAD_COUNTS.fullmatch(environment.get("OMP_NUM_THREADS", "")):
        cores = num_usable_cores()
        environment["OMP_NUM_THREADS"] = str(max(1, cores // nproc))
    with tempfile.TemporaryDirectory(prefix="torchelastic_", ignore_cleanup_errors=True) as folder:
        # torchrun does not remove a folder of its own choice
        return _call([*command, f"--log-dir={folder}", "-m", "--", module, *arguments], environment, watch_agent)


def _call(
    command: Sequence[str], environment: Mapping[str, str], on_start: Callable[[int], None] = lambda pid: None
) -> int:
    """Run a child process and return its exit status; if this process is interrupted, the child is ended."""
    sys.stdout.flush()
    with subprocess.Popen(command, env=environment) as process:
        try:
            on_start(process.pid)
            return process.wait()
        except BaseException as reason:
            try:
                if isinstance(reason, KeyboardInterrupt) and not isinstance(reason, Terminated):
                    with suppress(subprocess.TimeoutExpired):  # the terminal has also interrupted the child
                        process.wait(_INTERRUPT_GRACE_S)
            finally:
                process.terminate()
            process.wait()
            raise
