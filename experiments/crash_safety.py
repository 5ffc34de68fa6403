"""Is anything lost, or half written, when a stage is killed at a random moment?

Command:  python experiments/crash_safety.py --config configs/tiny.yaml --kills 200        (hours on two cores)
          … --stages export,report --kills 3 --seed 1
Asks:     a stage's command on the tiny configuration is killed, with all its processes, by SIGKILL at a random moment.
          Which files are half written then? The same command is given again: does it end, and are weights, metrics,
          predictions and reports those of an undisturbed run? Are unfinished files left, or runs that are
          marked as running although no process works on them?

Expect:   nothing lost, nothing half written, nothing left. Kills go round the stages; finished ones are kept in
          runs/crash_safety/kills.jsonl, and the same command continues with the missing ones. Before the kills,
          two undisturbed runs of each stage are compared with each other: what differs there is no effect of a kill.
"""

import contextlib
import importlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import psutil
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from carkp import disk
from carkp.config.loading import ConfigError
from carkp.data.store import LmdbStore
from carkp.measurements.record import Column, Goal, Measurement
from carkp.measurements.record import Table as RecordTable
from carkp.project import DATABASE, project_root
from carkp.tracking.runs import STAGE_TAG
from carkp.tracking.store import sqlite_uri
from carkp.workflow.cli import Parameter, guarded
from carkp.workflow.project_state import content_digest, differences, temporaries, unreadable_files
from carkp.workflow.recording import Findings, parse_study, write_record
from carkp.workflow.run_log import LOG_NAME

T = TypeVar("T")

STUDY = "crash_safety"
CONFIGS = ("configs", "MLproject", "python_env.yaml", "requirements.txt")
SEARCH = """
num_trials: 2
space: {sigma: {low: 0.8, high: 2.5}, lr: {low: 3.0e-4, high: 5.0e-3}, q: {low: 2.0, high: 5.0}}
budget: {epochs: 1, num_train_samples: 8, num_scored_samples: 4}
num_swept_percentiles: 3
num_confirmation_seeds: 0
"""
FRESH = "fresh"
TIMED = re.compile(r"^system/|samples_per_s|seconds|_(ms|us)\b|latency|_ratio|correlation|trusted_s|^perf/|^host/")
"""Metrics that are times, or are computed from times."""

CHAIN = ("data", "float", "calibration", "export", "align")
"""Stages whose results other stages start from."""


@dataclass(frozen=True)
class Killed:
    """A stage to kill: its module, the stage that ran before it, and further words of its command."""

    module: str
    before: str
    words: tuple[str, ...] = ()


STAGES: Mapping[str, Killed] = {
    "data": Killed("data", FRESH),
    "float": Killed("float", "data"),
    "qat": Killed("qat", "calibration"),
    "calibration": Killed("calibration", "float"),
    "export": Killed("export", "calibration"),
    "report": Killed("report", "align"),
    "tune": Killed("tune", "data", ("--search", "search.yaml")),
    "main": Killed("pipeline", "data"),
}


@dataclass(frozen=True)
class Outcome:
    """Result of one kill.

    Attributes:
        moment: time of the kill, as a share of the undisturbed time.
        was_running: whether the stage was still running then.
        unreadable: files that were half written under their final names.
        status: exit status of the same command, given again.
        different: what differs from an undisturbed run.
        left: unfinished files that are still there at the end.
        running: runs that are marked as running although no process works on them.
        temporary: number of entries in the folder of temporary files.
    """

    stage: str
    number: int
    moment: float
    was_running: bool
    unreadable: list[str] = field(default_factory=list)
    status: int = 0
    different: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    temporary: int = 0


class Starter:
    """A process that has imported the stages and forks one for each call, in its own process group.

    Create it before this process has threads.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        context.Process(target=_serve, args=(theirs, self._connection, tuple(modules)), daemon=False).start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def run(self, module: str, words: Sequence[str], project: Path, seconds: float | None = None) -> tuple[int, float]:
        """Return the exit status, -9 if it was killed after ``seconds``, and the time that it took."""
        start = time.perf_counter()
        self._connection.send((module, tuple(words), str(project)))
        pid = self._connection.recv()
        if not self._connection.poll(seconds):
            _kill_group(pid)
        status = self._connection.recv()
        _await_group(pid)
        return status, time.perf_counter() - start


def _serve(connection: Connection, others: Connection, modules: Sequence[str]) -> None:
    others.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in modules:
        importlib.import_module(f"carkp.stages.{name}")
    while True:
        try:
            module, words, project = connection.recv()
        except EOFError:
            return
        pid = os.fork()
        if pid == 0:
            _become(module, words, Path(project))
        connection.send(pid)
        connection.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _become(module: str, words: Sequence[str], project: Path) -> None:
    """Become the stage, as its command would run it; the output goes to ``<project>.log``."""
    os.setsid()
    os.chdir(project)
    log = os.open(project.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log, number)
    tempfile.tempdir = None
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 1
    try:
        stage = importlib.import_module(f"carkp.stages.{module}")
        sys.argv = [str(stage.__file__), *words]
        sys.orig_argv[:] = [sys.executable, "-m", f"carkp.stages.{module}", *words]
        status = getattr(stage, "program", stage.main)(list(words))
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # the group exists only after the process has created it
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _await_group(pid: int) -> None:
    """Wait until the last process of the group has ended; processes that outlive their stage are killed."""
    while any(os.getpgid(process.pid) == pid for process in _alive()):
        _kill_group(pid)
        time.sleep(0.05)


def _alive() -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if process.info["status"] != psutil.STATUS_ZOMBIE and os.getpgid(process.pid):
                yield process


class Bench:
    """A place where a project is restored to its state before a stage, again and again.

    The path stays the same, because runs store the paths of their files.
    """

    def __init__(self, folder: Path, starter: Starter, config_words: Sequence[str]) -> None:
        self.folder, self.project, self.temporary = folder, folder / "project", Path(os.environ["TMPDIR"])
        self._starter, self._words = starter, tuple(config_words)

    def prepare(self, needed: set[str]) -> None:
        """Create the missing states that stages start from."""
        if not self._state(FRESH).is_dir():
            self._make_fresh()
        last = max((CHAIN.index(name) for name in needed if name in CHAIN), default=-1)
        for before, stage in zip((FRESH, *CHAIN), CHAIN[: last + 1], strict=False):
            if not self._state(stage).is_dir():
                self.restore(before)
                self.run_well(Killed(stage, before))
                self._keep(stage)

    def _make_fresh(self) -> None:
        shutil.rmtree(self.project, ignore_errors=True)
        self.project.mkdir(parents=True)
        for name in CONFIGS:
            source = project_root() / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.project / name)
        (self.project / "search.yaml").write_text(SEARCH)
        self._keep(FRESH)

    def _state(self, name: str) -> Path:
        return self.folder / "before" / name

    def _keep(self, name: str) -> None:
        made = disk.partial_path(self._state(name))
        shutil.copytree(self.project, made)
        made.rename(self._state(name))

    def restore(self, state: str) -> None:
        """Restore the project, and empty the folder of temporary files."""
        for path in (self.project, self.temporary):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self._state(state), self.project)
        self.temporary.mkdir()

    def run(self, stage: Killed, seconds: float | None = None) -> tuple[int, float]:
        """Run a stage and kill it after ``seconds`` (None: never); return its exit status and its time."""
        return self._starter.run(stage.module, [*self._words, *stage.words], self.project, seconds)

    def run_well(self, stage: Killed) -> float:
        """Run a stage and return its time.

        Raises:
            ConfigError: it fails.
        """
        status, seconds = self.run(stage)
        if status != 0:
            log = self.project.with_suffix(".log").read_text(encoding="utf-8")
            raise ConfigError(f"{stage.module} ended with status {status}:\n{log[-2000:]}")
        return seconds


@dataclass(frozen=True)
class Reference:
    """An undisturbed run of a stage: its state, its time, and what differed in a second run."""

    state: Mapping[str, str]
    seconds: float
    unsteady: list[str]


def apart(function: Callable[..., T], *arguments: object) -> T:
    """Call a function in a separate process: a process that has opened a database or a store keeps it open."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, arguments)


def reference(bench: Bench, name: str) -> Reference:
    """Return the reference of a stage; it is made once, then read."""
    path = bench.folder / "reference" / f"{name}.json"
    if not path.is_file():
        states, times = [], []
        for _ in range(2):
            bench.restore(STAGES[name].before)
            seconds = bench.run_well(STAGES[name])
            states.append(apart(stage_state, bench.project, name))
            times.append(seconds)
        found = Reference(states[0], min(times), differences(*states))
        disk.write_atomic(path, json.dumps(asdict(found), indent=1).encode())
    return Reference(**json.loads(path.read_text()))


def kill_once(bench: Bench, name: str, number: int, moment: float) -> Outcome:
    """Kill a stage, check the files, give the same command again, and compare."""
    expected, stage = reference(bench, name), STAGES[name]
    bench.restore(stage.before)
    status, _ = bench.run(stage, moment * expected.seconds)
    unreadable = apart(unreadable_files, bench.project)
    again, _ = bench.run(stage)
    try:
        different = differences(apart(stage_state, bench.project, name), expected.state)
    except ValueError as error:
        different = [str(error)]
    return Outcome(
        stage=name,
        number=number,
        moment=round(moment, 4),
        was_running=status == -signal.SIGKILL,
        unreadable=unreadable,
        status=again,
        different=[item for item in different if item not in expected.unsteady],
        left=temporaries(bench.project),
        running=apart(called_running, bench.project),
        temporary=len(list(bench.temporary.iterdir())),
    )


def run_state(run: Run, client: MlflowClient) -> dict[str, str]:
    """Return metrics with their histories, and digests of the run's files."""
    state: dict[str, str] = {}
    for name in sorted(run.data.metrics):
        if not TIMED.search(name):
            history = client.get_metric_history(run.info.run_id, name)
            # a command that is repeated in a complete study reports the same result again
            state[f"metric {name}"] = repr(list(dict.fromkeys((item.step, item.value) for item in history)))
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != LOG_NAME:
            state[f"file {path.relative_to(folder).as_posix()}"] = content_digest(path)
    return state


def stage_state(project: Path, stage: str) -> dict[str, str]:
    """Return the state of the newest finished run of a stage; for the pipeline, of the runs of its steps.

    Raises:
        ValueError: there is no such run.
    """
    client = client_of(project)
    run = newest_finished(client, stage)
    steps = {name.removeprefix("carkp.pipeline."): value for name, value in run.data.tags.items()
             if name.startswith("carkp.pipeline.")}  # fmt: skip
    state = {} if steps else run_state(run, client)
    for step, run_id in steps.items():
        state |= {f"{step}: {name}": value for name, value in run_state(client.get_run(run_id), client).items()}
    for path in sorted((project / "data").rglob("*_lmdb")):
        state[f"store {path.relative_to(project / 'data').as_posix()}"] = LmdbStore(path).info.digest
    return state


def client_of(project: Path) -> MlflowClient:
    """Return a client of the project's own database."""
    return MlflowClient(tracking_uri=sqlite_uri(project / DATABASE))


def newest_finished(client: MlflowClient, stage: str) -> Run:
    """Return the newest finished run of a stage.

    Raises:
        ValueError: there is no such run.
    """
    found = runs_of(client, f"tags.`{STAGE_TAG}` = '{stage}' and attributes.status = 'FINISHED'")
    if not found:
        raise ValueError(f"no finished run of {stage}")
    return found[0]


def runs_of(client: MlflowClient, query: str) -> list[Run]:
    """Return the runs of all experiments, newest first."""
    experiments = [item.experiment_id for item in client.search_experiments()]
    return list(client.search_runs(experiments, query, order_by=["attributes.start_time DESC"]))


def called_running(project: Path) -> list[str]:
    """Return the names of runs that are marked as running."""
    return [str(run.info.run_name) for run in runs_of(client_of(project), "attributes.status = 'RUNNING'")]


def moments(name: str, num: int, seed: int) -> Sequence[float]:
    """Return the times of a stage's kills, as shares of its time; they depend only on the seed."""
    return [float(value) for value in np.random.default_rng((seed, list(STAGES).index(name))).random(num)]


def run(bench: Bench, names: Sequence[str], num_kills: int, seed: int) -> list[Outcome]:
    """Kill the stages in turn; finished kills are read from the file."""
    kept = bench.folder / "kills.jsonl"
    done = [Outcome(**json.loads(line)) for line in kept.read_text().splitlines()] if kept.is_file() else []
    rounds = -(-num_kills // len(names))
    wanted = [(name, number) for number in range(rounds) for name in names][:num_kills]
    bench.prepare({STAGES[name].before for name in names})
    there = {(item.stage, item.number) for item in done}
    left = [key for key in wanted if key not in there]
    for name, number in tqdm(left, "kills", total=len(wanted), initial=len(wanted) - len(left)):
        outcome = kill_once(bench, name, number, moments(name, rounds, seed)[number])
        done.append(outcome)
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")
    return [item for item in done if (item.stage, item.number) in set(wanted)]


COUNTS: Mapping[str, tuple[str, Callable[[Outcome], bool]]] = {
    "lost": (
        "kills after which the same command did not end, or ended otherwise",
        lambda o: bool(o.status or o.different),
    ),
    "half_written": ("kills that left a half-written file under its final name", lambda o: bool(o.unreadable)),
    "left": (
        "kills of which unfinished files were left in the project after the second command",
        lambda o: bool(o.left),
    ),
    "running": ("kills after which a run was still called running", lambda o: bool(o.running)),
}


def findings(outcomes: Sequence[Outcome], references: Mapping[str, Reference]) -> Findings:
    """Return the findings for ``--record``."""
    counts = [
        Measurement(name=name, quantity=quantity, value=sum(map(check, outcomes)), format="d", goal=Goal(at_most=0))
        for name, (quantity, check) in COUNTS.items()
    ]
    kills = Measurement(
        name="kills", quantity="kills at random moments", value=len(outcomes), format="d", goal=Goal(at_least=200)
    )
    columns = [
        Column(name="stage", heading="stage"),
        Column(name="seconds", heading="undisturbed (s)", format=".1f"),
        Column(name="kills", heading="kills", format="d"),
        *(Column(name=name, heading=name.replace("_", " "), format="d") for name in COUNTS),
    ]
    rows = []
    for name, expected in references.items():
        own = [item for item in outcomes if item.stage == name]
        checks = {key: sum(map(check, own)) for key, (_, check) in COUNTS.items()}
        rows.append({"stage": f"`{name}`", "seconds": expected.seconds, "kills": len(own), **checks})
    unsteady = {name: found.unsteady for name, found in references.items() if found.unsteady}
    return Findings(
        [kills, *counts],
        [RecordTable(name="stages", columns=columns, rows=rows)],
        details={
            "unsteady": unsteady,
            "faults": [asdict(item) for item in outcomes if any(check(item) for _, check in COUNTS.values())],
        },
    )


def main() -> int:
    arguments = parse_study(
        STUDY,
        str(__doc__),
        [
            Parameter("kills", "200", "how many in all"),
            Parameter("stages", ",".join(STAGES), "which, with commas between them"),
            Parameter("seed", "0", "of the moments"),
        ],
    )
    names = arguments.values["stages"].split(",")
    if unknown := [name for name in names if name not in STAGES]:
        raise ConfigError(f"stages={','.join(unknown)}: expected some of {', '.join(STAGES)}")
    folder = project_root() / "runs" / STUDY
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="kills-")  # in the project, names of sockets may be too long
    with Starter([*(killed.module for killed in STAGES.values()), "align"]) as starter:
        bench = Bench(folder, starter, arguments.config_words)
        outcomes = run(bench, names, int(arguments.values["kills"]), int(arguments.values["seed"]))
        found = findings(outcomes, {name: reference(bench, name) for name in names})
    shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
    table = Table("", "", title="Killed at random moments")
    for item in found.measurements:
        table.add_row(item.quantity, f"{item.value}")
    Console().print(table)
    write_record(arguments, STUDY, found)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
