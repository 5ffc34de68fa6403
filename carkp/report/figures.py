"""Charts: numbers in, a matplotlib Figure out. Figures are not shown or saved here, and pyplot is not used.

Legend: K keypoints, A thresholds.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from carkp.keypoints.paired import Interval
from carkp.keypoints.schema import KEYPOINT_NAMES
from carkp.report.style import LABEL_SIZE, TEXT, TICK_SIZE, new_figure, readable, series_style, style_axes

MARKED_ALPHA = 0.1
"""The threshold at which PCK is published."""


def pck_curve_figure(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    title: str = "PCK over the distance threshold",
    marked_alpha: float = MARKED_ALPHA,
    decimals: int = 1,
) -> Figure:
    """Draw the share of keypoints found, over the threshold alpha.

    Args:
        curves: label -> (alphas (A,), pck (A,)), both as shares in 0..1.
        title: title of the chart.
        marked_alpha: position of a vertical line; the legend quotes each curve's value there.
        decimals: decimals of these values, in percent.

    Raises:
        ValueError: there are no curves, or alphas and pck have different lengths.
    """
    _require_series(curves)
    figure = new_figure(7.0, 4.4)
    axes = figure.add_subplot()
    largest = 0.0
    for index, (label, pair) in enumerate(curves.items()):
        alphas, pck = _aligned(label, *pair)
        colour, line = series_style(index)
        value = float(np.interp(marked_alpha, alphas, pck))
        text = f"{label}: {value:.{decimals}%} at {marked_alpha:g}"
        axes.plot(alphas, pck, color=colour, linestyle=line, linewidth=2, label=text)
        largest = max(largest, float(alphas.max()))
    axes.axvline(marked_alpha, color="#888888", linewidth=1, linestyle=":")
    style_axes(axes, title, "threshold alpha (share of the car's extent)", "PCK")
    axes.set_xlim(0, largest)
    _percent_axis(axes)
    _legend(axes, "lower right")
    return figure


def per_keypoint_figure(
    values: Mapping[str, ArrayLike],
    title: str = "PCK by keypoint",
    x_label: str = "PCK",
    is_share: bool = True,
    names: Sequence[str] = KEYPOINT_NAMES,
) -> Figure:
    """Draw horizontal bars: one group per keypoint, with one bar per label.

    Args:
        values: label -> values (K,); NaN draws no bar.
        title: title of the chart.
        x_label: quantity and unit.
        is_share: whether to show percent on an axis from 0 to 1.
        names: names of the K keypoints.

    Raises:
        ValueError: there are no values, or a label does not have K values.
    """
    _require_series(values)
    figure = new_figure(7.0, 1.6 + len(names) * max(0.34, 0.17 * len(values) + 0.12))
    axes = figure.add_subplot()
    thickness = 0.8 / len(values)
    for index, (label, numbers) in enumerate(values.items()):
        widths = np.asarray(numbers, dtype=np.float64)
        if widths.shape != (len(names),):
            raise ValueError(f"{label}: expected {len(names)} values, got shape {widths.shape}")
        centres = np.arange(len(names)) - 0.4 + thickness * (index + 0.5)
        bars = axes.barh(centres, widths, thickness * 0.9, color=series_style(index)[0], label=label)
        texts = ["" if np.isnan(w) else f"{w:.1%}" if is_share else f"{w:.2f}" for w in widths]
        axes.bar_label(bars, texts, padding=3, fontsize=TICK_SIZE - 2, color=TEXT)
    style_axes(axes, title, x_label, "")
    axes.set_yticks(range(len(names)), readable(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")
    _limit_bars(axes, is_share)
    _legend_above(axes, len(values))
    return figure


def layer_figure(
    names: Sequence[str], values: Mapping[str, ArrayLike], title: str, y_label: str, max_ticks: int = 80
) -> Figure:
    """Draw one line per quantity over the layers of a network, in order of execution.

    Args:
        names: names of the L layers.
        values: label -> values (L,); the line skips NaN.
        title: title of the chart.
        y_label: quantity and unit.
        max_ticks: largest number of named layers; with more layers only every second, third, … is named.

    Raises:
        ValueError: there are no values, or a label does not have L values.
    """
    _require_series(values)
    figure = new_figure(max(7.0, 0.17 * min(len(names), max_ticks) + 2), 5.2)
    axes = figure.add_subplot()
    for index, (label, numbers) in enumerate(values.items()):
        heights = np.asarray(numbers, dtype=np.float64)
        if heights.shape != (len(names),):
            raise ValueError(f"{label}: expected {len(names)} values, got shape {heights.shape}")
        places = np.flatnonzero(np.isfinite(heights))
        colour, line = series_style(index)
        axes.plot(
            places, heights[places], color=colour, linestyle=line, linewidth=1.6, marker="o", markersize=3, label=label
        )
    style_axes(axes, title, "", y_label)
    every = -(-len(names) // max_ticks)
    axes.set_xticks(range(0, len(names), every), names[::every], rotation=90, fontsize=TICK_SIZE - 3)
    axes.set_xlim(-0.8, len(names) - 0.2)
    _legend(axes, "best")
    return figure


def sweep_figure(pck: Mapping[float, float], float_pck: float | None) -> Figure:
    """Draw validation PCK over evenly spaced calibration percentiles, with that of the float model as a line."""
    _require_series({str(percentile): None for percentile in pck})
    figure = new_figure(7.0, 4.0)
    axes = figure.add_subplot()
    places = range(len(pck))
    axes.plot(places, list(pck.values()), color=series_style(0)[0], linewidth=2, marker="o", label="calibrated")
    if float_pck is not None:
        axes.axhline(float_pck, color="#888888", linestyle="--", linewidth=1.2, label=f"float: {float_pck:.2%}")
    style_axes(axes, "Validation PCK over the calibration percentile", "percentile of |x|", "PCK")
    axes.set_xticks(places, [f"{percentile:g}" for percentile in pck])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend(axes, "best")
    return figure


def trade_figure(points: Sequence[tuple[int, float, Interval]], chosen: int | None, max_loss: float) -> Figure:
    """Draw the benefit and the cost of 16-bit tensors: loss of PCK over the predicted time.

    Points that no other point beats in both have a number, and a line joins them.

    Args:
        points: number of tensors, predicted microseconds, loss as a share with its interval.
        chosen: index of the chosen point; None if none is good enough.
        max_loss: limit of the loss, drawn as a line.

    Raises:
        ValueError: there are no points.
    """
    _require_series({str(place): None for place in range(len(points))})
    figure = new_figure(7.0, 4.4)
    axes = figure.add_subplot()
    colour, chosen_colour = (series_style(index)[0] for index in range(2))
    for _, microseconds, loss in points:
        axes.plot(microseconds, loss.value, color=colour, marker="o", markersize=4, alpha=0.35)
    best = _pareto_front(points)
    axes.plot([item[1] for item in best], [item[2].value for item in best], color=colour, marker="o", linewidth=1.4)
    for number, microseconds, loss in best:
        axes.plot([microseconds] * 2, [loss.low, loss.high], color=colour, linewidth=1.2, alpha=0.5)
        place = (microseconds, loss.value)
        axes.annotate(
            str(number), place, (-5, -5), textcoords="offset points", fontsize=TICK_SIZE, ha="right", va="top"
        )
    if chosen is not None:
        number, microseconds, loss = points[chosen]
        label = f"chosen: {number} tensors"
        axes.plot(microseconds, loss.value, color=chosen_colour, marker="D", markersize=8, linestyle="", label=label)
    axes.axhline(max_loss, color="#888888", linestyle="--", linewidth=1.2, label=f"limit: {max_loss:.2%}")
    style_axes(axes, "Expected loss by number of 16-bit tensors", "predicted time (us)", "loss of PCK")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend(axes, "best")
    return figure


def _pareto_front(points: Sequence[tuple[int, float, Interval]]) -> list[tuple[int, float, Interval]]:
    """Return the points with a smaller loss than all points that are at least as fast, the fastest first."""
    found: list[tuple[int, float, Interval]] = []
    for point in sorted(points, key=lambda item: (item[1], item[2].value)):
        if not found or point[2].value < found[-1][2].value:
            found.append(point)
    return found


def lsb_figure(counts: Mapping[str, Mapping[int, int]], title: str) -> Figure:
    """Draw the share of elements by difference in quantisation steps, on a logarithmic axis, one colour per label.

    ``counts``: label -> {difference in LSB: number of elements}.
    """
    _require_series(counts)
    figure = new_figure(7.0, 4.0)
    axes = figure.add_subplot()
    thickness = 0.8 / len(counts)
    for index, (label, histogram) in enumerate(counts.items()):
        total = max(1, sum(histogram.values()))
        places = np.array(sorted(histogram), dtype=np.float64) - 0.4 + thickness * (index + 0.5)
        shares = [histogram[lsb] / total for lsb in sorted(histogram)]
        axes.bar(places, shares, thickness * 0.92, color=series_style(index)[0], label=label)
    style_axes(axes, title, "difference (LSB)", "share of the elements")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, "best")
    return figure


def _aligned(label: str, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if xs.ndim != 1 or xs.shape != ys.shape or xs.size == 0:
        raise ValueError(f"{label}: expected two equally long sequences, got shapes {xs.shape} and {ys.shape}")
    return xs, ys


def _require_series(series: Mapping[str, object]) -> None:
    if not series:
        raise ValueError("nothing to draw: no labelled series")


def _percent_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1.01)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _limit_bars(axes: Axes, is_share: bool) -> None:
    if is_share:
        axes.set_xlim(0, 1.08)
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    else:
        axes.margins(x=0.1)


def _legend(axes: Axes, location: Literal["lower right", "best"]) -> None:
    axes.legend(loc=location, fontsize=LABEL_SIZE - 1, frameon=True, framealpha=0.9, edgecolor="#CCCCCC")


def _legend_above(axes: Axes, num_series: int) -> None:
    if num_series > 1:
        axes.figure.legend(loc="outside lower center", ncols=min(num_series, 4), fontsize=LABEL_SIZE - 1, frameon=False)
