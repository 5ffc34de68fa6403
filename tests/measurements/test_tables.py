"""Records as Markdown: numbers, intervals, goals, and where they are from."""

import datetime

from carkp.measurements.record import Column, Estimate, Goal, Measurement, Record, Stated, Table
from carkp.measurements.tables import measurements_table, provenance, record_table, show_measurement, show_number

RATIO = Measurement(name="ratio", quantity="stage / bare", value=0.924, goal=Goal(at_least=0.9))


def test_single_values_stand_beside_what_was_wanted() -> None:
    items = [
        RATIO,
        Measurement(name="plain", quantity="stage / plain", value=1.4, low=1.351, high=1.45, goal=Goal(at_least=2.5)),
        Measurement(name="elements", quantity="a|b", value=[10_944_000, 0], format=",d"),
        Measurement(name="time", quantity="time", value=13.31, unit="min", format=".1f"),
    ]
    assert measurements_table(items).split("\n") == [
        "| quantity | result | wanted |",
        "| --- | --- | --- |",
        "| stage / bare | 0.92 | at least 0.9 |",
        "| stage / plain | 1.40 (1.35 to 1.45) | at least 2.5: **missed** |",
        "| a\\|b | 10,944,000; 0 |  |",
        "| time | 13.3 min |  |",
    ]


def test_values_without_goals_have_no_column_for_them() -> None:
    item = Measurement(name="rate", quantity="rate", value=27, unit="samples/s", format="d")
    assert measurements_table([item]).split("\n")[::2] == ["| quantity | result |", "| rate | 27 samples/s |"]


def test_tables_show_intervals_percents_signs_and_empty_cells() -> None:
    table = Table(
        name="models",
        columns=[
            Column(name="model", heading="model"),
            Column(name="pck", heading="PCK", format=".3f"),
            Column(name="kept", heading="kept", format=".2%"),
            Column(name="gain", heading="gain", format="+.1f"),
            Column(name="count", heading="count"),
        ],
        rows=[
            {"model": "float", "pck": Estimate(value=0.8714, low=0.819, high=0.9187), "count": 9_842_688},
            {
                "model": "int8",
                "pck": 0.5,
                "kept": Estimate(value=0.9999, low=0.998, high=1.001),
                "gain": Estimate(value=1, low=-0.25, high=2.0),
                "count": 0.12345,
            },
        ],
    )
    assert record_table(table).split("\n") == [
        "| model | PCK | kept | gain | count |",
        "| --- | --- | --- | --- | --- |",
        "| float | 0.871 (0.819 to 0.919) |  |  | 9,842,688 |",
        "| int8 | 0.500 | 99.99 % (99.80 to 100.10) | +1.0 (-0.2 to +2.0) | 0.1235 |",
    ]


def test_the_line_below_says_what_measured_when_and_on_what() -> None:
    record = Record(
        name="rate",
        origin="recorded",
        command="python experiments/rate.py --record",
        commit="0123456789abcdef",
        cpu="AMD EPYC",
        cpu_int8=["avx2"],
        cores=2,
        date=datetime.date(2026, 11, 26),
        measurements=[RATIO],
        note="One seed.",
    )
    assert provenance(record) == (
        "<sub>Measured by `python experiments/rate.py --record` on 2026-11-26, on AMD EPYC (avx2), 2 cores, commit "
        "`0123456`. One seed.</sub>"
    )
    dirty = record.model_copy(update={"is_dirty": True, "accelerator": "NVIDIA H100"})
    assert "2 cores and NVIDIA H100, commit `0123456` with uncommitted changes." in provenance(dirty)
    busy = record.model_copy(update={"load_average": 9.2})
    assert "2 cores, beside other work (load average 9), commit `0123456`." in provenance(busy)
    assert provenance(record.model_copy(update={"load_average": 0.4})) == provenance(record)


def test_transcribed_figures_say_so_and_leave_out_what_is_not_known() -> None:
    record = Record(name="long", origin="transcribed", measurements=[RATIO])
    assert provenance(record) == "<sub>Transcribed, not written by `--record`.</sub>"
    stated = Stated(commit="0123456789abcdef", date=datetime.date(2026, 11, 22))
    known = record.model_copy(update={"stated": stated, "command": "mlflow run . -e float", "cpu": "AMD EPYC"})
    assert provenance(known) == (
        "<sub>Measured by `mlflow run . -e float`, on AMD EPYC. Transcribed as stated in commit `0123456` of "
        "2026-11-22, not written by `--record`.</sub>"
    )


def test_small_numbers_below_zero_have_no_sign() -> None:
    assert [show_number(value, ".2f") for value in (-0.004, -0.006)] == ["0.00", "-0.01"]
    assert show_number(-0.0001, "+.1%") == "+0.0 %"


def test_a_value_in_a_sentence_has_its_unit_and_no_interval() -> None:
    assert show_measurement(RATIO) == "0.92"
    assert show_measurement(RATIO.model_copy(update={"unit": "px", "low": 0.9, "high": 0.95})) == "0.92 px"
