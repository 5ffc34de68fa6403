"""Does every reader withstand any bytes?

Command:  python experiments/fuzz.py       (10 minutes a reader, six hours in all)
Asks:     the readers of tests/fuzz/readers.py, each under atheris in its own processes, starting from valid files,
          with changes that know the format. Counted are foreign errors (any but the project's own), crashes, inputs
          that take longer than 30 s, and processes that need more than 2 GiB beyond their first use. An input that
          led to a finding is kept in the folder. Needs atheris: `pip install "carkp[fuzz]"`.
Expect:   no finding; a million inputs or more in half an hour, most of them of small texts.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from carkp.measurements.record import Column, Goal, Measurement, Table
from carkp.project import project_root

STUDY = "fuzz"
GOALS = {"inputs": Goal(at_least=1_000_000), "findings": Goal(at_most=0)}
COLUMNS = (
    Column(name="reader", heading="reader"),
    Column(name="inputs", heading="inputs", format=",d"),
    Column(name="seconds", heading="seconds", format=".0f"),
    Column(name="slowest_ms", heading="slowest input, ms", format=".0f"),
    Column(name="added_mib", heading="memory added, MiB", format=".0f"),
    Column(name="findings", heading="findings", format="d"),
)
QUIET = {"OPENCV_FFMPEG_LOGLEVEL": "-8", "OPENCV_LOG_LEVEL": "OFF", "OMP_NUM_THREADS": "1"}


def outcomes(folder: Path, seconds: float, num_inputs: int, seed: int, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the outcome of each reader, as ``tests/fuzz/coverage_guided.py`` reports it."""
    root = project_root()
    words = [str(folder.resolve()), str(seconds), str(num_inputs), str(seed), *names]
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(root)}
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.coverage_guided", *words],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.wait():
        raise SystemExit(f"the runs ended with {process.returncode}: {folder / 'log.txt'} says why")


def row_of(outcome: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the table."""
    return {
        "reader": outcome["reader"],
        "inputs": outcome["num_inputs"],
        "seconds": outcome["seconds"],
        "slowest_ms": outcome["slowest_ms"],
        "added_mib": outcome["added_mib"],
        "findings": len(outcome["findings"]),
    }


def measurements(rows: list[dict[str, Any]]) -> list[Measurement]:
    """Return the measurements for ``--record``."""
    totals = {"inputs": "inputs of all readers", "findings": "foreign errors, crashes, hangs and memory without end"}
    found = [
        Measurement(name=name, quantity=text, value=sum(row[name] for row in rows), goal=GOALS[name], format=",d")
        for name, text in totals.items()
    ]
    most = max(row["added_mib"] for row in rows)
    return [
        *found,
        Measurement(name="added_mib", quantity="most memory that a reader added, MiB", value=most, format=".0f"),
    ]


def main() -> int:
    from carkp.tracking.tracker import Tracker
    from carkp.workflow.cli import Parameter, execute
    from carkp.workflow.recording import Findings, parse_study, write_record

    parameters = [
        Parameter("seconds", "600", "of each reader"),
        Parameter("inputs", "0", "of each reader at most; 0: any number"),
        Parameter("seed", "1", "of the changes"),
        Parameter("findings", "runs/fuzz", "folder for what leads to an error"),
    ]
    arguments = parse_study(STUDY, str(__doc__), parameters, lists={"readers": "names; none: all"})
    values = arguments.values
    folder = Path(values["findings"])
    folder.mkdir(parents=True, exist_ok=True)

    def work(tracker: Tracker, _: Path) -> None:
        rows = []
        limits = float(values["seconds"]), int(values["inputs"]), int(values["seed"])
        for outcome in outcomes(folder, *limits, list(arguments.lists["readers"])):
            rows.append(row_of(outcome))
            print(f"{outcome['reader']}: {outcome['num_inputs']:,} inputs in {outcome['seconds']:.0f} s", flush=True)
            for place, name in outcome["findings"].items():
                print(f"  {place}: {folder / name}", flush=True)
        found = measurements(rows)
        tracker.log_metrics({item.name: float(item.values[0]) for item in found})
        table = Table(name="readers", columns=list(COLUMNS), rows=rows)
        write_record(arguments, STUDY, Findings(found, [table], packages=["atheris", "hypothesis"]))

    execute(STUDY, arguments.config, work)
    return 0


if __name__ == "__main__":
    from carkp.workflow.cli import guarded

    sys.exit(guarded(main))
