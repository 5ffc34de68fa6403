"""``carkp generate``: the pictures of an experiment, whole or in shards."""

import re
import sys
from typing import TYPE_CHECKING

import click

from carkp.command.errors import user_errors
from carkp.command.stage import CONFIG_HELP, OVERRIDES_HELP, SET_HELP
from carkp.entry_points import DEFAULT_CONFIG

if TYPE_CHECKING:
    from carkp.synthetic.blocks import Shard


@click.command("generate")
@click.option("--config", default=DEFAULT_CONFIG, show_default=True, help=CONFIG_HELP)
@click.option("--overrides", default="", help=OVERRIDES_HELP)
@click.option("--set", "settings", multiple=True, metavar="A.B=C", help=SET_HELP)
@click.option(
    "--shard", metavar="K/N", default="", help="Draw only part K of N, K from 1 to N, and store it beside the set."
)
@click.option("--merge", metavar="N", type=click.IntRange(min=1), help="Merge the N shards of each set.")
def command(config: str, overrides: str, settings: tuple[str, ...], shard: str, merge: int | None) -> None:
    """Draw the generated pictures of an experiment: all its sources that are synthetic or rendered.

    `carkp data` draws them too. This command is for several machines: each draws a shard, and one merges them. The
    pictures are the same.
    """
    with user_errors():
        from carkp.config.loading import split_overrides
        from carkp.workflow.cli import guarded

        sys.exit(guarded(lambda: _draw(config, [*split_overrides(overrides), *settings], shard, merge)))


def _draw(config: str, settings: list[str], shard: str, num_shards: int | None) -> int:
    from carkp.config.loading import ConfigError, load_config
    from carkp.progress import is_hidden
    from carkp.project import find_config
    from carkp.workflow.preparation import draw_shards, draw_sources, merge_shards

    loaded = load_config(find_config(config), settings)
    if shard and num_shards:
        raise ConfigError("give --shard or --merge, not both: first draw all shards, then merge them")
    if shard:
        made = draw_shards(loaded, _parse_shard(shard), not is_hidden())
    elif num_shards:
        made = merge_shards(loaded, num_shards)
    else:
        made = draw_sources(loaded, not is_hidden())
    for path in made:
        click.echo(str(path))
    return 0


def _parse_shard(text: str) -> "Shard":
    from carkp.config.loading import ConfigError
    from carkp.synthetic.blocks import Shard

    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise ConfigError(f"--shard: expected K/N, such as 2/4, got {text!r}")
    try:
        return Shard(int(match[1]), int(match[2]))
    except ValueError as error:
        raise ConfigError(f"--shard: {error}") from error
