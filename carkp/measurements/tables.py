"""A record as Markdown: its tables, and the line below them about the source of the figures."""

from collections.abc import Sequence

from carkp.measurements.record import Cell, Column, Estimate, Measurement, Number, Record, Table

SHORT_COMMIT = 7
BUSY_SHARE = 0.5
"""Load average per core above which a machine was busy."""

_PERCENT = " %"


def measurements_table(items: Sequence[Measurement]) -> str:
    """Return a table with a line for each quantity: its description, its result and its goal."""
    rows = [[_escaped(item.quantity), _result(item), _wanted(item)] for item in items]
    has_goal = any(item.goal for item in items)
    headings = ["quantity", "result", "wanted"] if has_goal else ["quantity", "result"]
    return markdown_table(headings, [row[: len(headings)] for row in rows])


def record_table(table: Table) -> str:
    """Return a table of a record."""
    rows = [[_cell(row.get(column.name), column) for column in table.columns] for row in table.rows]
    return markdown_table([_escaped(column.heading) for column in table.columns], rows)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Build a table of cells that are already Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def show_measurement(item: Measurement) -> str:
    """Format the value for a sentence, with its unit, without its interval: ``0.92``, ``13.3 min``."""
    text = "; ".join(show_number(value, item.format) for value in item.values)
    return f"{text} {item.unit}".rstrip()


def show_number(value: Number, spec: str) -> str:
    """Format a number; without ``spec``, integers get commas and floats four digits."""
    spec = spec or ("," if isinstance(value, int) else ".4g")
    text = format(value, spec)
    if not text.strip("+-0.,%"):  # show no negative zero
        text = format(abs(value), spec)
    return text.replace("%", _PERCENT)


def provenance(record: Record) -> str:
    """Return a line in small print: command, date, machine and code of a measurement, or the source of its figures."""
    how = f" by `{record.command}`" if record.command else ""
    when = f" on {record.date}" if record.date is not None else ""
    dirty = " with uncommitted changes" if record.is_dirty else ""
    parts = [
        f"Measured{how}{when}" if how or when else "",
        f"on {machine}" if (machine := _machine(record)) else "",
        f"commit `{record.commit[:SHORT_COMMIT]}`{dirty}" if record.commit else "",
    ]
    sentences = [", ".join(part for part in parts if part), _transcribed(record), record.note.removesuffix(".")]
    return f"<sub>{'. '.join(sentence for sentence in sentences if sentence)}.</sub>"


def _transcribed(record: Record) -> str:
    if record.origin == "recorded":
        return ""
    stated = record.stated
    where = f" as stated in commit `{stated.commit[:SHORT_COMMIT]}` of {stated.date}" if stated is not None else ""
    return f"Transcribed{where}, not written by `--record`"


def _machine(record: Record) -> str:
    flags = f" ({' '.join(record.cpu_int8)})" if record.cpu_int8 else ""
    cores = "" if record.cores is None else f", {record.cores} core{'' if record.cores == 1 else 's'}"
    parts = [f"{record.cpu}{flags}{cores}" if record.cpu else "", record.accelerator]
    machine = " and ".join(part for part in parts if part)
    return f"{machine}, beside other work (load average {record.load_average:.0f})" if _is_busy(record) else machine


def _is_busy(record: Record) -> bool:
    """Return whether other programs used the machine when the measurement began."""
    return record.load_average is not None and record.load_average > BUSY_SHARE * (record.cores or 1)


def _result(item: Measurement) -> str:
    if item.low is None or item.high is None:
        return show_measurement(item)
    found = _estimate(item.value, item.low, item.high, item.format)  # type: ignore[arg-type]
    return f"{found} {item.unit}".rstrip()


def _wanted(item: Measurement) -> str:
    if item.goal is None:
        return ""
    return str(item.goal) if item.is_met else f"{item.goal}: **missed**"


def _cell(cell: Cell, column: Column) -> str:
    match cell:
        case None:
            return ""
        case str():
            return _escaped(cell)
        case Estimate():
            return _estimate(cell.value, cell.low, cell.high, column.format)
        case _:
            return show_number(cell, column.format)


def _estimate(value: Number, low: Number, high: Number, spec: str) -> str:
    """Format a value with its interval: ``0.871 (0.819 to 0.919)``, ``99.9 % (99.7 to 100.1)``."""
    ends = " to ".join(show_number(end, spec).removesuffix(_PERCENT) for end in (low, high))
    return f"{show_number(value, spec)} ({ends})"


def _escaped(text: str) -> str:
    """Escape what would end a cell; the text may hold other Markdown."""
    return text.replace("|", "\\|").replace("\n", " ")
