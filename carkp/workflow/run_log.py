"""The output of a run, kept as ``log.txt`` among its artifacts."""

import contextlib
import io
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from carkp.tracking.tracker import Tracker

LOG_NAME = "log.txt"


@contextlib.contextmanager
def kept_output(tracker: Tracker, folder: Path) -> Iterator[None]:
    """Copy standard output and error of the block into ``folder``/log.txt, then into the run; remove the folder.

    Each line gets a time. For progress bars only the last state is kept, for failures the traceback. If the run fails,
    the file stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOG_NAME
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file, _copied_streams(file):
            yield
    except BaseException:
        with contextlib.suppress(Exception):  # the user must see the failure itself
            tracker.log_file(path, "")
        raise
    tracker.log_file(path, "")
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _copied_streams(file: TextIO) -> Iterator[None]:
    lock = threading.Lock()
    out, error = _Copied(sys.stdout, file, lock), _Copied(sys.stderr, file, lock)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            yield
    except BaseException:
        for line in traceback.format_exc().splitlines():
            error.keep(line)
        raise
    finally:
        out.end_line()
        error.end_line()


class _Copied(io.TextIOBase):
    """A stream that also writes its finished lines into a file."""

    def __init__(self, stream: TextIO, file: TextIO, lock: threading.Lock) -> None:
        self._stream, self._file, self._lock = stream, file, lock
        self._line = ""

    def write(self, text: str) -> int:
        with self._lock:
            *finished, self._line = (self._line + text).split("\n")
            for line in finished:
                self.keep(line)
            if "\r" in self._line[:-1]:  # a progress bar has overwritten the line
                self._line = self._line[:-1].rpartition("\r")[2] + self._line[-1]
        return self._stream.write(text)

    def end_line(self) -> None:
        """Keep the last line if no line break ended it."""
        with self._lock:
            self.keep(self._line)
            self._line = ""

    def keep(self, line: str) -> None:
        """Write a line into the file; of an overwritten line only the last state."""
        shown = line.rstrip("\r").rpartition("\r")[2].rstrip()
        if shown:
            self._file.write(f"{time.strftime('%F %T')} {shown}\n")
            self._file.flush()

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
