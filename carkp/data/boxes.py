"""Boxes of cars in pictures, from JSON, CSV and CarFusion's ``bb`` files.

- JSON: ``{"<image name>": [[x, y, width, height], ...], ...}``, or one such list of boxes for a single picture.
- CSV: a header with the columns ``image,x,y,w,h`` (others are ignored), a line a box.
- ``.txt``: a CarFusion ``bb`` file, for a single picture; a folder of them, ``<name of the picture>.txt`` each.

A picture is named by its file name, with or without its suffix. The frames of a video are ``<file name>#000000`` and so
on; the file name alone stands for all frames.
"""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carkp.data.carfusion import parse_box
from carkp.data.issues import DataError

FRAME_MARK = "#"
"""Between a video's file name and the number of a frame."""

_CSV_COLUMNS = ("image", "x", "y", "w", "h")
_SHOWN = 60


@dataclass(frozen=True)
class BoxBook:
    """What a source of boxes says.

    Attributes:
        source: where it was read.
        unnamed: boxes that belong to the one picture there is; None: every list of boxes has a picture's name.
        named: name -> boxes, not checked yet.
        problems: name -> what cannot be read of it.
    """

    source: Path
    unnamed: Any = None
    named: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Any:
        """The boxes of a picture or frame, as they were written; the predictor judges their values.

        Raises:
            DataError: there are none, or they cannot be read.
        """
        keys = _keys(name)
        problem = next((self.problems[key] for key in keys if key in self.problems), "")
        if problem:
            raise DataError(problem)
        boxes = (
            self.unnamed if self.unnamed is not None else next((self.named[k] for k in keys if k in self.named), None)
        )
        if boxes is None:
            raise DataError(f"{self.source} has no boxes for it")
        if boxes == []:
            raise DataError(f"{self.source}: its list of boxes is empty")
        return boxes


def read_boxes(path: Path) -> BoxBook:
    """Read a file, or a folder of ``bb`` files.

    Raises:
        DataError: there is none, or it is not of the form that its suffix says.
    """
    if path.is_dir():
        return _read_bb_folder(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file of boxes")
    readers = {".json": _read_json, ".csv": _read_csv, ".txt": _read_bb}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: boxes come from {', '.join(readers)} or a folder of .txt files")
    try:
        return reader(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _keys(name: str) -> list[str]:
    file_name, _, _ = name.partition(FRAME_MARK)
    return list(dict.fromkeys((name, file_name, Path(file_name).stem)))


def _read_json(path: Path) -> BoxBook:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    match content:
        case dict():
            return BoxBook(path, named=content)
        case list():
            return BoxBook(path, unnamed=content)
    raise DataError(f"{path}: expected an object of image names or a list of boxes, got {str(content)[:_SHOWN]}")


def _read_csv(path: Path) -> BoxBook:
    book = BoxBook(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        columns = [name.strip() for name in rows.fieldnames or ()]
        rows.fieldnames = columns
        missing = [name for name in _CSV_COLUMNS if name not in columns]
        if missing:
            raise DataError(f"{path}:1: the header lacks {', '.join(missing)}; expected {','.join(_CSV_COLUMNS)}")
        for row in rows:
            _add_row(book, row, rows.line_num)
    return book


def _add_row(book: BoxBook, row: dict[str, str | None], line: int) -> None:
    name, *texts = ((row[column] or "").strip() for column in _CSV_COLUMNS)
    try:
        box = [float(text) for text in texts]
    except ValueError:
        book.problems.setdefault(name, f"{book.source}:{line}: x, y, w, h must be numbers, got {', '.join(texts)}")
        return
    book.named.setdefault(name, []).append(box)


def _read_bb(path: Path) -> BoxBook:
    boxes, problem = _bb_boxes(path)
    if problem:
        raise DataError(problem)
    return BoxBook(path, unnamed=boxes)


def _read_bb_folder(path: Path) -> BoxBook:
    book = BoxBook(path)
    for file in sorted(path.glob("*.txt")):
        boxes, problem = _bb_boxes(file)
        if problem:
            book.problems[file.stem] = problem
        else:
            book.named[file.stem] = boxes
    return book


def _bb_boxes(path: Path) -> tuple[list[list[float]], str]:
    """The boxes as they are spelled (without keypoints nothing tells exchanged sides), and what cannot be read."""
    boxes = []
    for number, line in enumerate(path.read_bytes().decode("utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        readings = parse_box(line)
        if readings is None:
            return [], f"{path}:{number}: expected [x y w h],car, got {line[:_SHOWN]!r}"
        boxes.append(list(readings.spelled))
    return boxes, ""
