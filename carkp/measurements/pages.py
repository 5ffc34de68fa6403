"""Tables of Markdown pages, written between markers from the records: ``python -m carkp.measurements.pages [--check]``.

``<!-- measurements: training_rate -->`` begins a block with the single values of that record, ``<!-- measurements:
int8_latency latency -->`` a block with one of its tables; a block ends with ``<!-- end of measurements -->``. In a
sentence, ``<!-- measured: training_rate stage_to_bare -->0.92<!-- end -->`` holds one value.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from carkp.measurements.record import FOLDER, Record, RecordError, load_records
from carkp.measurements.tables import measurements_table, provenance, record_table, show_measurement
from carkp.project import project_root

COMMAND = "python -m carkp.measurements.pages"
PAGES = ("*.md", "docs/**/*.md")
"""Patterns of pages below the project's root."""

_START = re.compile(r"<!-- measurements: *(?P<record>\S+)(?: +(?P<table>\S+))? *-->")
_END = "<!-- end of measurements -->"
_VALUE = re.compile(r"(?P<marker><!-- measured: *(?P<record>\S+) +(?P<name>\S+) *-->)(?P<text>.*?)<!-- end -->")
_FENCE = re.compile(r"\s*(```|~~~)")


@dataclass(frozen=True)
class Use:
    """A marker on a page: its record, its part of the record, and its place.

    ``part``: name of a table or a measurement; "" for all single values of the record.
    """

    page: str
    line: int
    record: str
    part: str

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}: {' '.join(part for part in (self.record, self.part) if part)}"


@dataclass(frozen=True)
class Rendered:
    """A page with the figures of the records, its markers, and the markers whose figures differed."""

    text: str
    uses: Sequence[Use]
    stale: Sequence[Use]


def render_page(text: str, page: str, records: Mapping[str, Record]) -> Rendered:
    """Replace the figures of a page by those of the records; fenced code is not changed.

    Raises:
        RecordError: a marker names no existing record or part, or has no end.
    """
    lines, uses, stale = list[str](), list[Use](), list[Use]()
    is_code, rest = False, iter(enumerate(text.split("\n"), 1))
    for number, line in rest:
        if _FENCE.match(line):
            is_code = not is_code
        start = None if is_code else _START.fullmatch(line.strip())
        if start is not None:
            use = Use(page, number, start["record"], start["table"] or "")
            before, made = _old_block(rest, use), block(use, records)
            lines += [line, *made, _END]
            uses.append(use)
            if before != made:
                stale.append(use)
        elif not is_code and line.strip() == _END:
            raise RecordError(f"{page}, line {number}: {_END} without a beginning; remove it")
        elif not is_code and _VALUE.match(line.lstrip()):
            raise RecordError(
                f"{page}, line {number}: a line must not begin with a value, Markdown would end the "
                "paragraph there; put a word in front"
            )
        elif not is_code and _VALUE.search(line):
            lines.append(_with_values(line, page, number, records, uses, stale))
        else:
            lines.append(line)
    return Rendered("\n".join(lines), uses, stale)


def _old_block(rest: Iterator[tuple[int, str]], use: Use) -> list[str]:
    """Return the lines up to the end of a block."""
    found: list[str] = []
    for _, line in rest:
        if line.strip() == _END:
            return found
        if _START.fullmatch(line.strip()):
            break
        found.append(line)
    raise RecordError(f"{use}: the marker has no end; write {_END} after the table")


def _with_values(
    line: str, page: str, number: int, records: Mapping[str, Record], uses: list[Use], stale: list[Use]
) -> str:
    def value(found: re.Match[str]) -> str:
        use = Use(page, number, found["record"], found["name"])
        item = _find(use, records).measurement(use.part)
        if item is None:
            raise RecordError(f"{use}: the record has no measurement of that name; {_known(use, records)}")
        shown = show_measurement(item)
        uses.append(use)
        if shown != found["text"]:
            stale.append(use)
        return f"{found['marker']}{shown}<!-- end -->"

    return _VALUE.sub(value, line)


def block(use: Use, records: Mapping[str, Record]) -> list[str]:
    """Return the lines between the markers: a table and its provenance, with empty lines around each.

    Raises:
        RecordError: the record does not exist, or it has no such table.
    """
    record = _find(use, records)
    if not use.part:
        if not record.measurements:
            raise RecordError(f"{use}: the record has only tables; {_known(use, records)}")
        table = measurements_table(record.measurements)
    else:
        found = record.table(use.part)
        if found is None:
            raise RecordError(f"{use}: the record has no table of that name; {_known(use, records)}")
        table = record_table(found)
    return ["", *table.split("\n"), "", provenance(record), ""]


def _find(use: Use, records: Mapping[str, Record]) -> Record:
    if use.record not in records:
        path = FOLDER / f"{use.record}.yaml"
        raise RecordError(f"{use}: {path} does not exist; measure with --record, or remove the marker")
    return records[use.record]


def _known(use: Use, records: Mapping[str, Record]) -> str:
    record = records[use.record]
    tables = ", ".join(table.name for table in record.tables) or "none"
    values = ", ".join(item.name for item in record.measurements) or "none"
    return f"tables: {tables}; single values: {values}"


def page_paths(root: Path) -> list[Path]:
    """Return all pages of a project that may hold measurements."""
    return sorted(path for pattern in PAGES for path in root.glob(pattern))


def unused(records: Mapping[str, Record], uses: Sequence[Use]) -> list[str]:
    """Return the records that no page shows."""
    return sorted(set(records) - {use.record for use in uses})


def update(root: Path, is_check: bool) -> list[str]:
    """Write the pages whose figures differ from the records, or only check them; return the problems.

    Raises:
        RecordError: a record or a marker cannot be used.
    """
    records = load_records(root)
    texts = {path: path.read_text(encoding="utf-8") for path in page_paths(root)}
    found = {path: render_page(text, str(path.relative_to(root)), records) for path, text in texts.items()}
    stale = [use for page in found.values() for use in page.stale] if is_check else []
    for path, page in found.items():
        if not is_check and page.text != texts[path]:
            path.write_text(page.text, encoding="utf-8")
            print(f"written: {path.relative_to(root)}")  # noqa: T201
    uses = [use for page in found.values() for use in page.uses]
    problems = [f"{use}: the figures of the page differ from the record; run `{COMMAND}`" for use in stale]
    problems += [
        f"{FOLDER / name}.yaml: no page shows it; add a marker, or remove it" for name in unused(records, uses)
    ]
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write the measured figures of all pages.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a page differs")
    is_check = parser.parse_args(arguments).check
    try:
        problems = update(project_root(), is_check)
    except RecordError as error:
        problems = [str(error)]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)  # noqa: T201
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
