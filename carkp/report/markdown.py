"""Pages of parts as GitHub's Markdown, with the pictures beside it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Template

from carkp.report.page import png, templates
from carkp.report.parts import Chart, Gallery, PageTable, Part, Picture

PICTURES_DIR = "pictures"
GALLERY_COLUMNS = 4
MARKDOWN_TEMPLATE = "page.md"


@dataclass(frozen=True)
class MarkdownPage:
    """The text, and name -> content of the files for its folder ``pictures``."""

    text: str
    pictures: dict[str, bytes]


def markdown_page(title: str, parts: Sequence[Part]) -> MarkdownPage:
    """Return the page as Markdown with relative links."""
    text = _template().render(title=title, parts=parts, columns_of_galleries=GALLERY_COLUMNS)
    return MarkdownPage(text, dict(picture for part in parts for picture in _pictures(part)))


def markdown_table(table: PageTable) -> str:
    """Return a Markdown table with pipes, and its caption below."""
    macros = _template().make_module({"title": "", "parts": ()})
    return str(macros.table(table))  # type: ignore[attr-defined]


@cache
def _template() -> Template:
    environment = templates()
    environment.filters.update({"text": _inline, "cell": cell, "picture": _link})
    return environment.get_template(MARKDOWN_TEMPLATE)


def _pictures(part: Part) -> list[tuple[str, bytes]]:
    """Return name and content of the files that a part needs."""
    match part:
        case Chart():
            return [(_file_name(part), png(part.figure))]
        case Picture():
            return [(_file_name(part), part.jpeg)]
        case Gallery():
            return [(_file_name(picture), picture.jpeg) for picture in part.pictures]
    return []


def _file_name(part: Chart | Picture) -> str:
    return f"{part.name}.{'png' if isinstance(part, Chart) else 'jpg'}"


def _link(part: Chart | Picture) -> str:
    return f"{PICTURES_DIR}/{_file_name(part)}"


def cell(text: str) -> str:
    """Return a text in the form for a cell of a table."""
    return _inline(text).replace("|", "\\|").replace("\n", "<br>")


def _inline(text: str) -> str:
    """Escape a text, except for parts between back-ticks."""
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(piece if index % 2 else _escaped(piece) for index, piece in enumerate(pieces))


def _escaped(text: str) -> str:
    return re.sub(r"([*<\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)
