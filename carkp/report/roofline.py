"""Charts of a performance model: the roofline, and predicted times over measured times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from carkp.report.style import LABEL_SIZE, TICK_SIZE, new_figure, series_style, style_axes

ROOF, FAR = "#555555", "#999999"


@dataclass(frozen=True)
class Roof:
    """A memory: its name, and its bandwidth, which is the slope of the roof."""

    label: str
    gb_per_s: float


def roofline_figure(
    points: Mapping[str, tuple[ArrayLike, ArrayLike]], peak_gmacs_per_s: float, roofs: Sequence[Roof], title: str
) -> Figure:
    """Draw the attainable rate over arithmetic intensity, both logarithmic, with layers as points.

    Args:
        points: label -> (MACs per byte, GMAC/s), all above 0.
        peak_gmacs_per_s: height of the flat part of every roof.
        roofs: memories that give the slopes; the first one is a solid line.
        title: title of the chart.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not points or not roofs:
        raise ValueError("a roofline needs points and a roof")
    figure = new_figure(7.6, 4.8)
    axes = figure.add_subplot()
    intensities = np.concatenate([np.asarray(pair[0], dtype=np.float64) for pair in points.values()])
    low = min(float(intensities.min()), 0.5 * peak_gmacs_per_s / roofs[0].gb_per_s) / 2
    high = max(float(intensities.max()), 2 * peak_gmacs_per_s / roofs[0].gb_per_s) * 2
    span = np.geomspace(low, high, 200)
    for index, roof in enumerate(roofs):
        label = f"{roof.label}: {roof.gb_per_s:g} GB/s"
        axes.plot(span, attainable(span, peak_gmacs_per_s, roof), color=FAR if index else ROOF, linewidth=1.8,
                  linestyle="--" if index else "-", label=label)  # fmt: skip
    for index, (label, (found, rates)) in enumerate(points.items()):
        axes.scatter(found, rates, s=26, color=series_style(index)[0], alpha=0.85, label=label, zorder=3)
    style_axes(axes, title, "arithmetic intensity (MACs per byte)", "GMAC/s")
    _log_log(axes)
    axes.annotate(f"peak {peak_gmacs_per_s:g} GMAC/s", (high, peak_gmacs_per_s), (0, 5), textcoords="offset points",
                  ha="right", fontsize=TICK_SIZE)  # fmt: skip
    figure.legend(loc="outside lower center", ncols=3, fontsize=LABEL_SIZE - 1, frameon=False)
    return figure


def attainable(intensity: NDArray[np.float64], peak_gmacs_per_s: float, roof: Roof) -> NDArray[np.float64]:
    """Return the attainable GMAC/s under a roof."""
    return np.minimum(peak_gmacs_per_s, intensity * roof.gb_per_s)


def predicted_figure(points: Mapping[str, tuple[ArrayLike, ArrayLike]], title: str, factor: float = 1.5) -> Figure:
    """Draw predicted over measured microseconds, both logarithmic, with the diagonal and a band around it.

    Args:
        points: label -> (measured, predicted), all above 0.
        title: title of the chart.
        factor: factor between the diagonal and the edges of the band.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not points:
        raise ValueError("nothing to draw: no layers")
    figure = new_figure(6.4, 5.2)
    axes = figure.add_subplot()
    values = np.concatenate([np.ravel(np.asarray(part, dtype=np.float64)) for pair in points.values() for part in pair])
    ends = np.array([values.min() / 1.4, values.max() * 1.4])
    axes.fill_between(ends, ends / factor, ends * factor, color=FAR, alpha=0.18, label=f"within a factor {factor:g}")
    axes.plot(ends, ends, color=ROOF, linewidth=1.2)
    for index, (label, (measured, predicted)) in enumerate(points.items()):
        axes.scatter(measured, predicted, s=26, color=series_style(index)[0], alpha=0.85, label=label, zorder=3)
    style_axes(axes, title, "measured (us)", "predicted (us)")
    _log_log(axes)
    figure.legend(loc="outside lower center", ncols=4, fontsize=LABEL_SIZE - 1, frameon=False)
    return figure


def _log_log(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
