"""Writes ``docs/settings.md``, with a table of settings for each section: ``python -m carkp.config.settings_page``."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from carkp.config.explain import ITEM, REQUIRED, SectionOfSettings, Setting, sections

PAGE = Path("docs", "settings.md")

_HEAD = """\
# Settings

Every setting with its type, its default and what it does. `python -m carkp.config.settings_page` writes this page from
the models of the configuration (`carkp/config`); change descriptions there.

A configuration is a YAML file of these names; [configs](../configs) holds those that come with carkp. A setting that a
file leaves out is taken from the file that its `base` names. If no file gives it, the default on this page applies. An
override changes single settings: `-P overrides="train.lr=5.0e-4 seed=1"`.
"""

_SPECIAL = re.compile(r"[\\|*`]")


def settings_page() -> str:
    """Return the page as Markdown."""
    return "\n".join([_HEAD, *(_section(section) for section in sections())])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m carkp.config.settings_page", description="Write the page of all settings."
    )
    parser.add_argument("page", nargs="?", type=Path, default=PAGE, help=f"file to write (default: {PAGE})")
    path: Path = parser.parse_args(arguments).page
    path.write_text(settings_page(), encoding="utf-8")
    print(f"written: {path}")  # noqa: T201
    return 0


def _section(section: SectionOfSettings) -> str:
    title = f"`{section.name}`" if section.name else "For the whole experiment"
    each = f"Each item of the list `{section.name.removesuffix(ITEM)}`. " if section.name.endswith(ITEM) else ""
    rows = [_row(setting, section.name) for setting in section.settings]
    table = ["| setting | type | default | what it does |", "|---|---|---|---|", *rows]
    return "\n".join([f"## {title}", "", f"{each}{_escaped(section.summary)}", "", *table, ""])


def _row(setting: Setting, section: str) -> str:
    name = setting.name.removeprefix(f"{section}.") if section else setting.name
    default = setting.default if setting.default == REQUIRED else f"`{setting.default}`"
    return f"| `{name}` | {_escaped(setting.type)} | {default} | {_escaped(setting.description)} |"


def _escaped(text: str) -> str:
    """Escape text so that Markdown shows it as it is, in a table too."""
    return _SPECIAL.sub(r"\\\g<0>", text).replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
