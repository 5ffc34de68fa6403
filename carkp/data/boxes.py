"""Boxes of cars in pictures, from JSON, CSV and CarFusion's ``bb`` files.

- JSON: ``{"<image name>": [[x, y, width, height], ...], ...}``, or one such list of boxes for a single picture.
- CSV: a header with the columns ``image,x,y,w,h`` (others are ignored), a line a box; also separated by ``;`` or tabs.
- ``.txt``: a CarFusion ``bb`` file, for a single picture; a folder of them, ``<name of the picture>.txt`` each.

Texts are UTF-8, UTF-16 or Windows' Western European; byte order marks and all line ends are understood. Which names
mean which picture: :mod:`carkp.data.names`.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from carkp.data.carfusion import parse_box
from carkp.data.files import is_clutter, is_directory, is_file, parse_number, read_file, split_lines
from carkp.data.issues import DataError, printable
from carkp.data.names import FRAME_MARK, NameBook

__all__ = ["FRAME_MARK", "BoxBook", "parse_boxes", "read_boxes"]

_CSV_COLUMNS = ("image", "x", "y", "w", "h")
_SEPARATORS = (",", ";", "\t")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_LINE_END = re.compile(rb"\r*\n|\r")
_SHOWN = 60
_JSON_FORM = 'boxes are given as {"<image name>": [[x, y, width, height], ...]}'


@dataclass(frozen=True)
class BoxBook:
    """What a source of boxes says.

    Attributes:
        source: where it was read.
        unnamed: boxes that belong to the one picture there is; None: every list of boxes has a picture's name.
        named: name -> boxes, not checked yet.
        problems: name -> what cannot be read of it.
        pictures: names of all pictures that boxes are looked for, where known: no two can mean the same entry.
    """

    source: Path
    unnamed: Any = None
    named: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    pictures: Sequence[str] = ()

    def find(self, name: str) -> Any:
        """The boxes of a picture or frame, its name or its path; the predictor judges their values.

        Raises:
            DataError: there are none, they cannot be read, or it cannot be told which are meant.
        """
        source = printable(str(self.source))
        key = "" if self.unnamed is not None else self._names.find(name)
        if key is None:
            raise DataError(f"{source} has no boxes for it{self._hint(name)}")
        if key in self.problems:
            raise DataError(self.problems[key])
        boxes = _as_numbers(self.unnamed if self.unnamed is not None else self.named[key])
        if boxes is None:  # the predictor would take the whole picture for one car
            raise DataError(f"{source}: its boxes are null; give a list, or leave the name out")
        if boxes == []:
            raise DataError(f"{source}: its list of boxes is empty")
        return boxes

    def for_pictures(self, pictures: Sequence[str]) -> Self:
        """The same boxes for these names or paths, no two of which can mean the same entry."""
        return replace(self, pictures=pictures)

    @cached_property
    def _names(self) -> NameBook:
        return NameBook(printable(str(self.source)), [*self.named, *self.problems], self.pictures)

    def _hint(self, name: str) -> str:
        similar = self._names.similar(name)
        return f"; is it {similar!r}? Write the name as the file has it" if similar else ""


def read_boxes(path: Path) -> BoxBook:
    """Read a file, or a folder of ``bb`` files.

    Raises:
        DataError: there is none, or it is not of the form that its suffix says.
    """
    shown = printable(str(path))
    if is_directory(path):
        return _read_bb_folder(path)
    if not is_file(path):
        raise DataError(f"{shown}: no such file of boxes")
    _reader(path)  # what is no file of boxes may be large
    try:
        data = read_file(path)
    except OSError as error:
        raise DataError(f"{shown}: cannot be read: {error}") from error
    return parse_boxes(path, data)


def parse_boxes(source: Path, data: bytes) -> BoxBook:
    """The content of a file of boxes; the suffix of ``source`` says its form, and its name stands in messages.

    Raises:
        DataError: it is not of that form.
    """
    try:
        return _reader(source)(source, data)
    except RecursionError as error:
        raise DataError(f"{printable(str(source))}: cannot be read: {error}") from error


def _reader(source: Path) -> Callable[[Path, bytes], BoxBook]:
    readers = {".json": _parse_json, ".csv": _parse_csv, ".tsv": _parse_csv, ".txt": _parse_bb}
    reader = readers.get(source.suffix.lower())
    if reader is None:
        raise DataError(f"{printable(str(source))}: boxes come from {', '.join(readers)} or a folder of .txt files")
    return reader


def _decode(data: bytes) -> str:
    """UTF-8, UTF-16 or UTF-32; else what Windows writes in Western Europe."""
    try:
        return data.decode(json.detect_encoding(data)).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _as_numbers(boxes: Any) -> Any:
    """Numbers that are written as text, as spreadsheets export them, become numbers; a single box a list of one."""
    if not isinstance(boxes, list | tuple):
        return boxes
    rows = [_box_as_numbers(box) if isinstance(box, list | tuple) else _as_number(box) for box in boxes]
    is_single_box = len(rows) == 4 and all(isinstance(value, int | float) for value in rows)
    return [rows] if is_single_box else rows


def _box_as_numbers(box: Sequence[Any]) -> list[Any]:
    return [_as_number(value) for value in box]


def _as_number(value: Any) -> Any:
    number = parse_number(value) if isinstance(value, str) else None
    return value if number is None else number


def _parse_json(path: Path, data: bytes) -> BoxBook:
    problems: dict[str, str] = {}
    given_twice: set[str] = set()  # in the object that was complete last: at the end, the outermost

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        different = {name for name, value in pairs if content.setdefault(name, value) != value}
        given_twice.clear()
        given_twice.update(different)
        return content

    shown = printable(str(path))
    try:
        content = json.loads(_decode(data), object_pairs_hook=keep)
    except ValueError as error:
        raise DataError(f"{shown}: not JSON: {error}") from error
    match content:
        case dict():
            for name in given_twice:
                problems[name] = f"{shown}: {name!r} stands there twice, with different boxes; join the two lists"
            _refuse_other_json(shown, content)
            return BoxBook(path, named={k: v for k, v in content.items() if k not in problems}, problems=problems)
        case list():
            if any(isinstance(item, dict) for item in content):
                raise DataError(f"{shown}: is a list of objects, as detectors write it; {_JSON_FORM}")
            return BoxBook(path, unnamed=content)
    raise DataError(f"{shown}: expected an object of image names or a list of boxes, got {str(content)[:_SHOWN]}")


def _refuse_other_json(shown: str, content: dict[str, Any]) -> None:
    """Files that people have of other programs, and of this one."""
    images, form = content.get("images"), _JSON_FORM
    if isinstance(images, list) and "annotations" in content:
        remedy = "for each of its images the file_name, and the bbox of its annotations"
        raise DataError(f"{shown}: is COCO JSON; {form}: {remedy}")
    if isinstance(content.get("shapes"), list):
        raise DataError(f"{shown}: is a file of labelme; {form}")
    if isinstance(images, dict):
        raise DataError(f"{shown}: is a result of infer; {form}")


def _parse_csv(path: Path, data: bytes) -> BoxBook:
    book, shown = BoxBook(path), printable(str(path))
    lines = _csv_lines(data)
    first = 1 if lines and lines[0].lower().replace('"', "").startswith("sep=") else 0  # Excel's own
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
    """Files of editors that differ hold lines in different encodings."""
    if json.detect_encoding(data) not in ("utf-8", "utf-8-sig"):
        return _decode(data).splitlines()
    return [_decode(line) for line in _LINE_END.split(data)]


def _separator(header: str) -> str:
    return max(_SEPARATORS, key=header.count)


def _csv_columns(header: Sequence[str], where: str) -> list[int]:
    """The positions of the columns that are needed."""
    names = [name.strip().lower() for name in header]
    missing = [name for name in _CSV_COLUMNS if name not in names]
    if missing:
        raise DataError(f"{where}: the header lacks {', '.join(missing)}; expected {','.join(_CSV_COLUMNS)}")
    for name in _CSV_COLUMNS:
        if names.count(name) > 1:
            raise DataError(f"{where}: the header has {name} twice")
    return [names.index(name) for name in _CSV_COLUMNS]


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


def _parse_bb(path: Path, data: bytes) -> BoxBook:
    boxes, problem = _bb_boxes(path, data)
    if problem:
        raise DataError(problem)
    return BoxBook(path, unnamed=boxes)


def _read_bb_folder(path: Path) -> BoxBook:
    book, shown = BoxBook(path), printable(str(path))
    try:
        names = sorted(os.listdir(path))  # noqa: PTH208
    except OSError as error:
        raise DataError(f"{shown}: cannot be read: {error.strerror}") from error
    files = [path / name for name in names if name.lower().endswith(".txt") and not is_clutter(name)]
    if not files:
        raise DataError(f"{shown}: no .txt files in it; boxes come from a folder of <name of the picture>.txt")
    for file in files:
        boxes, problem = _read_bb(file)
        if file.stem in book.named and boxes != book.named[file.stem]:
            problem = f"{shown} has boxes for {printable(file.stem)} twice; delete one of the two files"
        if problem:
            book.problems[file.stem] = problem
        else:
            book.named[file.stem] = boxes
    return book


def _read_bb(path: Path) -> tuple[list[list[float]], str]:
    try:
        data = read_file(path)
    except OSError as error:
        return [], f"{printable(str(path))}: cannot be read: {error.strerror}"
    return _bb_boxes(path, data)


def _bb_boxes(path: Path, data: bytes) -> tuple[list[list[float]], str]:
    """The boxes as they are spelled (without keypoints nothing tells exchanged sides), and what cannot be read."""
    shown, boxes = printable(str(path)), []
    for number, line in enumerate(split_lines(data), 1):
        if not line.strip():
            continue
        readings = parse_box(line)
        if readings is None:
            return [], f"{shown}:{number}: expected [x y w h],car, got {line[:_SHOWN]!r}"
        boxes.append(list(readings.spelled))
    return boxes, ""
