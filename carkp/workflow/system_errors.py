"""Messages for errors of the operating system that a user can solve."""

import errno
import os
from pathlib import Path

from carkp.disk import NO_SPACE, describe_free_space

_REMEDIES = {
    errno.EACCES: "Choose a place that you can read and write, or have its permissions changed",
    errno.EPERM: "Choose a place that you can read and write, or have its permissions changed",
    errno.EROFS: "This file system is mounted read-only: choose another place",
    errno.EIO: "The disk or the network to it fails: check the system's log (dmesg)",
    errno.ESTALE: "The network file system was mounted again: give the command again",
    errno.EMFILE: "Raise the limit of open files (ulimit -n), or lower train.num_workers",
    errno.ENFILE: "The machine has too many files open: end programs that are not needed",
    errno.ENAMETOOLONG: "Choose a shorter name, or a directory closer to the root",
    errno.ENOTDIR: "A part of this path is a file: choose another place, or rename that file",
    errno.ELOOP: "Symbolic links of this path lead in a circle: correct them",
}


def is_of_surroundings(error: OSError) -> bool:
    """Return whether the disk, its permissions or the system's limits caused the error, and not a bug."""
    return error.errno in NO_SPACE or error.errno in _REMEDIES


def describe(error: OSError, directory: Path) -> str:
    """Describe what went wrong, where, and what to do; ``directory``: working directory, for errors without a file."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = " -> ".join(names) or f"working in {directory}"
    return f"{where}: {error.strerror}. {_remedy(error.errno, Path(names[-1]) if names else directory)}"


def _remedy(number: int | None, place: Path) -> str:
    if number in NO_SPACE:
        free = describe_free_space(place)
        return f"{free}: free some space (also check quotas and limits of file size), then give the command again"
    return _REMEDIES[number or 0]
