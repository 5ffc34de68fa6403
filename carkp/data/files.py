"""Handling of users' files: clutter from desktops, symbolic links, encodings, and different spellings of names."""

import errno
import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from carkp.config.paths import expand
from carkp.data.issues import DataError, Issues

MAX_COORDINATE_PX = 100_000.0
"""Largest coordinate: no image is larger, so a point farther away cannot be in an image."""

_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "@eadir", "__macosx", "$recycle.bin", "lost+found", "#recycle"})
_LINE_END = re.compile(r"\r+\n?")
_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?\s*", re.ASCII | re.IGNORECASE)


def is_clutter(name: str) -> bool:
    """Return whether a file or directory is not data: hidden ones (``._1_0001.jpg``, ``.DS_Store``), ``Thumbs.db``."""
    return name.startswith(".") or name.lower() in _CLUTTER


def is_utf8(name: str) -> bool:
    """Return whether a name on disk is valid UTF-8; other names cannot be written to JSON and stores."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def list_directory(directory: Path, issues: Issues) -> list[Path]:
    """List a directory, sorted and without clutter; a directory that cannot be listed is counted in ``issues``.

    Broken symbolic links are left out and counted.
    """
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        issues.skip(f"directory cannot be read: {error.strerror}", str(directory))
        return []
    paths = []
    for entry in entries:
        path = Path(entry.path)
        if is_clutter(entry.name):
            continue
        if entry.is_symlink() and not exists(path):
            issues.skip("symbolic link leads nowhere", str(path))
        else:
            paths.append(path)
    return paths


def exists(path: Path) -> bool:
    """Return whether the path exists and can be accessed."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def is_directory(path: Path) -> bool:
    """Return ``Path.is_dir``, or False if permission is missing."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Return ``Path.is_file``, or False if permission is missing."""
    try:
        return path.is_file()
    except OSError:
        return False


def walk_files(root: Path) -> Iterator[Path]:
    """Yield every file below ``root`` except clutter; symbolic links are followed, but not to a directory above."""
    yield from _walk(str(root), frozenset())


def _walk(directory: str, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    try:
        status = os.stat(directory)  # noqa: PTH116
        entries = list(os.scandir(directory))
    except OSError:
        return
    identity = status.st_dev, status.st_ino
    if identity in above:
        return
    for entry in entries:
        if is_clutter(entry.name):
            continue
        path = Path(entry.path)
        if is_directory(path) if entry.is_symlink() else entry.is_dir():
            yield from _walk(entry.path, above | {identity})
        elif is_file(path) if entry.is_symlink() else entry.is_file():
            yield path


def stays_below(root: Path, path: Path) -> bool:
    """Return whether a path that a file names lies below ``root``; the user's own symbolic links there are allowed."""
    if ".." in path.parts:
        return path.resolve().is_relative_to(root.resolve())
    return path.absolute().is_relative_to(root.absolute())


def expand_path(text: str | Path) -> Path:
    """Expand the variables and the home directory in a path, see ``carkp.config.paths.expand``.

    Raises:
        DataError: a variable is not set, or there is no such home directory.
    """
    try:
        return Path(expand(str(text)))
    except ValueError as error:
        raise DataError(f"{text}: {error}") from error


def read_file(path: Path) -> bytes:
    """Return the content of a file. Pipes and devices are refused, because reading a pipe could wait for ever.

    Raises:
        OSError: the file cannot be read, or is not a file.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
    return path.read_bytes()


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text of numbers in UTF-8, UTF-16 or UTF-32, with any line ends; other bytes become U+FFFD.

    Raises:
        OSError: the file cannot be read.
    """
    return split_lines(read_file(path))


def split_lines(data: bytes) -> list[str]:
    """Split the content of a file as :func:`read_lines` does."""
    encoding = json.detect_encoding(data)  # by the byte order mark and the positions of zeros; else UTF-8
    text = data.decode(encoding, errors="replace").removeprefix("\ufeff")
    lines = _LINE_END.sub(_as_line_feeds, text).split("\n")
    return lines if lines[-1] else lines[:-1]


def _as_line_feeds(end: re.Match[str]) -> str:
    """Convert line ends: carriage returns with a line feed after them end one line, other carriage returns one each."""
    return "\n" if end[0].endswith("\n") else "\n" * len(end[0])


def parse_number(text: str) -> float | None:
    """Parse a finite decimal number, with or without exponent; None for anything else (``0x10``, ``1_0``, ``nan``)."""
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if abs(number) != float("inf") else None


def fold_name(name: str) -> str:
    """Return a key that is equal for names that differ only in upper and lower case or in Unicode composition."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class NameIndex:
    """Finds files whose names are spelled differently in a JSON file and on disk; directory listings are cached."""

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, list[str]]] = {}

    def find(self, base: Path, relative: PurePosixPath) -> Path | None:
        """Find a file below ``base`` by its exact name, else in another Unicode composition, else in another case.

        A name that is not exact must have only one match.
        """
        path = base
        for part in relative.parts:
            known = self._choose(path, part)
            if known is None:
                return None
            path = path / known
        return path if is_file(path) else None

    def _choose(self, directory: Path, name: str) -> str | None:
        if name in ("..", "/") or exists(directory / name):
            return name
        similar = self._listing(directory).get(fold_name(name), [])
        composed = unicodedata.normalize("NFC", name)
        same = [other for other in similar if unicodedata.normalize("NFC", other) == composed]
        candidates = same or similar
        return candidates[0] if len(candidates) == 1 else None

    def _listing(self, directory: Path) -> dict[str, list[str]]:
        if directory not in self._names:
            listing: dict[str, list[str]] = {}
            try:
                names = sorted(os.listdir(directory))  # noqa: PTH208
            except OSError:
                names = []
            for name in names:
                listing.setdefault(fold_name(name), []).append(name)
            self._names[directory] = listing
        return self._names[directory]
