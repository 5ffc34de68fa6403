"""Reports that wait for the tracking server, in a folder: in the order that they were made, safe from crashes.

``reports.jsonl`` is only appended to. ``sent`` says up to where it was sent. ``files`` holds copies of artifacts.
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
    """One thing to tell the tracking server.

    Attributes:
        kind: see ``carkp.tracking.reports``.
        content: its data, as JSON has them.
        files: that it sends; a later report of the same ``replaces`` takes their place while they wait.
        replaces: what the files are to the server; "" where every report counts.
    """

    kind: str
    content: Mapping[str, Any]
    files: tuple[Path, ...] = ()
    replaces: str = ""


@dataclass(frozen=True)
class Address:
    """Which run the reports belong to, and where it is kept; the URI has no password."""

    run_id: str
    uri: str
    title: str


class Spool:
    """The spool in one folder, which this process has locked."""

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
        """A new one below ``root``.

        Raises:
            OSError: it cannot be written.
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
        """One that is there; None where a process still writes or sends it.

        Raises:
            SpoolError: it cannot be read.
        """
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        if not (folder / REPORTS).is_file():  # sent meanwhile
            lock.release()
            return None
        try:
            return cls(folder, lock)
        except (OSError, ValueError, TypeError) as error:
            lock.release()
            raise SpoolError(f"{folder}: cannot be read as kept reports: {error}") from error

    def append(self, report: Report) -> None:
        """Keep a report; it and its files are on the disk when this returns.

        Raises:
            OSError: they cannot be written, and nothing of the report is kept.
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
        """The oldest report that was not sent; None where all were. Reports whose files were replaced are passed over.

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
        """The report that ``next`` gave has arrived. Its files go."""
        line = self._next_line()
        assert line is not None
        self._offset += len(line)
        with (self.folder / _SENT).open("a", encoding="ascii") as file:  # lost with the power it is sent again
            file.write(f"{self._offset}\n")
        for path in self._parse(line).files:
            shutil.rmtree(path.parent, ignore_errors=True)

    def refuse(self, reason: str) -> None:
        """The server will never take the report that ``next`` gave: keep it apart, with its files."""
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
        """Let others have it. Where nothing waits and nothing was refused, it is removed."""
        if self._next_line() is None and not (self.folder / REFUSED).exists():
            (self.folder / REPORTS).unlink(missing_ok=True)  # from now on it is nobody's
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
        """Those that were not sent."""
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
    """Folders of spools at or below ``root``, the oldest first."""
    if (root / REPORTS).is_file():
        return [root]
    return sorted((path.parent for path in root.glob(f"*/{REPORTS}")), key=lambda path: path.name.rpartition(".")[2])


def _cut_torn_line(path: Path) -> None:
    """What a process was writing when it was killed: nobody was told that it is kept."""
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _append_durably(path: Path, text: str) -> None:
    """Append and write through to the disk; after a failure the file is as it was."""
    with path.open("ab") as file:
        end = file.tell()
        try:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, end)
            raise
