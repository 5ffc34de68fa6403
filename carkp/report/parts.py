"""What a page is made of, as data: written as HTML by ``page``, as Markdown by ``markdown``.

Texts may hold `code` between back-ticks; everything else is plain text and is escaped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Heading:
    """Of a section (level 2) or a part of one (level 3)."""

    text: str
    level: Literal[2, 3] = 2


@dataclass(frozen=True)
class Paragraph:
    """Plain text; a ``note`` says what is missing or to be minded, a ``verdict`` what the page comes to."""

    text: str
    kind: Literal["plain", "note", "verdict"] = "plain"


@dataclass(frozen=True)
class PageTable:
    """Cells as they are shown; ``numeric`` are the columns that are aligned to the right.

    A line feed in a cell sets its rest below, smaller: the interval of a number. ``is_tall`` scrolls many rows in a
    box, ``is_wrapped`` lets long words break.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    caption: str = ""
    is_tall: bool = False
    is_wrapped: bool = False


@dataclass(frozen=True)
class Chart:
    """A figure as inline SVG that follows the page's colours; in Markdown a PNG ``<name>.png``.

    Attributes:
        figure: drawn with :mod:`carkp.report.style`.
        name: unique on the page: letters, digits, - and _.
        caption: how to read it.
        alt: what it shows, for who cannot see it.
    """

    figure: Figure
    name: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Picture:
    """A JPEG; in Markdown the file ``<name>.jpg``."""

    jpeg: bytes
    name: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, as many a row as there is room for."""

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Code:
    """Lines for a terminal or a file; with a ``summary`` folded away until it is opened."""

    text: str
    language: str = "sh"
    summary: str = ""


Part = Heading | Paragraph | PageTable | Chart | Picture | Gallery | Code
