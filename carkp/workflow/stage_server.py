"""A server process that has imported all stages and forks one for each call: a stage starts at once and fails alone.

Importing takes some seconds, longer than some stages run. The server is forked from a process before that process
starts threads, because a process that forks must not have threads.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext
from pathlib import Path
from typing import Any, Self

import carkp

_MODULE_FLAG = "-m"


class ServerGoneError(Exception):
    """The server ended, and the result of its stage is unknown."""


@dataclass(frozen=True)
class StageCall:
    """A call of ``python -m <module> <arguments>`` in an environment; ``command`` is what a user would type."""

    module: str
    arguments: Sequence[str]
    command: Sequence[str]
    environment: Mapping[str, str]


class StageServer:
    """Starts stages by forking; create it before this process has threads, and close it at the end."""

    def __init__(self, modules: Sequence[str]) -> None:
        """``modules``: modules of the stages; the server imports them while this process continues."""
        self._code = _code_state()
        self._connection, theirs = multiprocessing.Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._process = _fork_context().Process(target=_serve, args=(theirs, self._connection, tuple(modules)))
        self._process.start()
        theirs.close()

    @classmethod
    def if_possible(cls, modules: Sequence[str]) -> "StageServer | None":
        """Return a server, or None where processes cannot be forked (Windows) or should not be (macOS)."""
        return cls(modules) if sys.platform == "linux" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join()

    def takes(self, command: Sequence[str]) -> bool:
        """Return whether a command runs a module, and carkp was not edited since the start of the server."""
        return command[1:2] == [_MODULE_FLAG] and self._process.is_alive() and _code_state() == self._code

    def launch(self, command: Sequence[str], environment: Mapping[str, str], on_start: Callable[[int], None]) -> int:
        """Run a stage and return its exit status, negative if a signal ended it.

        An interruption here ends the stage, too.

        Raises:
            ServerGoneError: the server ended in the meantime.
        """
        _, _, module, *arguments = command
        pid = 0
        try:
            with _answers():
                self._connection.send(StageCall(module, arguments, command, dict(environment)))
                pid = self._connection.recv()
            on_start(pid)
            with _answers():
                status: int = self._connection.recv()
        except BaseException:
            with contextlib.suppress(ServerGoneError), _answers():
                self._end(pid or self._connection.recv())
            raise
        return status

    def _end(self, pid: int) -> None:
        """Send a stage SIGTERM, and wait until it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        self._connection.recv()


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise ServerGoneError(f"the process that starts stages has ended: {error}") from error


def _fork_context() -> ForkContext:
    return multiprocessing.get_context("fork")


def _code_state() -> dict[str, tuple[int, int]]:
    """Return the time of change and the size of every module of carkp."""
    root = Path(str(carkp.__file__)).parent
    found = {str(path): path.stat() for path in root.rglob("*.py")}
    return {name: (state.st_mtime_ns, state.st_size) for name, state in found.items()}


def _serve(connection: Connection, others: Connection, modules: Sequence[str]) -> None:
    """Answer calls until the other side is closed; Ctrl-C at the terminal is left to the stages."""
    others.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for module in modules:
        importlib.import_module(module)
    while True:
        try:
            call: StageCall = connection.recv()
        except EOFError:
            return
        process = _fork_context().Process(target=_run, args=(call, connection))
        process.start()
        with contextlib.suppress(OSError):  # if nobody waits any more, the stage still runs to its end
            connection.send(process.pid)
        process.join()
        with contextlib.suppress(OSError):
            connection.send(process.exitcode)


def _run(call: StageCall, connection: Connection) -> None:
    """Run the stage in this forked process."""
    connection.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(call.environment)
    module: Any = importlib.import_module(call.module)
    sys.argv = [str(module.__file__), *call.arguments]
    sys.orig_argv[:] = call.command
    try:
        status = module.main(list(call.arguments))
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)
