"""One HTML file that needs no other: headings, paragraphs, tables, and figures as embedded PNG."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

FIGURE_DPI = 110

CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 100rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th { text-align: left; border-bottom: 2px solid #888; position: sticky; top: 0; background: #fff; }
th, td { padding: .2rem .7rem .2rem 0; vertical-align: top; } td { border-bottom: 1px solid #ddd; }
td:nth-child(-n+2) { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
img { max-width: 100%; }
"""


@dataclass(frozen=True)
class Heading:
    """Of a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class PageTable:
    """Cells as they are shown; ``numeric`` are the columns that are aligned to the right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()


Part = Heading | Paragraph | PageTable | Figure


def standalone_page(title: str, parts: Sequence[Part]) -> str:
    """The page as HTML; all text is escaped."""
    body = "\n".join(_part(part) for part in parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def _part(part: Part) -> str:
    match part:
        case Heading():
            return f"<h2>{html.escape(part.text)}</h2>"
        case Paragraph():
            return f"<p>{html.escape(part.text)}</p>"
        case PageTable():
            return _table(part)
        case Figure():
            return f'<p><img alt="" src="data:image/png;base64,{_png(part)}"></p>'


def _table(table: PageTable) -> str:
    head = _cells("th", table.headings, table.numeric)
    rows = "\n".join(_cells("td", row, table.numeric) for row in table.rows)
    return f'<div class="wide"><table><thead>{head}</thead><tbody>\n{rows}\n</tbody></table></div>'


def _cells(tag: str, texts: Sequence[str], numeric: frozenset[int]) -> str:
    marks = [' class="number"' if index in numeric else "" for index in range(len(texts))]
    cells = [f"<{tag}{mark}>{html.escape(text)}</{tag}>" for mark, text in zip(marks, texts, strict=True)]
    return f"<tr>{''.join(cells)}</tr>"


def _png(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=FIGURE_DPI)
    return base64.b64encode(stream.getvalue()).decode("ascii")
