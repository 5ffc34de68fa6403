"""Pages of parts as one HTML file that needs no other: no script, nothing loaded from elsewhere."""

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
    """The page as HTML; all text is escaped. ``has_contents`` lists the sections at the top."""
    headings = [part.text for part in parts if isinstance(part, Heading) and part.level == 2]
    template = templates().get_template(HTML_TEMPLATE)
    return template.render(title=title, parts=parts, sections=headings if has_contents else None, css=Markup(CSS))


@cache
def templates() -> Environment:
    """The templates of the package; what goes into one of ``.html`` is escaped."""
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
    """The name of a part's class."""
    return type(part).__name__


def anchor(text: str) -> str:
    """The id of a heading."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def png(figure: Figure) -> bytes:
    """The figure as a PNG file on its light paper."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=FIGURE_DPI)
    return stream.getvalue()


def _drawing(chart: Chart) -> Markup:
    """Made by us out of escaped parts."""
    return Markup(inline_svg(chart.figure, chart.name, chart.alt))


def _inline(text: str) -> Markup:
    """Escaped, with what stands between back-ticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
