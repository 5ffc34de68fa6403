"""An ordered map over worker processes in constant memory."""

import contextlib
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import process
from multiprocessing.util import Finalize
from types import ModuleType
from typing import Any, TypeVar

import cv2

from carkp.cores import num_usable_cores
from carkp.data.issues import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_SOCKET_FOLDER = 70
"""Bytes: macOS takes 104 for a socket, of which 32 are multiprocessing's own."""

SHORT_FOLDER = "/tmp"
CHUNK_SIZE = 4
CHUNKS_AHEAD_PER_WORKER = 4


def resolve_num_workers(num_workers: int) -> int:
    """0 stands for one a core that this process may use."""
    if num_workers < 0:
        raise ValueError(f"num_workers must not be negative, got {num_workers}")
    return num_workers or num_usable_cores()


def use_short_socket_folder() -> None:
    """Let processes of multiprocessing meet in a folder whose name is short enough, whatever TMPDIR says.

    A loader process hands its samples over through a socket in the temporary folder. The system takes paths of about a
    hundred bytes; with a longer one the samples would never arrive, and the training would wait for ever.

    Raises:
        DataError: the temporary folder's name is too long, and there is no other one.
    """
    config: dict[str, Any] = process.current_process()._config  # type: ignore[attr-defined]
    named = config.get("tempdir") or tempfile.gettempdir()
    if sys.platform == "win32" or len(os.fsencode(named)) <= MAX_SOCKET_FOLDER:
        return
    try:
        folder = tempfile.mkdtemp(prefix="pymp-", dir=SHORT_FOLDER)
    except OSError as error:
        raise DataError(
            f"{named}: the name of this temporary folder is too long for processes that load data, and {SHORT_FOLDER} "
            "cannot be used: set TMPDIR to a folder with a short name, or train.num_workers=0"
        ) from error
    Finalize(None, shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True}, exitpriority=-100)
    config["tempdir"] = folder


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Generator[Result, None, None]:
    """``map`` over ``num_workers`` processes (1: this one; 0: one a core), results in the order of ``items``.

    Only a few items a worker are under way at a time. Workers are spawned, not forked, so that threads of the caller do
    no harm; ``function`` and the items must be picklable. The program's main module is imported by the workers only
    where ``function`` is defined in it.

    Raises:
        DataError: a worker died.
    """
    num_workers = resolve_num_workers(num_workers)
    if num_workers == 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker)
    try:
        yield from _map_in_window(executor, function, items, num_workers * CHUNKS_AHEAD_PER_WORKER)
    except BrokenProcessPool as error:
        raise DataError("a worker process died (out of memory?): run again with fewer workers") from error
    finally:
        executor.shutdown(cancel_futures=True)


def _map_in_window(
    executor: ProcessPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], window: int
) -> Iterator[Result]:
    pending: deque[Future[list[Result]]] = deque()
    chunks = _chunks(items)
    with _main_module_kept_from_workers(function):  # they all start here, at the first submissions
        for chunk in itertools.islice(chunks, window):
            pending.append(executor.submit(_apply, function, chunk))
    while pending:
        results = pending.popleft().result()
        for chunk in itertools.islice(chunks, 1):
            pending.append(executor.submit(_apply, function, chunk))
        yield from results


@contextlib.contextmanager
def _main_module_kept_from_workers(function: Callable[[Item], Result]) -> Iterator[None]:
    """A spawned process imports its parent's main module: for a training stage, seconds and a gigabyte a worker."""
    origin = function.func if isinstance(function, partial) else function
    if origin.__module__ == "__main__":
        yield
        return
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, CHUNK_SIZE)):
        yield chunk


def _apply(function: Callable[[Item], Result], chunk: list[Item]) -> list[Result]:
    return [function(item) for item in chunk]


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    cv2.setNumThreads(1)
