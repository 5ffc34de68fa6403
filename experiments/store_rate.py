"""Does a store that is twenty times as large read as fast as a small one, in as little memory?

Command:  python experiments/store_rate.py       (ten minutes and 18 GB of disk; `--copies 2 --crops 2000` for a look)
Asks:     megabytes a second of opening a store and comparing its content with its digest, and crops a second at random
          positions, of a small store and of one that is `copies` times as large, in interleaved rounds. Each is
          measured twice: from the disk, after the system has dropped its cached pages of the file, and from memory,
          after the same crops were read before. Each reading runs in its own process, whose memory is measured at the
          end. The crops are generated.
Expect:   digest >= 500 MB/s from memory; random reads of the large store within 10 % of the small one's; memory <= 1.2
          times. Reads from the disk are as fast as the disk; its own rate is measured for comparison.
"""

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from carkp.data.store import LmdbStore, Record, StoreWriter
from carkp.keypoints.schema import NUM_KEYPOINTS
from carkp.measurements.record import Goal, Measurement

# Other modules are imported in main(): the reading processes import this module, too.

Result = TypeVar("Result")

STUDY = "store_rate"
NUM_PICTURES = 64
"""Number of different pictures; reading does not decode them."""

CROP_SIZE = (176, 240)
NUM_DISK_READS = 4000
"""More would find half of the small store read already."""

GOALS = {
    "digest_memory_mb_per_s": Goal(at_least=500),
    "memory_large_to_small": Goal(at_least=0.9),
    "disk_large_to_small": Goal(at_least=0.9),
    "own_memory_large_to_small": Goal(at_most=1.2),
}
QUANTITIES = {
    "bytes_per_crop": ("size of a store, for each crop", "bytes", ".0f"),
    "small_gib": ("small store", "GiB", ".2f"),
    "large_gib": ("large store", "GiB", ".2f"),
    "digest_memory_mb_per_s": ("open and compare with the digest, from memory", "MB/s", ".0f"),
    "digest_disk_mb_per_s": ("the same from the disk, large store", "MB/s", ".0f"),
    "disk_mb_per_s": ("its file read front to back from the disk, without LMDB", "MB/s", ".0f"),
    "small_memory_per_s": ("crops read at random places from memory, small store", "crops/s", ".0f"),
    "large_memory_per_s": ("the same, large store", "crops/s", ".0f"),
    "memory_large_to_small": ("large / small", "", ".2f"),
    "small_disk_per_s": ("crops read at random places from the disk, small store", "crops/s", ".0f"),
    "large_disk_per_s": ("the same, large store", "crops/s", ".0f"),
    "disk_large_to_small": ("large / small", "", ".2f"),
    "small_own_mib": ("memory of the reading process but for what is mapped from files, small store", "MiB", ".0f"),
    "large_own_mib": ("the same, large store", "MiB", ".0f"),
    "own_memory_large_to_small": ("large / small", "", ".2f"),
}
STORES = ("small", "large")


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


def forget(path: Path) -> None:
    """Have the system drop what it keeps of a store's file in memory."""
    with (path / "data.mdb").open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def mb_per_s_of_verifying(path: Path) -> float:
    """Megabytes a second of opening a store and reading all of it, in a process that has not done so before."""
    start = time.perf_counter()
    LmdbStore(path).verify()
    return (path / "data.mdb").stat().st_size / 1e6 / (time.perf_counter() - start)


def mb_per_s_of_file(path: Path) -> float:
    """Megabytes a second of reading a store's file front to back."""
    buffer, start = bytearray(8 << 20), time.perf_counter()
    with (path / "data.mdb").open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return (path / "data.mdb").stat().st_size / 1e6 / (time.perf_counter() - start)


def read_at_random(path: Path, num_reads: int, seed: int, is_read_before: bool) -> Reading:
    """Read crops of a store, each anywhere; those that were read before are in memory."""
    store = LmdbStore(path)
    places = np.random.default_rng(seed).integers(0, len(store), num_reads).tolist()
    if is_read_before:
        for place in places:
            store[place]
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
    """The figures of ``QUANTITIES``: medians over the rounds."""
    paths = {name: folder / name for name in STORES}
    sizes = {name: write_store(paths[name], num_crops * {"small": 1, "large": copies}[name]) for name in STORES}
    rounds: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    for seed in tqdm(range(num_rounds), "rounds"):
        for name, value in measure_once(paths, num_reads, seed).items():
            rounds[name].append(value)
    found = {name: float(np.median(values)) for name, values in rounds.items() if values}
    return found | {
        "bytes_per_crop": sizes["large"] / (num_crops * copies),
        "small_gib": sizes["small"] / 2**30,
        "large_gib": sizes["large"] / 2**30,
    }


def measure_once(paths: Mapping[str, Path], num_reads: int, seed: int) -> dict[str, float]:
    """A round."""
    found: dict[str, float] = {}
    for name, path in paths.items():
        forget(path)
        disk = in_a_process(read_at_random, path, NUM_DISK_READS, seed, False)
        memory = in_a_process(read_at_random, path, num_reads, seed, True)
        found |= {
            f"{name}_disk_per_s": disk.reads_per_s,
            f"{name}_memory_per_s": memory.reads_per_s,
            f"{name}_own_mib": memory.memory_mib,
        }
    for kind in ("disk", "memory"):
        found[f"{kind}_large_to_small"] = found[f"large_{kind}_per_s"] / found[f"small_{kind}_per_s"]
    found["own_memory_large_to_small"] = found["large_own_mib"] / found["small_own_mib"]
    in_a_process(mb_per_s_of_verifying, paths["small"])  # what it has read is in memory then
    found["digest_memory_mb_per_s"] = in_a_process(mb_per_s_of_verifying, paths["small"])
    for name, function in (("digest_disk_mb_per_s", mb_per_s_of_verifying), ("disk_mb_per_s", mb_per_s_of_file)):
        forget(paths["large"])
        found[name] = in_a_process(function, paths["large"])
    return found


def in_a_process(function: Callable[..., Result], *arguments: object) -> Result:
    """What a function gives in a process of its own, which has nothing open."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


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
