"""Problems of input data: errors that the user must fix, and minor problems that are counted and skipped."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from carkp import disk


class DataError(Exception):
    """Data cannot be used; the message says what is wrong, where, and what to do."""


def printable(text: str) -> str:
    """Return text that can be printed and written as UTF-8, even if a file name in it is not valid UTF-8."""
    return text.encode(errors="backslashreplace").decode()


@contextlib.contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while ``path`` is written into a DataError that says what to do."""
    try:
        yield
    except OSError as error:
        raise DataError(printable(disk.describe_write_error(path, error))) from error


@dataclass
class Tally:
    """Number of times that something was found, and the first place."""

    count: int
    first: str


@dataclass
class Issues:
    """Minor problems found while reading: they do not stop the reading, but all are reported.

    Attributes:
        skipped: reason -> tally of items left out.
        corrected: reason -> tally of items kept after a correction.
        warnings: sentences about the whole data set.
    """

    skipped: dict[str, Tally] = field(default_factory=dict)
    corrected: dict[str, Tally] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def skip(self, reason: str, where: str, count: int = 1) -> None:
        _add(self.skipped, reason, Tally(count, printable(where)))

    def correct(self, reason: str, where: str, count: int = 1) -> None:
        _add(self.corrected, reason, Tally(count, printable(where)))

    def warn(self, sentence: str) -> None:
        self.warnings.append(printable(sentence))

    def merge(self, other: "Issues") -> None:
        """Add the issues of another process or file."""
        for reason, tally in other.skipped.items():
            _add(self.skipped, reason, tally)
        for reason, tally in other.corrected.items():
            _add(self.corrected, reason, tally)
        self.warnings.extend(other.warnings)

    def describe_skipped(self) -> str:
        """Return one line with every reason, its count and its first place; empty if nothing was skipped."""
        return "; ".join(f"{t.count} x {reason} (first: {t.first})" for reason, t in self.skipped.items())


def _add(tallies: dict[str, Tally], reason: str, tally: Tally) -> None:
    known = tallies.get(reason)
    if known is None:
        tallies[reason] = Tally(tally.count, tally.first)
    else:
        known.count += tally.count
