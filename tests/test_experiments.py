"""Every study says what it asks, how to run it and what to expect, and explains its options."""

import ast
import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.py"))
WITHOUT_CONFIG = {"collect_real_cars.py"}
"""Scripts that read no experiment's settings."""

WITHOUT_RECORD = {"collect_real_cars.py", "ship_model.py", "tune.py"}
"""Scripts that measure nothing of their own: they collect pictures, write a model's card, and run a stage."""

MEASURING = [path for path in SCRIPTS if path.name not in WITHOUT_RECORD]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_docstring_gives_question_command_and_expectation(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text is not None
    assert text.splitlines()[0].endswith("?")
    assert f"python experiments/{path.name}" in text
    assert "Expect:" in text


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_help_works(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(path), run_name="__main__")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert ("--config" in text) == (path.name not in WITHOUT_CONFIG)
    assert ("--record" in text) == (path.name not in WITHOUT_RECORD)


@pytest.mark.parametrize("path", MEASURING, ids=lambda path: path.name)
def test_a_study_writes_its_record(path: Path) -> None:
    """Once, under its own name, or under the name that it is asked to take."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    written = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "write_record"]
    assert len(written) == 1
    assert [ast.unparse(word) for word in written[0].args[:2]] in (["arguments", "STUDY"], ["arguments", "name"])
