"""A stage as a command: with the same parameters and the same code as its entry point in MLproject."""

import importlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import click

from carkp.command.errors import user_errors
from carkp.entry_points import EntryPoint, Parameter

CONFIG_HELP = "YAML file of the experiment"
OVERRIDES_HELP = "space-separated a.b=c settings, shell quoting allowed"
SET_HELP = "one setting; may be repeated"
INFER = "infer"
TRACK_HELP = "record it as an MLflow run, as `mlflow run . -e infer` does"
DRY_RUN_HELP = "show what would be done, then stop"


def stage_command(point: EntryPoint) -> click.Command:
    """Build the command of an entry point."""
    params: list[click.Parameter] = [
        click.Option(["--config"], default=point.default_config, show_default=True, help=CONFIG_HELP),
        click.Option(["--overrides"], default="", help=OVERRIDES_HELP),
        click.Option(["--set", "settings"], multiple=True, metavar="A.B=C", help=SET_HELP),
    ]
    parameters = [parameter for parameter in point.parameters if parameter.name != "dry_run"]
    if point.argument:
        (own,) = (parameter for parameter in parameters if parameter.name == point.argument)
        params.insert(0, click.Argument([f"{own.name}_argument"], required=False, metavar=f"[{own.name.upper()}]"))
    params += [_option(parameter) for parameter in parameters]
    if point.command == INFER:
        params.append(click.Option(["--track", "track"], is_flag=True, help=TRACK_HELP))
    params.append(click.Option(["--dry-run", "dry_run"], is_flag=True, help=DRY_RUN_HELP))

    def run(dry_run: bool, track: bool = True, **values: Any) -> None:
        words = _words(point, values)
        is_light = point.command == INFER and not track
        with user_errors():
            sys.exit(_plan(point, words) if dry_run else _infer(point, words) if is_light else _call(point, words))

    return click.Command(point.command, params=params, callback=run, help=point.summary, short_help=point.summary)


def _option(parameter: Parameter) -> click.Option:
    names = [f"--{parameter.name.replace('_', '-')}", _variable(parameter.name)]
    return click.Option(names, default=parameter.default, show_default=bool(parameter.default), help=parameter.help)


def _variable(name: str) -> str:
    return name.replace("-", "_")


def _words(point: EntryPoint, values: dict[str, Any]) -> list[str]:
    """Return the command line for the stage's module.

    Raises:
        click.UsageError: a value is given both as an argument and as an option.
    """
    if point.argument and (word := values.pop(f"{point.argument}_argument")):
        if values[point.argument]:
            raise click.UsageError(f"{point.argument} is given twice: {word} and --{point.argument}")
        values[point.argument] = word
    words = ["--config", values.pop("config"), "--overrides", values.pop("overrides")]
    for setting in values.pop("settings"):
        words += ["--set", setting]
    return [*words, *(word for name, value in values.items() for word in (f"--{name}", value))]


def _call(point: EntryPoint, words: Sequence[str]) -> int:
    """Run the stage and return its exit status."""
    module = importlib.import_module(f"carkp.stages.{point.module}")
    status: int = getattr(module, "program", module.main)(list(words))
    return status


def _infer(point: EntryPoint, words: Sequence[str]) -> int:
    """Infer without a tracked run; if the model must be looked up among the runs, run the stage without tracking."""
    from carkp.command.infer import infer, needs_tracking

    values = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    if needs_tracking(values["model"]):
        return _call(point, [*words, "--no-track"])
    return infer(values)


def _plan(point: EntryPoint, words: Sequence[str]) -> int:
    """Print what would run: each step of the pipeline and why, or a stage's settings that are not defaults."""
    if point.command == "run":
        return _call(point, [*words, "--dry_run", "true"])
    from carkp.config.loading import flatten, load_config, split_overrides
    from carkp.config.schema import ExperimentConfig
    from carkp.project import find_config

    pairs = list(zip(words[::2], words[1::2], strict=False))
    values = dict(pairs)
    overrides = [*split_overrides(values["--overrides"]), *(value for name, value in pairs if name == "--set")]
    path = find_config(values["--config"])
    config = load_config(path, overrides)
    click.echo(f"would run: python -m carkp.stages.{point.module} {shlex.join(words)}")
    click.echo(
        f"configuration: {path}, experiment {config.name}; settings that differ from the defaults of the schema:"
    )
    defaults = flatten(ExperimentConfig().model_dump(mode="json"))
    for name, value in flatten(config.model_dump(mode="json")).items():
        if defaults.get(name) != value:
            click.echo(f"  {name} = {value}")
    return 0
