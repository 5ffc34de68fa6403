"""COCO's detection results and annotations: ``bbox`` is x, y, width, height, counted from the picture's corner.

Results are a list of ``{"image_id", "category_id", "bbox", "score"}``. A COCO file with ``images`` in the same folder
maps ids to pictures. Without it, the entry's ``file_name`` names the picture; without that, the id is the picture's
name without suffix. The ``categories`` of that COCO file name the classes; without it, the numbers are COCO's: 3, 6, 8
for car, bus, truck.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carkp.data.box_formats.book import BoxBook
from carkp.data.box_formats.texts import NUM_SHOWN, list_files, parse_json
from carkp.data.box_formats.vehicles import COCO_CATEGORIES, Census, is_vehicle
from carkp.data.coco import looks_like_coco
from carkp.data.files import is_file, parse_number
from carkp.data.issues import DataError, printable

Id = int | str

RESULTS, ANNOTATIONS = "COCO detection results", "COCO annotations"

_REMEDY = "put the COCO file with the names of the categories, such as car, into the same folder"
_COCO: Mapping[Id, str] = {number: name for number, name in COCO_CATEGORIES.items()}  # noqa: C416
_ID = re.compile(r"0|[1-9][0-9]{0,18}")
_RESULT_KEYS = ("image_id", "category_id", "bbox")


@dataclass(frozen=True)
class _Index:
    """Meaning of the ids.

    Attributes:
        names: id of a picture -> its name; None if ids are names.
        categories: id -> name.
        source: file that gives the names; empty if there is none.
    """

    names: Mapping[Id, str] | None = None
    categories: Mapping[Id, str] = field(default_factory=lambda: _COCO)
    source: str = ""


def is_results(content: Any) -> bool:
    """Return whether JSON is a non-empty list of detections, as COCO's evaluation reads it."""
    return isinstance(content, list) and bool(content) and isinstance(content[0], dict) and "image_id" in content[0]


def is_annotations(content: Any) -> bool:
    """Return whether JSON is a COCO file with annotations."""
    return isinstance(content, dict) and all(isinstance(content.get(name), list) for name in ("images", "annotations"))


def read_results(path: Path, entries: Sequence[Any]) -> BoxBook:
    """Read the boxes of a list of detections.

    Raises:
        DataError: an entry has no id, its picture is unknown, or no box is of a vehicle.
    """
    index = _find_index(path, entries)
    book = _collect(path, entries, index, "entry", RESULTS)
    notes = [
        *book.notes,
        f"names of pictures and classes come from {index.source}" if index.source else _own_ids(entries),
    ]
    return BoxBook(
        path,
        named=book.named,
        problems=book.problems,
        are_names_numbers=index.names is None,
        may_be_empty=True,
        is_absence_emptiness=index.names is None,
        notes=notes,
    )


def read_annotations(path: Path, content: Mapping[str, Any]) -> BoxBook:
    """Read the boxes of a COCO file, without those of crowds.

    Raises:
        DataError: an annotation has no id, its image is not listed, or no box is of a vehicle.
    """
    entries = content["annotations"]
    if not content["images"]:
        raise DataError(f"{printable(str(path))}: its list of images is empty")
    return _collect(path, entries, _index_of(path, content), "annotation", ANNOTATIONS)


def _own_ids(entries: Sequence[Any]) -> str:
    named = all(isinstance(entry, dict) and isinstance(entry.get("file_name"), str) for entry in entries)
    by = "file_name" if named else "image_id, used as the file's name without suffix"
    return f"names of pictures come from {by}; the categories are COCO's numbers"


def _find_index(path: Path, entries: Sequence[Any]) -> _Index:
    """Return the meaning of the ids from the one COCO file beside ``path`` that contains all of them."""
    ids = {_id(entry.get("image_id")) for entry in entries if isinstance(entry, dict)} - {None}
    indices = list(_indices_beside(path))
    known = [index for index in indices if index.names is not None and ids <= index.names.keys()]
    if len(known) > 1:
        raise DataError(
            f"{printable(str(path))}: {known[0].source} and {known[1].source} both name its images; keep one of them"
        )
    if known:
        return known[0]
    if indices and all(isinstance(image_id, int) for image_id in ids):
        lost = min(str(image_id) for image_id in ids if image_id not in (indices[0].names or {}))
        raise DataError(
            f"{printable(str(path))}: image_id {lost} is not in the images of {indices[0].source}; put the COCO file "
            "of these results there, or remove that file if the ids are the pictures' names"
        )
    return _Index()


def _indices_beside(path: Path) -> Iterator[_Index]:
    for file in list_files(path.absolute().parent):
        if file.suffix.lower() == ".json" and file.name != path.name and is_file(file):
            index = _open_index(file)
            if index is not None:
                yield index


def _open_index(file: Path) -> _Index | None:
    if not looks_like_coco(file):
        return None
    try:
        content = parse_json(file)
    except (DataError, OSError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        return None
    return _index_of(file, content)


def _index_of(path: Path, content: Mapping[str, Any]) -> _Index:
    shown, names = printable(str(path)), dict[Id, str]()
    for number, image in enumerate(content["images"]):
        image_id = _id(image.get("id")) if isinstance(image, dict) else None
        if image_id is None or not isinstance(image.get("file_name"), str) or not image["file_name"].strip():
            raise DataError(f"{shown}: image {number} must have an id and a file_name, got {str(image)[:NUM_SHOWN]}")
        if names.setdefault(image_id, image["file_name"]) != image["file_name"]:
            raise DataError(f"{shown}: the images {names[image_id]} and {image['file_name']} have the same id")
    listed = content.get("categories")
    categories = {
        category_id: str(category.get("name"))
        for category in (listed if isinstance(listed, list) else [])
        if isinstance(category, dict) and (category_id := _id(category.get("id"))) is not None
    }
    return _Index(names, categories or _COCO, shown)


def _collect(path: Path, entries: Sequence[Any], index: _Index, word: str, form: str) -> BoxBook:
    census, shown = Census(), printable(str(path))
    named: dict[str, Any] = {name: [] for name in (index.names or {}).values()}
    problems: dict[str, str] = {}
    for number, entry in enumerate(entries):
        where = f"{shown}: {word} {number}"
        name = _picture_of(entry, index, where)
        if _is_left_out(entry, index, where, census):
            named.setdefault(name, [])
            continue
        box = _box(entry["bbox"])
        if box is None:
            text = str(entry["bbox"])[:NUM_SHOWN]
            problems.setdefault(name, f"{where}: bbox must be x, y, width and height, got {text}")
            continue
        score = entry.get("score")
        census.keep(float(score) if isinstance(score, int | float) else None)
        named.setdefault(name, []).append(box)
    if not problems:
        census.require_vehicles(shown, _REMEDY)
    named = {name: boxes for name, boxes in named.items() if name not in problems}
    return BoxBook(path, named=named, problems=problems, may_be_empty=True, notes=census.notes(form))


def _picture_of(entry: Any, index: _Index, where: str) -> str:
    missing = [key for key in _RESULT_KEYS if not isinstance(entry, dict) or entry.get(key) is None]
    if missing:
        raise DataError(f"{where}: lacks {', '.join(missing)}, got {str(entry)[:NUM_SHOWN]}")
    image_id = _id(entry["image_id"])
    if image_id is None:
        raise DataError(f"{where}: image_id must be a number or a name, got {str(entry['image_id'])[:NUM_SHOWN]}")
    if index.names is None:
        name = entry.get("file_name")
        return name if isinstance(name, str) and name.strip() else str(image_id)
    if image_id not in index.names:
        raise DataError(f"{where}: image_id {image_id} is not in the images of {index.source}")
    return index.names[image_id]


def _is_left_out(entry: Mapping[str, Any], index: _Index, where: str, census: Census) -> bool:
    category = _id(entry["category_id"])
    if category is None:
        raise DataError(f"{where}: category_id must be a number, got {str(entry['category_id'])[:NUM_SHOWN]}")
    name = index.categories.get(category, f"category {category}")
    kind = "crowd" if entry.get("iscrowd") else "" if is_vehicle(name) else name
    if kind:
        census.leave_out(kind)
    return bool(kind)


def _id(value: Any) -> Id | None:
    """Return an id as an integer or a name; ``7``, ``7.0`` and ``"7"`` are equal."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if _ID.fullmatch(text) else text or None
    return value if isinstance(value, int) else int(value) if value.is_integer() else None


def _box(values: Any) -> list[float] | None:
    if not isinstance(values, list) or len(values) != 4:
        return None
    numbers = [parse_number(str(value)) for value in values if not isinstance(value, bool)]
    box = [number for number in numbers if number is not None]
    return box if len(box) == 4 and min(box[2:]) > 0 else None
