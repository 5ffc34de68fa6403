"""``carkp -q`` leaves out all progress bars, also those that say themselves when they are shown."""

import ast
from pathlib import Path

import pytest

import carkp
from carkp.progress import TQDM_DISABLE, is_hidden


@pytest.mark.parametrize(("value", "hidden"), [("", False), ("0", False), ("1", True)])
def test_the_variable_hides(monkeypatch: pytest.MonkeyPatch, value: str, hidden: bool) -> None:
    monkeypatch.setenv(TQDM_DISABLE, value)
    assert is_hidden() is hidden
    assert is_hidden(unwanted=True)


def test_no_bar_decides_without_it() -> None:
    """Generators are asked by their callers: their code decides what is drawn anew."""
    deciding = []
    for path in Path(carkp.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "tqdm":
                given = [ast.unparse(item.value) for item in node.keywords if item.arg == "disable"]
                deciding += [f"{path.parent.name}/{path.name}" for text in given if not text.startswith("is_hidden(")]
