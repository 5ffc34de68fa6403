"""Reading of text files from spreadsheets and editors, and listing of the files in a folder of boxes."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carkp.data.files import is_clutter, read_file, read_lines
from carkp.data.issues import DataError, printable

NUM_SHOWN = 60
"""Number of characters of an unreadable line that messages show."""


def decode(data: bytes) -> str:
    """Decode UTF-8, UTF-16 or UTF-32, else Windows' Western European encoding."""
    try:
        return data.decode(json.detect_encoding(data)).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def first_line(path: Path) -> str:
    """Return the first line that is not blank; empty if there is none or the file cannot be read."""
    try:
        return next((line.strip() for line in read_lines(path) if line.strip()), "")
    except OSError:
        return ""


def parse_json(path: Path, hook: Any = None) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: it is not JSON.
        OSError, RecursionError: it cannot be read.
    """
    try:
        return json.loads(decode(read_file(path)), object_pairs_hook=hook)
    except ValueError as error:
        raise DataError(f"{printable(str(path))}: not JSON: {error}") from error


def list_files(folder: Path) -> Sequence[Path]:
    """List the content of a folder, sorted by name, without clutter.

    Raises:
        DataError: the folder cannot be listed.
    """
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208
    except OSError as error:
        raise DataError(f"{printable(str(folder))}: cannot be read: {error.strerror}") from error
    return [folder / name for name in names if not is_clutter(name)]


def add_file(
    folder: Path, stem: str, boxes: Any, problem: str, named: dict[str, Any], problems: dict[str, str]
) -> None:
    """Store the boxes of a picture, or the problem of reading them; two files of one picture must have equal boxes."""
    if stem in named and boxes != named[stem]:
        problem = f"{printable(str(folder))} has boxes for {printable(stem)} twice; delete one of the two files"
    if problem:
        problems[stem] = problem
    else:
        named[stem] = boxes
