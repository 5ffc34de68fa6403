import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run

from carkp.config.loading import load_config
from carkp.config.schema import ExperimentConfig
from carkp.stages import tune
from carkp.tracking.tracker import NullTracker
from carkp.tuning.record import TrialRecord
from carkp.tuning.settings import Axis, StudySettings
from carkp.tuning.study import TuningStudy
from carkp.workflow.scoring import chosen_samples
from carkp.workflow.study.outcome import compare, default_params
from carkp.workflow.study.trial import percentile_of, q_of, tuned_config
from tests.stages.conftest import ROOT, TINY, Outcome, Project

SEARCH = """
num_trials: 2
space: {sigma: {low: 0.8, high: 2.5}, lr: {low: 3.0e-4, high: 5.0e-3}, q: {low: 2.0, high: 5.0}}
budget: {epochs: 1, num_train_samples: 8, num_scored_samples: 4}
num_swept_percentiles: 3
num_confirmation_seeds: 0
"""


@pytest.fixture(scope="module")
def search(trained: Project) -> Path:
    path = trained.path / "search.yaml"
    path.write_text(SEARCH)
    return path


@pytest.fixture(scope="module")
def tuned(trained: Project, search: Path) -> Outcome:
    return trained.stage("tune", "--search", str(search))


def trials_of(project: Project, study: Run) -> list[Run]:
    return [run for run in project.runs("trial") if run.data.tags["mlflow.parentRunId"] == study.info.run_id]


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.975, 99.99, 99.999])
def test_q_and_percentile_are_inverse(percentile: float) -> None:
    assert percentile_of(q_of(percentile)) == pytest.approx(percentile, abs=1e-9)


def test_a_trial_changes_the_three_settings_and_ties_the_window() -> None:
    config = ExperimentConfig()
    found = tuned_config(config, {"sigma": 2.0, "lr": 0.01, "q": 3.0})
    assert (found.heatmap.sigma, found.heatmap.window, found.train.lr, found.quant.percentile) == (
        2.0,
        "auto",
        0.01,
        99.9,
    )
    assert found.model == config.model


def test_the_same_samples_are_scored_in_every_trial() -> None:
    assert chosen_samples(100, 10) == chosen_samples(100, 10)
    assert len(set(chosen_samples(100, 10))) == 10
    assert chosen_samples(5, 0) == chosen_samples(5, 9) == [0, 1, 2, 3, 4]


def test_trials_lie_below_the_study(trained: Project, tuned: Outcome) -> None:
    assert tuned.returncode == 0, tuned.stdout + tuned.stderr
    study = trained.runs("tune")[0]
    trials = trials_of(trained, study)
    assert len(trials) == 2
    first = min(trials, key=lambda run: int(run.data.tags["carkp.trial"]))
    assert float(first.data.params["lr"]) == load_config(Path("configs/tiny.yaml")).train.lr
    assert "val/int8_pck" in first.data.metrics
    assert "percentile_sweep.csv" in trained.artifacts(first)
    assert not any((trained.path / "runs" / run.info.run_id).exists() for run in (study, *trials))


def test_the_best_configuration_can_be_trained_with(trained: Project, tuned: Outcome) -> None:
    study = trained.runs("tune")[0]
    path = trained.artifact(study, "best.yaml")
    best = load_config(path)
    base = load_config(Path("configs/tiny.yaml"))
    assert best.train.epochs == base.train.epochs
    assert best.train.num_samples == 0
    assert best.heatmap.sigma == study.data.metrics["best/sigma"]
    assert {"trials.csv", "figures"} <= trained.artifacts(study)


def test_a_complete_study_trains_nothing_and_stays_in_its_run(trained: Project, tuned: Outcome, search: Path) -> None:
    num_trials, studies = len(trained.runs("trial")), len(trained.runs("tune"))
    again = trained.stage("tune", "--search", str(search))
    assert again.returncode == 0, again.stderr
    assert len(trained.runs("trial")) == num_trials
    assert len(trained.runs("tune")) == studies


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trials", "none"), "trials='none': expected a number"),
        (("--workers", "0"), "workers='0'"),
        (("--storage", "nodatabase://x"), "cannot be used as a database"),
        (("--set", "heatmap.sigma=9.0"), "outside the search space"),
        (("--set", "quant.observer=minmax"), "set quant.observer=percentile"),
        (("--set", "quant.percentile=100"), "not on the scale"),
        (("--set", "heatmap.window=5"), "set heatmap.window=auto"),
        (("--set", "quant.bias_correction=true"), "one correction"),
    ],
)
def test_mistakes_are_named(trained: Project, search: Path, arguments: tuple[str, ...], message: str) -> None:
    done = trained.stage("tune", "--search", str(search), *arguments)
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize("is_alive", [True, False])
def test_trials_stay_below_the_run_of_a_living_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_alive: bool
) -> None:
    study = TuningStudy(f"sqlite:///{tmp_path / 'studies.db'}", StudySettings("s", {"x": Axis(0, 1)}), seed=0)
    study.note("run_id", "first")
    monkeypatch.setattr(tune, "_is_alive", lambda run_id: is_alive)
    tune.attach(study, NullTracker())
    assert study.notes()["run_id"] == ("first" if is_alive else NullTracker.run_id)


def record(number: int, role: str, seed: int, value: float | None, test: float) -> TrialRecord:
    notes = {"role": role, "seed": seed, "test_int8_pck": test}
    return TrialRecord(number, "complete" if value is not None else "fail", {}, value, notes, True, number, False, 1.0)


def test_confirmation_pairs_seeds() -> None:
    records = [
        record(0, "default", 1, 0.80, 0.70),
        record(1, "best", 1, 0.82, 0.74),
        record(2, "best", 2, 0.84, 0.75),
        record(3, "default", 2, 0.80, 0.71),
        record(4, "default", 3, 0.99, 0.99),
        record(5, "best", 3, None, 0.0),
    ]
    found = compare(records)
    assert found is not None
    assert found.pck["val"] == {"default": [0.80, 0.80], "best": [0.82, 0.84]}
    assert found.differences["val"].mean == pytest.approx(0.03)
    assert found.differences["test"].mean == pytest.approx(0.04)
    assert compare(records[:1]) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "seed"), [("kill -9 of all", 7), ("kill -9 of the first", 8), ("SIGTERM to the first", 9)]
)
def test_killed_in_a_trial_it_goes_on_and_confirms(trained: Project, how: str, seed: int) -> None:
    command = [sys.executable, "-m", "carkp.stages.tune", "--config", "configs/tiny.yaml"]
    command += ["--search", "configs/search/tiny.yaml", "--workers", "2", "--set", f"seed={seed}"]
    environment = trained.environment()
    process = subprocess.Popen(command, cwd=trained.path, env=environment, start_new_session=True)
    before = {run.info.run_id for run in trained.runs("trial")}
    while not any(run.data.metrics for run in trained.runs("trial") if run.info.run_id not in before):
        time.sleep(1)
        assert process.poll() is None
    workers = psutil.Process(process.pid).children(recursive=True)
    match how:
        case "kill -9 of all":
            os.killpg(process.pid, signal.SIGKILL)
        case "kill -9 of the first":
            process.kill()
        case _:
            process.terminate()
    process.wait()
    assert not psutil.wait_procs(workers, timeout=60)[1]
    if how == "SIGTERM to the first":
        assert "RUNNING" not in [run.info.status for run in trials_of(trained, trained.runs("tune")[0])]
    done = subprocess.run(command, cwd=trained.path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    study = trained.runs("tune")[0]
    states = [run.info.status for run in trials_of(trained, study)]
    assert "RUNNING" not in states
    searched = [run for run in trials_of(trained, study) if run.data.tags["carkp.role"] == "search"]
    assert sum(run.info.status == "FINISHED" for run in searched) == 3
    best = {name: study.data.metrics[f"best/{name}"] for name in ("sigma", "lr", "q")}
    default = default_params(load_config(ROOT / TINY, []))
    is_default = best == pytest.approx(default)  # so it is for some seeds, and then there is nothing to confirm
    assert ("confirmation.csv" in trained.artifacts(study)) == (not is_default)
    words = ("the default is the best",) if is_default else ("no difference shown", "better", "worse")
    assert any(word in done.stdout for word in words)
