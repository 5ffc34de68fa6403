"""Pages of parts as one self-contained HTML file: it has no scripts and loads nothing from elsewhere."""

import base64
import io
import re
from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from carkp.report.page_css import CSS
from carkp.report.parts import Chart, Heading, Part
from carkp.report.svg import inline_svg

FIGURE_DPI = 110
HTML_TEMPLATE = "page.html"


def html_page(title: str, parts: Sequence[Part], has_contents: bool = False) -> str:
    """Return the page as HTML; all text is escaped. ``has_contents``: whether to list the sections at the top."""
    headings = [part.text for part in parts if isinstance(part, Heading) and part.level == 2]
    template = templates().get_template(HTML_TEMPLATE)
    return template.render(title=title, parts=parts, sections=headings if has_contents else None, css=Markup(CSS))


@cache
def templates() -> Environment:
    """Return the templates of the package; values in ``.html`` templates are escaped."""
    environment = Environment(
        loader=PackageLoader("carkp.report"),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    filters = {"kind": kind, "anchor": anchor, "inline": _inline, "drawing": _drawing, "base64": _encoded}
    environment.filters.update(filters)
    return environment


def kind(part: Part) -> str:
    """Return the name of a part's class."""
    return type(part).__name__


def anchor(text: str) -> str:
    """Return the id of a heading."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file with a light background."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=FIGURE_DPI)
    return stream.getvalue()


def _drawing(chart: Chart) -> Markup:
    """Return the chart as inline SVG, which is safe because its parts are escaped."""
    return Markup(inline_svg(chart.figure, chart.name, chart.alt))


def _inline(text: str) -> Markup:
    """Escape a text and mark parts between back-ticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
