"""``--record``: a record only where it is asked for, with the code and machine of this process."""

import datetime
import sys
from pathlib import Path

import pytest

from carkp.config.schema import ExperimentConfig
from carkp.keypoints.paired import Interval
from carkp.measurements.record import Estimate, Measurement, load_record
from carkp.workflow import recording
from carkp.workflow.cli import Arguments
from carkp.workflow.recording import Findings, interval_cell, number_cell, parse_study, without_folders, write_record
from tests.stages.conftest import ROOT, TINY

FOUND = Findings([Measurement(name="ratio", quantity="a / b", value=0.9)], packages=("filelock", "no-such-package"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "MLproject").write_text("name: carkp\n")
    monkeypatch.chdir(tmp_path)
    recording.circumstances.cache_clear()
    return tmp_path


def arguments(*flags: str) -> Arguments:
    return Arguments(ExperimentConfig(), {}, [], frozenset(flags))


def test_nothing_is_written_unless_it_is_asked_for(project: Path) -> None:
    write_record(arguments(), "rate", FOUND)
    assert not (project / "reports").exists()


def test_a_record_holds_command_commit_machine_and_versions(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recording, "git_state", lambda: ("0123abc", True))
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "experiments/rate.py", "/data/cars", "--record"])
    write_record(arguments("record"), "rate", FOUND)
    found = load_record(project / "reports" / "measurements" / "rate.yaml")
    assert found.command == "python experiments/rate.py cars --record"
    assert (found.commit, found.is_dirty) == ("0123abc", True)
    assert found.origin == "recorded"
    assert found.cpu
    assert found.cores
    assert found.load_average is not None
    assert found.date == datetime.date.today()
    assert {"python", "numpy", "filelock"} <= set(found.versions)
    assert "no-such-package" not in found.versions
    assert found.measurements == list(FOUND.measurements)
    assert "recorded: reports/measurements/rate.yaml" in capsys.readouterr().out


def test_the_commit_is_that_of_the_beginning(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "git_state", lambda: ("before", False))
    monkeypatch.setattr(sys, "argv", ["rate.py", "--record", "--config", str(ROOT / TINY)])
    given = parse_study("rate", "How fast?", [])
    monkeypatch.setattr(recording, "git_state", lambda: ("after", True))
    write_record(given, "rate", FOUND)
    found = load_record(project / "reports" / "measurements" / "rate.yaml")
    assert (found.commit, found.is_dirty) == ("before", False)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python x.py /a/b/cars,/c/more /d --model m", "python x.py cars,more d --model m"),
        ("python x.py --set data.source=/a/cars/ './b c'", "python x.py --set data.source=cars './b c'"),
        ("python x.py runs:/abc/best.pt https://host/x '/a/b c'", "python x.py runs:/abc/best.pt https://host/x 'b c'"),
        ("python x.py relative/path 3/4", "python x.py relative/path 3/4"),
    ],
)
def test_absolute_paths_are_cut_to_their_last_part(command: str, expected: str) -> None:
    assert without_folders(command) == expected


def test_intervals_and_numbers_become_cells() -> None:
    nan = float("nan")
    assert interval_cell(Interval(0.5, 0.4, 0.6)) == Estimate(value=0.5, low=0.4, high=0.6)
    assert interval_cell(Interval(0.5, nan, nan)) == 0.5
    assert interval_cell(Interval(nan, nan, nan)) is None
    assert (number_cell(0.5), number_cell(nan)) == (0.5, None)
