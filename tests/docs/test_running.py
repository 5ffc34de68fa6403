"""The blocks of the documentation are executed, page by page, each page in a project of its own."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.docs import stand_ins
from tests.docs.blocks import page_names, parse_page, read_page
from tests.docs.inputs import Shelf, fill_shelf
from tests.docs.scratch import Scratch, is_executed, make_scratch, quick_blocks, run_page

QUICK_SECONDS = 120.0
"""For a block of commands that take seconds, on a busy machine too."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return fill_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def clean(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """A project in which nothing has run."""
    return make_scratch(tmp_path_factory.mktemp("clean"), shelf, stand_ins.free_port())


@pytest.fixture(scope="module")
def trained(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """A project in which the whole chain has run once: what a page may take as done by the pages before it."""
    scratch = make_scratch(tmp_path_factory.mktemp("trained"), shelf, stand_ins.free_port())
    done = scratch.execute(["carkp", "run"])
    assert done.status == 0, done.output
    shutil.copytree(scratch.path, kept(scratch), symlinks=True)
    return scratch


@pytest.fixture
def project(trained: Scratch) -> Iterator[Scratch]:
    """The trained project as it was: at one place always, for runs know where their files lie."""
    yield trained
    shutil.rmtree(trained.path)
    shutil.copytree(kept(trained), trained.path, symlinks=True)


def kept(scratch: Scratch) -> Path:
    return scratch.path.with_name("kept")


@pytest.fixture
def fresh(clean: Scratch, tmp_path: Path) -> Scratch:
    shutil.copytree(clean.path, tmp_path / "carkp", symlinks=True)
    return replace(clean, path=tmp_path / "carkp")


@pytest.mark.parametrize("name", [name for name in page_names() if quick_blocks(read_page(name))])
def test_the_quick_beginning_of_a_page_runs(name: str, fresh: Scratch) -> None:
    page = read_page(name)
    quick = quick_blocks(page)
    failures = run_page(page, fresh, lambda block: block in quick, QUICK_SECONDS)
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in page_names() if any(map(is_executed, read_page(name).blocks))])
def test_all_blocks_of_a_page_run(name: str, project: Scratch) -> None:
    failures = run_page(read_page(name), project)
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("```sh\ncarkp infer no_such.jpg\n```", "line 5: carkp infer no_such.jpg"),
        ("```sh\ncarkp infer no_such.jpg && echo done\necho after\n```", "line 5: carkp infer no_such.jpg"),
        ("```sh\nfor name in photo no_such; do\n    cat $name.jpg > copy.jpg\ndone\n```", "line 6: cat $name.jpg"),
        ("```sh\nls photo.jpg\nno-such-program photo.jpg\n```", "line 6: no-such-program photo.jpg"),
        ("```sh\nls <some file>\n```", "SUBSTITUTIONS must say what <some file> stands for"),
        ("```sh\n(exit 3) | cat\n```", "status 3"),
        ("```sh\ncurl http://127.0.0.1:5000/ --retry 0\n```", "status 7"),
        ("```python\nimport carkp\ncarkp.Predictor.load('no_such.onnx')\n```", "no_such.onnx"),
        ("```python\nimage.no_such\n```", "no_such"),
    ],
)
def test_a_block_that_fails_is_shown_with_its_page_line_command_and_output(
    block: str, message: str, fresh: Scratch
) -> None:
    (failure,) = run_page(parse_page("made_up.md", f"# A page\n\nText.\n{block}\n"), fresh, seconds=20)
    assert "made_up.md:5" in str(failure)
    assert message in str(failure)


def test_a_block_that_hangs_is_stopped(fresh: Scratch) -> None:
    (failure,) = run_page(parse_page("made_up.md", "```sh\necho first\nsleep 60\n```\n"), fresh, seconds=2)
    assert "ran out of time" in str(failure)
    assert "first" in str(failure)


def test_blocks_of_a_page_are_one_story(fresh: Scratch) -> None:
    text = """
<!-- file: configs/mine.yaml -->
```yaml
base: tiny.yaml
name: mine
```

```sh
carkp config show --config configs/mine.yaml train > shown.txt
sleep 100 &
```

<!-- not run: it needs another machine -->
```sh
false
```

```python
number = len(open("shown.txt").read())
```

```python
assert number > 100 and image.shape == (720, 1280, 3)
```
"""
    assert not run_page(parse_page("made_up.md", text), fresh, seconds=20)


def test_pages_have_blocks_that_run() -> None:
    pages = [read_page(name) for name in page_names()]
    assert sum(is_executed(block) for page in pages for block in page.blocks) > 20
    assert any(quick_blocks(page) for page in pages)
