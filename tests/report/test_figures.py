"""Charts hold the numbers they were given."""

import sys

import numpy as np
import pytest

from carkp.keypoints.paired import Interval
from carkp.keypoints.schema import NUM_KEYPOINTS
from carkp.report.figures import (
    layer_figure,
    lsb_figure,
    pck_curve_figure,
    per_keypoint_figure,
    sweep_figure,
    trade_figure,
)
from carkp.report.style import SERIES_COLOURS, series_style
from tests.report.drawn import figure_to_rgb

ALPHAS = np.linspace(0, 0.2, 21)


def test_pck_curves_quote_the_marked_value() -> None:
    figure = pck_curve_figure({"float": (ALPHAS, 5 * ALPHAS), "int8": (ALPHAS, 4 * ALPHAS)})
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["float: 50.0% at 0.1", "int8: 40.0% at 0.1"]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), 4 * ALPHAS)
    assert axes.get_xlabel()
    assert axes.get_ylabel() == "PCK"


def test_every_keypoint_gets_its_bar() -> None:
    values = np.linspace(0.5, 0.9, NUM_KEYPOINTS)
    figure = per_keypoint_figure({"float": values, "int8": values - 0.1})
    (axes,) = figure.axes
    widths = [bar.get_width() for bar in axes.patches]
    np.testing.assert_allclose(widths, [*values, *(values - 0.1)])
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == "right front wheel"
    assert len(names) == NUM_KEYPOINTS
    first, last = axes.patches[0], axes.patches[NUM_KEYPOINTS - 1]
    assert axes.transData.transform((0, first.get_y()))[1] > axes.transData.transform((0, last.get_y()))[1]


def test_missing_keypoint_gets_no_number() -> None:
    values = np.full(NUM_KEYPOINTS, 0.5)
    values[3] = np.nan
    texts = [text.get_text() for text in per_keypoint_figure({"float": values}).axes[0].texts]
    assert texts[3] == ""
    assert texts[4] == "50.0%"


def test_figures_draw_without_pyplot() -> None:
    pixels = figure_to_rgb(pck_curve_figure({"float": (ALPHAS, 5 * ALPHAS)}))
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert 0.7 < (pixels == 255).all(axis=2).mean() < 0.99
    assert "carkp.report.figures" in sys.modules
    assert not hasattr(sys.modules["carkp.report.figures"], "plt")


def test_wrong_lengths_are_named() -> None:
    with pytest.raises(ValueError, match=r"int8: expected two equally long"):
        pck_curve_figure({"int8": (ALPHAS, ALPHAS[:-1])})
    with pytest.raises(ValueError, match="int8: expected 12 values"):
        per_keypoint_figure({"int8": np.zeros(11)})
    with pytest.raises(ValueError, match="nothing to draw"):
        pck_curve_figure({})


def test_series_stay_distinct() -> None:
    styles = [series_style(index) for index in range(4 * len(SERIES_COLOURS))]
    assert len(set(styles)) == len(styles)


def test_layer_figure_bridges_gaps_and_names_layers() -> None:
    figure = layer_figure(
        ["a", "b", "c"], {"total": [30.0, 20.0, 10.0], "weights": [40.0, float("nan"), 50.0]}, "t", "dB"
    )
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.lines[1].get_xdata(), [0, 2])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="expected 2 values"):
        layer_figure(["a", "b"], {"total": [1.0]}, "t", "dB")


def test_sweep_figure_without_the_float_model_has_no_line() -> None:
    (axes,) = sweep_figure({99.0: 0.0, 100.0: 0.0}, None).axes
    assert len(axes.lines) == 1


def test_sweep_figure_shows_each_percentile_and_the_float_model() -> None:
    (axes,) = sweep_figure({99.0: 0.8, 99.975: 0.9, 100.0: 0.7}, 0.95).axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [0.8, 0.9, 0.7])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["99", "99.975", "100"]
    assert "float: 95.00%" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_lsb_figure_shows_shares() -> None:
    (axes,) = lsb_figure({"a": {0: 90, 1: 10}, "b": {0: 5, -2: 5}}, "differences").axes
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == [0.9, 0.1, 0.5, 0.5]


def trade_points() -> list[tuple[int, float, Interval]]:
    """Of which two are beaten: 3 by 2, which is as fast, and 6 by 5, which is faster."""
    losses = {0: (100, 0.004), 2: (101, 0.002), 3: (101, 0.003), 5: (102, 0.001), 6: (103, 0.0015), 9: (104, 0.0005)}
    return [(num, us, Interval(loss, loss / 2, loss * 2)) for num, (us, loss) in losses.items()]


def test_trade_figure_names_what_is_not_beaten() -> None:
    (axes,) = trade_figure(trade_points(), 3, 0.0012).axes
    assert [text.get_text() for text in axes.texts] == ["0", "2", "5", "9"]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["chosen: 5 tensors", "limit: 0.12%"]


def test_trade_figure_without_a_choice() -> None:
    (axes,) = trade_figure(trade_points()[:1], None, 0.001).axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["limit: 0.10%"]
