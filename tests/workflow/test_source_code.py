"""Digests of code: what it does counts, how it is written does not."""

import textwrap
from pathlib import Path

import pytest

from carkp.config.schema import ExperimentConfig
from carkp.tracking.tracker import Tracker
from carkp.workflow import cli, reuse
from carkp.workflow import source_code as module
from carkp.workflow.source_code import SourceCode, source_code

FILES = {
    "__init__.py": "from carkp.unused import nothing",
    "unused.py": "nothing = 0",
    "a/__init__.py": "",
    "a/top.py": """
        import numpy as np
        from carkp.a import helper
        from carkp.b.deep import number

        def run():
            from ..late import later
            return later
        """,
    "a/helper.py": "import json, cv2.dnn\n",
    "a/stranger.py": "import torch",
    "a/page.html": "<p>",
    "b/__init__.py": "from .inner import value",
    "b/inner.py": "value = 1",
    "b/deep.py": "from carkp.shown import draw\nnumber = 2",
    "late.py": "later = 3",
    "shown.py": "import timm\ndraw = 4",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "carkp"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.setattr(module.carkp, "__file__", str(root / "__init__.py"))
    return root


def read() -> SourceCode:
    module._source_code.cache_clear()
    module._read_module.cache_clear()
    return source_code(["carkp.a.top"], ["carkp.shown"])


def test_all_that_is_imported_counts_and_nothing_else(package: Path) -> None:
    found = read()
    assert set(found.modules) == {
        "carkp.a",
        "carkp.a.top",
        "carkp.a.helper",
        "carkp.b",
        "carkp.b.inner",
        "carkp.b.deep",
        "carkp.late",
        "carkp/a/page.html",
    }
    assert set(found.versions) == {"numpy", "opencv-python-headless"}


@pytest.mark.parametrize("name", ["a/top.py", "a/helper.py", "b/inner.py", "b/deep.py", "late.py"])
def test_a_comment_changes_nothing_and_a_statement_does(package: Path, name: str) -> None:
    before, path = read(), package / name
    text = path.read_text()
    path.write_text(f'"""What it is for."""\n\n\n# why\n{text}\n"""of the name above"""\n')
    assert read() == before
    path.write_text(f"{text}\nadded = 1\n")
    after = read()
    changed = {key for key in after.modules if after.modules[key] != before.modules[key]}
    assert changed == {"carkp." + name.removesuffix(".py").replace("/", ".")}


def test_docstrings_of_functions_do_not_count_and_their_defaults_do(package: Path) -> None:
    path = package / "late.py"
    found = []
    for text in (
        "def f(x=1):\n    return x",
        'def f(x=1):\n    """Why."""\n    return x  # so',
        "def f(x=2):\n    return x",
    ):
        path.write_text(text)
        found.append(read())
    assert found[0] == found[1] != found[2]


def test_descriptions_of_settings_do_not_count_and_their_limits_do(package: Path) -> None:
    path = package / "late.py"
    found = []
    for text in ('x = Field(ge=1, description="One.")', 'x = Field(ge=1, description="Uno.")', "x = Field(ge=2)"):
        path.write_text(text)
        found.append(read())
    assert found[0] == found[1] != found[2]


def test_templates_count(package: Path) -> None:
    before = read()
    (package / "a/page.html").write_text("<div>")
    assert read() != before


def test_what_is_not_followed_does_not_count(package: Path) -> None:
    before = read()
    for name in ("shown.py", "unused.py", "a/stranger.py"):
        (package / name).write_text("import onnx\nchanged = 1\n")
    assert read() == before


def test_versions_are_of_the_distribution_that_is_installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"numpy": "2.0", "opencv-contrib-python": "4.9"}

    def version(name: str) -> str:
        if name not in installed:
            raise module.importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(module.importlib.metadata, "version", version)
    monkeypatch.setattr(module.importlib.metadata, "packages_distributions", lambda: {"cv2": ["opencv-contrib-python"]})
    assert read().versions == {"numpy": "2.0", "opencv-python-headless": "opencv-contrib-python 4.9"}


def test_a_record_is_of_the_code_that_the_stage_began_with(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(reuse.DECIDING, "check", reuse.Deciding((), (), ("carkp.a.top",)))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    began, recorded = read(), list[SourceCode]()

    def work(tracker: Tracker, out_dir: Path) -> None:
        (package / "late.py").write_text("later = 4\n")
        recorded.append(reuse.stage_inputs("check", ExperimentConfig(), {}).code)

    module._source_code.cache_clear()
    module._read_module.cache_clear()
    cli.execute("check", ExperimentConfig(), work)
    assert recorded[0].modules["carkp.late"] == began.modules["carkp.late"]
    assert read().modules["carkp.late"] != began.modules["carkp.late"]
