"""Pascal VOC's annotations: one XML file per picture, with the same name as the picture.

Pixels are counted from 1, and ``xmax`` and ``ymax`` are the last pixels of the car: a box over a whole picture is 1, 1,
width, height. A file with a document type is refused, because it could define or fetch entities.
"""

import xml.parsers.expat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from carkp.data.box_formats.book import BoxBook, Row, SizedBoxes
from carkp.data.box_formats.texts import NUM_SHOWN, add_file
from carkp.data.box_formats.vehicles import Census, is_vehicle
from carkp.data.files import parse_number, read_file
from carkp.data.issues import DataError, printable

MAX_BYTES = 16 * 2**20
"""Largest size of a file: no picture has so many cars."""

FORM = "Pascal VOC"

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_REMEDY = "Pascal VOC calls them car and bus; truck, van and the like are accepted too"
_FROM_ZERO = "a box begins at 0, but Pascal VOC counts from 1: check whether all boxes are one pixel off"
_OTHER_NAME = "<filename> differs from the name of the .xml file, which is used"


class XmlError(ValueError):
    """The XML cannot be read; the message says why."""


def read_voc_file(path: Path) -> BoxBook:
    """Read the boxes of one picture.

    Raises:
        DataError: the file is not a Pascal VOC annotation, or no box is of a vehicle.
    """
    census = Census()
    boxes, problem = _read(path, census)
    if problem:
        raise DataError(problem)
    census.require_vehicles(printable(str(path)), _REMEDY)
    return BoxBook(path, unnamed=boxes, may_be_empty=True, notes=census.notes(FORM))


def read_voc_folder(folder: Path, files: Sequence[Path]) -> BoxBook:
    """Read the boxes of many pictures; if a file cannot be read, only its picture is lost.

    Raises:
        DataError: no box is of a vehicle.
    """
    census, named, problems = Census(), dict[str, Any](), dict[str, str]()
    for file in files:
        boxes, problem = _read(file, census)
        add_file(folder, file.stem, boxes, problem, named, problems)
    if not problems:
        census.require_vehicles(printable(str(folder)), _REMEDY)
    return BoxBook(folder, named=named, problems=problems, may_be_empty=True, notes=census.notes(FORM))


def parse_xml(data: bytes) -> ElementTree.Element:
    """Return the root of an XML document without a document type.

    Raises:
        XmlError: the document has a document type, is not XML, or is too large.
    """
    if len(data) > MAX_BYTES:
        raise XmlError(f"is larger than {MAX_BYTES // 2**20} MiB")
    checker = xml.parsers.expat.ParserCreate()
    checker.StartDoctypeDeclHandler = _refuse_document_type
    try:
        checker.Parse(data, True)
        return ElementTree.fromstring(data)
    except (xml.parsers.expat.ExpatError, ElementTree.ParseError, LookupError, ValueError) as error:
        if isinstance(error, XmlError):
            raise
        raise XmlError(f"not XML: {error}") from error


def _refuse_document_type(*_: Any) -> None:
    raise XmlError("has a <!DOCTYPE>, which is not allowed for safety: delete it")


def _read(path: Path, census: Census) -> tuple[Any, str]:
    """Return the boxes of a file, and a message on what cannot be read."""
    shown = printable(str(path))
    try:
        root = parse_xml(read_file(path))
        if root.tag != "annotation":
            raise XmlError(f"expected <annotation> of Pascal VOC, got <{root.tag[:NUM_SHOWN]}>")
        rows = [row for element in root.findall("object") if (row := _parse_object(element, census)) is not None]
    except OSError as error:
        return [], f"{shown}: cannot be read: {error.strerror}"
    except XmlError as error:
        return [], f"{shown}: {error}"
    name = PurePosixPath((root.findtext("filename") or "").strip().replace("\\", "/")).stem
    if name and name != path.stem:
        census.remark(_OTHER_NAME)
    size = _stated_size(root)
    return ([list(row) for row in rows] if size is None else SizedBoxes(rows, size, shown)), ""


def _stated_size(root: ElementTree.Element) -> tuple[int, int] | None:
    numbers = [parse_number(root.findtext(f"size/{side}") or "") for side in ("height", "width")]
    height, width = (0 if number is None else int(number) for number in numbers)
    return (height, width) if height > 0 and width > 0 else None


def _parse_object(element: ElementTree.Element, census: Census) -> Row | None:
    """Return the box of an ``<object>``; None if it is not a vehicle."""
    kind = (element.findtext("name") or "").strip()
    if not is_vehicle(kind):
        census.leave_out(kind or "no name")
        return None
    texts = [(element.findtext(f"bndbox/{corner}") or "").strip() for corner in _CORNERS]
    numbers = [number for text in texts if (number := parse_number(text)) is not None]
    if len(numbers) != len(_CORNERS):
        found = ", ".join(f"{corner} {text!r}" for corner, text in zip(_CORNERS, texts, strict=True))
        raise XmlError(f"the <bndbox> of a {kind} must hold the numbers {', '.join(_CORNERS)}, got {found}")
    left, top, right, bottom = numbers
    if right < left or bottom < top:
        raise XmlError(f"the <bndbox> of a {kind} ends before it begins: {', '.join(texts)}")
    if min(left, top) == 0:
        census.remark(_FROM_ZERO)
    census.keep()
    return left - 1, top - 1, right - left + 1, bottom - top + 1
