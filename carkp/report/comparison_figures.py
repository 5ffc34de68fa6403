"""Charts that compare models: dots with intervals, and differences over the threshold.

Legend: G groups, A thresholds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from carkp.keypoints.paired import Interval
from carkp.report.style import LABEL_SIZE, TEXT, TICK_SIZE, new_figure, series_style, style_axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
ROW_INCHES, FRAME_INCHES = 0.3, 1.5

Series = Mapping[str, Sequence[Interval]]
"""Label -> one interval per group."""


@dataclass(frozen=True)
class Section:
    """Groups that belong together: their names, and for each label PCK and mean distance, one interval per group."""

    title: str
    names: Sequence[str]
    pck: Series
    mean_dist: Series


def dots_figure(names: Sequence[str], series: Series, title: str, x_label: str, is_share: bool = True) -> Figure:
    """Draw a dot with its interval for every group and label; the axis shows the range of the data and may omit 0.

    Args:
        names: names of the G groups, from the top.
        series: label -> G intervals; NaN draws nothing.
        title: title of the chart.
        x_label: quantity and unit.
        is_share: whether to show percent.

    Raises:
        ValueError: there are no series, or one does not have G intervals.
    """
    _require(series, len(names))
    figure = new_figure(7.2, FRAME_INCHES + len(names) * max(ROW_INCHES, 0.13 * len(series) + 0.1))
    axes = figure.add_subplot()
    _draw_dots(axes, names, series, is_share)
    style_axes(axes, title, x_label, "")
    axes.grid(False, axis="y")
    _legend_below(figure, axes, len(series))
    return figure


def breakdown_figure(sections: Sequence[Section], title: str) -> Figure:
    """Draw PCK on the left and mean distance on the right, one row of panels per section.

    Raises:
        ValueError: there is nothing to draw, or the numbers of intervals and groups differ.
    """
    if not sections:
        raise ValueError("nothing to draw: no sections")
    for section in sections:
        _require(section.pck, len(section.names))
        _require(section.mean_dist, len(section.names))
    heights = [len(section.names) + 1.2 for section in sections]
    figure = new_figure(8.4, FRAME_INCHES + 0.36 * sum(heights))
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=TEXT)
    grid = figure.subplots(len(sections), 2, squeeze=False, sharex="col", height_ratios=heights)
    for (left, right), section in zip(grid, sections, strict=True):
        _draw_dots(left, section.names, section.pck, is_share=True)
        _draw_dots(right, section.names, section.mean_dist, is_share=False)
        is_last = section is sections[-1]
        style_axes(left, section.title, "PCK" if is_last else "", "")
        style_axes(right, "", "mean distance (px of the input)" if is_last else "", "")
        right.set_yticklabels([])
        for axes in (left, right):
            axes.grid(False, axis="y")
    _legend_below(figure, grid[0][0], len(sections[0].pck))
    return figure


def difference_figure(
    alphas: NDArray[np.float64], curves: Series, title: str, marked_alpha: float, y_label: str
) -> Figure:
    """Draw differences of PCK over the threshold, in percentage points, with intervals as bands and a line at 0.

    Args:
        alphas: thresholds (A,).
        curves: label -> A intervals, as shares.
        title: title of the chart.
        marked_alpha: position of a vertical line.
        y_label: description of the difference.

    Raises:
        ValueError: there are no curves, or one does not have A values.
    """
    _require(curves, len(alphas))
    figure = new_figure(7.2, 3.9)
    axes = figure.add_subplot()
    for index, (label, curve) in enumerate(curves.items()):
        colour, line = series_style(index + 1)
        value, low, high = (100 * part for part in _columns(curve))
        axes.fill_between(alphas, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(alphas, value, color=colour, linestyle=line, linewidth=2, label=label)
    axes.axhline(0, color="#888888", linewidth=1)
    axes.axvline(marked_alpha, color="#888888", linewidth=1, linestyle=":")
    style_axes(axes, title, "threshold alpha (share of the car's extent)", y_label)
    axes.set_xlim(0, float(alphas.max()))
    _legend_below(figure, axes, len(curves), is_forced=True)
    return figure


def _draw_dots(axes: Axes, names: Sequence[str], series: Series, is_share: bool) -> None:
    step = 0.62 / max(1, len(series))
    for index, (label, intervals) in enumerate(series.items()):
        value, low, high = _columns(intervals)
        places = np.arange(len(names)) + (index - (len(series) - 1) / 2) * step
        axes.errorbar(value, places, xerr=np.maximum([value - low, high - value], 0), fmt=MARKERS[index % len(MARKERS)],
                      color=series_style(index)[0], markersize=5, elinewidth=1.4, capsize=2.5, label=label)  # fmt: skip
    axes.set_yticks(range(len(names)), list(names), fontsize=TICK_SIZE)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    formatter = PercentFormatter(1.0) if is_share else FuncFormatter(lambda number, _: f"{number:g}")
    axes.xaxis.set_major_formatter(formatter)
    for place in range(1, len(names)):
        axes.axhline(place - 0.5, color="#DDDDDD", linewidth=0.6)


def _columns(intervals: Sequence[Interval]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return values, lower ends and upper ends, (G,) each."""
    table = np.array([[item.value, item.low, item.high] for item in intervals], dtype=np.float64)
    return table[:, 0], table[:, 1], table[:, 2]


def _require(series: Series, length: int) -> None:
    if not series:
        raise ValueError("nothing to draw: no labelled series")
    for label, intervals in series.items():
        if len(intervals) != length or not length:
            raise ValueError(f"{label}: expected {length} intervals, got {len(intervals)}")


def _legend_below(figure: Figure, axes: Axes, num_series: int, is_forced: bool = False) -> None:
    if num_series > 1 or is_forced:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(num_series, 3), fontsize=LABEL_SIZE - 1,
                      frameon=False)  # fmt: skip
