"""Runs readers under atheris, one child process after the other, with limits of memory and of time for an input.

``python -m tests.fuzz.coverage_guided <folder> <seconds> <inputs> <seed> [name ...]`` writes a line of JSON a reader.
``experiments/fuzz.py`` calls it. Foreign errors are kept and the run goes on. A crash, a hang and memory without end
end a child; its input is kept, and another child goes on.
"""

import contextlib
import json
import logging
import mmap
import os
import random
import resource
import struct
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["carkp"]):
    from tests.fuzz.readers import READERS, Reader, is_foreign, place_of, quiet
from tests.fuzz.mutations import mutate

MEMORY_MIB = 2048
"""More than the process had before its first input."""

INPUT_TIMEOUT_S = 30
MIN_LENGTH = 2**12
"""An input may be twice as long as the longest valid one, or so long."""

MAX_CHILDREN = 20
_STATE = struct.Struct("<5Q")
_STATE_BYTES = 2**20


class State:
    """What a child has done, in memory that outlives it: number of inputs, the slowest in ns, peak and first memory."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _STATE_BYTES)
        self.num_inputs = self.slowest_ns = self.peak_kib = self.first_kib = 0

    def begin(self, data: bytes) -> None:
        """``data`` is what is read now."""
        self._write(len(data))
        self._memory[_STATE.size : _STATE.size + len(data)] = data

    def end(self, duration_ns: int) -> None:
        self.num_inputs += 1
        self.slowest_ns = max(self.slowest_ns, duration_ns)
        self.peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._write(0)

    def _write(self, length: int) -> None:
        _STATE.pack_into(self._memory, 0, self.num_inputs, self.slowest_ns, self.peak_kib, self.first_kib, length)

    def load(self) -> bytes:
        """Take over what a child wrote; the input that it was at, empty where it had ended it."""
        self.num_inputs, self.slowest_ns, self.peak_kib, self.first_kib, length = _STATE.unpack_from(self._memory)
        return bytes(self._memory[_STATE.size : _STATE.size + length])


@dataclass(frozen=True)
class Limits:
    """When a child ends: at a time of ``time.monotonic``, or after so many inputs."""

    end: float
    num_inputs: int


@dataclass
class Outcome:
    """Of a reader; ``findings``: place of an error -> how its first input is called."""

    reader: str
    num_inputs: int = 0
    seconds: float = 0.0
    slowest_ms: float = 0.0
    added_mib: float = 0.0
    findings: dict[str, str] = field(default_factory=dict)


def run_reader(reader: Reader, folder: Path, seconds: float, num_inputs: int, seed: int) -> Outcome:
    """At most ``num_inputs`` inputs (0: any number), at most ``seconds`` long."""
    outcome, start = Outcome(reader.name), time.monotonic()
    own = folder / "".join(c if c.isalnum() else "_" for c in reader.name)
    own.mkdir(parents=True, exist_ok=True)
    for number in range(MAX_CHILDREN):
        left_s = seconds - (time.monotonic() - start)
        left = num_inputs - outcome.num_inputs
        if left_s < 1 or (num_inputs and left <= 0):
            break
        child_limits = Limits(start + seconds, left if num_inputs else sys.maxsize)
        name = f"ended_{number}"
        if status := _add_child(reader, own, outcome, child_limits, seed + number, name):
            outcome.findings[f"the process ended with {status}"] = f"{own.name}/{name}"
    outcome.seconds = time.monotonic() - start
    for path in sorted(own.glob("*.place")):
        outcome.findings[path.read_text()] = f"{own.name}/{path.stem}"
    return outcome


def _add_child(reader: Reader, own: Path, outcome: Outcome, limits: Limits, seed: int, name: str) -> int:
    """Run a child to its end and count what it did; its status. Where that is not 0, its last input is kept."""
    state = State()
    with tempfile.TemporaryDirectory(dir=_memory_folder(own)) as temporary:
        pid = os.fork()
        if pid == 0:
            tempfile.tempdir = temporary
            _fuzz(reader, own, state, limits, seed)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    unfinished = state.load()
    outcome.num_inputs += state.num_inputs
    outcome.slowest_ms = max(outcome.slowest_ms, state.slowest_ns / 1e6)
    outcome.added_mib = max(outcome.added_mib, (state.peak_kib - state.first_kib) / 1024)
    if status:
        (own / name).write_bytes(unfinished)
    return status


def _fuzz(reader: Reader, own: Path, state: State, limits: Limits, seed: int) -> None:
    """In the child: does not come back."""
    log = os.open(own / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    corpus, scratch = (Path(tempfile.mkdtemp()) for _ in range(2))
    seeds = list(reader.seeds())
    for index, content in enumerate(seeds):
        (corpus / f"seed_{index}").write_bytes(content)
        with contextlib.suppress(*reader.errors, Exception):
            reader.read(content, scratch)  # what is made once is made before the limit
    state.first_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    limit_memory(MEMORY_MIB)
    known: set[str] = set()

    def read(data: bytes) -> None:
        state.begin(data)
        start = time.perf_counter_ns()
        try:
            reader.read(data, scratch)
        except Exception as error:
            if is_foreign(error, reader.errors):
                keep(error, data)
        state.end(time.perf_counter_ns() - start)
        if state.num_inputs >= limits.num_inputs or time.monotonic() > limits.end:
            os._exit(0)  # libFuzzer would wait for threads of other libraries, which a fork does not have

    def keep(error: Exception, data: bytes) -> None:
        place = place_of(error)
        if place not in known:
            known.add(place)
            name = f"error_{seed}_{len(known)}"
            (own / name).write_bytes(data)
            (own / f"{name}.place").write_text(place)

    def vary(data: bytes, max_size: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        return mutate(data, rng, reader.form, seeds)[:max_size]

    words = [
        f"-seed={seed}",
        f"-timeout={INPUT_TIMEOUT_S}",
        f"-max_len={max(MIN_LENGTH, 2 * max(map(len, seeds)))}",
        "-rss_limit_mb=0",
        "-verbosity=0",
    ]
    atheris.Setup(["fuzz", *words, f"-artifact_prefix={own}/", str(corpus)], read, custom_mutator=vary)
    atheris.Fuzz()


def limit_memory(mib: int) -> None:
    """``mib`` MiB of addresses beyond what the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _memory_folder(other: Path) -> str:
    """Where files are written without a disk, if there is such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(other)


def as_line(outcome: Outcome) -> str:
    content: dict[str, Any] = vars(outcome)
    return json.dumps(content)


def main() -> int:
    folder, seconds, num_inputs, seed = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    names = sys.argv[5:]
    quiet()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for reader in READERS:
        if not names or reader.name in names:
            print(as_line(run_reader(reader, folder, seconds, num_inputs, seed)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
