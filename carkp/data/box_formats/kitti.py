"""KITTI's ``label_2``: a text file per picture, with 15 values per line, or 16 with a confidence.

``type truncated occluded alpha left top right bottom height width length x y z rotation_y [score]``. Pixels are counted
from 0, and right and bottom are the last pixel of the car: a box over a whole picture ends at its width minus 1.
"""

from collections.abc import Sequence

from carkp.data.box_formats.book import Row
from carkp.data.box_formats.lines import LineError, LineFormat
from carkp.data.box_formats.vehicles import Census, is_vehicle
from carkp.data.files import parse_number

NUM_VALUES = 15

_EXPECTED = "expected a type, the 14 numbers of KITTI's label_2 and optionally a confidence"


def _parse(line: str, census: Census) -> Row | None:
    kind, *texts = line.split()
    numbers = [number for text in texts if (number := parse_number(text)) is not None]
    if len(numbers) != len(texts) or len(texts) not in (NUM_VALUES - 1, NUM_VALUES):
        raise LineError(_EXPECTED)
    left, top, right, bottom = numbers[3:7]
    if not is_vehicle(kind):
        census.leave_out(kind)
        return None
    if right < left or bottom < top:
        raise LineError("right and bottom must not be smaller than left and top")
    census.keep(numbers[NUM_VALUES - 1] if len(numbers) == NUM_VALUES else None)
    return left, top, right - left + 1, bottom - top + 1


def _collect(rows: Sequence[Row]) -> list[list[float]]:
    return [list(row) for row in rows]


KITTI = LineFormat("KITTI label_2", _parse, _collect, "KITTI calls them Car, Van and Truck")
