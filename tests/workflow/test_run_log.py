"""What a run says is kept with it."""

import sys
from pathlib import Path

import pytest

from carkp.tracking.tracker import NullTracker
from carkp.workflow.run_log import LOG_NAME, kept_output


class Keeper(NullTracker):
    """Keeps the text of the files that are logged."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def log_file(self, path: Path, folder: str) -> None:
        self.kept[f"{folder}{path.name}"] = path.read_text()


def lines_of(tracker: Keeper) -> list[str]:
    """Without their times."""
    return [line.split(" ", 2)[2] for line in tracker.kept[LOG_NAME].splitlines()]


def test_both_streams_are_kept_and_still_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker, folder = Keeper(), tmp_path / "log"
    with kept_output(tracker, folder):
        print("to the user")
        print("a warning", file=sys.stderr)
        sys.stdout.write("without an end")
    assert lines_of(tracker) == ["to the user", "a warning", "without an end"]
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("to the user\nwithout an end", "a warning\n")
    assert not folder.exists()


def test_of_a_progress_bar_the_last_state_is_kept(tmp_path: Path) -> None:
    tracker = Keeper()
    with kept_output(tracker, tmp_path / "log"):
        for number in range(1000):
            sys.stderr.write(f"\rtrain: {number}/999")
        sys.stderr.write("\n")
        print("done")
    assert lines_of(tracker) == ["train: 999/999", "done"]


def test_a_failure_is_kept_with_its_traceback(tmp_path: Path) -> None:
    tracker, folder = Keeper(), tmp_path / "log"

    def fail() -> None:
        with kept_output(tracker, folder):
            print("before")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    lines = lines_of(tracker)
    assert lines[0] == "before"
    assert lines[-1] == "ValueError: broken"
    assert (folder / LOG_NAME).is_file()


def test_a_tracker_that_fails_too_does_not_hide_the_failure(tmp_path: Path) -> None:
    class Failing(NullTracker):
        def log_file(self, path: Path, folder: str) -> None:
            raise OSError("no server")

    with pytest.raises(ValueError, match="broken"), kept_output(Failing(), tmp_path / "log"):
        raise ValueError("broken")
