"""Pages as HTML and Markdown: escaped, whole in themselves, right in the dark."""

import re
from dataclasses import replace

import numpy as np
import pytest

from carkp.keypoints.paired import Interval
from carkp.keypoints.sample_ids import id_in
from carkp.report.accuracy import accuracy_parts
from carkp.report.accuracy_data import FLOAT, ModelRow
from carkp.report.comparison_figures import dots_figure
from carkp.report.markdown import markdown_page
from carkp.report.page import html_page
from carkp.report.parts import Chart, Code, Gallery, Heading, PageTable, Paragraph, Picture
from tests.report.made_up import content, family


@pytest.fixture(scope="module")
def page() -> str:
    made = content()
    return html_page(made.title, accuracy_parts(made), has_contents=True)


def chart(name: str) -> Chart:
    figure = dots_figure(["a", "b"], {"x & y": [Interval(0.5, 0.4, 0.6)] * 2}, "Title", "PCK")
    return Chart(figure, name, "caption", "alt")


def sections(made) -> dict[str, list]:
    found: dict[str, list] = {"": []}
    for part in accuracy_parts(made):
        if isinstance(part, Heading) and part.level == 2:
            found[part.text] = []
        else:
            found[list(found)[-1]].append(part)
    return found


def test_page_needs_nothing_but_itself(page: str) -> None:
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "@import" not in page
    assert "url(http" not in page


def test_ids_are_unique_and_what_refers_to_them_exists(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    referred = re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)
    assert referred
    assert set(referred) <= set(ids)


def test_text_is_escaped(page: str) -> None:
    assert "<made-up>" not in page
    assert "&lt;made-up&gt;" in page
    assert "measured on a &lt;CPU&gt;" in page
    assert "<code>mlflow run . -e qat -P target=bpu</code>" in page


def test_charts_take_their_colours_from_the_page() -> None:
    page = html_page("t", [chart("one"), chart("two")])
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 2
    for drawing in drawings:
        assert "var(--ink)" in drawing
        assert "var(--s0)" in drawing
        assert "var(--paper)" in drawing
        assert not re.search(r"(fill|stroke): #(222222|dddddd|ffffff|888888|0072b2)", drawing, flags=re.IGNORECASE)
        assert "<text" in drawing  # text stays text
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_parts_become_markdown_with_their_pictures_beside_it() -> None:
    picture = Picture(b"jpeg", "car", "a | b", "a car")
    page = markdown_page(
        "T*",
        [
            Heading("H", 3),
            Paragraph("`x_y` and <b>", "note"),
            PageTable(["a", "b"], [["1|2", "3\n4 to 5"]], frozenset({1}), "cap"),
            chart("dots"),
            Gallery([picture, replace(picture, name="other")]),
            Code("run me\n", "sh", "Open"),
        ],
    )
    assert "# T\\*" in page.text
    assert "### H" in page.text
    assert "> `x_y` and \\<b>" in page.text
    assert "| 1\\|2 | 3<br>4 to 5 |" in page.text
    assert "|---|---:|" in page.text
    assert "```sh\nrun me\n```" in page.text
    assert set(page.pictures) == {"dots.png", "car.jpg", "other.jpg"}
    linked = set(re.findall(r"\]\(pictures/([^)]+)\)", page.text))
    assert linked == set(page.pictures)
    assert page.pictures["dots.png"].startswith(b"\x89PNG")


def test_every_section_says_how_to_read_it() -> None:
    for title, parts in sections(content()).items():
        assert isinstance(parts[0], Paragraph), title
        assert parts[0].kind == "plain", title
        assert len(parts) > 1, title


def test_cars_are_shown_in_pairs_and_missing_crops_are_counted() -> None:
    found = sections(content())
    (worst,) = [part for part in found["Worst cars"] if isinstance(part, Gallery)]
    (median,) = [part for part in found["Median cars"] if isinstance(part, Gallery)]
    assert 15 <= len(worst.pictures) <= 16
    assert 15 <= len(median.pictures) <= 16
    assert re.match(r"float \d+\.\d px, \d+ right \| simulated int8 \d+\.\d px, \d+ right \(of 12\)\. test/scene/",
                    worst.pictures[0].caption)  # fmt: skip
    bare = sections(content(family(crops={})))
    assert not [part for part in bare["Worst cars"] if isinstance(part, Gallery)]
    assert any("16 left out" in part.text for part in bare["Worst cars"] if isinstance(part, Paragraph))


def test_what_was_not_run_is_a_line_and_no_empty_section() -> None:
    missing = {name: f"Not run: `mlflow run . -e {name}`." for name in ("sqnr", "sweep", "data", "compile")}
    found = sections(content(family(noise=(), sweep=None, data=None, missing=missing)))
    for title, name in (("Quantisation noise by layer", "sqnr"), ("Percentile sweep", "sweep"), ("Data", "data"),
                        ("", "compile")):  # fmt: skip
        notes = [part.text for part in found[title] if isinstance(part, Paragraph) and part.kind == "note"]
        assert missing[name] in notes, title


def test_float_alone_makes_a_page() -> None:
    whole = family()
    parts = accuracy_parts(content(replace(whole, rows=whole.rows[:1], target="", noise=(), sweep=None)))
    assert not [part for part in parts if isinstance(part, Paragraph) and part.kind == "verdict"]
    assert "float" in html_page("t", parts)


def test_rows_of_other_samples_stand_without_a_test() -> None:
    whole = family()
    other = replace(whole.rows[2].predictions, sample_ids=np.array([f"x/{i}" for i in range(40)]))
    rows = [whole.rows[0], replace(whole.rows[2], predictions=other)]
    found = sections(content(replace(whole, rows=rows)))
    texts = [part.text for parts in found.values() for part in parts if isinstance(part, Paragraph)]
    assert any("other samples or labels than the float row" in text for text in texts)
    assert any("No row can be paired" in text for text in texts)
    assert any("there is no float row on the same cars" in text for text in texts)


def test_several_families_are_named_and_tested_against_the_first() -> None:
    second = family("second", int8_noise_px=9)
    alone = replace(family("trial", ""), rows=[ModelRow("trial 3", "runs:/d4", family().rows[1].predictions)])
    made = content(family("first"), second, alone)
    found = sections(made)
    (table,) = [part for part in found["Float against int8"] if isinstance(part, PageTable)
                and part.headings[0] == "models"]  # fmt: skip
    assert [row[0] for row in table.rows][:2] == [
        f"first: {FLOAT} → second: {FLOAT}",
        "first: simulated int8 (bpu) → second: simulated int8 (bpu)",
    ]
    page = html_page(made.title, accuracy_parts(made), has_contents=True)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_several_sources_are_told_apart() -> None:
    made = family()
    rows = [replace(row, predictions=_of_two_sources(row.predictions)) for row in made.rows]
    found = sections(content(replace(made, rows=rows)))["Visibility, size, truncation, source"]
    (by_source,) = [part for part in found if isinstance(part, PageTable) and "source" in part.headings[0]]
    assert {str(row[0]) for row in by_source.rows} >= {"drawn", "own"}


def _of_two_sources(predictions):
    names = [("drawn", "own")[number % 2] for number in range(len(predictions))]
    ids = [id_in(name, str(sample)) for name, sample in zip(names, predictions.sample_ids, strict=True)]
    return replace(predictions, sample_ids=np.array(ids))


def test_different_data_are_said() -> None:
    first, second = family("first"), family("second")
    assert second.data is not None
    second = replace(second, data=replace(second.data, digest="e" * 64))
    texts = [part.text for part in sections(content(first, second))[""] if isinstance(part, Paragraph)]
    assert any("scored on different data" in text for text in texts)
