"""Messages for errors of the operating system that a user can solve."""

import errno
import os
from pathlib import Path

from carkp.disk import NO_SPACE, describe_free_space

_REMEDIES = {
    errno.EACCES: "Choose a place that you may read and write, or have its permissions changed",
    errno.EPERM: "Choose a place that you may read and write, or have its permissions changed",
    errno.EROFS: "This file system is mounted to be read only: choose another place",
    errno.EIO: "The disk or the network to it fails: look at the system's log (dmesg)",
    errno.ESTALE: "The network file system was mounted anew: give the command again",
    errno.EMFILE: "Raise the limit of open files (ulimit -n), or lower train.num_workers",
    errno.ENFILE: "The machine has too many files open: end what is not needed",
    errno.ENAMETOOLONG: "Choose a shorter name, or a directory nearer to the root",
    errno.ENOTDIR: "A part of this path is a file: choose another place, or rename that file",
    errno.ELOOP: "Symbolic links of this path lead in a circle: put them right",
}


def is_of_surroundings(error: OSError) -> bool:
    """Return whether the disk, its permissions or the system's limits caused the error, and not a bug."""
    return error.errno in NO_SPACE or error.errno in _REMEDIES


def describe(error: OSError, directory: Path) -> str:
    """Describe what went wrong, where, and what to do; ``directory``: working directory, for errors without a file."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = " -> ".join(names) or f"at work in {directory}"
    return f"{where}: {error.strerror}. {_remedy(error.errno, Path(names[-1]) if names else directory)}"


def _remedy(number: int | None, place: Path) -> str:
    if number in NO_SPACE:
        free = describe_free_space(place)
        return f"{free}: make room (also look at quotas and limits of file size), then give the command again"
    return _REMEDIES[number or 0]
