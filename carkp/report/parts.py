"""The parts of a page as data; ``page`` writes them as HTML, ``markdown`` as Markdown.

Texts may contain `code` between back-ticks; everything else is plain text and is escaped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Heading:
    """Heading of a section (level 2) or a subsection (level 3)."""

    text: str
    level: Literal[2, 3] = 2


@dataclass(frozen=True)
class Paragraph:
    """Plain text; a ``note`` is a warning or names missing parts, a ``verdict`` is the conclusion of the page."""

    text: str
    kind: Literal["plain", "note", "verdict"] = "plain"


@dataclass(frozen=True)
class PageTable:
    """A table of cells as they are shown; ``numeric``: columns that are aligned to the right.

    Text after a line feed in a cell is shown below in smaller type, for example the interval of a number. ``is_tall``
    shows many rows in a scrolling box, ``is_wrapped`` allows breaks in long words.
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
        figure: figure drawn with :mod:`carkp.report.style`.
        name: unique name on the page, of letters, digits, - and _.
        caption: text on how to read the chart.
        alt: description for readers who cannot see the chart.
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
    """Pictures side by side, with as many per row as fit."""

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Code:
    """Lines for a terminal or a file; with a ``summary`` they are hidden until the reader opens them."""

    text: str
    language: str = "sh"
    summary: str = ""


Part = Heading | Paragraph | PageTable | Chart | Picture | Gallery | Code
