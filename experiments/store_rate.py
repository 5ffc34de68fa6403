"""Does a store that is twenty times as large read as fast as a small one, in as little memory?

Command:  python experiments/store_rate.py       (some minutes and 25 GB of disk; `--copies 2 --crops 2000` for a look)
Asks:     megabytes a second of opening a store and comparing its content with its digest, and crops a second at random
          positions, of a store as large as CarFusion's and of one that is `copies` times as large, in interleaved
          rounds. Each reading runs in its own process, whose memory is measured at the end. The crops are generated.
Expect:   digest >= 500 MB/s; random reads of the large store within 10 % of the small one's; memory <= 1.2 times.
          Both stores fit into the system's page cache here; a store that does not fit is read at the disk's own rate.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from carkp.data.store import LmdbStore, Record, StoreWriter
from carkp.keypoints.schema import NUM_KEYPOINTS
from carkp.measurements.record import Goal, Measurement

# Other modules are imported in main(): the reading processes import this module, too.

STUDY = "store_rate"
NUM_PICTURES = 64
"""Number of different pictures; reading does not decode them."""

CROP_SIZE = (220, 300)
GOALS = {
    "digest_mb_per_s": Goal(at_least=500),
    "reads_large_to_small": Goal(at_least=0.9),
    "memory_large_to_small": Goal(at_most=1.2),
}
QUANTITIES = {
    "bytes_per_crop": ("store, for each crop", "bytes", ".0f"),
    "small_gib": ("small store, as many crops as CarFusion's", "GiB", ".2f"),
    "large_gib": ("large store", "GiB", ".2f"),
    "digest_mb_per_s": ("open and compare with the digest, large store", "MB/s", ".0f"),
    "small_reads_per_s": ("crops read at random places, small store", "crops/s", ".0f"),
    "large_reads_per_s": ("the same, large store", "crops/s", ".0f"),
    "reads_large_to_small": ("large / small", "", ".2f"),
    "small_memory_mib": ("memory of the reading process but for what is mapped from files, small store", "MiB", ".0f"),
    "large_memory_mib": ("the same, large store", "MiB", ".0f"),
    "memory_large_to_small": ("large / small", "", ".2f"),
}


@dataclass(frozen=True)
class Reading:
    """Result of one process: crops per second, and MiB of memory that is not mapped from files."""

    reads_per_s: float
    memory_mib: float


def made_up_crops(num_crops: int) -> Iterator[Record]:
    """Yield records with JPEGs of a usual size."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(NUM_PICTURES):
        coarse = rng.integers(0, 256, (27, 37, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, CROP_SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        pictures.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    points = np.zeros((NUM_KEYPOINTS, 2), np.float32)
    validity = np.full(NUM_KEYPOINTS, 2, np.uint8)
    for number in range(num_crops):
        yield Record(
            f"train/car_a/1_{number:08d}_0", "car_a", pictures[number % NUM_PICTURES], points, validity, CROP_SIZE, 0
        )


def write_store(path: Path, num_crops: int) -> float:
    """Write a store of generated crops; return its size in bytes."""
    with StoreWriter(path) as writer:
        for record in tqdm(made_up_crops(num_crops), f"write {path.name}", num_crops, unit="crop"):
            writer.add(record)
    return float((path / "data.mdb").stat().st_size)


def verify_seconds(path: Path) -> float:
    """Return the seconds for opening a store and reading all of it, in a process that has not read it before."""
    start = time.perf_counter()
    LmdbStore(path).verify()
    return time.perf_counter() - start


def read_at_random(path: Path, num_reads: int, seed: int) -> Reading:
    """Read crops of a store at random positions."""
    store = LmdbStore(path)
    places = np.random.default_rng(seed).integers(0, len(store), num_reads).tolist()
    start = time.perf_counter()
    for place in places:
        store[place]
    seconds = time.perf_counter() - start
    return Reading(num_reads / seconds, own_memory_mib())


def own_memory_mib() -> float:
    """Return this process's memory that is not mapped from files, if the system reports it; else its peak memory."""
    status = Path("/proc/self/smaps_rollup")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines()[1:])
        return float(lines["Anonymous"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path, num_crops: int, copies: int, num_reads: int, num_rounds: int) -> dict[str, float]:
    """Measure the values of ``QUANTITIES``: medians over the rounds, and the peaks of memory."""
    small, large = folder / "small", folder / "large"
    small_bytes, large_bytes = write_store(small, num_crops), write_store(large, num_crops * copies)
    digests, smalls, larges = [], [], []
    context = multiprocessing.get_context("spawn")
    for seed in tqdm(range(num_rounds), "rounds"):
        with context.Pool(1, maxtasksperchild=1) as pool:
            digests.append(large_bytes / 1e6 / pool.apply(verify_seconds, (large,)))
            smalls.append(pool.apply(read_at_random, (small, num_reads, seed)))
            larges.append(pool.apply(read_at_random, (large, num_reads, seed)))
    ratios = [large.reads_per_s / small.reads_per_s for small, large in zip(smalls, larges, strict=True)]
    found = {
        "bytes_per_crop": large_bytes / (num_crops * copies),
        "small_gib": small_bytes / 2**30,
        "large_gib": large_bytes / 2**30,
        "digest_mb_per_s": np.median(digests),
        "small_reads_per_s": np.median([reading.reads_per_s for reading in smalls]),
        "large_reads_per_s": np.median([reading.reads_per_s for reading in larges]),
        "reads_large_to_small": np.median(ratios),
        "small_memory_mib": max(reading.memory_mib for reading in smalls),
        "large_memory_mib": max(reading.memory_mib for reading in larges),
    }
    found["memory_large_to_small"] = found["large_memory_mib"] / found["small_memory_mib"]
    return {name: float(value) for name, value in found.items()}


def measurements(found: Mapping[str, float]) -> list[Measurement]:
    """Return the measurements for ``--record``."""
    return [
        Measurement(name=name, quantity=title, value=found[name], unit=unit, goal=GOALS.get(name), format=style)
        for name, (title, unit, style) in QUANTITIES.items()
    ]


def main() -> int:
    from rich.console import Console
    from rich.table import Table

    from carkp.tracking.tracker import Tracker
    from carkp.workflow.cli import Parameter, execute
    from carkp.workflow.recording import Findings, parse_study, write_record

    parameters = [
        Parameter("crops", "40000", "crops of the small store"),
        Parameter("copies", "20", "how many times as many the large one has"),
        Parameter("reads", "50000", "crops read in a round"),
        Parameter("rounds", "5", "interleaved rounds"),
        Parameter("folder", "", "where the stores are made for the time of the study; empty: the system's place"),
    ]
    arguments = parse_study(STUDY, str(__doc__), parameters)
    num_crops, copies, num_reads, num_rounds = (
        int(arguments.values[name]) for name in ("crops", "copies", "reads", "rounds")
    )

    def work(tracker: Tracker, out_dir: Path) -> None:
        with tempfile.TemporaryDirectory(dir=arguments.values["folder"] or None) as folder:
            found = measure(Path(folder), num_crops, copies, num_reads, num_rounds)
        tracker.log_metrics(found)
        table = Table("quantity", "value", "unit", "wanted", title="Store rate")
        for name, (title, unit, style) in QUANTITIES.items():
            table.add_row(title, format(found[name], style), unit, str(GOALS.get(name, "")))
        Console().print(table)
        write_record(arguments, STUDY, Findings(measurements(found)))

    execute(STUDY, arguments.config, work)
    return 0


if __name__ == "__main__":
    from carkp.workflow.cli import guarded

    sys.exit(guarded(main))
