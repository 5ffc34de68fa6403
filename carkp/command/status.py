"""``carkp status``: the existing runs, and what `carkp run` would do again."""

import sys
from datetime import UTC, datetime, timedelta

import click

from carkp.command.errors import user_errors
from carkp.command.stage import CONFIG_HELP, OVERRIDES_HELP, SET_HELP
from carkp.entry_points import DEFAULT_CONFIG, ENTRY_POINTS


@click.command("status")
@click.option("--config", default=DEFAULT_CONFIG, show_default=True, help=CONFIG_HELP)
@click.option("--overrides", default="", help=OVERRIDES_HELP)
@click.option("--set", "settings", multiple=True, metavar="A.B=C", help=SET_HELP)
def command(config: str, overrides: str, settings: tuple[str, ...]) -> None:
    """Show the newest run of every stage, and which steps `carkp run` would do, and why."""
    with user_errors():
        from carkp.workflow.cli import guarded

        sys.exit(guarded(lambda: _show(config, overrides, settings)))


def _show(config: str, overrides: str, settings: tuple[str, ...]) -> int:
    from carkp.config.loading import load_config, split_overrides
    from carkp.project import find_config
    from carkp.tracking.runs import EXPERIMENT_TAG, STAGE_TAG, find_runs

    loaded = load_config(find_config(config), [*split_overrides(overrides), *settings])
    click.echo(f"experiment {loaded.name}: the newest run of every stage")
    for stage in ENTRY_POINTS:
        tags = {STAGE_TAG: stage, EXPERIMENT_TAG: loaded.name}
        newest = [*find_runs(tags, max_results=1), *find_runs(tags, is_finished=False, max_results=1)]
        if not newest:
            continue
        run = max(newest, key=lambda found: found.started)
        click.echo(f"  {stage:<12} {run.status:<9} {_ago(run.started):>14}  runs:/{run.run_id}")
    click.echo("what `carkp run` would do:")
    # The plan reads checkpoints: this needs torch, whose import takes some seconds.
    from carkp.workflow.decisions import describe_decision, plan
    from carkp.workflow.steps import STEPS

    for item in plan(STEPS, loaded, is_forced=False):
        click.echo(f"  {item.step.stage}: {describe_decision(item.run, item.reason)}")
    return 0


def _ago(moment: datetime) -> str:
    passed = datetime.now(UTC) - (moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    if passed < timedelta(hours=1):
        return f"{passed.total_seconds() / 60:.0f} min ago"
    return f"{passed.total_seconds() / 3600:.0f} h ago" if passed < timedelta(days=2) else f"{passed.days} days ago"
