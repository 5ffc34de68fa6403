"""Figures as inline SVG with colours that follow the page, light or dark."""

import io
import re
from html import escape

import matplotlib as mpl
from matplotlib.figure import Figure

from carkp.report.page_css import LIGHT

MIN_WIDTH_PX = 560
"""Smallest width of a chart: in a narrower box it scrolls, so that its letters stay legible."""

PX_PER_INCH = 96

_VARIABLES: dict[str, str] = {
    **{colour: name for name, colour in LIGHT.items() if name not in ("muted", "panel")},
    "#222222": "ink",
    "#cccccc": "grid",
    "#555555": "muted",
    "#999999": "axis",
    "black": "ink",
    "white": "paper",
}
"""Colours of figures -> CSS variables."""


def inline_svg(figure: Figure, name: str, alt: str) -> str:
    """Return the figure as an ``<svg>`` element; text stays text, and ids start with ``name``, unique on a page."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawing = stream.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', drawing)
    drawing = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", drawing)
    drawing = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', drawing)
    return _opened(figure, alt) + _recoloured(drawing[drawing.index(">") + 1 :])


def _opened(figure: Figure, alt: str) -> str:
    width, height = figure.get_size_inches()
    narrowest = min(MIN_WIDTH_PX, round(width * PX_PER_INCH))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(alt)}" '
        f'viewBox="0 0 {width * 72:g} {height * 72:g}" '
        f'style="min-width: {narrowest}px; max-width: {round(width * PX_PER_INCH)}px">'
    )


def _recoloured(drawing: str) -> str:
    """Replace colours in style attributes by CSS variables; colours without a variable stay."""

    def variable(match: re.Match[str]) -> str:
        name = _VARIABLES.get(match.group(2).lower())
        return match.group(0) if name is None else f"{match.group(1)}var(--{name})"

    return re.sub(r"((?:fill|stroke): )(#[0-9a-fA-F]{6}|black|white)", variable, drawing)
