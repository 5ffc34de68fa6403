"""Boxes as CSV: a header with the columns ``image,x,y,w,h`` (others are ignored), then one box per line.

Separators may also be ``;`` or tabs.
"""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

from carkp.data.box_formats.book import BoxBook
from carkp.data.box_formats.texts import decode
from carkp.data.files import parse_number, read_file
from carkp.data.issues import DataError, printable

COLUMNS = ("image", "x", "y", "w", "h")

_SEPARATORS = (",", ";", "\t")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


def read_csv(path: Path) -> BoxBook:
    """Read the boxes of a CSV file; if a line is not a box, only its picture is lost.

    Raises:
        DataError: the header lacks a column, or a line names no image.
        OSError: the file cannot be read.
    """
    book, shown = BoxBook(path), printable(str(path))
    lines = _csv_lines(read_file(path))
    first = 1 if lines and lines[0].lower().replace('"', "").startswith("sep=") else 0  # Excel's own first line
    separator = _separator(lines[first] if first < len(lines) else "")
    rows = csv.reader(lines[first:], delimiter=separator)
    try:
        columns = _csv_columns(next(rows, []), f"{shown}:{first + 1}")
        for row in rows:
            if any(cell.strip() for cell in row):
                cells = [row[index].strip() if index < len(row) else "" for index in columns]
                _add_row(book, cells, f"{shown}:{first + rows.line_num}", separator)
    except csv.Error as error:
        raise DataError(f"{shown}:{first + rows.line_num}: cannot be read: {error}") from error
    return book


def _csv_lines(data: bytes) -> list[str]:
    """Return the lines; each is decoded alone, because different editors may have written lines in other encodings."""
    if json.detect_encoding(data) not in ("utf-8", "utf-8-sig"):
        return decode(data).splitlines()
    return [decode(line) for part in data.split(b"\n") for line in _split_returns(part)]


def _split_returns(part: bytes) -> list[bytes]:
    """Split the bytes before a line feed into lines: old Macs end lines with a carriage return only."""
    return part.rstrip(b"\r").split(b"\r")


def _separator(header: str) -> str:
    return max(_SEPARATORS, key=header.count)


def _csv_columns(header: Sequence[str], where: str) -> list[int]:
    """Return the positions of the required columns."""
    names = [name.strip().lower() for name in header]
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise DataError(f"{where}: the header lacks {', '.join(missing)}; expected {','.join(COLUMNS)}")
    for name in COLUMNS:
        if names.count(name) > 1:
            raise DataError(f"{where}: the header has {name} twice")
    return [names.index(name) for name in COLUMNS]


def _add_row(book: BoxBook, cells: Sequence[str], where: str, separator: str) -> None:
    name, *texts = cells
    if not name:
        raise DataError(f"{where}: no image is named")
    if separator != ",":
        texts = [text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text for text in texts]
    box = [parse_number(text) for text in texts]
    if None in box:
        book.problems.setdefault(name, f"{where}: x, y, w, h must be numbers, got {', '.join(texts)}")
    else:
        book.named.setdefault(name, []).append(box)
