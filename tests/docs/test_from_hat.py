"""The page for readers of the HAT tutorial gives both spellings of commands, and names settings that there are."""

import re
from pathlib import Path

from carkp.config.loading import flatten
from carkp.config.schema import ExperimentConfig
from carkp.entry_points import ENTRY_POINTS

PAGE = (Path(__file__).parents[2] / "docs" / "from_hat.md").read_text(encoding="utf-8")
SETTINGS = set(flatten(ExperimentConfig().model_dump()))
SECTIONS = {name.split(".")[0] for name in SETTINGS if "." in name}


def test_both_spellings_of_a_command_are_given() -> None:
    commands = {point.command: point.name for point in ENTRY_POINTS.values()}
    rows = [row for row in PAGE.splitlines() if row.startswith("| `") and "<br>`mlflow run . -e " in row]
    pairs = [re.search(r"`carkp (\w+)[^`]*`<br>`mlflow run \. -e (\w+)", row) for row in rows]
    assert len(pairs) >= 10
    assert all(pair is not None and commands[pair[1]] == pair[2] for pair in pairs)


def test_settings_are_those_of_the_configuration() -> None:
    named = {
        f"{section}.{name}"
        for code in re.findall(r"`([^`\n]+)`", PAGE)
        for section, name in re.findall(r"(?<![\w./])(\w+)\.(\w+)", code)
        if section in SECTIONS and name != "py"
    }
    assert len(named) > 40
    assert named <= SETTINGS
