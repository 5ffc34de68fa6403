"""What a run says, kept with it: ``log.txt`` among its artifacts."""

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
    """Copy standard output and error of the block into ``folder``/log.txt, then into the run, and remove the folder.

    Every line has its time; of progress bars the last state is kept, of a failure the traceback. The file of a run that
    fails stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOG_NAME
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file, _copied_streams(file):
            yield
    except BaseException:
        with contextlib.suppress(Exception):  # the failure itself is what the user must see
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
    """A stream whose finished lines go into a file too."""

    def __init__(self, stream: TextIO, file: TextIO, lock: threading.Lock) -> None:
        self._stream, self._file, self._lock = stream, file, lock
        self._line = ""

    def write(self, text: str) -> int:
        with self._lock:
            *finished, self._line = (self._line + text).split("\n")
            for line in finished:
                self.keep(line)
            if "\r" in self._line[:-1]:  # a progress bar wrote over what stood there
                self._line = self._line[:-1].rpartition("\r")[2] + self._line[-1]
        return self._stream.write(text)

    def end_line(self) -> None:
        """Keep what no line break has ended."""
        with self._lock:
            self.keep(self._line)
            self._line = ""

    def keep(self, line: str) -> None:
        """Write a line into the file, the last state of one that was written over."""
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
