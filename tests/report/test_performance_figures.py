"""Roofline and page: what is drawn and written is what was given."""

import numpy as np
import pytest

from carkp.report.page import html_page
from carkp.report.parts import Chart, Heading, PageTable, Paragraph
from carkp.report.roofline import Roof, attainable, predicted_figure, roofline_figure
from tests.report.drawn import figure_to_rgb


def test_roof_is_the_slope_and_then_the_peak() -> None:
    found = attainable(np.array([1.0, 4.0, 100.0]), 20, Roof("memory", 4))
    assert found.tolist() == [4, 16, 20]


def test_roofline_draws_every_kind_and_roof() -> None:
    points = {"dense": ([10.0, 20.0], [5.0, 9.0]), "depthwise": ([2.0], [1.0])}
    figure = roofline_figure(points, 20, [Roof("far", 4), Roof("near", 40)], "Roofline")
    (axes,) = figure.axes
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["far: 4 GB/s", "near: 40 GB/s", "dense", "depthwise"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert figure_to_rgb(figure).std() > 0
    with pytest.raises(ValueError, match="points and a roof"):
        roofline_figure({}, 20, [Roof("far", 4)], "Roofline")


def test_predicted_figure_has_a_point_a_layer() -> None:
    figure = predicted_figure({"dense": ([1.0, 2.0], [1.5, 2.0]), "add": ([3.0], [2.0])}, "Times")
    (axes,) = figure.axes
    assert sum(len(points.get_offsets()) for points in axes.collections[1:]) == 3
    with pytest.raises(ValueError, match="no layers"):
        predicted_figure({}, "Times")


def test_page_escapes_and_embeds() -> None:
    figure = predicted_figure({"dense": ([1.0], [1.0])}, "Times")
    table = PageTable(["name", "value"], [["a<b", "3"]], frozenset({1}))
    page = html_page("A & B", [Heading("<h>"), Paragraph("x < y"), table, Chart(figure, "times", "How long.", "Times")])
    assert "<title>A &amp; B</title>" in page
    assert "&lt;h&gt;" in page
    assert "x &lt; y" in page
    assert '<td>a&lt;b</td><td class="number">3</td>' in page
    assert page.count("<svg ") == 1
