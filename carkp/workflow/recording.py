"""Records of measurements on this machine (``--record``), with the conditions of the measurement."""

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

import psutil
import torch

from carkp.cores import num_usable_cores
from carkp.deploy.cpu import cpu_features
from carkp.entry_points import RECORD
from carkp.keypoints.paired import Interval
from carkp.measurements.record import Cell, Estimate, Measurement, Record, Table, record_path, save_record
from carkp.project import project_root
from carkp.tracking.tracker import command_line, git_state, package_versions
from carkp.workflow.cli import Arguments, Parameter, parse

_ABSOLUTE = re.compile(r"(?<![^\s,='\"])/(?:[^\s/,='\"]+/)*([^\s/,='\"]+)/?(?=$|[\s,='\"])")
"""An absolute path, as a word of its own or after ``=`` or a comma; the group is its last part."""


@dataclass(frozen=True)
class Findings:
    """Findings of a study for its record; ``packages``: further packages whose versions matter."""

    measurements: Sequence[Measurement] = ()
    tables: Sequence[Table] = ()
    packages: Sequence[str] = ()
    note: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Circumstances:
    """Code and day of a measurement, and the load average of the minute before it."""

    command: str
    commit: str
    is_dirty: bool
    date: datetime.date
    load_average: float


@cache
def circumstances() -> Circumstances:
    """Return the circumstances at the first call in this process: a later commit is not that of the running code."""
    commit, is_dirty = git_state()
    today, load = datetime.date.today(), psutil.getloadavg()[0]
    return Circumstances(without_folders(command_line()), commit, is_dirty, today, load)


def without_folders(command: str) -> str:
    """Cut absolute paths in a command to their last part; folders of one machine help no reader."""
    return _ABSOLUTE.sub(r"\1", command)


def parse_study(
    study: str,
    summary: str,
    parameters: Sequence[Parameter],
    flags: Mapping[str, str] = MappingProxyType({}),
    lists: Mapping[str, str] = MappingProxyType({}),
) -> Arguments:
    """Parse the arguments of a script of experiments/ that measures, with ``--record``.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    flags = {**flags, **RECORD}
    arguments = parse(study, summary, parameters, None, f"python experiments/{study}.py", flags, lists)
    begin_record(arguments)
    return arguments


def is_recorded(arguments: Arguments) -> bool:
    """Return whether ``--record`` was given."""
    return not arguments.flags.isdisjoint(RECORD)


def begin_record(arguments: Arguments) -> None:
    """Note the circumstances before the work begins, if ``--record`` was given."""
    if is_recorded(arguments):
        circumstances()


def write_record(arguments: Arguments, name: str, findings: Findings) -> None:
    """Write ``reports/measurements/<name>.yaml`` if ``--record`` was given; else do nothing."""
    if not is_recorded(arguments):
        return
    path = record_path(project_root(), name)
    save_record(make_record(name, findings), path)
    print(f"recorded: {path.relative_to(project_root())}; `python -m carkp.measurements.pages` puts it into the pages")  # noqa: T201


def make_record(name: str, findings: Findings) -> Record:
    """Build a record with the code and machine of this process."""
    found, cpu = circumstances(), cpu_features()
    return Record(
        name=name,
        origin="recorded",
        command=found.command,
        commit=found.commit,
        is_dirty=found.is_dirty,
        cpu=cpu.model,
        cpu_int8=list(cpu.int8_flags),
        cores=num_usable_cores(),
        load_average=found.load_average,
        accelerator=torch.cuda.get_device_name(0) if torch.cuda.is_available() else "",
        versions=package_versions(findings.packages),
        date=found.date,
        note=findings.note,
        measurements=list(findings.measurements),
        tables=list(findings.tables),
        details=dict(findings.details),
    )


def interval_cell(found: Interval) -> Cell:
    """Return an interval as a cell: only the value if its ends are unknown, None if the value is unknown."""
    if not math.isfinite(found.value):
        return None
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return found.value
    return Estimate(value=found.value, low=found.low, high=found.high)


def number_cell(value: float) -> float | None:
    """Return a number as a cell; None if it is not finite."""
    return value if math.isfinite(value) else None
