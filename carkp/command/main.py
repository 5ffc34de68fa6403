"""``carkp``: every stage as a command, and further commands that help the user."""

import importlib
from dataclasses import dataclass

import click

from carkp import __version__
from carkp.command.stage import stage_command
from carkp.command.verbosity import set_verbosity
from carkp.entry_points import ENTRY_POINTS

STAGES = {point.command: point for point in ENTRY_POINTS.values()}


@dataclass(frozen=True)
class Helper:
    """A command that is no stage: its module, and its summary in the list of commands."""

    module: str
    summary: str


HELPERS = {
    "view": Helper("view", "Show keypoints of your own pictures and videos on a local page."),
    "generate": Helper("generate", "Draw the generated pictures of an experiment, whole or as shards."),
    "config": Helper("config", "Show the settings of an experiment, or explain them."),
    "models": Helper("models", "List the models that you can give to a command."),
    "status": Helper("status", "Show the newest run of every stage, and which steps `carkp run` would do."),
    "sync": Helper("sync", "Send reports of runs that were kept during an outage of the tracking server."),
    "doctor": Helper("doctor", "Show what works on this machine, and how to fix the rest."),
}


class Commands(click.Group):
    """Commands that are imported only when called, so that their list appears at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*STAGES, *HELPERS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in STAGES:
            return stage_command(STAGES[cmd_name])
        if cmd_name in HELPERS:
            module = importlib.import_module(f"carkp.command.{HELPERS[cmd_name].module}")
            found: click.Command = module.command
            return found
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        stages = [(name, point.summary) for name, point in STAGES.items()]
        helpers = [(name, helper.summary) for name, helper in HELPERS.items()]
        for title, rows in (("Stages", stages), ("Help", helpers)):
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="carkp")
@click.option(
    "-v", "--verbose", is_flag=True, help="Print more: messages of other libraries, and tracebacks of errors."
)
@click.option("-q", "--quiet", is_flag=True, help="Print less: results and errors, no progress bars.")
def group(verbose: bool, quiet: bool) -> None:
    """Train, quantise and ship car keypoint detectors.

    The first keypoints: `carkp infer photo.jpg`. The whole chain, from generated cars to the report: `carkp run`.
    """
    set_verbosity(verbose, quiet)


def main() -> None:
    """Entry point of ``[project.scripts]``."""
    group(prog_name="carkp")


if __name__ == "__main__":
    main()
