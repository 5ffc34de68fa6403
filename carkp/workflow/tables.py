"""Tables as CSV files."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from carkp.disk import write_atomic


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a header line and one line per row; the columns are those of the first row."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, stream.getvalue().encode())
