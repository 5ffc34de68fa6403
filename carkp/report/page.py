"""Pages of parts as one HTML file that needs no other: no script, nothing loaded from elsewhere."""

import base64
import html
import io
import re
from collections.abc import Sequence

from matplotlib.figure import Figure

from carkp.report.page_css import CSS
from carkp.report.parts import Chart, Code, Gallery, Heading, PageTable, Paragraph, Part, Picture
from carkp.report.svg import inline_svg

FIGURE_DPI = 110


def html_page(title: str, parts: Sequence[Part], has_contents: bool = False) -> str:
    """The page as HTML; all text is escaped. ``has_contents`` lists the sections at the top."""
    body = "\n".join(_part(part) for part in parts)
    contents = _contents(parts) if has_contents else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(title)}</title><link rel="icon" href="data:,"><style>{CSS}</style></head>\n'
        f"<body><h1>{html.escape(title)}</h1>\n{contents}{body}\n</body></html>\n"
    )


def anchor(text: str) -> str:
    """The id of a heading."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def png(figure: Figure) -> bytes:
    """The figure as a PNG file on its light paper."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=FIGURE_DPI)
    return stream.getvalue()


def _contents(parts: Sequence[Part]) -> str:
    names = [part.text for part in parts if isinstance(part, Heading) and part.level == 2]
    links = "\n".join(f'<a href="#{anchor(name)}">{html.escape(name)}</a>' for name in names)
    return f'<nav aria-label="Sections">{links}</nav>\n'


def _part(part: Part) -> str:
    match part:
        case Heading():
            return f'<h{part.level} id="{anchor(part.text)}">{html.escape(part.text)}</h{part.level}>'
        case Paragraph():
            mark = "" if part.kind == "plain" else f' class="{part.kind}"'
            return f"<p{mark}>{_inline(part.text)}</p>"
        case PageTable():
            return _table(part)
        case Chart():
            drawing = inline_svg(part.figure, part.name, part.alt)
            return f'<figure><div class="chart">{drawing}</div>{_caption(part.caption)}</figure>'
        case Picture():
            return f"<figure>{_image(part)}{_caption(part.caption)}</figure>"
        case Gallery():
            return f'<div class="gallery">{"".join(map(_part, part.pictures))}</div>'
        case Code():
            return _code(part)


def _table(table: PageTable) -> str:
    head = _cells("th", table.headings, table.numeric)
    rows = "\n".join(_cells("td", row, table.numeric) for row in table.rows)
    box = "wide tall" if table.is_tall else "wide"
    mark = ' class="wrap"' if table.is_wrapped else ""
    body = f'<div class="{box}"><table{mark}><thead>{head}</thead><tbody>\n{rows}\n</tbody></table></div>'
    return f"<figure>{body}{_caption(table.caption)}</figure>" if table.caption else body


def _cells(tag: str, texts: Sequence[str], numeric: frozenset[int]) -> str:
    marks = [' class="number"' if index in numeric else "" for index in range(len(texts))]
    cells = [f"<{tag}{mark}>{_cell(text)}</{tag}>" for mark, text in zip(marks, texts, strict=True)]
    return f"<tr>{''.join(cells)}</tr>"


def _cell(text: str) -> str:
    first, _, rest = text.partition("\n")
    return _inline(first) + (f'<span class="interval">{_inline(rest)}</span>' if rest else "")


def _code(part: Code) -> str:
    block = f'<pre tabindex="0"><code>{html.escape(part.text)}</code></pre>'
    return f"<details><summary>{_inline(part.summary)}</summary>{block}</details>" if part.summary else block


def _image(picture: Picture) -> str:
    return f'<img alt="{html.escape(picture.alt)}" src="data:image/jpeg;base64,{_encoded(picture.jpeg)}">'


def _caption(text: str) -> str:
    return f"<figcaption>{_inline(text)}</figcaption>" if text else ""


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
