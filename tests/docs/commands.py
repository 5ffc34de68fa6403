"""Whether a command that a page shows exists: programs, entry points, parameters, settings, and files that it names.

Nothing is executed. Command lines are read by what reads them in earnest: click, argparse, and carkp's configuration.
"""

import argparse
import contextlib
import importlib.util
import io
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest
import yaml

from carkp.command.main import group
from carkp.config.loading import ConfigError, flatten, load_config, load_yaml, split_overrides
from carkp.config.schema import ExperimentConfig
from carkp.config.search import SearchConfig
from carkp.deploy.hardware import TargetFile
from carkp.entry_points import ENTRY_POINTS, SCORED_STAGES
from carkp.project import find_config
from carkp.workflow.targets import load_target
from tests.docs.blocks import ROOT, Block, Page, Span
from tests.docs.shell_words import Words, commands, filled, is_open, without_assignments

OTHER_PROGRAMS = {
    ".", "[", "base64", "cat", "cd", "cp", "curl", "echo", "eval", "export", "false", "git", "grep", "head", "kill",
    "ls", "mkdir", "mv", "printf", "rm", "sed", "sleep", "source", "tail", "test", "touch", "true", "unset", "unzip",
    "wait", "wget",
}  # fmt: skip
"""Of the shell and of every machine; what is none of these and has no check of its own, is taken for misspelled."""

CHOICES = {
    ("evaluate", "stage"): SCORED_STAGES,
    ("export", "stage"): ("calibration", "qat"),
    ("infer", "orientation"): ("ignore", "apply"),
    ("adapt", "orientation"): ("ignore", "apply"),
}
"""Entry point and parameter -> the values that it takes."""

TOOLS = ("pytest", "ruff", "mypy", "lint-imports", "jupyter", "mkdocs")
SECTIONS = {name.split(".")[0] for name in flatten(ExperimentConfig().model_dump()) if "." in name}
_SETTING = re.compile(rf"^(?:{'|'.join(sorted(SECTIONS))})\.\w[\w.]*(?:=.+)?$", re.DOTALL)
_FILE_SUFFIXES = (".py", ".json", ".yaml", ".md", ".txt", ".csv", ".jpg", ".html", ".onnx", ".pt")


@dataclass(frozen=True)
class Problem:
    """What does not exist, in which command of which page."""

    page: str
    line: int
    command: str
    what: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.command}\n    {self.what}"


@dataclass(frozen=True)
class Where:
    """What a command may rely on.

    Attributes:
        made: files that the page tells its reader to write.
        is_prose: the command is named in a sentence, where it need not be complete.
    """

    made: frozenset[str] = frozenset()
    is_prose: bool = False


class _NoCommandNamedError(click.UsageError):
    """A group of commands is called without one of them."""


class _Parsed(BaseException):
    """A program has read its command line; carries what it read."""

    def __init__(self, values: argparse.Namespace) -> None:
        super().__init__()
        self.values = values


def check_page(page: Page, root: Path = ROOT) -> list[Problem]:
    """Of every block and of every command in backticks that is not marked as not checked."""
    made = frozenset(block.marks.file for block in page.blocks if block.marks.file)
    block_place, prose = Where(made), Where(made, is_prose=True)
    found: list[Problem] = []
    for block in page.blocks:
        if not block.marks.not_checked:
            found += check_block(block, block_place, root)
    for span in page.spans:
        if not span.marks.not_checked:
            found += [Problem(span.page, span.line, span.text, what) for what in check_span(span, prose)]
    return found


def check_block(block: Block, where: Where = Where(), root: Path = ROOT) -> list[Problem]:
    """Commands of a shell block; of the others that they can be read."""
    if block.is_shell:
        return list(_check_script(block, where))
    problems = _check_content(block, root)
    return [Problem(block.page, block.line, block.marks.file or block.language, what) for what in problems]


def _check_script(block: Block, where: Where) -> Iterator[Problem]:
    try:
        found = commands(block.script)
    except ValueError as error:
        yield Problem(block.page, block.line, block.script.strip(), str(error))
        return
    for words in found:
        for what in check_command(words, where):
            yield Problem(block.page, block.line, shlex.join(words), what)


def check_span(span: Span, where: Where) -> list[str]:
    """A command in backticks, or the part of one: its parameters, its options, or a setting."""
    text = span.text
    words = _split(text)
    if words and all(_SETTING.match(word) and not word.endswith(_FILE_SUFFIXES) for word in words):
        return _check_settings(words)
    start = text.split(" ")[0]
    if " " not in text:
        return _check_options([text]) if re.match(r"--\w[\w-]+$", text) else []
    if start in CHECKS or start in ENTRY_POINTS or start == "-P" or text.startswith("--"):
        return _check_part(text, start, where)
    return []


def _split(text: str) -> Words:
    try:
        return shlex.split(text)
    except ValueError:
        return []


def _check_part(text: str, start: str, where: Where) -> list[str]:
    try:
        (words,) = commands(text) or [[]]
    except ValueError:
        return []  # a sentence, or a command that goes on outside the backticks
    if start in ENTRY_POINTS and start not in CHECKS:
        return check_command(["mlflow", "run", ".", "-e", *words], where) if "-P" in words else []
    if start == "-P":
        return _check_parameters(words, where)
    if text.startswith("--"):
        return _check_options([word.split("=")[0] for word in words if word.startswith("--")])
    return check_command(words, where)


def check_command(words: Sequence[str], where: Where = Where()) -> list[str]:
    """What is wrong with a command; words that a reader fills in are taken as right."""
    rest = without_assignments(list(words))
    if not rest or is_open(rest[0]):
        return []
    program, *arguments = rest
    if program in CHECKS:
        return CHECKS[program](_without_dots(arguments), where)
    if program in OTHER_PROGRAMS:
        return []
    return [f"{program}: no such program; if there is one, tests/docs/commands.py must know it"]


def _without_dots(arguments: Words) -> Words:
    """``…`` stands for more words, or after an option for its value."""
    named = zip(arguments, ["", *arguments], strict=False)
    kept = [word for word, before in named if word != "…" or before.startswith("-")]
    return kept[:-1] if kept[-1:] == ["…"] else kept


def _check_carkp(arguments: Words, where: Where) -> list[str]:
    try:
        name, params = _read_by_click(group, "carkp", arguments)
    except click.ClickException as error:
        return _unless_incomplete(error, where)
    point = next((point for point in ENTRY_POINTS.values() if point.command == name), None)
    values = {key.removesuffix("_argument"): str(value) for key, value in params.items() if value}
    settings = [*split_overrides(params.get("overrides") or ""), *(params.get("settings") or ())]
    return _check_values(point.name if point else "", values, settings, where)


def _read_by_click(command: click.Command, name: str, arguments: Words) -> tuple[str, Mapping[str, Any]]:
    """Command and its parameters; of a group that of the command in it.

    Raises:
        click.ClickException: the command line is none of this command.
    """
    if not isinstance(command, click.Group):
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                return name, command.make_context(name, list(arguments)).params
            except click.exceptions.Exit:  # --help, --version
                return name, {}
    context = click.Context(command, info_name=name)
    options, rest, _ = command.make_parser(context).parse_args(args=list(arguments))
    if not rest or is_open(rest[0]):
        if options or rest or name == "carkp":
            return name, {}
        raise _NoCommandNamedError(f"{name}: name a command of it")
    found, inner, others = command.resolve_command(context, rest)
    if inner is None:
        raise click.UsageError(f"{name} {rest[0]}: no such command")
    return _read_by_click(inner, str(found), others)


def _check_mlflow(arguments: Words, where: Where) -> list[str]:
    from mlflow.cli import cli

    try:
        name, params = _read_by_click(cli, "mlflow", arguments)
    except click.ClickException as error:
        return _unless_incomplete(error, where)
    return _check_run(params, where) if name == "run" else []


def _unless_incomplete(error: click.ClickException, where: Where) -> list[str]:
    """In prose a command may be named without what it needs."""
    is_incomplete = isinstance(error, click.MissingParameter | click.BadOptionUsage | _NoCommandNamedError)
    return [] if where.is_prose and is_incomplete else [error.format_message()]


def _check_run(params: Mapping[str, Any], where: Where) -> list[str]:
    stage = params.get("entry_point") or "main"
    if is_open(stage):
        return []
    if stage not in _mlproject():
        return [f"{stage}: no such entry point; MLproject has {', '.join(_mlproject())}"]
    given = _pairs(params.get("param_list") or ())
    known = _mlproject()[stage]["parameters"]
    unknown = [f"-P {name}: {stage} has no such parameter; it has {', '.join(known)}" for name in given.keys() - known]
    values = {name: settings["default"] for name, settings in known.items()} | given
    return unknown or _check_values(stage, values, split_overrides(values.get("overrides", "")), where)


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def _check_parameters(words: Words, where: Where) -> list[str]:
    """Of ``-P a=b`` without the command that it belongs to: some entry point must take them."""
    texts = [word for word, before in zip(words[1:], words, strict=False) if before == "-P"]
    problems = [_check_run({"entry_point": stage, "param_list": texts}, where) for stage in _mlproject()]
    return [] if any(not found for found in problems) else min(problems, key=lambda found: len("".join(found)))


def _check_values(stage: str, values: Mapping[str, str], settings: Sequence[str], where: Where) -> list[str]:
    """Configuration, settings, target and search file of a command, and words that are one of several."""
    problems = [
        f"{name}={value}: {stage} takes {', '.join(CHOICES[stage, name])}"
        for name, value in values.items()
        if (stage, name) in CHOICES and not is_open(value) and value not in CHOICES[stage, name]
    ]
    checks: list[tuple[str, Callable[[str], object]]] = [
        ("config", lambda name: load_config(find_config(name), [text for text in settings if not is_open(text)])),
        ("target", load_target),
        ("search", lambda name: load_yaml(find_config(name), SearchConfig, "search")),
    ]
    for name, load in checks:
        value = values.get(name, "")
        if value and not is_open(value) and not where.made & {value, f"configs/targets/{value}.yaml"}:
            problems += _error_of(load, value)
    open_names = [text.partition("=")[0] for text in settings if is_open(text) and "=" in text]
    return problems + [f"{name}: no such setting" for name in open_names if not _is_setting(name)]


def _error_of(load: Callable[[str], object], value: str) -> list[str]:
    try:
        load(value)
    except (ConfigError, OSError) as error:
        return [str(error)]
    return []


def _check_settings(texts: Sequence[str]) -> list[str]:
    """Of ``a.b`` and ``a.b=c``: names and types. What settings demand of each other is not looked at."""
    names = [text.partition("=")[0] for text in texts]
    unknown = [f"{name}: no such setting" for name in names if not _is_setting(name)]
    whole = [text for text in texts if "=" in text and not is_open(text)]
    if unknown or not whole:
        return unknown
    message = "".join(_error_of(lambda path: load_config(Path(path), whole), str(ROOT / "configs" / "synthetic.yaml")))
    return [
        line.strip() for line in message.splitlines() if line.strip().startswith(tuple(f"{name}:" for name in names))
    ]


def _is_setting(name: str) -> bool:
    known = flatten(ExperimentConfig().model_dump())
    return is_open(name) or name in known or any(other.startswith(f"{name}.") for other in known)


def _check_options(options: Sequence[str]) -> list[str]:
    """Of ``--name value`` without the command that it belongs to."""
    names = [option.split("=")[0] for option in options]
    return [f"{name}: no command of carkp or MLflow has such an option" for name in names if name not in _options()]


def _check_python(arguments: Words, where: Where) -> list[str]:
    if not arguments or arguments[0] in ("-c", "-V", "--version") or is_open(arguments[0]):
        return []
    if arguments[0] == "-m":
        return _check_module(arguments[1], arguments[2:], where)
    path = ROOT / arguments[0]
    if arguments[0] in where.made:
        return []
    if not path.is_file():
        return [f"{arguments[0]}: no such file"]
    return _check_program(lambda: runpy.run_path(str(path), run_name="__main__"), str(path), arguments[1:], where)


def _check_module(name: str, arguments: Words, where: Where) -> list[str]:
    if is_open(name) or name == "venv":
        return []
    if name in CHECKS:
        return CHECKS[name](arguments, where)
    try:
        is_there = importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        is_there = False
    if not is_there:
        return [f"{name}: no such module"]
    if not arguments or not name.startswith("carkp."):
        return []
    return _check_program(lambda: runpy.run_module(name, run_name="__main__"), name, arguments, where)


def _check_program(run: Callable[[], object], name: str, arguments: Words, where: Where) -> list[str]:
    """Start a program, and stop it when it has read its command line."""
    read = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> NoReturn:
        raise _Parsed(read(parser, *args, **kwargs))

    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [name, *arguments])
        patch.delitem(sys.modules, name, raising=False)
        try:
            run()
        except _Parsed as parsed:
            values = vars(parsed.values)
            settings = [*split_overrides(values.get("overrides") or ""), *(values.get("set") or ())]
            texts = {key: value for key, value in values.items() if isinstance(value, str)}
            return _check_values("", texts, settings, where)
        except SystemExit as stopped:  # of --help, and of words that the program does not know
            return [] if stopped.code in (0, None) else [output.getvalue().strip().splitlines()[-1]]
    return [f"{name} reads no command line, but is given {shlex.join(arguments)}"] if arguments else []


def _check_pip(arguments: Words, _: Where) -> list[str]:
    if arguments[:1] != ["install"]:
        return (
            [] if arguments[:1] and arguments[0] in ("uninstall", "list", "download", "show") else ["no such command"]
        )
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("-e", "--editable", action="append", default=[])
    parser.add_argument("-c", "--constraint", action="append", default=[])
    parser.add_argument("-r", "--requirement", action="append", default=[])
    parser.add_argument("-U", "--upgrade", action="store_true")
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("packages", nargs="*")
    try:
        values, others = parser.parse_known_args(arguments[1:])
    except argparse.ArgumentError as error:
        return [str(error)]
    problems = [f"{other}: tests/docs/commands.py knows no such option of pip" for other in others]
    for name in [*values.constraint, *values.requirement]:
        problems += [] if (ROOT / name).is_file() else [f"{name}: no such file"]
    for requirement in [*values.editable, *values.packages]:
        problems += _unknown_extras(requirement)
    return problems


def _unknown_extras(requirement: str) -> list[str]:
    found = re.match(r"^(?:\.|carkp)\[([^\]]+)\]", requirement)
    names = found[1].split(",") if found else []
    known = _pyproject()["project"]["optional-dependencies"]
    return [f"[{name}]: no such extra; there are {', '.join(known)}" for name in names if name.strip() not in known]


def _check_tool(name: str) -> Callable[[Words, Where], list[str]]:
    """Of :data:`TOOLS`: that it is installed, and that the paths and the marker exist."""

    def check(arguments: Words, where: Where) -> list[str]:
        problems = [] if shutil.which(name, path=str(Path(sys.executable).parent)) else [f"{name} is not installed"]
        paths = [word.split("::")[0] for word in arguments if "/" in word and not is_open(word)]
        problems += [f"{path}: no such file" for path in paths if not (ROOT / path).exists() and path not in where.made]
        if name == "pytest" and "-m" in arguments:
            marker = arguments[arguments.index("-m") + 1].removeprefix("not ")
            known = [text.split(":")[0] for text in _pyproject()["tool"]["pytest"]["ini_options"]["markers"]]
            problems += [] if marker in known else [f"-m {marker}: no such marker"]
        return problems

    return check


def _check_ci(_: Words, __: Where) -> list[str]:
    return []


CHECKS: Mapping[str, Callable[[Words, Where], list[str]]] = {
    "carkp": _check_carkp,
    "mlflow": _check_mlflow,
    "python": _check_python,
    "python3": _check_python,
    "pip": _check_pip,
    ".ci/run": _check_ci,
    **{name: _check_tool(name) for name in TOOLS},
}
"""Program -> what it is held against."""


def _check_content(block: Block, root: Path) -> list[str]:
    """Of a block that is no command: settings and targets by their loaders, JSON and YAML as such."""
    path = Path(block.marks.file)
    if block.marks.file and path.suffix == ".yaml" and path.parts[0] == "configs":
        return _check_config_file(block, root)
    if block.language == "python":
        return _error_of_python(block)
    if block.language in ("yaml", "json"):
        try:
            yaml.safe_load(block.text)
        except yaml.YAMLError as error:
            return [str(error)]
    return []


def _error_of_python(block: Block) -> list[str]:
    try:
        compile(block.text, f"{block.page}:{block.line}", "exec")
    except SyntaxError as error:
        return [f"{error.msg}, line {block.line + (error.lineno or 1) - 1} of the page"]
    return []


def _check_config_file(block: Block, root: Path) -> list[str]:
    """Load it beside the configurations that it may build on."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(root / "configs", Path(folder) / "configs")
        path = Path(folder) / block.marks.file
        path.write_text(block.text, encoding="utf-8")
        if "targets" in path.parts:
            return _error_of(lambda name: load_yaml(Path(name), TargetFile, "target"), str(path))
        if "search" in path.parts:
            return _error_of(lambda name: load_yaml(Path(name), SearchConfig, "search"), str(path))
        return _error_of(lambda name: load_config(Path(name)), str(path))


def syntax_error(script: str) -> str:
    """What bash says of a script that it does not execute; "": nothing."""
    done = subprocess.run(["bash", "-n"], input=filled(script), capture_output=True, text=True, timeout=20, check=False)
    return done.stderr.strip()


@cache
def _mlproject() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
    return found


@cache
def _pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@cache
def _options() -> frozenset[str]:
    """Of carkp and all its commands, of their modules, and of ``mlflow run``."""
    from mlflow.cli import cli

    flags = {f"--{flag}" for point in ENTRY_POINTS.values() for flag in point.flags}
    leaves = [group, *_leaves(group), cli.commands["run"]]
    return frozenset({"--help"} | flags | {option for leaf in leaves for param in leaf.params for option in param.opts})


def _leaves(command: click.Group) -> Iterator[click.Command]:
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        if isinstance(found, click.Group):
            yield from _leaves(found)
        elif found is not None:
            yield found
