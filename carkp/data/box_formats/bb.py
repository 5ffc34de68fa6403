"""CarFusion's ``bb`` files: each line is ``[x y w h],car`` or ``[x, y, h, w],car``."""

from collections.abc import Sequence

from carkp.data.box_formats.book import Row
from carkp.data.box_formats.lines import LineError, LineFormat
from carkp.data.box_formats.vehicles import Census
from carkp.data.carfusion import parse_box


def _parse(line: str, census: Census) -> Row:
    """Parse the box as it is written; without keypoints, exchanged sides cannot be detected."""
    readings = parse_box(line)
    if readings is None:
        raise LineError("expected [x y w h],car")
    census.keep()
    return readings.spelled


def _collect(rows: Sequence[Row]) -> list[list[float]]:
    return [list(row) for row in rows]


BB = LineFormat("", _parse, _collect, may_be_empty=False)
