"""Records of what a program measures here: ``--record``, and what it was measured with."""

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
"""A path from the root on, as a word of its own or behind ``=`` or a comma; the group is its last part."""


@dataclass(frozen=True)
class Findings:
    """What a study found, for its record; ``packages``: further ones whose versions matter."""

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
    """As they were when this process first asked: a commit that is made meanwhile is not that of the running code."""
    commit, is_dirty = git_state()
    today, load = datetime.date.today(), psutil.getloadavg()[0]
    return Circumstances(without_folders(command_line()), commit, is_dirty, today, load)


def without_folders(command: str) -> str:
    """A command with absolute paths cut to their last part: where files lie on one machine helps nobody."""
    return _ABSOLUTE.sub(r"\1", command)


def parse_study(
    study: str,
    summary: str,
    parameters: Sequence[Parameter],
    flags: Mapping[str, str] = MappingProxyType({}),
    lists: Mapping[str, str] = MappingProxyType({}),
) -> Arguments:
    """``parse`` of a script of experiments/ that measures, with ``--record``.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    flags = {**flags, **RECORD}
    arguments = parse(study, summary, parameters, None, f"python experiments/{study}.py", flags, lists)
    begin_record(arguments)
    return arguments


def is_recorded(arguments: Arguments) -> bool:
    """Whether ``--record`` was given."""
    return not arguments.flags.isdisjoint(RECORD)


def begin_record(arguments: Arguments) -> None:
    """Note the circumstances before the work begins, where they are wanted."""
    if is_recorded(arguments):
        circumstances()


def write_record(arguments: Arguments, name: str, findings: Findings) -> None:
    """Write ``reports/measurements/<name>.yaml`` where ``--record`` was given; else do nothing."""
    if not is_recorded(arguments):
        return
    path = record_path(project_root(), name)
    save_record(make_record(name, findings), path)
    print(f"recorded: {path.relative_to(project_root())}; `python -m carkp.measurements.pages` puts it into the pages")  # noqa: T201


def make_record(name: str, findings: Findings) -> Record:
    """With what this process knows of its code and machine."""
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
    """An interval as a cell; without ends where they are not known, empty where nothing is."""
    if not math.isfinite(found.value):
        return None
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return found.value
    return Estimate(value=found.value, low=found.low, high=found.high)


def number_cell(value: float) -> float | None:
    """A number as a cell; empty where it is none."""
    return value if math.isfinite(value) else None
