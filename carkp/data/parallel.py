"""An ordered map over worker processes in constant memory."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import process
from types import ModuleType
from typing import Any, TypeVar

import cv2

from carkp.cores import num_usable_cores
from carkp.data.issues import DataError
from carkp.disk import make_process_folder

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_SOCKET_FOLDER = 70
"""Largest length in bytes: macOS allows 104 bytes for the path of a socket, and multiprocessing needs 32 of them."""

SHORT_FOLDER = "/tmp"
CHUNK_SIZE = 4
CHUNKS_AHEAD_PER_WORKER = 4


def resolve_num_workers(num_workers: int) -> int:
    """Return the number of workers; 0 means one for each core that this process may use."""
    if num_workers < 0:
        raise ValueError(f"num_workers must not be negative, got {num_workers}")
    return num_workers or num_usable_cores()


def use_short_socket_folder() -> None:
    """Make multiprocessing use a folder with a short name for its sockets, even if that of TMPDIR is long.

    A loader process sends its samples through a socket in the temporary folder. The system allows socket paths of about
    a hundred bytes. With a longer path the samples would never arrive, and the training would wait for ever.

    Raises:
        DataError: the temporary folder's name is too long, and there is no other one.
    """
    config: dict[str, Any] = process.current_process()._config  # type: ignore[attr-defined]
    named = config.get("tempdir") or tempfile.gettempdir()
    if sys.platform == "win32" or len(os.fsencode(named)) <= MAX_SOCKET_FOLDER:
        return
    try:
        folder = make_process_folder("pymp-", SHORT_FOLDER)
    except OSError as error:
        raise DataError(
            f"{named}: the path of this temporary folder is too long for data-loading processes, and {SHORT_FOLDER} "
            "cannot be used: set TMPDIR to a folder with a short path, or train.num_workers=0"
        ) from error
    config["tempdir"] = str(folder)


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Generator[Result, None, None]:
    """Map over ``num_workers`` processes (1: this process; 0: one per core); results are in the order of ``items``.

    Only a few items per worker are in progress at a time. Workers are spawned, not forked, so that threads of the
    caller cause no problems; ``function`` and the items must be picklable. Workers import the program's main module
    only if ``function`` is defined in it.

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
        raise DataError("a worker process died (was memory full?): run again with fewer workers") from error
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
    """Hide the main module from workers, unless ``function`` is defined in it.

    A spawned process imports the main module of its parent. For a training stage this would cost each worker seconds
    and a gigabyte of memory.
    """
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    cv2.setNumThreads(1)
