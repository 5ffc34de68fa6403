"""Tables and the verdict: the cells hold what was computed."""

from dataclasses import replace

import numpy as np
import pytest

from carkp.keypoints.breakdown import score_keypoints, side_confusion
from carkp.keypoints.clusters import Resampled
from carkp.keypoints.paired import Interval, PairedTest
from carkp.report import tables
from carkp.report.accuracy import headline
from carkp.report.accuracy_data import RunCard, Sweep
from carkp.report.assess import assess, at_other_thresholds, p_text, points, verdict
from tests.report.made_up import content, family, predictions


def number(cell: str) -> float:
    return float(cell.split("\n")[0].removesuffix(" %").replace("−", "-").replace(",", ""))


def test_headline_agrees_with_the_scores_and_with_itself() -> None:
    made = content()
    table = headline(made)
    assert [row[0] for row in table.rows] == [
        "float",
        "calibrated (bpu)",
        "simulated int8 (bpu)",
        "ONNX Runtime int8 (bpu)",
    ]
    for row, model in zip(table.rows, made.families[0].rows, strict=True):
        found = model.predictions.score(made.alpha)
        assert number(row[1]) == pytest.approx(100 * found.pck, abs=0.005)
        assert number(row[2]) == pytest.approx(100 * found.pck_hat, abs=0.005)
        assert number(row[3]) == pytest.approx(found.mean_dist, abs=0.005)
    for row in table.rows[1:]:
        assert number(row[4]) == pytest.approx(100 * number(row[1]) / number(table.rows[0][1]), abs=0.02)
    assert table.rows[0][4:6] == [tables.DASH, tables.DASH]
    assert table.rows[0][6:] == ["15.26", "6.70", "measured on a <CPU>"]
    assert "40 cars and 480 labelled keypoints" in table.caption


def test_sweep_table_compares_with_a_known_float_alone() -> None:
    swept = {99.0: 0.0, 100.0: 0.5}
    assert [row[2] for row in tables.sweep_table(Sweep(swept, 0.5)).rows] == ["−50.00", "+0.00"]
    assert [row[2] for row in tables.sweep_table(Sweep(swept, None)).rows] == [tables.DASH] * 2


def test_labels_that_lie_elsewhere_are_not_paired() -> None:
    whole = family()
    first, second = whole.rows[:2]
    apart = replace(second, predictions=replace(second.predictions, targets=second.predictions.targets + 1))
    rows = assess(content(replace(whole, rows=[first, apart])))
    assert rows[1].test is None
    assert rows[1].kept is None


def test_paired_table_counts_what_changed() -> None:
    rows = assess(content())
    table = tables.paired_table(rows)
    assert len(table.rows) == 3
    test = rows[2].test
    assert test is not None
    lost, gained = (int(cell) for cell in table.rows[1][4:6])
    assert (lost, gained) == (test.num_lost, test.num_gained)
    assert number(table.rows[1][1]) == pytest.approx(100 * (gained - lost) / test.num_points, abs=0.005)


def test_the_verdict_is_held_to_other_thresholds() -> None:
    made = content()
    rows = assess(made)
    floats, judged = rows[0].row.predictions, rows[2].row.predictions
    sentence = at_other_thresholds(rows[2])
    for alpha in (0.05, 0.15):
        difference = judged.score(alpha).pck - floats.score(alpha).pck
        assert f"{points(difference)} at {alpha:g}" in sentence
    assert at_other_thresholds(rows[0]) == ""


def made_test(low: float, value: float, high: float, p: float) -> PairedTest:
    return PairedTest(Interval(value, low, high), Interval(0, 0, 0), p, 3, 1, 480, Resampled(14, 0, 0, 40), 9)


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (made_test(-0.004, -0.001, 0.002, 0.4), ["No difference", "−0.10 points", "up to 0.40 points", "p = 0.40"]),
        (made_test(-0.004, -0.002, -0.001, 0.002), ["measurably worse", "above 0.40 points is unlikely", "p = 0.002"]),
        (made_test(0.001, 0.002, 0.004, 0.0001), ["measurably better", "+0.20 points", "p < 0.001"]),
        (made_test(-0.004, -0.002, -0.0001, 0.06), ["measurably worse", "undecided"]),
        (made_test(0.0, 0.0, 0.0, 1.0), ["No difference", "up to 0.00 points"]),
    ],
)
def test_verdict_says_what_the_interval_says(test: PairedTest, words: list[str]) -> None:
    sentence = verdict(replace(assess(content())[2], test=test))
    for word in words:
        assert word in sentence
    assert ("undecided" in sentence) == ("undecided" in words)


def test_numbers_are_rounded_for_people() -> None:
    assert points(-0.00216) == "−0.22"
    assert points(0.001) == "+0.10"
    assert [p_text(p) for p in (0.5, 0.0314, 0.00009)] == ["0.50", "0.031", "< 0.001"]
    assert tables.percent(0.97029) == "97.03 %"
    assert tables.percent(float("nan")) == tables.DASH
    assert tables.decibels(357.4) == "exact"
    assert tables.decibels(9.117) == "9.1"


def test_detailed_tables_have_a_column_or_row_a_model() -> None:
    found = {"float": predictions(6), "int8": predictions(8)}
    groups = {label: score_keypoints(item, 0.1) for label, item in found.items()}
    table = tables.keypoint_table(groups)
    assert table.headings == ["keypoint", "labelled", "float", "int8"]
    assert len(table.rows) == 12
    long = tables.group_table("keypoint", groups)
    assert len(long.rows) == 24
    assert long.rows[1][:5] == ["", "", "", "", "int8"]
    assert long.headings[3] == "clusters"
    assert [row[3] for row in long.rows[::2]] == ["12"] * 12
    sides = tables.confusion_table({label: side_confusion(item, 0.1) for label, item in found.items()})
    for row in sides.rows:
        assert sum(number(cell) for cell in row[3:]) == pytest.approx(100, abs=0.02)


def test_noise_table_has_the_worst_layers_first() -> None:
    table = tables.noise_table(family().noise, num_rows=3)
    assert [row[0] for row in table.rows] == ["layer/5", "layer/4", "layer/3"]


def test_sweep_table_marks_the_percentile_that_was_used() -> None:
    sweep = family().sweep
    assert sweep is not None
    rows = tables.sweep_table(sweep).rows
    assert rows[1] == ["99.9 (used)", "95.00 %", "−1.10"]


def test_data_tables_add_up() -> None:
    card = family().data
    assert card is not None
    (train, test) = tables.splits_table(card).rows
    assert train == ["train", "1", "10", "40", "200", "250", "30", "55.6 %"]
    assert [row[1] for row in tables.scenes_table(card).rows] == ["scene_train", "scene_test"]
    assert test[0] == "test"


def test_provenance_names_settings_that_differ_and_not_those_that_older_runs_lack() -> None:
    def run(name: str, config: dict[str, str], versions: dict[str, str]) -> RunCard:
        return RunCard(name, name * 8, name, {}, versions, "", config)

    runs = [run("a", {"seed": "0", "lr": "1"}, {"torch": "2"}), run("b", {"seed": "1", "new": "x", "lr": "1"}, {})]
    table = tables.config_differences_table(runs)
    assert table is not None
    assert table.rows == [["seed", "0", "1"]]
    assert tables.config_differences_table(runs[:1]) is None
    versions = tables.versions_table(runs)
    assert versions is not None
    assert versions.rows == [["torch", "2"]]
    assert tables.versions_table(runs[1:]) is None


def test_shares_without_keypoints_are_dashes() -> None:
    empty = Interval(float("nan"), float("nan"), float("nan"))
    assert tables.percent_interval(empty) == tables.DASH
    assert tables.px_interval(empty) == tables.DASH
    assert np.isnan(empty.value)
