"""Safe writing: files are complete and on the disk, a directory has one writer at a time, and errors are clear.

A file is written under a hidden name and flushed to the disk. Then it is renamed, and its directory is flushed too.
After a kill or a power loss, either the old file or the new one is there. ``replacing`` does this for any writer, and
``write_atomic`` for bytes in memory.

The lock is a lock of the operating system. It ends with the process that holds it, also when that process is killed. On
a network file system it is only as good as the locks of that file system: NFS needs lockd (or version 4), and a mount
with ``nolock`` or ``local_lock`` locks only between processes of one machine.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path

from filelock import FileLock, Timeout

PATIENCE_S = 1.0
"""How long a process waits for another one before it prints a message."""

_PARTIAL = "partial"
_OLD_S = 24 * 3600.0
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a lack of space. Freeing space on the disk solves them."""

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""Error numbers of file systems that cannot flush a single directory to the disk."""

_MANY = 64
"""With more files than this, ``sync_tree`` flushes the whole file system on Linux: file by file would take longer."""

_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def exclusive(directory: Path, work: str) -> Iterator[None]:
    """Hold the lock of ``directory``; wait while another process holds it. The directory need not exist.

    The lock file and a note about its holder lie beside the directory, so that the directory can be renamed.

    Args:
        directory: directory to write.
        work: what this process does there, for the message to waiting processes: "prepares the data", "draws the
            pictures".

    Raises:
        OSError: the lock's file cannot be written.
    """
    directory = directory.resolve()  # two links to one directory share one lock
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
    """Describe which process is at work, and what the user can do."""
    try:
        note = json.loads(owner.read_text(encoding="utf-8"))
        who = f"process {note['pid']} on {note['host']}, which {note['work']} there since {note['since']}"
        remedy = f"If that process hangs, end it: kill {note['pid']} on {note['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        who, remedy = "another process, which works there", "If that process hangs, end it"
    return f"{directory}: waiting for {who}. This run then continues with the result. {remedy}; Ctrl-C stops waiting."


def partial_path(path: Path) -> Path:
    """Return a new hidden name beside ``path`` for unfinished work; each call gives another one."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.{_PARTIAL}")


def short_name_beside(path: Path) -> Path:
    """Return a short name beside ``path`` for unfinished work; the name of ``path`` may be too long to extend."""
    return path.with_name("unfinished")


def write_atomic(path: Path, data: bytes, is_synced: bool = True) -> None:
    """Write a file that appears under its name only when it is complete; create its folder.

    Args:
        path: the file.
        data: its content.
        is_synced: whether the file is on the disk on return; if not, the caller calls ``sync_tree`` after many files.

    Raises:
        OSError: the file cannot be written; the error names ``path``, and no part of the file is left.
    """
    with replacing(path, is_synced) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path, is_synced: bool = True) -> Iterator[Path]:
    """Yield a hidden name beside ``path`` to write to; at the end of the block, ``publish`` renames it to ``path``.

    The folder is created. Files that killed processes left in it are removed.

    Raises:
        OSError: the file cannot be written; the error names ``path``, and no part of the file is left.
    """
    partial = partial_path(short_name_beside(path))
    try:
        make_folder(path.parent)
        _sweep(path.parent.absolute())
        yield partial
        if is_synced:
            publish(partial, path)
        else:
            partial.replace(path)
    except BaseException as error:
        remove(partial)
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def publish(partial: Path, path: Path) -> None:
    """Rename a finished file to ``path``; its content and then its name are on the disk on return.

    Raises:
        OSError: the disk does not accept it.
    """
    sync_file(partial)
    partial.replace(path)
    sync_directory(path.parent)


def copy_atomic(source: Path, path: Path) -> None:
    """Copy a file; the copy appears under its name only when it is complete and on the disk.

    Raises:
        OSError: the file cannot be read or written.
    """
    with replacing(path) as partial:
        shutil.copyfile(source, partial)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; their names are on the disk on return.

    Raises:
        OSError: a folder cannot be created.
    """
    if folder.is_dir():
        return
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_directory(made.parent)


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk; read permission is enough."""
    with path.open("rb+" if os.name == "nt" else "rb") as file:
        os.fsync(file.fileno())


def sync_directory(folder: Path) -> None:
    """Flush the names in a folder to the disk. Windows and some file systems do this by themselves or not at all."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(number)


def sync_tree(folder: Path) -> None:
    """Flush ``folder`` and all files and folders below it to the disk.

    Raises:
        OSError: the disk does not accept them.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    if len(files) > _MANY and sys.platform == "linux":
        _sync_file_system(folder)
        return
    for path in files:
        sync_file(path)
    for place in (*(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()), folder):
        sync_directory(place)


def _sync_file_system(folder: Path) -> None:
    """Call syncfs, which Python does not offer."""
    number = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(number) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(number)


@cache
def _sweep(folder: Path) -> None:
    """Remove the unfinished files that killed processes left in ``folder``, once per process."""
    name = short_name_beside(folder / "any").name
    for leftover in folder.glob(f".{name}.*.{_PARTIAL}"):
        if _is_abandoned(leftover, name, is_own_alive=True):
            remove(leftover)


def remove_leftovers(path: Path) -> None:
    """Delete what killed processes, and this one, left beside ``path``. The caller must hold the lock."""
    for leftover in path.parent.glob(f".{_escape(path.name)}.*.{_PARTIAL}"):
        if _is_abandoned(leftover, path.name, is_own_alive=False):
            remove(leftover)


def remove(path: Path) -> None:
    """Delete a file, or a directory with its content, as far as possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def replace_directory(new: Path, final: Path) -> None:
    """Rename ``new`` to ``final`` after flushing it to the disk. Processes that have old files open keep their content.

    Raises:
        OSError: the disk does not accept it.
    """
    sync_tree(new)
    old = partial_path(final)
    if final.exists():
        final.rename(old)
    new.rename(final)
    sync_directory(final.parent)
    remove(old)


def make_process_folder(prefix: str, parent: str | None = None) -> Path:
    """Make a temporary folder that is removed when this process ends, unless SIGKILL ends it.

    A finalizer of multiprocessing removes it: processes that multiprocessing forks call no ``atexit`` function.

    Args:
        prefix: the first characters of the folder's name.
        parent: the folder to make it in; None: the system's folder for temporary files.
    """
    folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
    Finalize(None, shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True}, exitpriority=-100)
    return Path(folder)


def describe_write_error(path: Path, error: OSError) -> str:
    """Describe what could not be written, where, why, and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{path} cannot be written: {reason}. {_remedy(path, error.errno)}"


def describe_free_space(path: Path) -> str:
    """Describe how much space is free where ``path`` lies or would lie."""
    there = next((parent for parent in (path, *path.parents) if os.path.exists(parent)), Path("/"))  # noqa: PTH110
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        return f"The free space of {there} is unknown"
    return f"{free / 2**20:,.0f} MiB are free on the file system of {there}"


def _remedy(path: Path, number: int | None) -> str:
    free = describe_free_space(path)
    if number in NO_SPACE:
        return f"{free}: free some space (also check quotas and limits of file size) or choose another disk (data.root)"
    if number in _NO_PERMISSION:
        return "Choose a directory that you may write to (data.root), or have its permissions changed"
    return free


def _is_abandoned(leftover: Path, name: str, is_own_alive: bool) -> bool:
    """Return whether the process that made it is gone. On another machine, one day without a change counts as gone."""
    parts = leftover.name.removeprefix(f".{name}.").split(".")
    if len(parts) < 4 or not parts[-3].isdigit():
        return False
    host, pid = ".".join(parts[:-3]), int(parts[-3])
    if host == socket.gethostname():
        return not is_own_alive if pid == os.getpid() else not is_running(pid)
    try:
        return time.time() - leftover.stat().st_mtime > _OLD_S
    except OSError:
        return False


def is_running(pid: int) -> bool:
    """Return whether a process of this machine exists. Uses psutil, because on Windows signal 0 would send Ctrl-C."""
    import psutil

    try:
        return psutil.pid_exists(pid)
    except OverflowError:
        return False


def _escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(folder: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 over names and content of files below ``folder``.

    Files are read again only if their size or time of change differs.
    """
    listed = [(path, path.relative_to(folder).as_posix(), path.stat()) for path in sorted(files)]
    return _content_digest(tuple((path, name, status.st_size, status.st_mtime_ns) for path, name, status in listed))


@cache
def _content_digest(files: tuple[tuple[Path, str, int, int], ...]) -> str:
    lines = [f"{name} {file_digest(path)}\n" for path, name, _, _ in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
