"""What do 100 and 10,000 times CarFusion cost, by the rates measured on one machine?

Command:  python experiments/scaling.py          (a minute; before it packing_rate, store_rate, training_rate --record)
Asks:     hours of one machine, and the number of such machines that finish in a day, for drawing as many cars, packing
          as many frames, comparing stores with their digests, and one epoch of training. The rate of drawing is
          measured here; the others are read from the records of their studies. CarFusion is taken as 33,000 frames of
          32 GB with 100,000 crops.
Expect:   nothing: these are products. They hold for machines like the measured one.
"""

import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table as Shown

from carkp.config.loading import ConfigError
from carkp.cores import num_usable_cores
from carkp.measurements.record import Cell, Column, Measurement, RecordError, Table, load_record, record_path
from carkp.project import project_root
from carkp.synthetic.generate import SyntheticSpec, compile_kernels, generate
from carkp.tracking.tracker import Tracker
from carkp.workflow.cli import Parameter, execute, guarded
from carkp.workflow.preparation import synthetic_spec
from carkp.workflow.recording import Findings, parse_study, write_record

STUDY = "scaling"
TIMES = (1, 100, 10_000)
NUM_FRAMES, RAW_GB, NUM_CROPS = 33_000, 32, 100_000
TITLES = {
    "drawn_per_s": ("cars drawn", "cars/s"),
    "packed_per_s": ("raw frames packed", "frames/s"),
    "trained_per_s": ("training", "samples/s"),
    "checked_mb_per_s": ("store compared with its digest", "MB/s"),
    "bytes_per_crop": ("store, for each crop", "bytes"),
}
HOUR_S, DAY_S = 3600, 24 * 3600


@dataclass(frozen=True)
class Rates:
    """Rates of one machine per second, and bytes of a store per crop; see ``TITLES``."""

    drawn_per_s: float
    packed_per_s: float
    trained_per_s: float
    checked_mb_per_s: float
    bytes_per_crop: float


def drawing_rate(spec: SyntheticSpec, num_workers: int) -> float:
    """Return the cars drawn per second; the kernels are compiled before."""
    compile_kernels()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        generate(Path(folder) / "set", spec, num_workers, show_progress=False)
        return (spec.num_train_cars + spec.num_val_cars + spec.num_test_cars) / (time.perf_counter() - start)


def recorded(study: str, name: str) -> float:
    """Return a single value of a study's record.

    Raises:
        ConfigError: the study has not been recorded, or has no such value.
    """
    try:
        found = load_record(record_path(project_root(), study)).measurement(name)
    except RecordError as error:
        raise ConfigError(str(error)) from error
    if found is None or isinstance(found.value, list):
        raise ConfigError(f"{study} has no value {name}: python experiments/{study}.py --record writes it")
    return float(found.value)


def costs(rates: Rates) -> Table:
    """Return a table with rows for data sizes and work, and a column for each multiple of CarFusion."""
    seconds = {
        "draw as many cars": NUM_CROPS / rates.drawn_per_s,
        "pack the frames": NUM_FRAMES / rates.packed_per_s,
        "compare the stores with their digests": NUM_CROPS * rates.bytes_per_crop / 1e6 / rates.checked_mb_per_s,
        "train for an epoch": NUM_CROPS / rates.trained_per_s,
    }
    sizes = {
        "raw frames, TB": RAW_GB / 1000,
        "crops, millions": NUM_CROPS / 1e6,
        "stores, TB": NUM_CROPS * rates.bytes_per_crop / 1e12,
    }
    rows = [_row(what, value) for what, value in sizes.items()]
    for what, of_one in seconds.items():
        rows.append(_row(f"{what}, hours of one machine", of_one / HOUR_S))
        rows.append(_row(f"{what}, machines for a day", of_one / DAY_S))
    columns = [Column(name=f"times_{times}", heading=f"CarFusion x {times:,}", format=",.3g") for times in TIMES]
    return Table(name="costs", columns=[Column(name="what", heading=""), *columns], rows=rows)


def _row(what: str, of_one: float) -> dict[str, Cell]:
    return {"what": what, **{f"times_{times}": of_one * times for times in TIMES}}


def main() -> int:
    arguments = parse_study(STUDY, str(__doc__), [Parameter("cars", "480", "cars to draw")])
    num_cars = int(arguments.values["cars"])

    def work(tracker: Tracker, out_dir: Path) -> None:
        del out_dir
        spec = synthetic_spec(arguments.config)
        spec = replace(spec, num_train_cars=num_cars, num_val_cars=0, num_test_cars=0)
        rates = Rates(
            drawn_per_s=drawing_rate(spec, num_usable_cores()),
            packed_per_s=recorded("packing_rate", "packing_frames_per_s"),
            trained_per_s=recorded("training_rate", "rate_stage"),
            checked_mb_per_s=recorded("store_rate", "digest_disk_mb_per_s"),
            bytes_per_crop=recorded("store_rate", "bytes_per_crop"),
        )
        tracker.log_metrics(asdict(rates))
        table = costs(rates)
        shown = Shown(*(column.heading for column in table.columns), title="Costs")
        for row in table.rows:
            shown.add_row(str(row["what"]), *(f"{row[column.name]:{column.format}}" for column in table.columns[1:]))
        Console().print(shown)
        found = [
            Measurement(name=name, quantity=TITLES[name][0], value=value, unit=TITLES[name][1], format=".3g")
            for name, value in asdict(rates).items()
        ]
        write_record(arguments, STUDY, Findings(found, [table]))

    execute(STUDY, arguments.config, work)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
