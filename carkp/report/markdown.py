"""Pages of parts as Markdown (GitHub's) with the pictures beside it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from carkp.report.page import png
from carkp.report.parts import Chart, Code, Gallery, Heading, PageTable, Paragraph, Part, Picture

PICTURES_DIR = "pictures"
GALLERY_COLUMNS = 4


@dataclass(frozen=True)
class MarkdownPage:
    """The text, and name -> content of the files that belong into its folder ``pictures``."""

    text: str
    pictures: dict[str, bytes]


def markdown_page(title: str, parts: Sequence[Part]) -> MarkdownPage:
    """The page as Markdown with relative links."""
    pictures: dict[str, bytes] = {}
    blocks = [f"# {_inline(title)}", *(_block(part, pictures) for part in parts)]
    return MarkdownPage("\n\n".join(blocks) + "\n", pictures)


def markdown_table(table: PageTable) -> str:
    """A table in pipes, its caption below."""
    rule = ["---:" if index in table.numeric else "---" for index in range(len(table.headings))]
    lines = [_row(table.headings), f"|{'|'.join(rule)}|", *(_row(row) for row in table.rows)]
    caption = f"\n\n{_inline(table.caption)}" if table.caption else ""
    return "\n".join(lines) + caption


def _block(part: Part, pictures: dict[str, bytes]) -> str:
    match part:
        case Heading():
            return f"{'#' * part.level} {_inline(part.text)}"
        case Paragraph():
            return _inline(part.text) if part.kind == "plain" else f"> {_inline(part.text)}"
        case PageTable():
            return markdown_table(part)
        case Chart():
            pictures[f"{part.name}.png"] = png(part.figure)
            return f"![{_inline(part.alt)}]({PICTURES_DIR}/{part.name}.png)\n\n{_inline(part.caption)}"
        case Picture():
            return f"{_image(part, pictures)}\n\n{_inline(part.caption)}"
        case Gallery():
            return "\n".join(_gallery(part, pictures))
        case Code():
            summary = f"{_inline(part.summary)}\n\n" if part.summary else ""
            return f"{summary}```{part.language}\n{part.text.rstrip()}\n```"


def _gallery(gallery: Gallery, pictures: dict[str, bytes]) -> Iterator[str]:
    """A table of pictures over their captions."""
    columns = min(GALLERY_COLUMNS, len(gallery.pictures))
    yield "|" + " |" * columns
    yield "|" + "---|" * columns
    for start in range(0, len(gallery.pictures), columns):
        row = gallery.pictures[start : start + columns]
        cells = [f"{_image(picture, pictures)}<br>{_cell(picture.caption)}" for picture in row]
        yield f"| {' | '.join(cells)} |"


def _image(picture: Picture, pictures: dict[str, bytes]) -> str:
    pictures[f"{picture.name}.jpg"] = picture.jpeg
    return f"![{_inline(picture.alt)}]({PICTURES_DIR}/{picture.name}.jpg)"


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, texts))} |"


def _cell(text: str) -> str:
    return _inline(text).replace("|", "\\|").replace("\n", "<br>")


def _inline(text: str) -> str:
    """Escaped but for what stands between back-ticks."""
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(piece if index % 2 else _escaped(piece) for index, piece in enumerate(pieces))


def _escaped(text: str) -> str:
    return re.sub(r"([*<\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)
