"""Sentences hold for the data that they stand beside, and are not there where they do not hold."""

from dataclasses import replace

import numpy as np
import pytest

from carkp.keypoints.clusters import Resampled
from carkp.keypoints.paired import Interval, PairedTest
from carkp.report.accuracy import accuracy_parts, headline
from carkp.report.accuracy_data import ReportContent, RunCard, Sweep
from carkp.report.assess import assess, verdict
from carkp.report.markdown import markdown_page
from carkp.report.page import html_page
from carkp.report.wording import sweep_reading
from tests.report.made_up import content, family


def text_of(made: ReportContent) -> str:
    """All that a reader reads, as Markdown."""
    return markdown_page(made.title, accuracy_parts(made)).text


def with_rows(made, **changes):
    """Every row's predictions with other arrays."""
    return replace(made, rows=[replace(row, predictions=replace(row.predictions, **changes)) for row in made.rows])


def test_the_number_of_clusters_stands_beside_every_interval() -> None:
    made = content()
    assert (
        "95 % interval below each number is from a bootstrap over 12 clusters (scene and camera)"
        in headline(made).caption
    )
    assert "2^-(n-1)" in headline(made).caption
    parts = accuracy_parts(made)
    for page in (text_of(made), html_page(made.title, parts)):
        assert page.count("over 12 clusters (scene and camera)") >= 6  # headline, its chart, and a part a section
        assert "over cars" not in page
    assert "in 12 clusters (scene and camera)" in verdict(assess(made)[2])


@pytest.mark.parametrize(
    ("num_cameras", "warning", "short"),
    [
        (12, "", ""),
        (4, "Warning: the intervals rest on 4 clusters", "4 clusters, too few to rely on"),
        (1, "valid for this recording only", "one recording: valid for this one only"),
    ],
)
def test_too_few_clusters_are_warned_of(num_cameras: int, warning: str, short: str) -> None:
    made = content(family(num_cameras=num_cameras))
    page, sentence = text_of(made), verdict(assess(made)[2])
    assert ("> Warning:" in page) == bool(warning)
    assert warning in page
    assert short in sentence
    assert ("confidence" in sentence) == (not warning and "No difference" in sentence)


def test_rows_of_other_cars_are_not_said_to_be_of_the_same() -> None:
    whole = family()
    assert "All rows are scored on the same cars" in text_of(content(whole))
    first, second = whole.rows[:2]
    fewer = replace(second, predictions=replace(second.predictions, targets=second.predictions.targets + 1))
    page = text_of(content(replace(whole, rows=[first, fewer])))
    assert "All rows are scored on the same cars" not in page
    assert "Not all rows are scored on the same cars" in page
    alone = text_of(content(replace(whole, rows=[first])))
    assert "same cars, so bars" not in alone
    assert "the paired test below" not in alone
    assert "Retention: share" not in alone
    assert "int8 loses on some more" not in alone


@pytest.mark.parametrize(
    ("pck", "words", "absent"),
    [
        ({99.0: 0.90, 99.9: 0.95, 100.0: 0.96}, ["best is 100", "−6.00 points to 99, which clips"], ["Upwards"]),
        ({99.0: 0.96, 100.0: 0.90}, ["best is 99", "−6.00 points to 100, whose steps"], ["Downwards", "clips"]),
        ({99.0: 0.95, 99.9: 0.96, 100.0: 0.95}, ["Downwards", "Upwards"], []),
        ({99.0: 0.9, 100.0: 0.9}, ["within 0.00 points"], ["Downwards", "Upwards"]),
        ({99.0: 0.9}, ["says nothing about the choice"], ["best"]),
        ({99.0: float("nan")}, ["No percentile has a PCK"], ["best"]),
    ],
)
def test_a_sweep_is_read_as_it_is(pck: dict[float, float], words: list[str], absent: list[str]) -> None:
    sentence = sweep_reading(Sweep(pck, 0.97))
    for word in words:
        assert word in sentence
    for word in absent:
        assert word not in sentence


def test_a_page_claims_no_clipping_of_a_sweep_without_a_fall() -> None:
    page = text_of(content(family(sweep=Sweep({99.0: 0.9, 100.0: 0.9}, 0.9))))
    assert "is clipping" not in page
    assert "which clips more" not in page


def test_groups_that_are_not_there_are_not_described() -> None:
    whole = family()
    assert "Occluded keypoints are labelled" in text_of(content(whole))
    assert "cut by the frame can have" in text_of(content(whole))
    num = len(whole.rows[0].predictions)
    plain = with_rows(whole, validity=np.full((num, 12), 2, np.uint8), truncated=np.zeros(num, np.int8))
    page = text_of(content(plain))
    assert "No keypoint is labelled as occluded" in page
    assert "Occluded keypoints are labelled" not in page
    assert "cut by the frame can have" not in page


def test_the_axis_is_said_to_leave_out_0_where_it_does() -> None:
    whole = family()
    assert "The axis does not start at 0" in text_of(content(whole))
    wrong = [
        replace(row, predictions=replace(row.predictions, points=row.predictions.points + 90)) for row in whole.rows
    ]
    assert "The axis does not start at 0" not in text_of(content(replace(whole, rows=wrong)))


def test_a_difference_without_an_interval_is_neither_better_nor_worse() -> None:
    nothing = Interval(float("nan"), float("nan"), float("nan"))
    test = PairedTest(nothing, nothing, 1.0, 0, 0, 0, Resampled(1, 0, 0, 1), 0)
    sentence = verdict(replace(assess(content())[2], test=test))
    assert "better" not in sentence
    assert "worse" not in sentence
    assert "no interval" in sentence


def test_float_that_has_nothing_right_keeps_no_nan() -> None:
    whole = family()
    reference = whole.rows[0]
    wrong = replace(reference, predictions=replace(reference.predictions, points=reference.predictions.points + 90))
    sentence = verdict(assess(content(replace(whole, rows=[wrong, *whole.rows[1:]])))[2])
    assert "nan" not in sentence
    assert "measurably better" in sentence


def test_p_values_that_could_not_be_small_are_named() -> None:
    change = Interval(-0.01, -0.02, -0.001)
    test = PairedTest(change, change, 0.125, 9, 0, 480, Resampled(14, 0, 0, 40), 4)
    sentence = verdict(replace(assess(content())[2], test=test))
    assert "differ in 4 clusters, so p could not be below 0.12" in sentence


def test_provenance_says_what_it_knows() -> None:
    made = content()
    page = text_of(made)
    assert "A commit with + had uncommitted changes" in page  # abd+
    assert "each in a checkout of its run's commit" in page
    assert "The run ids belong to the tracking server" in page
    assert "The command is unknown for: align" in page
    clean = RunCard("float", "a1", "float", {"commit": "abc"}, {}, "mlflow run . -e float", {"seed": "0"})
    page = text_of(content(family(runs=[clean])))
    assert "A commit with +" not in page
    assert "in a checkout of abc" in page
    assert "all runs had the same resolved configuration" not in page
    assert "1 of 1 runs logged its configuration: there is nothing to compare" in page
    bare = replace(clean, run_id="b2", config={})
    page = text_of(content(family(runs=[clean, replace(clean, run_id="c3"), bare])))
    assert "None between the 2 runs that logged their configuration; 1 logged none" in page


def test_data_that_float_was_not_trained_on_are_named() -> None:
    run = RunCard("float", "a1", "float", {"data digest": "e" * 12}, {}, "mlflow run . -e float", {})
    assert f"The float model was trained on other data: {'e' * 12}" in text_of(content(family(runs=[run])))
    same = replace(run, facts={"data digest": "d" * 12})
    assert "trained on other data" not in text_of(content(family(runs=[same])))


def test_the_page_of_these_runs_is_told_from_a_page_of_new_ones() -> None:
    made = replace(content(family("a"), family("b")), command="mlflow run . -e report -P runs=RUN_OF_A,RUN_OF_B",
                   server_command="mlflow run . -e report -P runs=a1,b1")  # fmt: skip
    page = text_of(made)
    assert "With the tracking server that has these runs" in page
    assert page.index("RUN_OF_A") < page.index("runs=a1,b1")
    assert "stand for the ids of your own runs" in page
