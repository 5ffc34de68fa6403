"""A process that has imported every stage, and forks one for each call: a stage starts at once, and fails alone.

Importing takes some seconds, more than some stages do. The server begins as a fork of a process that has computed
nothing yet: what forks must have no threads of its own.
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
    """The server ended, and nobody knows what became of its stage."""


@dataclass(frozen=True)
class StageCall:
    """``python -m <module> <arguments>`` in an environment; ``command`` as a person would give it."""

    module: str
    arguments: Sequence[str]
    command: Sequence[str]
    environment: Mapping[str, str]


class StageServer:
    """Starts stages by forking; to be made before this process has threads, and closed at the end."""

    def __init__(self, modules: Sequence[str]) -> None:
        """``modules``: of the stages, imported while this process goes on."""
        self._code = _code_state()
        self._connection, theirs = multiprocessing.Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._process = _fork_context().Process(target=_serve, args=(theirs, self._connection, tuple(modules)))
        self._process.start()
        theirs.close()

    @classmethod
    def if_possible(cls, modules: Sequence[str]) -> "StageServer | None":
        """None where processes cannot be forked, as on Windows, or should not be, as on macOS."""
        return cls(modules) if sys.platform == "linux" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join()

    def takes(self, command: Sequence[str]) -> bool:
        """Whether a command runs a module, and nobody has edited carkp since it was imported."""
        return command[1:2] == [_MODULE_FLAG] and self._process.is_alive() and _code_state() == self._code

    def launch(self, command: Sequence[str], environment: Mapping[str, str], on_start: Callable[[int], None]) -> int:
        """The exit status of a stage, negative where a signal ended it; an interruption of this process ends it too.

        Raises:
            ServerGoneError: the server ended meanwhile.
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
        """Send a stage SIGTERM, and wait until it has closed what it had open."""
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
    """Of every module of carkp: when it was changed, and its size."""
    root = Path(str(carkp.__file__)).parent
    found = {str(path): path.stat() for path in root.rglob("*.py")}
    return {name: (state.st_mtime_ns, state.st_size) for name, state in found.items()}


def _serve(connection: Connection, others: Connection, modules: Sequence[str]) -> None:
    """Answer calls until the other side is closed; a Ctrl-C at the terminal is for the stages."""
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
        with contextlib.suppress(OSError):  # nobody waits any more: the stage goes on to its end all the same
            connection.send(process.pid)
        process.join()
        with contextlib.suppress(OSError):
            connection.send(process.exitcode)


def _run(call: StageCall, connection: Connection) -> None:
    """Be the stage."""
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
