"""Records: what is written is what is read, and a bad file's message says where and what to do."""

import datetime
from pathlib import Path

import pytest
import yaml

from carkp.measurements.record import (
    Column,
    Estimate,
    Goal,
    Measurement,
    Record,
    RecordError,
    Table,
    load_record,
    load_records,
    record_path,
    save_record,
)

RECORD = Record(
    name="rate",
    origin="recorded",
    command="python experiments/rate.py --record",
    commit="0123456789abcdef0123456789abcdef01234567",
    is_dirty=True,
    cpu="AMD EPYC",
    cpu_int8=["avx2"],
    cores=2,
    versions={"python": "3.11.7"},
    date=datetime.date(2026, 11, 26),
    note="One seed.",
    measurements=[
        Measurement(name="ratio", quantity="stage / bare", value=0.92, low=0.9, high=0.95, goal=Goal(at_least=0.9)),
        Measurement(name="different", quantity="elements that differ", value=[0, 2], goal=Goal(at_most=0), format=",d"),
    ],
    tables=[
        Table(
            name="models",
            columns=[Column(name="model", heading="model"), Column(name="pck", heading="PCK", format=".3f")],
            rows=[{"model": "float", "pck": Estimate(value=0.8714, low=0.819, high=0.919)}, {"model": "int8"}],
        )
    ],
    details={"trainings": [{"step": "plain"}]},
)


def written(tmp_path: Path, **changes: object) -> Path:
    """A file of the record above, with other entries."""
    path = record_path(tmp_path, "rate")
    save_record(RECORD, path)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes, sort_keys=False))
    return path


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = record_path(tmp_path, "rate")
    save_record(RECORD, path)
    assert path == tmp_path / "reports" / "measurements" / "rate.yaml"
    assert load_record(path) == RECORD
    assert load_records(tmp_path) == {"rate": RECORD}


def test_numbers_are_written_with_six_digits_and_counts_whole(tmp_path: Path) -> None:
    items = [
        Measurement(name="share", quantity="share", value=0.123456789),
        Measurement(name="elements", quantity="elements", value=10_944_001, format=",d"),
    ]
    path = record_path(tmp_path, "rate")
    save_record(RECORD.model_copy(update={"measurements": items}), path)
    assert [item.value for item in load_record(path).measurements] == [0.123457, 10_944_001]


@pytest.mark.parametrize(
    ("goal", "good", "bad", "words"),
    [
        (Goal(at_least=0.9), 0.9, 0.89, "at least 0.9"),
        (Goal(at_most=5), 5, 5.1, "at most 5"),
        (Goal(above=1), 1.01, 1, "above 1"),
        (Goal(below=1), 0.99, 1, "below 1"),
        (Goal(at_least=1 / 1.5, at_most=1.5), 1, 1.6, "at least 0.6667, at most 1.5"),
    ],
)
def test_goals_hold_or_do_not(goal: Goal, good: float, bad: float, words: str) -> None:
    assert goal.holds(good)
    assert not goal.holds(bad)
    assert str(goal) == words


def test_a_goal_is_missed_where_one_value_misses_it() -> None:
    ratio, different = RECORD.measurements
    assert ratio.is_met
    assert not different.is_met


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"comit": "abc"}, "comit: Extra inputs are not permitted"),
        ({"origin": "guessed"}, "origin: Input should be 'recorded' or 'transcribed'"),
        ({"commit": ""}, "a record of a program needs commit"),
        ({"measurements": [], "tables": []}, "neither measurements nor tables"),
        ({"measurements": [{"name": "a", "quantity": "a", "value": "0.9"}]}, "measurements[0].value"),
        ({"measurements": [{"name": "a", "quantity": "a", "value": True}]}, "measurements[0].value"),
        ({"measurements": [{"name": "a", "quantity": "a", "value": float("nan")}]}, "measurements[0].value"),
        ({"measurements": [{"name": "a", "quantity": "a", "value": 1, "goal": {}}]}, "a goal needs one of at_least"),
        ({"measurements": [{"name": "a", "quantity": "a", "value": 1.0, "low": 0.5}]}, "low and high go together"),
        (
            {"measurements": [{"name": "a", "quantity": "a", "value": 0.9, "format": ",d"}]},
            "format ',d' does not fit 0.9",
        ),
        ({"measurements": [{"name": "a", "quantity": "a", "value": 1}] * 2}, "given twice: a"),
        ({"tables": [{"name": "t", "columns": [], "rows": []}]}, "tables[0].columns"),
        (
            {"tables": [{"name": "t", "columns": [{"name": "a", "heading": "a"}], "rows": [{"b": 1}]}]},
            "tables[0]: table t, row 0: no column is called b",
        ),
        ({"name": "other"}, "name is 'other'; a record has the name of its file"),
    ],
)
def test_bad_entries_are_named_with_their_file(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(RecordError) as error:
        load_record(path)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


def test_an_interval_that_is_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ends at 0\.8 before it begins at 0\.9"):
        Estimate(value=0.85, low=0.9, high=0.8)


def test_bad_files_say_what_to_do(tmp_path: Path) -> None:
    path = record_path(tmp_path, "rate")
    with pytest.raises(RecordError, match=r"no such record.*write it with --record"):
        load_record(path)
    path.parent.mkdir(parents=True)
    path.write_text("- 1\n")
    with pytest.raises(RecordError, match="expected a record, found a list; write the file again with --record"):
        load_record(path)
    path.write_text("name: [rate\n")
    with pytest.raises(RecordError, match=r"(?s)rate\.yaml: .*line 2"):
        load_record(path)
    path.write_text("name: rate\norigin: recorded\n")
    with pytest.raises(
        RecordError, match=r"needs command, commit, cpu, date.*correct the entry, or write the file again"
    ):
        load_record(path)
