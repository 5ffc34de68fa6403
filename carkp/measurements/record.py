"""A record of a study: results, conditions, date and goals; read from YAML and written as YAML."""

import math
from collections.abc import Iterable, Sequence
from datetime import date as Date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, ValidationError, model_validator

from carkp import disk
from carkp.config.yaml_files import YamlError, read_yaml

FOLDER = Path("reports", "measurements")
"""Folder of all records, below the project's root."""

SIGNIFICANT_DIGITS = 6
_NAME = r"^[A-Za-z0-9_@.,+-]+$"
_HOW_TO_MEND = "correct the entry, or write the file again with --record"


class RecordError(Exception):
    """A record that cannot be read or used; the message names the file, the entry, and what to do."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Finite = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Number = StrictInt | Finite
Name = Annotated[str, Field(pattern=_NAME)]


class Goal(_Model):
    """Goal for a value; if there are several limits, all must hold."""

    at_least: Number | None = None
    at_most: Number | None = None
    above: Number | None = None
    below: Number | None = None

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("a goal needs one of at_least, at_most, above, below")
        return self

    def holds(self, value: float) -> bool:
        """Return whether the value meets the goal."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """Return the goal in words: ``at least 0.67, at most 1.5``."""
        return ", ".join(f"{name.replace('_', ' ')} {limit:.4g}" for name, limit in self if limit is not None)


class Estimate(_Model):
    """A value with the ends of its 95 % interval."""

    value: Number
    low: Number
    high: Number

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"the interval ends at {self.high:g} before it begins at {self.low:g}")
        return self


class Measurement(_Model):
    """One quantity.

    Attributes:
        name: name for programs and pages, unique in the record.
        quantity: description in words.
        value: a number, or one number for each item that the quantity lists.
        unit: unit; "" for ratios and counts.
        goal: goal, which holds for every value.
        low, high: ends of the 95 % interval of a single value.
        format: format of the value, as a Python format specification.
    """

    name: Name
    quantity: str
    value: Number | list[Number]
    unit: str = ""
    goal: Goal | None = None
    low: Number | None = None
    high: Number | None = None
    format: str = ".2f"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high go together")
        if self.low is not None and self.high is not None:
            if isinstance(self.value, list):
                raise ValueError("only a single value has an interval")
            Estimate(value=self.value, low=self.low, high=self.high)
        _check_format(self.format, self.values)
        return self

    @property
    def values(self) -> list[Number]:
        """The values as a list."""
        return self.value if isinstance(self.value, list) else [self.value]

    @property
    def is_met(self) -> bool:
        """Whether all values meet the goal."""
        return self.goal is None or all(self.goal.holds(value) for value in self.values)


Cell = StrictStr | StrictInt | Finite | Estimate | None


class Column(_Model):
    """A column of a table: its key in the rows, its heading on a page, and the format of its numbers."""

    name: Name
    heading: str
    format: str = ""


class Table(_Model):
    """A table; each row maps the names of columns to cells, and a missing cell is empty."""

    name: Name
    columns: Annotated[list[Column], Field(min_length=1)]
    rows: list[dict[str, Cell]]

    @model_validator(mode="after")
    def _cells_fit(self) -> Self:
        formats = {column.name: column.format for column in self.columns}
        if len(formats) < len(self.columns):
            raise ValueError(f"table {self.name}: two columns have the same name")
        for number, row in enumerate(self.rows):
            if unknown := sorted(set(row) - set(formats)):
                raise ValueError(f"table {self.name}, row {number}: no column is called {', '.join(unknown)}")
            for name, cell in row.items():
                number_of = cell.value if isinstance(cell, Estimate) else cell
                if isinstance(number_of, int | float):
                    _check_format(formats[name], [number_of])
        return self


class Stated(_Model):
    """Source of figures that were copied from a page: the commit that added them, and its date."""

    commit: str
    date: Date


class Record(_Model):
    """Results of a study and the conditions of the measurement.

    Attributes:
        name: name of the record and of its file.
        origin: ``recorded`` by the program that measured, or ``transcribed`` by hand from a page or a run.
        command: command that repeats the measurement.
        commit: commit of the code; ``is_dirty``: whether there were uncommitted changes.
        cpu, cpu_int8: name of the CPU, and its instruction sets for int8.
        cores: number of cores that could be used.
        load_average: number of processes that wanted a core in the minute before. Times beside other work are less
            reliable.
        accelerator: name of the accelerator, "" without one.
        versions: versions of Python and the important packages.
        date: date of the measurement.
        stated: source of a transcribed record.
        note: a sentence with anything else that a reader must know.
        measurements, tables: the results.
        details: plain data that no page shows, such as data that a study needs to continue.
    """

    name: Name
    origin: Literal["recorded", "transcribed"]
    command: str = ""
    commit: str = ""
    is_dirty: bool = False
    cpu: str = ""
    cpu_int8: list[str] = []
    cores: int | None = None
    load_average: Number | None = None
    accelerator: str = ""
    versions: dict[str, str] = {}
    date: Date | None = None
    stated: Stated | None = None
    note: str = ""
    measurements: list[Measurement] = []
    tables: list[Table] = []
    details: dict[str, Any] = {}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        required = {"command": self.command, "commit": self.commit, "cpu": self.cpu, "date": self.date}
        missing = [name for name, value in required.items() if not value]
        if self.origin == "recorded" and missing:
            raise ValueError(f"a record of a program needs {', '.join(missing)}; is it transcribed?")
        _check_unique([*(item.name for item in self.measurements)], "measurements")
        _check_unique([*(item.name for item in self.tables)], "tables")
        if not self.measurements and not self.tables:
            raise ValueError("it holds neither measurements nor tables")
        return self

    def table(self, name: str) -> Table | None:
        """Return the table with this name, or None."""
        return next((table for table in self.tables if table.name == name), None)

    def measurement(self, name: str) -> Measurement | None:
        """Return the measurement with this name, or None."""
        return next((item for item in self.measurements if item.name == name), None)


def _check_unique(names: Sequence[str], what: str) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{what}: given twice: {', '.join(twice)}")


def _check_format(spec: str, values: Iterable[float]) -> None:
    for value in values:
        try:
            format(value, spec)
        except ValueError as error:
            raise ValueError(f"format {spec!r} does not fit {value!r}: {error}") from error


def record_path(root: Path, name: str) -> Path:
    """Return the path of a record in a project."""
    return root / FOLDER / f"{name}.yaml"


def load_record(path: Path) -> Record:
    """Read a record.

    Raises:
        RecordError: the file does not exist, is not YAML, or is not a record.
    """
    try:
        data = read_yaml(path)
    except OSError as error:
        raise RecordError(f"{path}: no such record ({error.strerror}); write it with --record") from error
    except YamlError as error:
        raise RecordError(f"{path}: {error}") from error
    if not isinstance(data, dict):
        raise RecordError(
            f"{path}: expected a record, found a {type(data).__name__}; write the file again with --record"
        )
    try:
        record = Record.model_validate(data)
    except ValidationError as error:
        raise RecordError(f"{path}: {_describe(error)}; {_HOW_TO_MEND}") from error
    if record.name != path.stem:
        raise RecordError(f"{path}: name is {record.name!r}; a record has the name of its file")
    return record


def load_records(root: Path) -> dict[str, Record]:
    """Return all records of a project by name.

    Raises:
        RecordError: a record cannot be read.
    """
    return {path.stem: load_record(path) for path in sorted((root / FOLDER).glob("*.yaml"))}


def save_record(record: Record, path: Path) -> None:
    """Write a record; floats have six significant digits."""
    plain = record.model_dump(mode="python", exclude_defaults=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(_rounded(plain), sort_keys=False, allow_unicode=True, width=120)
    disk.write_atomic(path, text.encode())


def _rounded(value: Any) -> Any:
    """Round floats in nested plain data to few digits; whole floats stay floats."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return value


def _describe(error: ValidationError) -> str:
    """Return the first problem with its place: ``measurements[2].goal: …``."""
    first = error.errors()[0]
    where = ""
    for part in first["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
