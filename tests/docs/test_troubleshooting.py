"""The page of error messages quotes the code: no message of it may differ from what is printed."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
VARIABLE = "…"
MIN_PART = 12
"""Characters of a fixed part that is looked for: shorter ones are in the code by chance."""

CELL = re.compile(r"(?<!\\)\|")
CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")


def messages(page: str) -> list[str]:
    """What the first cells of its tables quote."""
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| message ")]
    cells = [CELL.split(row)[1] for row in rows]
    return [found[2].strip().replace(r"\|", "|") for cell in cells for found in CODE_SPAN.finditer(cell)]


def fixed_parts(message: str) -> list[str]:
    """What stands between the variable parts: the long parts, or the longest one where all are short."""
    parts = [part.strip() for part in message.split(VARIABLE)]
    return [part for part in parts if len(part) >= MIN_PART] or [max(parts, key=len)]


@cache
def constants() -> str:
    """Every text in carkp's sources but docstrings, a line each; texts that Python joins are one."""
    paths = sorted((ROOT / "carkp").rglob("*.py"))
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = (node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings)
    return "\n".join(node.value for node in texts if isinstance(node.value, str))


def test_the_page_quotes_messages() -> None:
    assert len(messages(PAGE.read_text(encoding="utf-8"))) > 100


@pytest.mark.parametrize("message", messages(PAGE.read_text(encoding="utf-8")))
def test_a_message_is_the_code_s_own(message: str) -> None:
    missing = [part for part in fixed_parts(message) if part not in constants()]
    assert not missing, "carkp says no such thing any more: quote what it says now"


def test_a_message_that_the_code_does_not_have_is_found() -> None:
    (message,) = messages("| message | cause |\n|---|---|\n| `…: no such thing as a \\| in …` | |\n")
    assert fixed_parts(message) == [": no such thing as a | in"]
    assert fixed_parts(message)[0] not in constants()


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ("…: can score …", [": can score"]),
        ("no finished … run of …", ["no finished"]),
        ("a long part, … and …", ["a long part,"]),
    ],
)
def test_short_parts_are_left_out(message: str, parts: list[str]) -> None:
    assert fixed_parts(message) == parts
