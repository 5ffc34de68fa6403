"""YOLO's labels and predictions: a text file per picture, with lines ``class x y width height [confidence] [track]``.

x and y are the centre, and all four values are shares of the picture's width and height. ``classes.txt``, ``data.yaml``
or a similar file gives the names of the classes. It is in the same folder or, as in data sets, above ``labels``.
Without it, the numbers are COCO's: 2, 5 and 7 for car, bus and truck. Ultralytics writes ``<video>_<frame>.txt`` for
the frames of a video, counted from 1, and no file for a picture without detections.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from carkp.config.yaml_files import YamlError, parse_plain_yaml
from carkp.data.box_formats.book import BoxBook, RelativeBoxes, Row
from carkp.data.box_formats.lines import LineError, LineFormat, read_lines_file, read_lines_folder
from carkp.data.box_formats.texts import decode
from carkp.data.box_formats.vehicles import YOLO_CLASSES, Census, is_vehicle
from carkp.data.files import is_file, parse_number, read_file, read_lines
from carkp.data.issues import DataError, printable

CLASS_LISTS = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt")
CLASS_YAMLS = ("data.yaml", "data.yml", "dataset.yaml")

MAX_SHARE = 1.01
"""Largest allowed share: detectors round, so a box may end just outside of the picture."""

_LABELS = "labels"
_EXPECTED = "expected class x y width height and optionally confidence and track"
_FRAME = re.compile(r"(.+)_(\d+)", re.DOTALL)


@dataclass(frozen=True)
class ClassNames:
    """Names of classes by their numbers, and the source of the names."""

    names: Mapping[int, str]
    source: str
    is_complete: bool = True


COCO_NAMES = ClassNames(YOLO_CLASSES, "COCO's numbers", is_complete=False)


def read_yolo_file(path: Path) -> BoxBook:
    """Read the labels of one picture.

    Raises:
        DataError: a line is not a box, no box is of a vehicle, or the names of the classes cannot be read.
    """
    names = find_class_names(path.parent)
    book = read_lines_file(path, _format(names))
    return replace(book, notes=[*book.notes, _note(names)])


def read_yolo_folder(folder: Path, files: Sequence[Path]) -> BoxBook:
    """Read the labels of many pictures, and of frames of videos.

    Raises:
        DataError: no box is of a vehicle, or the names of the classes cannot be read.
    """
    names = find_class_names(folder)
    book = read_lines_folder(folder, files, _format(names))
    videos: dict[str, dict[int, str]] = {}
    for stem in [*book.named, *book.problems]:
        if (match := _FRAME.fullmatch(stem)) and (number := int(match[2])) > 0:
            videos.setdefault(match[1], {}).setdefault(number, stem)
    return replace(book, videos=videos, notes=[*book.notes, _note(names)])


def find_class_names(folder: Path) -> ClassNames:
    """Find the names of classes in or above a folder of labels; if there are none, use COCO's.

    Raises:
        DataError: a file with names of classes cannot be read.
    """
    above = folder.absolute().parents
    folders = [folder, *above[: 2 if _LABELS in (folder.name, folder.parent.name) else 1]]
    for place in folders:
        for name in CLASS_LISTS:
            if is_file(place / name):
                return _read_list(place / name)
        for name in CLASS_YAMLS:
            if is_file(place / name):
                return _read_yaml(place / name)
    return COCO_NAMES


def _read_list(path: Path) -> ClassNames:
    shown = printable(str(path))
    try:
        lines = [line.strip() for line in read_lines(path)]
    except OSError as error:
        raise DataError(f"{shown}: cannot be read: {error.strerror}") from error
    if not any(lines):
        raise DataError(f"{shown}: names no class; write one name per line, or delete it if the classes are COCO's")
    return ClassNames(dict(enumerate(lines)), shown)


def _read_yaml(path: Path) -> ClassNames:
    shown = printable(str(path))
    try:
        content = parse_plain_yaml(decode(read_file(path)))
    except (OSError, YamlError) as error:
        raise DataError(f"{shown}: cannot be read: {error}") from error
    names = content.get("names") if isinstance(content, dict) else None
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if (
        isinstance(names, dict)
        and names
        and all(isinstance(key, int) and isinstance(name, str | int) for key, name in names.items())
    ):
        return ClassNames({key: str(name) for key, name in names.items()}, shown)
    raise DataError(f"{shown}: has no names: write a list of the classes, or one number: name per class")


def _note(names: ClassNames) -> str:
    return f"the classes come from {names.source}"


def _format(names: ClassNames) -> LineFormat:
    def parse(line: str, census: Census) -> Row | None:
        return _parse(line, names, census)

    vehicles = [str(number) for number, name in names.names.items() if is_vehicle(name)]
    said = f"of the classes of {names.source}, {', '.join(vehicles) or 'none'} are vehicles"
    remedy = f"{said}; put classes.txt beside the labels, with one name per line: car, truck, bus or van for vehicles"
    return LineFormat("YOLO labels", parse, _collect, remedy, is_absence_emptiness=True)


def _collect(rows: Sequence[Row]) -> Any:
    return RelativeBoxes(rows)


def _parse(line: str, names: ClassNames, census: Census) -> Row | None:
    texts = line.split()
    numbers = [number for text in texts if (number := parse_number(text)) is not None]
    has_tail = len(texts) in (5, 6) or (len(texts) == 7 and texts[6].isdecimal())
    if len(numbers) != len(texts) or not has_tail:
        is_polygon = len(numbers) == len(texts) > 6
        raise LineError(f"{_EXPECTED}{'; corners and keypoints are not supported' * is_polygon}")
    number, x, y, width, height = numbers[:5]
    if number != int(number) or number < 0:
        raise LineError("the class must be a whole number")
    if max(numbers[1:5]) > MAX_SHARE or min(x, y) < 1 - MAX_SHARE or min(width, height) <= 0:
        raise LineError("x, y, width and height must be relative to the picture's size, from 0 to 1")
    name = names.names.get(int(number))
    if name is None and names.is_complete:
        raise LineError(f"class {int(number)} is not in {names.source}")
    if name is None or not is_vehicle(name):
        census.leave_out(f"{name} (class {int(number)})" if name else f"class {int(number)}")
        return None
    census.keep(_confidence(texts))
    return x, y, width, height


def _confidence(texts: Sequence[str]) -> float | None:
    """Return the sixth value if it is a confidence; a value above 1 is the number of a track."""
    value = parse_number(texts[5]) if len(texts) > 5 else None
    return value if value is not None and value <= 1 else None
