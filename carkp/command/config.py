"""``carkp config``: the settings of an experiment, and the meaning of each."""

import click

from carkp.command.errors import user_errors
from carkp.command.stage import CONFIG_HELP, OVERRIDES_HELP, SET_HELP
from carkp.entry_points import DEFAULT_CONFIG

MAX_COLUMNS = 100


@click.group("config")
def command() -> None:
    """Show the settings of an experiment, or explain what settings mean."""


@command.command()
@click.argument("section", default="")
@click.option("--config", default=DEFAULT_CONFIG, show_default=True, help=CONFIG_HELP)
@click.option("--overrides", default="", help=OVERRIDES_HELP)
@click.option("--set", "settings", multiple=True, metavar="A.B=C", help=SET_HELP)
def show(section: str, config: str, overrides: str, settings: tuple[str, ...]) -> None:
    """Print the settings as YAML: bases, overrides and defaults together. SECTION, such as train: only that one."""
    with user_errors():
        import yaml

        from carkp.config.loading import ConfigError, dump_yaml, load_config, split_overrides
        from carkp.project import find_config

        text = dump_yaml(load_config(find_config(config), [*split_overrides(overrides), *settings]))
        if section:
            tree = yaml.safe_load(text)
            if section not in tree:
                raise ConfigError(f"there is no section {section!r}; the sections are: {', '.join(tree)}")
            text = yaml.safe_dump({section: tree[section]}, sort_keys=False, allow_unicode=True)
        click.echo(text.rstrip())


@command.command()
@click.argument("name", default="")
def explain(name: str) -> None:
    """Explain settings. NAME is a section, such as train, or a setting, such as train.lr; without it: all."""
    with user_errors():
        from carkp.config.explain import explain as rows_of

        for row in rows_of(name):
            click.echo(f"{click.style(row.name, bold=True)}  ({row.type}; default {row.default})")
            click.echo(click.wrap_text(row.description, MAX_COLUMNS, "    ", "    "))
