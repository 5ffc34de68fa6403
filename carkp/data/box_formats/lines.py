"""Text files with one box per line and one file per picture: CarFusion's ``bb``, YOLO's labels, KITTI's ``label_2``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carkp.data.box_formats.book import BoxBook, Row
from carkp.data.box_formats.texts import NUM_SHOWN, add_file
from carkp.data.box_formats.vehicles import Census
from carkp.data.files import read_lines
from carkp.data.issues import DataError, printable


class LineError(ValueError):
    """A line is not a box; the message says what was expected."""


@dataclass(frozen=True)
class LineFormat:
    """The way to read the lines of a text format.

    Attributes:
        name: readable name of the format; if empty, there are no notes on what was read.
        parse: function from a line to a box, or None if it is not of a vehicle; it counts the box. Raises LineError.
        collect: function that converts the boxes of a picture to the form in a ``BoxBook``.
        remedy: advice for the case that no box is of a vehicle.
        may_be_empty, is_absence_emptiness: values as in ``BoxBook``.
    """

    name: str
    parse: Callable[[str, Census], Row | None]
    collect: Callable[[Sequence[Row]], Any]
    remedy: str = ""
    may_be_empty: bool = True
    is_absence_emptiness: bool = False


def read_lines_file(path: Path, form: LineFormat) -> BoxBook:
    """Read the boxes of one picture.

    Raises:
        DataError: a line is not a box, or no box is of a vehicle.
    """
    census = Census()
    boxes, problem = _read(path, form, census)
    if problem:
        raise DataError(problem)
    census.require_vehicles(printable(str(path)), form.remedy)
    return BoxBook(path, unnamed=boxes, may_be_empty=form.may_be_empty, notes=_notes(form, census))


def read_lines_folder(folder: Path, files: Sequence[Path], form: LineFormat) -> BoxBook:
    """Read the boxes of many pictures, one file ``<name of the picture>.txt`` for each.

    If a file cannot be read, only its picture is lost.

    Raises:
        DataError: no box is of a vehicle.
    """
    census, named, problems = Census(), dict[str, Any](), dict[str, str]()
    for file in files:
        boxes, problem = _read(file, form, census)
        add_file(folder, file.stem, boxes, problem, named, problems)
    if not problems:
        census.require_vehicles(printable(str(folder)), form.remedy)
    return BoxBook(
        folder,
        named=named,
        problems=problems,
        may_be_empty=form.may_be_empty,
        is_absence_emptiness=form.is_absence_emptiness,
        notes=_notes(form, census),
    )


def _notes(form: LineFormat, census: Census) -> Sequence[str]:
    return census.notes(form.name) if form.name else ()


def _read(path: Path, form: LineFormat, census: Census) -> tuple[Any, str]:
    """Return the boxes of a file, and a message on what cannot be read."""
    shown, rows = printable(str(path)), list[Row]()
    try:
        lines = read_lines(path)
    except OSError as error:
        return form.collect([]), f"{shown}: cannot be read: {error.strerror}"
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = form.parse(line, census)
        except LineError as error:
            return form.collect([]), f"{shown}:{number}: {error}, got {line[:NUM_SHOWN]!r}"
        if row is not None:
            rows.append(row)
    return form.collect(rows), ""
