"""The commands that make runs again on another machine: no path of this one, and no run that only its server knows.

A run's own command is taken apart and written as a call of its entry point. What it took by a run's id is left to the
default, `latest`: in the order of the runs that is the run before. An adapted model is never the latest one: its reader
fills in the id of his own. Settings that neither the configuration file nor the
command tells are added from the configuration that the run logged.
"""

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from carkp.config.loading import ConfigError, flatten, load_config, split_overrides
from carkp.data.files import expand_path
from carkp.project import project_root
from carkp.tracking.runs import LATEST, STAGE_TAG, FoundRun, find_run_or_none, run_id_of
from carkp.workflow.cli import DEFAULT_CONFIG
from carkp.workflow.steps import PIPELINE

PLACEHOLDER = "/path/to/"
"""Begins every path of the machine that a run was made on."""

STAGES_PACKAGE = "carkp.stages."
MODULES: Mapping[str, str] = {"pipeline": PIPELINE}
"""Modules that are not called as their entry point."""

FILLED_IN: Mapping[str, str] = {"adapt": "runs:/RUN_OF_ADAPT"}
"""Stages whose runs `latest` never means -> what stands for their ids."""

LEFT_OUT = frozenset({"resume", "force", "runs"})
"""Parameters that say how a run came about and not what it is."""

TOLD_BY_TAGS: Mapping[str, Mapping[str, str]] = {
    "data": {},
    "float": {},
    "export": {"target": "carkp.target", "stage": "carkp.exported_stage"},
    "evaluate": {"target": "carkp.target", "stage": "carkp.model"},
    **{stage: {"target": "carkp.target"} for stage in ("calibration", "qat", "align", "check", "compile")},
}
"""Entry point -> parameter -> the tag that holds its value, where the command was not logged."""


@dataclass(frozen=True)
class Call:
    """A call of an entry point.

    Attributes:
        stage: the entry point; "" for a script.
        script: the script's path, "" for an entry point.
        config: the configuration file as it was given; "" for the default one.
        overrides: settings ``a.b=c``.
        parameters: the others.
    """

    stage: str
    script: str = ""
    config: str = ""
    overrides: Sequence[str] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)


def command_of(run: FoundRun, resolved: Mapping[str, Any]) -> str:
    """The command that makes ``run`` again; "" where that is not known.

    ``resolved``: the configuration that the run logged; empty where it logged none.
    """
    stage = run.tags.get(STAGE_TAG, "")
    call = parse_command(run.tags.get("carkp.command", "")) or _call_of_parameters(stage, run, bool(resolved))
    if call is None:
        return f"# {stage} {run.run_id}: its command was not logged" if stage else ""
    return portable(call, resolved)


def parse_command(command: str) -> Call | None:
    """The call in a logged command line; None where it is none of a stage or a script of experiments/."""
    try:
        words = shlex.split(command)
    except ValueError:  # cut off: longer than a tag
        return None
    places = [place for place, word in enumerate(words) if word == "-m"]
    for place in places:
        module = words[place + 1] if place + 1 < len(words) else ""
        if module.startswith(STAGES_PACKAGE):
            name = module.removeprefix(STAGES_PACKAGE)
            return _call(words[place + 2 :], stage=MODULES.get(name, name))
    scripts = [place for place, word in enumerate(words) if re.search(r"(^|/)experiments/\w+\.py$", word)]
    if not scripts:
        return None
    name = f"experiments/{PurePosixPath(words[scripts[0]]).name}"
    return _call(words[scripts[0] + 1 :], script=name)


def portable(call: Call, resolved: Mapping[str, Any]) -> str:
    """``call`` as a person on another machine gives it."""
    config = portable_config(call.config or DEFAULT_CONFIG)
    overrides = [*call.overrides, *missing_overrides(config or DEFAULT_CONFIG, call.overrides, resolved)]
    masked = [f"{name}={_masked(value)}" for name, _, value in (text.partition("=") for text in overrides)]
    given = {
        "config": config if config and config != DEFAULT_CONFIG else "",
        "overrides": shlex.join(masked) if masked else "",
        **{name: _shown(value) for name, value in call.parameters.items() if not _is_left_out(name, value)},
    }
    if call.script:
        options = (f"--{name} {shlex.quote(value)}" for name, value in given.items() if value)
        return " ".join(["python", call.script, *options])
    entry = [] if call.stage == PIPELINE else ["-e", call.stage]
    options = (f"-P {name}={shlex.quote(value)}" for name, value in given.items() if value)
    return " ".join(["mlflow run .", *entry, *options])


def portable_config(name: str) -> str:
    """A configuration file that comes with the project, relative to it; "" for one that is on this machine alone."""
    root = project_root().resolve()
    path = expand_path(name)
    path = (path if path.is_absolute() else root / path).resolve()
    if not path.is_file() or not path.is_relative_to(root) or not _may_be_tracked(root, path):
        return ""
    return path.relative_to(root).as_posix()


def missing_overrides(config: str, overrides: Sequence[str], resolved: Mapping[str, Any]) -> list[str]:
    """Settings of ``resolved`` that ``config`` with ``overrides`` gives another value."""
    try:
        made = load_config(project_root() / config, overrides)
    except ConfigError:  # settings of another version: then the command says what it says
        return []
    here, wanted = (flatten(tree, "") for tree in (made.model_dump(mode="json"), resolved))
    return [
        f"{name.removeprefix('.')}={_yaml(value)}"
        for name, value in wanted.items()
        if name in here and here[name] != value
    ]


def masked_paths(text: str) -> str:
    """YAML with absolute paths as placeholders."""
    return re.sub(r"(?m)^(\s*(?:- |[\w.]+: ))(['\"]?)(/[^\n'\"]*|~/[^\n'\"]*)", _masked_line, text)


def _call(words: Sequence[str], stage: str = "", script: str = "") -> Call:
    overrides: list[str] = []
    parameters: dict[str, str] = {}
    for name, value in _options(words):
        if name == "set":
            overrides.append(value)
        elif name == "overrides":
            overrides = [*split_overrides(value), *overrides]
        elif value:
            parameters[name] = value
    return Call(stage, script, parameters.pop("config", ""), overrides, parameters)


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """``--name value`` and ``--name=value``; a switch has the value "" and is left out."""
    place = 0
    while place < len(words):
        name, separator, value = words[place].partition("=")
        place += 1
        if not name.startswith("--"):
            continue
        if not separator and place < len(words) and not words[place].startswith("--"):
            value, place = words[place], place + 1
        yield name.removeprefix("--"), value


def _call_of_parameters(stage: str, run: FoundRun, has_config: bool) -> Call | None:
    """What the parameters of `mlflow run` tell, else the tags and the configuration; None of a run without any."""
    given = {name: value for name, value in run.params.items() if not name.startswith("config.")}
    given = {name: value for name, value in given.items() if value not in ("", "''")}
    told = {name: run.tags[tag] for name, tag in TOLD_BY_TAGS.get(stage, {}).items() if tag in run.tags}
    is_known = stage in TOLD_BY_TAGS and (told or has_config)
    if not stage or not (given or is_known):
        return None
    overrides = split_overrides(given.pop("overrides", ""))
    config = given.pop("config", "")
    return Call(stage, "", config, overrides, {**told, **given})


def _is_left_out(name: str, value: str) -> bool:
    """Whether a parameter says how a run came about, or names a run that `latest` means where the command is called."""
    return name in LEFT_OUT or value == LATEST or (run_id_of(value) is not None and not _filled_in(value))


def _shown(value: str) -> str:
    return _filled_in(value) or _masked(value)


def _filled_in(reference: str) -> str:
    """What stands for a run that `latest` never means; "" for every other value."""
    run = find_run_or_none(run_id_of(reference) or "")
    return FILLED_IN.get(run.tags.get(STAGE_TAG, ""), "") if run is not None else ""


def _may_be_tracked(root: Path, path: Path) -> bool:
    """Whether a file belongs to the checkout; True too where there is no checkout to ask."""
    command = ["git", "-C", str(root), "ls-files", "--error-unmatch", str(path)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode != 1
    except OSError:
        return True


def _masked(value: str) -> str:
    if value.startswith(("/", "~")) and not value.startswith(PLACEHOLDER):
        return f"{PLACEHOLDER}{PurePosixPath(value).name}"
    head, separator, path = value.partition("sqlite:////")
    return f"{head}sqlite:///{PLACEHOLDER}{PurePosixPath(path).name}" if separator else value


def _masked_line(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{_masked(match[3].rstrip())}"


def _yaml(value: Any) -> str:
    """A value as an override is read: flow style on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
    return text.strip().removesuffix("...").strip()
