"""MOTChallenge's ``det.txt``, ``gt.txt`` and results: the boxes of a video's frames.

Each line is ``frame,track,left,top,width,height[,confidence[,class,visibility | ,x,y,z]]``; frames and pixels are
counted from 1. Only lines with eight or nine values have a class. Its name is in ``labels.txt`` beside the file, as
CVAT writes it; without that file, 3 is a car, as in MOT16.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carkp.data.box_formats.book import BoxBook
from carkp.data.box_formats.lines import LineError
from carkp.data.box_formats.texts import NUM_SHOWN
from carkp.data.box_formats.vehicles import Census, is_vehicle
from carkp.data.files import is_file, parse_number, read_lines
from carkp.data.issues import DataError, printable
from carkp.data.names import FRAME_MARK

MIN_VALUES, MAX_VALUES = 6, 10
CLASS_FILE = "labels.txt"
CAR = 3
"""Number of the class car in MOT16."""

FORM = "MOT"

_NO_CLASS = -1
_NUM_WITH_CLASS = (8, 9)
_EXPECTED = "expected frame,track,left,top,width,height and optionally confidence, class and visibility"
_REMEDY = f"put {CLASS_FILE} beside it, with one class name per line, or leave the class out of the lines"


@dataclass
class _Video:
    """Names of classes, counted from 1, if a file gives them, that file, and the boxes of each frame, from 1."""

    names: Sequence[str]
    names_source: str
    frames: dict[int, list[list[float]]] = field(default_factory=dict)


def read_mot_file(path: Path) -> BoxBook:
    """Read the boxes of the frames of one video.

    Raises:
        DataError: a line is not a box, or no box is of a vehicle.
    """
    census = Census()
    video = _read(path, census)
    census.require_vehicles(printable(str(path)), _REMEDY)
    keys = {number: f"{path.stem}{FRAME_MARK}{number - 1:06d}" for number in video.frames}
    return BoxBook(
        path,
        named={keys[number]: boxes for number, boxes in video.frames.items()},
        videos={path.stem: keys},
        is_of_one_video=True,
        may_be_empty=True,
        notes=[*census.notes(FORM), *_class_notes(video)],
    )


def read_mot_folder(folder: Path, files: Sequence[Path]) -> BoxBook:
    """Read the boxes of several videos, one file ``<name of the video>.txt`` for each.

    Raises:
        DataError: a line is not a box, or no box is of a vehicle.
    """
    census, named, keys, notes = Census(), dict[str, Any](), dict[str, dict[int, str]](), dict[str, None]()
    for file in files:
        video = _read(file, census)
        keys[file.stem] = {number: f"{file.stem}{FRAME_MARK}{number - 1:06d}" for number in video.frames}
        named |= {keys[file.stem][number]: boxes for number, boxes in video.frames.items()}
        notes |= dict.fromkeys(_class_notes(video))
    census.require_vehicles(printable(str(folder)), _REMEDY)
    return BoxBook(folder, named=named, videos=keys, may_be_empty=True, notes=[*census.notes(FORM), *notes])


def _class_notes(video: _Video) -> Sequence[str]:
    return [f"the classes come from {video.names_source}"] if video.names_source else []


def _read(path: Path, census: Census) -> _Video:
    shown = printable(str(path))
    try:
        lines = read_lines(path)
        video = _Video(*_class_names(path))
    except OSError as error:
        raise DataError(f"{shown}: cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                _add_line(line, video, census)
            except LineError as error:
                raise DataError(f"{shown}:{number}: {error}, got {line[:NUM_SHOWN]!r}") from error
    return video


def _class_names(path: Path) -> tuple[Sequence[str], str]:
    file = path.with_name(CLASS_FILE)
    if not is_file(file):
        return (), ""
    return [line.strip() for line in read_lines(file)], printable(str(file))


def _add_line(line: str, video: _Video, census: Census) -> None:
    texts = line.strip().rstrip(",").split(",")
    numbers = [number for text in texts if (number := parse_number(text)) is not None]
    if len(numbers) != len(texts) or not MIN_VALUES <= len(texts) <= MAX_VALUES:
        raise LineError(_EXPECTED)
    frame, _, left, top, width, height = numbers[:6]
    if frame != int(frame) or frame < 1:
        raise LineError("frame numbers start at 1")
    boxes = video.frames.setdefault(int(frame), [])
    kind = _kind(int(numbers[7]), video) if len(numbers) in _NUM_WITH_CLASS else ""
    if kind:
        census.leave_out(kind)
        return
    if width <= 0 or height <= 0:
        raise LineError("width and height must be positive")
    census.keep(numbers[6] if len(numbers) > MIN_VALUES else None)
    boxes.append([left - 1, top - 1, width, height])


def _kind(number: int, video: _Video) -> str:
    """Return the class of a box that is not of a vehicle; empty if it is of a vehicle."""
    if number == _NO_CLASS:
        return ""
    if not video.names:
        video.names_source = "MOT16"
        return "" if number == CAR else f"class {number}"
    if not 1 <= number <= len(video.names):
        raise LineError(f"class {number} is not one of the {len(video.names)} of {CLASS_FILE}, which start at 1")
    name = video.names[number - 1]
    return "" if is_vehicle(name) else name
