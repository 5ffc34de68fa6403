"""SIGTERM and Ctrl-C: a stage ends at once, and its run, and those below it, say that they were killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run

from tests.stages.conftest import TINY, Project

STAGES = ("data", "float", "calibration", "qat", "export", "report", "tune", "pipeline")
STALLED = """
import importlib, sys, time
from carkp.workflow import cli

def stall(config, tracker, work):
    print("under way", flush=True)
    time.sleep(120)

cli.run_in_folder = stall
sys.exit(importlib.import_module(f"carkp.stages.{sys.argv[1]}").main(sys.argv[2:]))
"""
REAL = """
import importlib, sys
stage = importlib.import_module(f"carkp.stages.{sys.argv[1]}")
print("under way", flush=True)
sys.exit(getattr(stage, "program", stage.main)(sys.argv[2:]))
"""
SEARCH = """
num_trials: 2
space: {sigma: {low: 0.8, high: 2.5}, lr: {low: 3.0e-4, high: 5.0e-3}, q: {low: 2.0, high: 5.0}}
budget: {epochs: 50, num_train_samples: 8, num_scored_samples: 4}
num_swept_percentiles: 3
num_confirmation_seeds: 0
"""
PATIENCE_S = 180


@pytest.fixture(scope="module")
def calibrated(trained: Project) -> Project:
    for stage in ("calibration", "export", "align"):
        done = trained.stage(stage)
        assert done.returncode == 0, done.stderr
    return trained


def start(project: Project, program: str, stage: str, *words: str) -> "subprocess.Popen[str]":
    """In a session of its own, as from a terminal: a job in the background would ignore Ctrl-C."""
    return subprocess.Popen(
        [sys.executable, "-c", program, stage, "--config", TINY, *words],
        cwd=project.path,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def interrupt(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """As a terminal and a scheduler do: every process of the group is sent it."""
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output


def newest(project: Project) -> list[Run]:
    """All runs, the newest first."""
    experiments = [item.experiment_id for item in project.client.search_experiments()]
    return list(project.client.search_runs(experiments, order_by=["attributes.start_time DESC"]))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stage", STAGES)
def test_the_run_of_an_interrupted_stage_is_killed(calibrated: Project, stage: str, number: signal.Signals) -> None:
    search = calibrated.path / "interrupted.yaml"
    search.write_text(SEARCH)
    words = ["--search", str(search)] if stage == "tune" else []
    process = start(calibrated, STALLED, stage, *words)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "under way\n":
            break
    interrupt(process, number)
    run = newest(calibrated)[0]
    assert run.info.status == "KILLED"
    assert run.data.tags["carkp.error"].startswith("Terminated" if number == signal.SIGTERM else "KeyboardInterrupt")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("stage", "parent", "child", "words"),
    [
        ("pipeline", "main", "float", ("--set", "name=interrupted", "--set", "train.epochs=200")),
        ("tune", "tune", "trial", ("--search", "interrupted.yaml", "--storage", "sqlite:///interrupted_{}.db")),
    ],
)
def test_runs_below_an_interrupted_one_are_killed_too(
    trained: Project, stage: str, parent: str, child: str, words: tuple[str, ...], number: signal.Signals
) -> None:
    (trained.path / "interrupted.yaml").write_text(SEARCH)
    process = start(trained, REAL, stage, *(word.format(number.value) for word in words))
    for _ in wait():
        running = {run.data.tags.get("carkp.stage"): run for run in newest(trained) if run.info.status == "RUNNING"}
        if {parent, child} <= running.keys():
            break
        assert process.poll() is None
    time.sleep(2)  # into the training
    interrupt(process, number)
    ended = [trained.client.get_run(running[name].info.run_id).info.status for name in (parent, child)]
    assert ended == ["KILLED", "KILLED"]


def wait() -> Iterator[None]:
    """Until patience ends."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        yield
        time.sleep(0.3)
    raise TimeoutError


def test_stages_of_the_entry_points_are_interrupted_here() -> None:
    folder = Path(__file__).parents[2] / "carkp" / "stages"
    assert all((folder / f"{stage}.py").is_file() for stage in STAGES)
