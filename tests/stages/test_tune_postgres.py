"""A study of four workers on PostgreSQL, tracked by a server on PostgreSQL too; one worker is killed in a trial."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import optuna
import psutil
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from carkp.tuning.record import SLOT, TrialRecord
from carkp.tuning.settings import StudySettings
from carkp.tuning.study import TuningStudy
from tests.postgres import postgres
from tests.stages.conftest import TINY, Project, copy_project
from tests.tracking.servers import TrackingServer

pytestmark = pytest.mark.slow

NUM_WORKERS, NUM_TRIALS = 4, 6
LIMIT_S = 1800.0
SEARCH = f"""
num_trials: {NUM_TRIALS}
space: {{sigma: {{low: 0.8, high: 2.5}}, lr: {{low: 3.0e-4, high: 5.0e-3}}, q: {{low: 2.0, high: 5.0}}}}
budget: {{epochs: 1, num_train_samples: 8, num_scored_samples: 4}}
num_swept_percentiles: 3
num_confirmation_seeds: 0
"""


@dataclass(frozen=True)
class Team:
    """A project, its tracking server, and the database of its studies."""

    project: Project
    server: TrackingServer
    storage: str

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.server.uri)

    def start(self, log: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "carkp.stages.tune", "--config", TINY, "--search", "search.yaml"]
        command += ["--workers", str(NUM_WORKERS), "--storage", self.storage]
        environment = {**self.project.environment(), "MLFLOW_TRACKING_URI": self.server.uri}
        with log.open("wb") as file:
            return subprocess.Popen(command, cwd=self.project.path, env=environment, stdout=file, stderr=file)

    def trial_runs(self) -> list[Run]:
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, "tags.`carkp.stage` = 'trial'"))

    def trainings(self) -> list[TrialRecord]:
        """Those of the study, without what two workers have queued both and one has dropped."""
        (name,) = optuna.get_all_study_names(self.storage)
        study = TuningStudy(self.storage, StudySettings(name, {}), seed=0)
        return [record for record in study.records() if record.is_trained]


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    with postgres(num_databases=2) as (runs, studies):
        server = TrackingServer(tmp_path, store=runs)
        server.start()
        project = copy_project(tmp_path / "carkp")
        (project.path / "search.yaml").write_text(SEARCH)
        try:
            yield Team(project, server, studies)
        finally:
            server.kill()
            mlflow.set_tracking_uri(None)


def workers_of(study: psutil.Process) -> list[psutil.Process]:
    return [child for child in study.children() if any("spawn_main" in word for word in child.cmdline())]


def test_of_four_workers_one_is_killed_and_every_trial_counts_once(team: Team, tmp_path: Path) -> None:
    log = tmp_path / "tune.log"
    tuning = team.start(log)
    try:
        end = time.monotonic() + LIMIT_S
        while sum(run.info.status == "RUNNING" for run in team.trial_runs()) < NUM_WORKERS:
            assert tuning.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        workers = workers_of(psutil.Process(tuning.pid))
        assert len(workers) == NUM_WORKERS
        workers[1].send_signal(signal.SIGKILL)  # all are in a trial
        assert tuning.wait(LIMIT_S) == 0, log.read_text()
    finally:
        for process in (*psutil.Process(tuning.pid).children(recursive=True),) if tuning.poll() is None else ():
            process.kill()
        tuning.kill()
    trainings = team.trainings()
    complete = [record for record in trainings if record.state == "complete"]
    assert Counter(record.notes[SLOT] for record in complete) == dict.fromkeys(range(NUM_TRIALS), 1)
    (killed,) = (record for record in trainings if record.state != "complete")
    assert killed.state == "fail"
    assert [record.notes[SLOT] for record in complete if record.is_retry] == [killed.notes[SLOT]]
    statuses = Counter(run.info.status for run in team.trial_runs())
    assert statuses == {"FINISHED": NUM_TRIALS, "KILLED": 1}
    print(f"{len(complete)} of {NUM_TRIALS} trials counted once, one of them after its worker was killed")
