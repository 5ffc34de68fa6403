"""Pages: figures between markers are written from records, and a check finds any that differ."""

from pathlib import Path

import pytest

from carkp.measurements import pages
from carkp.measurements.pages import COMMAND, main, page_paths, render_page, unused, update
from carkp.measurements.record import (
    Column,
    Measurement,
    Record,
    RecordError,
    Table,
    load_records,
    record_path,
    save_record,
)

ROOT = Path(__file__).parents[2]
PAGE = """\
# Rates

<!-- measurements: rate -->
<!-- end of measurements -->

It reaches <!-- measured: rate ratio -->9<!-- end --> of the bare step, and <!-- measured: rate ratio --><!-- end -->.

```
<!-- measurements: nothing -->
```

<!-- measurements: rate models -->
| an old table |
<!-- end of measurements -->
"""
RECORD = Record(
    name="rate",
    origin="transcribed",
    measurements=[Measurement(name="ratio", quantity="stage / bare", value=0.92)],
    tables=[Table(name="models", columns=[Column(name="model", heading="model")], rows=[{"model": "float"}])],
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a record and a page."""
    (tmp_path / "MLproject").write_text("name: carkp\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "rates.md").write_text(PAGE)
    save_record(RECORD, record_path(tmp_path, "rate"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main(["--check"])
    return status, capsys.readouterr().err


def test_pages_are_written_once_and_then_stay(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys)[0] == 1
    assert (root / "docs" / "rates.md").read_text() == PAGE
    assert main([]) == 0
    assert "written: docs/rates.md" in capsys.readouterr().out
    text = (root / "docs" / "rates.md").read_text()
    assert "<!-- measurements: rate -->\n\n| quantity | result |\n" in text
    assert "| float |\n\n<sub>Transcribed, not written by `--record`.</sub>\n\n<!-- end of measurements -->" in text
    assert "-->0.92<!-- end --> of the bare step, and <!-- measured: rate ratio -->0.92<!-- end -->." in text
    assert "an old table" not in text
    assert check(capsys) == (0, "")
    assert main([]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("old", "new", "line", "use"),
    [
        ("| stage / bare | 0.92 |", "| stage / bare | 0.93 |", 3, "rate"),
        ("-->0.92<!-- end --> of", "-->0.93<!-- end --> of", 13, "rate ratio"),
        ("| float |", "| int8 |", 19, "rate models"),
        ("Transcribed, not", "Recorded, not", 3, "rate"),
    ],
)
def test_an_edited_figure_fails_the_check(
    root: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, line: int, use: str
) -> None:
    main([])
    page = root / "docs" / "rates.md"
    assert old in page.read_text()
    page.write_text(page.read_text().replace(old, new, 1))
    capsys.readouterr()
    message = (
        f"error: docs/rates.md, line {line}: {use}: the figures of the page differ from the record; run `{COMMAND}`\n"
    )
    assert check(capsys) == (1, message)


def test_a_new_record_fails_the_check_until_the_page_is_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    other = RECORD.measurements[0].model_copy(update={"value": 0.95})
    save_record(RECORD.model_copy(update={"measurements": [other]}), record_path(root, "rate"))
    assert check(capsys)[0] == 1
    main([])
    assert check(capsys)[0] == 0
    assert "| stage / bare | 0.95 |" in (root / "docs" / "rates.md").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "<!-- measurements: other -->\n<!-- end of measurements -->",
            "other: reports/measurements/other.yaml does not exist",
        ),
        (
            "<!-- measurements: rate other -->\n<!-- end of measurements -->",
            "no table of that name; tables: models; single",
        ),
        (
            "It is <!-- measured: rate other -->1<!-- end -->",
            "no measurement of that name; tables: models; single values: ratio",
        ),
        ("<!-- measurements: rate -->\nand no end", "line 1: rate: the marker has no end"),
        ("<!-- measurements: rate -->\n<!-- measurements: rate -->", "line 1: rate: the marker has no end"),
        ("text\n  <!-- measured: rate ratio -->1<!-- end -->", "line 2: a line must not begin with a value"),
        ("text\n<!-- end of measurements -->", "line 2: <!-- end of measurements --> without a beginning"),
    ],
)
def test_markers_that_cannot_be_followed_are_named(
    root: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (root / "README.md").write_text(text)
    status, error = check(capsys)
    assert status == 1
    assert "README.md, line" in error
    assert message in error


def test_single_values_of_a_record_of_tables_are_refused() -> None:
    tables_alone = RECORD.model_copy(update={"measurements": []})
    with pytest.raises(RecordError, match="the record has only tables; tables: models"):
        render_page("<!-- measurements: rate -->\n<!-- end of measurements -->", "a.md", {"rate": tables_alone})


def test_a_missing_record_and_one_that_no_page_shows_fail(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    save_record(RECORD.model_copy(update={"name": "unseen"}), record_path(root, "unseen"))
    status, error = check(capsys)
    assert (status, "unseen.yaml: no page shows it" in error) == (1, True)
    record_path(root, "unseen").unlink()
    record_path(root, "rate").unlink()
    status, error = check(capsys)
    assert (status, "rate.yaml does not exist; measure with --record" in error) == (1, True)


def test_the_pages_of_this_project_match_their_records() -> None:
    """As `.ci/run` asks; every marker has a record, and every record has a page."""
    assert update(ROOT, is_check=True) == []


def test_every_record_of_this_project_is_shown() -> None:
    records = load_records(ROOT)
    uses = [use for path in page_paths(ROOT) for use in render_page(path.read_text(), path.name, records).uses]
    assert len(records) > 10
    assert unused(records, uses) == []


def test_ci_runs_the_check_before_the_tests() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines.index(f"{pages.COMMAND} --check") < lines.index("pytest")
