"""The MLproject file and the stage modules name the same things."""

import importlib
import re

import pytest
import yaml

from tests.stages.conftest import ROOT

MODULES = {"main": "pipeline"}
"""Of entry points that are not named after their module."""

ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]


def module_of(name: str) -> str:
    return f"carkp.stages.{MODULES.get(name, name)}"


@pytest.mark.parametrize("name", sorted(ENTRY_POINTS))
def test_entry_point_calls_its_stage_with_every_parameter(name: str) -> None:
    command = ENTRY_POINTS[name]["command"]
    assert command.startswith(f"python -m {module_of(name)} ")
    passed = dict(re.findall(r"--(\w+) \{(\w+)\}", command))
    assert passed == {parameter: parameter for parameter in ENTRY_POINTS[name]["parameters"]}


def test_every_stage_module_is_an_entry_point() -> None:
    modules = {path.stem for path in (ROOT / "carkp" / "stages").glob("*.py") if not path.stem.startswith("_")}
    assert modules == {MODULES.get(name, name) for name in ENTRY_POINTS}


@pytest.mark.parametrize("name", sorted(ENTRY_POINTS))
def test_stage_takes_the_parameters_and_explains_them(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    stage = importlib.import_module(module_of(name))
    with pytest.raises(SystemExit) as stop:
        stage.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for parameter in ENTRY_POINTS[name]["parameters"]:
        assert f"--{parameter}" in shown


@pytest.mark.parametrize("name", sorted(ENTRY_POINTS))
def test_defaults_are_strings_and_agree_with_the_stage(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    stage = importlib.import_module(module_of(name))
    with pytest.raises(SystemExit):
        stage.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for parameter, settings in ENTRY_POINTS[name]["parameters"].items():
        assert settings["type"] == "string"
        assert isinstance(settings["default"], str)
        assert not settings["default"] or f"(default: {settings['default']})" in shown, parameter
