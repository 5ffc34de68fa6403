"""The common style of all figures: colour-blind-safe colours, light background, labelled axes."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

SERIES_COLOURS: tuple[str, ...] = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
"""Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), in an order that keeps neighbours apart."""

LINE_STYLES: tuple[str, ...] = ("-", "--", "-.", ":")

TEXT, GRID, PAPER = "#222222", "#DDDDDD", "#FFFFFF"
TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 12, 10, 9


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """Return an empty figure without global state; its layout is computed when it is drawn."""
    return Figure(figsize=(width_inches, height_inches), dpi=120, facecolor=PAPER, layout="constrained")


def style_axes(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Set title, labels with units and a light grid behind the data; remove the frame at the top and right."""
    axes.set_title(title, fontsize=TITLE_SIZE, color=TEXT, loc="left", pad=10)
    axes.set_xlabel(x_label, fontsize=LABEL_SIZE, color=TEXT)
    axes.set_ylabel(y_label, fontsize=LABEL_SIZE, color=TEXT)
    axes.tick_params(labelsize=TICK_SIZE, colors=TEXT)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")


def series_style(index: int) -> tuple[str, str]:
    """Return the colour and line style of the ``index``-th series; the pair repeats after 28."""
    colour = SERIES_COLOURS[index % len(SERIES_COLOURS)]
    return colour, LINE_STYLES[index // len(SERIES_COLOURS) % len(LINE_STYLES)]


def readable(names: Sequence[str]) -> list[str]:
    """Return keypoint names as words: ``right_front_wheel`` -> ``right front wheel``."""
    return [name.replace("_", " ") for name in names]
