"""Charts of a study: its history, and the importance of its parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from carkp.report.style import LABEL_SIZE, new_figure, series_style, style_axes


@dataclass(frozen=True)
class StudyPoint:
    """One scored set of parameters: number of its training, its value, and whether it had a training of its own."""

    training: int
    value: float
    is_trained: bool


def history_figure(points: Sequence[StudyPoint], y_label: str) -> Figure:
    """Draw every value over the number of its training, and the best value so far as a line.

    Raises:
        ValueError: there are no points.
    """
    if not points:
        raise ValueError("nothing to draw: no finished trial")
    figure = new_figure(7.0, 4.2)
    axes = figure.add_subplot()
    kinds = ((False, "o", 18, "the same model with another percentile"), (True, "D", 42, "trained"))
    for index, (is_trained, marker, size, label) in enumerate(kinds):
        chosen = [point for point in points if point.is_trained == is_trained]
        x, y = [point.training for point in chosen], [point.value for point in chosen]
        axes.scatter(x, y, s=size, marker=marker, color=series_style(1 - index)[0], label=label, zorder=2 + index)
    trainings = sorted({point.training for point in points})
    best = np.maximum.accumulate([max(p.value for p in points if p.training == number) for number in trainings])
    axes.step(trainings, best, where="post", color="#888888", linewidth=1.4, label="best so far", zorder=1)
    style_axes(axes, "History of the study", "training", y_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    axes.legend(loc="lower right", fontsize=LABEL_SIZE - 1, framealpha=0.9, edgecolor="#CCCCCC")
    return figure


def importance_figure(importances: Mapping[str, float]) -> Figure:
    """Draw one bar per parameter: its share of the variance of the objective.

    Raises:
        ValueError: there are no parameters.
    """
    if not importances:
        raise ValueError("nothing to draw: no importances")
    figure = new_figure(7.0, 1.4 + 0.45 * len(importances))
    axes = figure.add_subplot()
    names = sorted(importances, key=lambda name: importances[name])
    shares = [importances[name] for name in names]
    bars = axes.barh(names, shares, color=series_style(0)[0])
    axes.bar_label(bars, [f"{share:.1%}" for share in shares], padding=3, fontsize=LABEL_SIZE - 1)
    style_axes(axes, "Importance of the parameters", "share of the objective's variance (fANOVA)", "")
    axes.set_xlim(0, max(1e-9, max(shares)) * 1.15)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(False, axis="y")
    return figure
