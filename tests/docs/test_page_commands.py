"""The pages name commands, parameters and settings that carkp has."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest

from carkp.command.main import group
from carkp.config.explain import explain
from carkp.config.loading import ConfigError
from carkp.entry_points import ENTRY_POINTS

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

NOT_THERE_YET = {"carkp scenes", "mlflow run . -e scenes", "carkp calibration quant.observer=midway"}
"""Of the parts that CONTRIBUTING.md shows how to add."""

FENCE = re.compile(r"^ *```(?:sh|bash)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`((?:carkp|mlflow run) [^`\n]+)`(?!`)")
END_OF_COMMAND = re.compile(r"\n|;|&&|\|| & ")
A_NAME = re.compile(r"[a-z_]+")


def commands(page: str) -> Iterator[list[str]]:
    """What a page calls `carkp` and `mlflow run` with, the program's name first."""
    blocks = [block.replace("\\\n", " ") for block in FENCE.findall(page)]
    for line in [part for block in blocks for part in END_OF_COMMAND.split(block)] + SPAN.findall(page):
        if "carkp" not in line and "mlflow run" not in line:
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quotation that goes on behind a separator is none of carkp's commands
            continue
        start = next((at for at, word in enumerate(words) if word in ("carkp", "mlflow")), None)
        if start is not None and start + 1 < len(words):
            yield words[start:]


def settings_of(words: list[str]) -> list[str]:
    """Names of the settings that a command sets: of ``--set``, ``--overrides`` and ``-P overrides=``."""
    pairs = list(pairwise(words))
    single = [value for option, value in pairs if option == "--set"]
    lists = [value for option, value in pairs if option == "--overrides"]
    lists += [value.removeprefix("overrides=") for option, value in pairs if value.startswith("overrides=")]
    together = [*single, *(word for text in lists for word in text.split())]
    return [word.split("=")[0] for word in together if "=" in word]


def problem_of(words: list[str]) -> str:
    """What is wrong with a command; "" for nothing."""
    problem = _problem_of_carkp(words[1:]) if words[0] == "carkp" else _problem_of_mlflow(words[1:])
    if problem:
        return problem
    for name in settings_of(words):
        try:
            explain(name)
        except ConfigError as error:
            return str(error)
    return ""


def _problem_of_carkp(words: list[str]) -> str:
    words = [word for word in words if word not in ("-q", "-v")]
    if not words or not A_NAME.fullmatch(words[0]):  # --help, or $stage
        return ""
    command = group.get_command(click.Context(group), words[0])
    if command is None:
        return f"carkp has no command {words[0]}"
    try:
        command.make_parser(click.Context(command)).parse_args(words[1:])
    except click.UsageError as error:
        return error.format_message()
    return ""


def _problem_of_mlflow(words: list[str]) -> str:
    if words[0] != "run":
        return ""
    pairs = list(pairwise(words))
    stage = next((name for option, name in pairs if option == "-e"), "main")
    if not A_NAME.fullmatch(stage):
        return ""
    if stage not in ENTRY_POINTS:
        return f"MLproject has no entry point {stage}"
    known = {parameter.name for parameter in ENTRY_POINTS[stage].parameters} | {"config", "overrides"}
    unknown = {value.split("=")[0] for option, value in pairs if option == "-P"} - known
    return f"{stage} has no parameters {', '.join(sorted(unknown))}" if unknown else ""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_have_these_parameters_and_settings(path: Path) -> None:
    found = [(shlex.join(words), problem_of(words)) for words in commands(path.read_text(encoding="utf-8"))]
    wrong = [
        f"{command}: {problem}"
        for command, problem in found
        if problem and not any(all(word in command for word in known.split()) for known in NOT_THERE_YET)
    ]
    assert not wrong


def test_pages_have_commands() -> None:
    assert sum(len(list(commands(path.read_text(encoding="utf-8")))) for path in PAGES) > 100


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("carkp flaot", "no command flaot"),
        ("carkp float --dat latest", "No such option"),
        ("carkp float --set train.learning=1", "no such section or setting"),
        ("mlflow run . -e floats", "no entry point floats"),
        ("mlflow run . -e float -P model=latest", "no parameters model"),
        ('mlflow run . -e float -P overrides="seeds=1"', "no such section or setting"),
        ('carkp -q float --data latest --set "train.lr=1.0e-3" && carkp run --dry-run', ""),
    ],
)
def test_a_wrong_command_is_found(line: str, problem: str) -> None:
    found = [problem_of(words) for words in commands(f"```sh\n{line}\n```\n")]
    assert found
    assert (problem in found[0]) if problem else not any(found)
