"""Boxes of cars in pictures and videos, from files of users, detectors and labelling tools.

The format is detected from the suffix and the content of a file or folder:

- ``.json``: ``{"<image name>": [[x, y, width, height], ...], ...}``, or one such list of boxes for a single picture;
  COCO's detection results; COCO's annotations.
- ``.csv``: a header with the columns ``image,x,y,w,h`` (others are ignored), then one box per line; separators may also
  be ``;`` or tabs.
- ``.txt``: a CarFusion ``bb`` file, YOLO labels or KITTI ``label_2``, for a single picture; MOT, for a video; a folder
  of them, named ``<name of the picture or video>.txt``.
- ``.xml``: Pascal VOC, for a single picture; a folder of them.

Texts are UTF-8, UTF-16 or Windows' Western European; byte order marks and all line ends are supported. For the rules
that match names with pictures see :mod:`carkp.data.names`. Names in a file are only compared with those of the
pictures, never used to open a file.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from carkp.data.box_formats import coco
from carkp.data.box_formats.bb import BB
from carkp.data.box_formats.book import BoxBook, BoxSource
from carkp.data.box_formats.kitti import KITTI
from carkp.data.box_formats.lines import read_lines_file, read_lines_folder
from carkp.data.box_formats.mot import read_mot_file, read_mot_folder
from carkp.data.box_formats.names_csv import read_csv
from carkp.data.box_formats.names_json import DuplicateFinder, read_names
from carkp.data.box_formats.texts import NUM_SHOWN, first_line, list_files, parse_json
from carkp.data.box_formats.voc import read_voc_file, read_voc_folder
from carkp.data.box_formats.yolo import CLASS_LISTS, read_yolo_file, read_yolo_folder
from carkp.data.files import is_directory, is_file, parse_number
from carkp.data.issues import DataError, printable
from carkp.data.names import FRAME_MARK

__all__ = ["FRAME_MARK", "BoxBook", "BoxSource", "parse_boxes", "read_boxes"]

LABEL_FOLDERS = ("labels", "label_2", "Annotations", "bb", "det", "gt")

_TEXT_FORMS = (
    "[x y w h],car of CarFusion, class x y w h of YOLO, the 15 values of KITTI, or frame,track,left,top,w,h of MOT"
)


@dataclass(frozen=True)
class _TextReaders:
    """The functions that read one text file of a format, and all text files of a folder."""

    name: str
    read_file: Callable[[Path], BoxBook]
    read_folder: Callable[[Path, Sequence[Path]], BoxBook]


_TEXTS: Mapping[str, _TextReaders] = {
    "bb": _TextReaders(
        "CarFusion bb",
        lambda path: read_lines_file(path, BB),
        lambda folder, files: read_lines_folder(folder, files, BB),
    ),
    "kitti": _TextReaders(
        "KITTI label_2",
        lambda path: read_lines_file(path, KITTI),
        lambda folder, files: read_lines_folder(folder, files, KITTI),
    ),
    "yolo": _TextReaders("YOLO labels", read_yolo_file, read_yolo_folder),
    "mot": _TextReaders("MOT", read_mot_file, read_mot_folder),
}


def read_boxes(path: Path) -> BoxBook:
    """Read boxes from a file or a folder of files.

    Raises:
        DataError: the path does not exist, has an unknown format, or is malformed.
    """
    shown = printable(str(path))
    if is_directory(path):
        return _read_folder(path)
    if not is_file(path):
        raise DataError(f"{shown}: no such file of boxes")
    readers = {".json": _read_json, ".csv": read_csv, ".tsv": read_csv, ".txt": _read_text, ".xml": read_voc_file}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{shown}: give boxes as {', '.join(readers)} or as a folder of .txt or .xml files")
    try:
        return reader(path)
    except (OSError, RecursionError) as error:
        raise DataError(f"{shown}: cannot be read: {error}") from error


def parse_boxes(name: str, data: bytes) -> BoxBook:
    """Read boxes from ``data``, the content of a file called ``name``; messages use this name.

    Raises:
        DataError: the content has an unknown format, or is malformed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"boxes{Path(name).suffix}"
        path.write_bytes(data)
        try:
            book = read_boxes(path)
        except DataError as error:
            raise DataError(str(error).replace(str(path), name)) from error
        problems = {key: text.replace(str(path), name) for key, text in book.problems.items()}
        notes = tuple(note.replace(str(path), name) for note in book.notes)
        return replace(book, source=Path(name), problems=problems, notes=notes)


def _read_json(path: Path) -> BoxBook:
    duplicates = DuplicateFinder()
    content = parse_json(path, duplicates)
    if coco.is_results(content):
        return coco.read_results(path, content)
    if coco.is_annotations(content):
        return coco.read_annotations(path, content)
    return read_names(path, content, duplicates.names)


def _read_text(path: Path) -> BoxBook:
    line = first_line(path)
    kind = recognise_line(line)
    if kind is None:
        raise DataError(
            f"{printable(str(path))}: its first line is not a box: expected {_TEXT_FORMS}; got {line[:NUM_SHOWN]!r}"
        )
    return _TEXTS[kind].read_file(path)


def recognise_line(line: str) -> str | None:
    """Return the format of a line: ``bb`` (also for an empty line), ``kitti``, ``yolo`` or ``mot``; None if unknown."""
    if not line or "]" in line:
        return "bb"
    values = line.split()
    are_numbers = [parse_number(value) is not None for value in values]
    if "," in line:
        cells = line.rstrip(",").split(",")
        return "mot" if len(cells) >= 6 and all(parse_number(cell) is not None for cell in cells) else None
    if len(values) >= 5 and all(are_numbers):
        return "yolo"
    return "kitti" if len(values) >= 8 and not are_numbers[0] and all(are_numbers[1:]) else None


def _read_folder(path: Path) -> BoxBook:
    shown, items = printable(str(path)), list_files(path)
    texts = [item for item in items if item.suffix.lower() == ".txt" and item.name not in CLASS_LISTS]
    xmls = [item for item in items if item.suffix.lower() == ".xml"]
    if xmls and texts:
        raise DataError(
            f"{shown}: has .xml and .txt files ({xmls[0].name}, {texts[0].name}); give a folder with one kind"
        )
    if xmls:
        return read_voc_folder(path, xmls)
    if not texts:
        below = [name for name in LABEL_FOLDERS if is_directory(path / name)]
        hint = f"; is it {path / below[0]}?" if below else ""
        raise DataError(
            f"{shown}: it has no .txt or .xml files; give a folder of <name of the picture>.txt or .xml{hint}"
        )
    return _TEXTS[_recognise_folder(shown, texts)].read_folder(path, texts)


def _recognise_folder(shown: str, files: Sequence[Path]) -> str:
    """Return the common format of all files whose format is known."""
    kinds: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        line = first_line(file)
        if line and (kind := recognise_line(line)) is not None:
            kinds[kind].append(file)
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise DataError(
            f"{shown}: {first[0].name} has the format {_TEXTS[one].name}, {second[0].name} has {_TEXTS[other].name}; "
            "give a "
            "folder with files of one kind"
        )
    if kinds:
        return next(iter(kinds))
    lines = {file: first_line(file) for file in files}
    odd = next((file for file, line in lines.items() if line), None)
    if odd is not None:
        raise DataError(
            f"{shown}: {odd.name} begins with {lines[odd][:NUM_SHOWN]!r}, which is not a box: expected {_TEXT_FORMS}"
        )
    return "bb"
