"""Writing that others can rely on: one writer a directory at a time, names of unfinished work, and clear errors.

The lock is the operating system's: it goes with the process that holds it, also when that is killed. On network file
systems it is as good as their locks: NFS needs lockd (or version 4), and a mount with ``nolock`` or ``local_lock``
tells the processes of one machine apart and no others.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

PATIENCE_S = 1.0
"""How long a process waits for another one before it says so."""

_PARTIAL = "partial"
_OLD_S = 24 * 3600.0
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of errors that room on the disk mends."""

_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def exclusive(directory: Path, work: str) -> Iterator[None]:
    """Hold the lock of ``directory``, which need not be there; wait for the process that holds it now.

    The lock's file and a note of who holds it lie beside the directory, so that the directory can be renamed.

    Args:
        directory: what is to be written.
        work: what is being done, for the message of those that wait: "prepares the data", "draws the pictures".

    Raises:
        OSError: the lock's file cannot be written.
    """
    directory = directory.resolve()  # two links to it mean one directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    lock_file = directory.with_name(f".{directory.name}.lock")
    with lock_file.open("a", encoding="utf-8"):  # where none can be made, as in /proc, the lock would be tried for ever
        pass
    lock = FileLock(lock_file)
    owner = directory.with_name(f".{directory.name}.lock.owner")
    try:
        lock.acquire(timeout=PATIENCE_S)
    except Timeout:
        print(describe_wait(directory, owner), file=sys.stderr, flush=True)  # noqa: T201
        lock.acquire()
    try:
        note = {"pid": os.getpid(), "host": socket.gethostname(), "work": work, "since": time.strftime("%F %T")}
        with contextlib.suppress(OSError):  # the note helps people; the lock holds without it
            owner.write_text(json.dumps(note), encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink(missing_ok=True)
        lock.release()


def describe_wait(directory: Path, owner: Path) -> str:
    """Who is at work, and what to do."""
    try:
        note = json.loads(owner.read_text(encoding="utf-8"))
        who = f"process {note['pid']} on {note['host']}, which {note['work']} there since {note['since']}"
        remedy = f"If that process hangs, end it: kill {note['pid']} on {note['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        who, remedy = "another process, which is at work there", "If that process hangs, end it"
    return f"{directory}: waiting for {who}. This run goes on with the result. {remedy}; Ctrl-C ends the waiting."


def partial_path(path: Path) -> Path:
    """A hidden name beside ``path`` for what is not finished, another one at each call."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.{_PARTIAL}")


def short_name_beside(path: Path) -> Path:
    """A name beside ``path`` for unfinished work: ``path``'s own may be as long as can be."""
    return path.with_name("unfinished")


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that appears under its name only when complete.

    Raises:
        OSError: it cannot be written; it names ``path``, and nothing of it is left.
    """
    partial = partial_path(short_name_beside(path))
    try:
        try:
            partial.write_bytes(data)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
        partial.replace(path)
    except BaseException as error:
        remove(partial)
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def remove_leftovers(path: Path) -> None:
    """Delete what killed processes left beside ``path``. Hold the lock: what this process left counts too."""
    for leftover in path.parent.glob(f".{_escape(path.name)}.*.{_PARTIAL}"):
        if _is_abandoned(leftover, path.name):
            remove(leftover)


def remove(path: Path) -> None:
    """Delete a file or a directory with all it holds, as far as possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def replace_directory(new: Path, final: Path) -> None:
    """Rename ``new`` to ``final``; what was there keeps its content for those who have it open."""
    old = partial_path(final)
    if final.exists():
        final.rename(old)
    new.rename(final)
    remove(old)


def describe_write_error(path: Path, error: OSError) -> str:
    """What could not be written, where, why, and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{path} cannot be written: {reason}. {_remedy(path, error.errno)}"


def describe_free_space(path: Path) -> str:
    """How much room is left where ``path`` lies or would lie."""
    there = next((parent for parent in (path, *path.parents) if os.path.exists(parent)), Path("/"))  # noqa: PTH110
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        return f"The free space of {there} is unknown"
    return f"{free / 2**20:,.0f} MiB are free on the file system of {there}"


def _remedy(path: Path, number: int | None) -> str:
    free = describe_free_space(path)
    if number in NO_SPACE:
        return f"{free}: make room (also look at quotas and limits of file size) or choose another disk (data.root)"
    if number in _NO_PERMISSION:
        return "Choose a directory that you may write to (data.root), or have its permissions changed"
    return free


def _is_abandoned(leftover: Path, name: str) -> bool:
    """Whether the process that made it is gone; of other machines' processes a day without a change tells."""
    parts = leftover.name.removeprefix(f".{name}.").split(".")
    if len(parts) < 4 or not parts[-3].isdigit():
        return False
    host, pid = ".".join(parts[:-3]), int(parts[-3])
    if host == socket.gethostname():
        return pid == os.getpid() or not is_running(pid)
    try:
        return time.time() - leftover.stat().st_mtime > _OLD_S
    except OSError:
        return False


def is_running(pid: int) -> bool:
    """Whether a process of this machine is there. Needs psutil: on Windows a signal 0 would be its Ctrl-C."""
    import psutil

    try:
        return psutil.pid_exists(pid)
    except OverflowError:
        return False


def _escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 over names and content of files below ``folder``; read anew where size or time of change differ."""
    listed = [(path, path.relative_to(folder).as_posix(), path.stat()) for path in sorted(files)]
    return _content_digest(tuple((path, name, status.st_size, status.st_mtime_ns) for path, name, status in listed))


@cache
def _content_digest(files: tuple[tuple[Path, str, int, int], ...]) -> str:
    lines = [f"{name} {file_digest(path)}\n" for path, name, _, _ in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
