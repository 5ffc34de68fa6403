"""Do the stages need more memory for a large store than for a small one?

Command:  python experiments/stage_memory.py --config configs/tiny.yaml          (four minutes and 12 GB of disk)
          … --crops 2000 --copies 2                                               (for a look)
Asks:     peak memory of float, calibration, qat, export and align, with a store of 40,000 training crops and with one
          of `copies` times as many. Both repeat the crops of the configuration; each stage trains on 64 samples.
          Memory that is mapped from files does not count: it is the system's page cache.
Expect:   large / small <= 1.2 in every stage.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table as Shown
from tqdm import tqdm

from carkp.config.loading import ConfigError
from carkp.data.store import LmdbStore, Store, StoreWriter
from carkp.measurements.record import Goal, Measurement
from carkp.tracking.tracker import Tracker
from carkp.workflow import preparation
from carkp.workflow.cli import Parameter, execute, guarded
from carkp.workflow.recording import Findings, parse_study, write_record

STUDY = "stage_memory"
STAGES = ("float", "calibration", "qat", "export", "align")
WITHOUT_DATA = ("export",)
SAMPLES = ("train.num_samples=64", "quant.num_images=64")
PAUSE_S = 0.1
GOAL = Goal(at_most=1.2)
OWN_RUN = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")


def repeated(source: Store, path: Path, num_crops: int) -> None:
    """Write a store of ``num_crops`` samples, which repeats the samples of ``source``."""
    records = [source[index] for index in range(len(source))]
    with StoreWriter(path) as writer:
        for number in tqdm(range(num_crops), f"write {path.parent.name}/{path.name}", unit="crop"):
            writer.add(records[number % len(records)])


def own_memory_mib(process: psutil.Process) -> float:
    """Return the memory of a process and its children that is not mapped from files, as Linux reports it."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        with suppress(OSError):
            lines = Path(f"/proc/{member.pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
    return total / 1024


def peak_mib(stage: str, words: Sequence[str]) -> float:
    """Return the peak memory of a stage in a separate process.

    Raises:
        ConfigError: the stage failed.
    """
    environment = {name: value for name, value in os.environ.items() if name not in OWN_RUN}
    peak = 0.0
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", f"carkp.stages.{stage}", *words]
        with subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT) as started:
            process = psutil.Process(started.pid)
            while started.poll() is None:
                with suppress(psutil.NoSuchProcess):
                    peak = max(peak, own_memory_mib(process))
                time.sleep(PAUSE_S)
        log.seek(0)
        if started.returncode != 0:
            raise ConfigError(f"{stage} ended with status {started.returncode}:\n{log.read()[-2000:]}")
    return peak


def measure(words: Sequence[str], source: Path, folder: Path, sizes: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Return peak memory in MiB by size of the store, by stage."""
    found: dict[str, dict[str, float]] = {}
    for size, num_crops in sizes.items():
        data = folder / size
        repeated(LmdbStore(source / "train_lmdb"), data / "train_lmdb", num_crops)
        for name in ("val_lmdb", "test_lmdb"):
            store = LmdbStore(source / name)
            repeated(store, data / name, len(store))
        common = [*words, *(f"--set={setting}" for setting in (f"name=memory-{size}", *SAMPLES))]
        found[size] = {
            stage: peak_mib(stage, common if stage in WITHOUT_DATA else [*common, "--data", str(data)])
            for stage in tqdm(STAGES, f"{size} store", unit="stage")
        }
    return found


def measurements(found: Mapping[str, Mapping[str, float]]) -> list[Measurement]:
    """Return the measurements for ``--record``."""
    small, large = found["small"], found["large"]
    rows = [
        Measurement(
            name=f"{stage}_mib",
            quantity=f"peak memory of {stage}, large store",
            value=large[stage],
            unit="MiB",
            format=".0f",
        )
        for stage in STAGES
    ]
    ratios = [
        Measurement(
            name=f"{stage}_ratio",
            quantity=f"{stage}, large / small",
            value=large[stage] / small[stage],
            goal=GOAL,
            format=".2f",
        )
        for stage in STAGES
    ]
    return [*rows, *ratios]


def main() -> int:
    parameters = [
        Parameter("crops", "40000", "training crops of the small store"),
        Parameter("copies", "20", "how many times as many the large one has"),
        Parameter("folder", "", "where the stores are made for the time of the study; empty: the system's place"),
    ]
    arguments = parse_study(STUDY, str(__doc__), parameters)
    num_crops, copies = int(arguments.values["crops"]), int(arguments.values["copies"])

    def work(tracker: Tracker, out_dir: Path) -> None:
        source = preparation.run(arguments.config, out_dir, tracker).prepared.directory
        with tempfile.TemporaryDirectory(dir=arguments.values["folder"] or None) as folder:
            sizes = {"small": num_crops, "large": num_crops * copies}
            found = measurements(measure(arguments.config_words, source, Path(folder), sizes))
        tracker.log_metrics({item.name: item.value for item in found if isinstance(item.value, float)})
        table = Shown("quantity", "value", "wanted", title="Memory of the stages")
        for item in found:
            table.add_row(item.quantity, f"{item.value:{item.format}} {item.unit}", str(item.goal or ""))
        Console().print(table)
        write_record(arguments, STUDY, Findings(found))

    execute(STUDY, arguments.config, work)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
