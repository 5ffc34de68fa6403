"""The pages: all of them in the site, and links to files that there are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
IN_REPOSITORY = {"contributing.md", "changelog.md", "card.md"}
"""Pages of the site that .ci/site_links.py makes of files outside of docs/."""

MAX_README_LINES = 110
LINK = re.compile(r"`[^`]*`|\]\(([^()\s]+)\)")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    targets = [target.split("#")[0] for target in LINK.findall(path.read_text(encoding="utf-8"))]
    files = [target for target in targets if target and not re.match(r"[a-z]+:", target)]
    assert [target for target in files if not (path.parent / target).exists()] == []


def test_every_page_stands_in_the_navigation_once() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert sorted(re.findall(r"\w+\.md", nav)) == sorted({path.name for path in DOCS} | IN_REPOSITORY)


def test_the_readme_is_one_page_and_names_the_test_command() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_README_LINES
    assert any(line.endswith('pip install -e ".[dev]" && pytest') for line in lines)
