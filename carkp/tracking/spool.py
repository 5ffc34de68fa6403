"""A folder of reports that wait for the tracking server: in the order of their creation, safe from crashes.

``reports.jsonl`` is only appended to. ``sent`` holds the position up to which it was sent. ``files`` holds copies of
artifacts.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from carkp import disk
from carkp.tracking.store import TrackingError

REPORTS, REFUSED = "reports.jsonl", "refused.jsonl"
_SENT, _ADDRESS, _FILES, _LOCK = "sent", "address.json", "files", "lock"
_PARTIAL = ".partial"


class SpoolError(TrackingError):
    """A spool that cannot be read; the message names the file and the line."""


@dataclass(frozen=True)
class Report:
    """One message to the tracking server.

    Attributes:
        kind: see ``carkp.tracking.reports``.
        content: data of the report, as JSON types.
        files: files to send. While they wait, a later report with the same ``replaces`` replaces them.
        replaces: key of the files at the server; "" if every report counts.
    """

    kind: str
    content: Mapping[str, Any]
    files: tuple[Path, ...] = ()
    replaces: str = ""


@dataclass(frozen=True)
class Address:
    """The run that the reports belong to, and the server that keeps it; the URI has no password."""

    run_id: str
    uri: str
    title: str


class Spool:
    """A spool in a folder, locked by this process."""

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self.folder, self._lock = folder, lock
        self.address = Address(**json.loads((folder / _ADDRESS).read_text(encoding="utf-8")))
        self._latest: dict[str, tuple[Path, ...]] = {}
        self._num_files = max((int(path.name) for path in (folder / _FILES).iterdir()), default=0)
        _cut_torn_line(folder / REPORTS)
        _cut_torn_line(folder / _SENT)
        self._offset = self._read_sent()

    @classmethod
    def create(cls, root: Path, address: Address) -> "Spool":
        """Create a spool below ``root``.

        Raises:
            OSError: the spool cannot be written.
        """
        folder = root / f"{address.run_id}.{time.time_ns()}-{os.getpid()}"
        (folder / _FILES).mkdir(parents=True)
        lock = FileLock(folder / _LOCK)
        lock.acquire()
        disk.write_atomic(folder / _ADDRESS, json.dumps(address.__dict__).encode())
        (folder / REPORTS).touch(mode=0o600)
        for made in (folder, root, root.parent):
            disk.sync_directory(made)
        return cls(folder, lock)

    @classmethod
    def open(cls, folder: Path) -> "Spool | None":
        """Open an existing spool; None if a process still writes or sends it, or if it has been sent.

        Raises:
            SpoolError: the spool cannot be read.
        """
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        if not (folder / REPORTS).is_file():  # it was sent meanwhile
            lock.release()
            return None
        try:
            return cls(folder, lock)
        except (OSError, ValueError, TypeError) as error:
            lock.release()
            raise SpoolError(f"{folder}: cannot be read as kept reports: {error}") from error

    def append(self, report: Report) -> None:
        """Keep a report; the report and its files are on the disk on return.

        Raises:
            OSError: they cannot be written; then no part of the report is kept.
        """
        kept = replace(report, files=tuple(self._copy(path) for path in report.files))
        names = [path.relative_to(self.folder).as_posix() for path in kept.files]
        line = json.dumps({"kind": kept.kind, "content": kept.content, "files": names, "replaces": kept.replaces})
        _append_durably(self.folder / REPORTS, f"{line}\n")
        if report.replaces:
            for path in self._latest.get(report.replaces, ()):
                shutil.rmtree(path.parent, ignore_errors=True)
            self._latest[report.replaces] = kept.files

    def next(self) -> Report | None:
        """Return the oldest unsent report, or None. Reports with replaced files are skipped.

        Raises:
            SpoolError: a line is damaged.
        """
        while (line := self._next_line()) is not None:
            report = self._parse(line)
            if all(path.is_file() for path in report.files):
                return report
            self.mark_sent()
        return None

    def mark_sent(self) -> None:
        """Mark the report that ``next`` gave as sent, and remove its files."""
        line = self._next_line()
        assert line is not None
        self._offset += len(line)
        with (self.folder / _SENT).open("a", encoding="ascii") as file:  # after a power loss, it is sent again
            file.write(f"{self._offset}\n")
        for path in self._parse(line).files:
            shutil.rmtree(path.parent, ignore_errors=True)

    def refuse(self, reason: str) -> None:
        """Move the report that ``next`` gave to the refused ones, with its files: the server will never accept it."""
        line = self._next_line()
        assert line is not None
        entry = json.dumps({"reason": reason, "report": json.loads(line)})
        _append_durably(self.folder / REFUSED, f"{entry}\n")
        self._offset += len(line)
        _append_durably(self.folder / _SENT, f"{self._offset}\n")

    def num_unsent(self) -> int:
        return sum(1 for _ in self._lines())

    def num_refused(self) -> int:
        path = self.folder / REFUSED
        return len(path.read_bytes().splitlines()) if path.exists() else 0

    def close(self) -> None:
        """Release the lock. Remove the spool if nothing waits and nothing was refused."""
        if self._next_line() is None and not (self.folder / REFUSED).exists():
            (self.folder / REPORTS).unlink(missing_ok=True)  # from now on ``open`` finds no spool here
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def _copy(self, path: Path) -> Path:
        self._num_files += 1
        copy = self.folder / _FILES / f"{self._num_files:06d}" / path.name
        copy.parent.mkdir()
        partial = copy.with_name(_PARTIAL)
        try:
            shutil.copyfile(path, partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(copy)
        except BaseException:
            shutil.rmtree(copy.parent, ignore_errors=True)
            raise
        disk.sync_directory(copy.parent)
        disk.sync_directory(copy.parent.parent)
        return copy

    def _read_sent(self) -> int:
        path = self.folder / _SENT
        lines = path.read_bytes().splitlines() if path.exists() else []
        return max((int(line) for line in lines if line.isdigit()), default=0)

    def _next_line(self) -> bytes | None:
        return next(self._lines(), None)

    def _lines(self) -> Iterator[bytes]:
        """Yield the lines that were not sent."""
        with (self.folder / REPORTS).open("rb") as file:
            file.seek(self._offset)
            yield from (line for line in file if line.endswith(b"\n"))

    def _parse(self, line: bytes) -> Report:
        try:
            found = json.loads(line)
            for name in (*found["files"], found["content"].get("folder", "")):
                if Path(name).is_absolute() or ".." in Path(name).parts:
                    raise ValueError(f"{name!r} leads out of its folder")
            files = tuple(self.folder / name for name in found["files"])
            return Report(found["kind"], found["content"], files, found["replaces"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SpoolError(f"{self.folder / REPORTS}: damaged at byte {self._offset}: {error}") from error


def spools(root: Path) -> Sequence[Path]:
    """Return the folders of spools at or below ``root``, oldest first."""
    if (root / REPORTS).is_file():
        return [root]
    return sorted((path.parent for path in root.glob(f"*/{REPORTS}")), key=lambda path: path.name.rpartition(".")[2])


def _cut_torn_line(path: Path) -> None:
    """Cut off an incomplete last line, which a killed process left. No caller was told that it is kept."""
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _append_durably(path: Path, text: str) -> None:
    """Append and flush to the disk; after a failure the file is as before."""
    with path.open("ab") as file:
        end = file.tell()
        try:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, end)
            raise
