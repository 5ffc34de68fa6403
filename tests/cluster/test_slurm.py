"""Jobs in a real Slurm cluster, a study in a real PostgreSQL: nodes die, jobs are cancelled."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow.entities import Run

from tests.cluster.slurm_cluster import NODES, SlurmCluster, free_ports, missing_programs, slurm_cluster, wait_until
from tests.postgres import postgres
from tests.stages.conftest import TINY, Project, copy_project

NUM_TRIALS, NUM_JOBS = 20, 4
LIMIT_S = 1500
JOB_TAG = "carkp.slurm_job"

SEARCH = f"""
num_trials: {NUM_TRIALS}
space: {{sigma: {{low: 0.8, high: 2.5}}, lr: {{low: 3.0e-4, high: 5.0e-3}}, q: {{low: 2.0, high: 5.0}}}}
budget: {{epochs: 1, num_train_samples: 8, num_scored_samples: 4}}
num_swept_percentiles: 0
num_confirmation_seeds: 0
"""

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts daemons of Slurm, which want to be root"),
    pytest.mark.skipif(
        bool(missing_programs()), reason="not installed: apt-get install slurmctld slurmd slurm-client munge"
    ),
]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SlurmCluster]:
    folder = tmp_path / "slurm"
    folder.mkdir()
    with slurm_cluster(folder) as running:
        yield running


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres(1) as (url,):
        yield url


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With prepared data, and settings of jobs that fit the cluster."""
    found = copy_project(tmp_path_factory.mktemp("cluster") / "carkp")
    (found.path / "configs/backend/slurm.yaml").write_text("{time_min: 30, cpus: 2, poll_s: 1}\n")
    (found.path / "search.yaml").write_text(SEARCH)
    done = found.stage("data")
    assert done.returncode == 0, done.stderr
    return found


@contextmanager
def started(project: Project, cluster: SlurmCluster, log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m command`` in the project; what is left of it at the end is killed."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=project.path, stdout=file, stderr=subprocess.STDOUT,
            env={**project.environment(), **cluster.environment, "OMP_NUM_THREADS": "1"}, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def mlflow_run(entry_point: str, *arguments: str) -> list[str]:
    parameters = ["-P", f"config={TINY}", *arguments]
    return ["mlflow", "run", ".", "-e", entry_point, "-b", "carkp-slurm", "--env-manager", "local", *parameters]


def wait_for_end(process: subprocess.Popen[bytes], log: Path, limit_s: float) -> str:
    """What it printed."""
    process.wait(limit_s)
    return log.read_text()


def running_trials(project: Project) -> dict[str, Run]:
    """Job id -> the trial's run that is under way in it."""
    runs = [run for run in project.runs("trial") if run.info.status == "RUNNING" and JOB_TAG in run.data.tags]
    return {run.data.tags[JOB_TAG]: run for run in runs}


def test_a_study_outlives_a_node_and_a_job(
    project: Project, cluster: SlurmCluster, database: str, tmp_path: Path
) -> None:
    words = ["--config", TINY, "--search", "search.yaml", "--workers", str(NUM_JOBS), "--launcher", "slurm"]
    log, (east, west) = tmp_path / "tune.log", NODES

    def busy(node: str) -> list[str]:
        assert process.poll() is None, log.read_text()
        return sorted(set(cluster.jobs(node)) & set(running_trials(project)))

    with started(project, cluster, log, "carkp.stages.tune", *words, "--storage", database) as process:
        wait_until(lambda: len(busy(west)) > 0 and len(busy(east)) > 1, 300)
        cancelled = busy(east)[0]
        cluster.call("scancel", cancelled)
        lost = running_trials(project)
        cluster.kill_node(west)
        lost = {job: lost[job] for job in cluster.jobs(west) if job in lost}
        out = wait_for_end(process, log, LIMIT_S)
    print(out)
    assert process.returncode == 0, out
    (study,) = project.runs("tune")
    trials = project.runs("trial")
    good = [run for run in trials if run.info.status == "FINISHED"]
    assert len(good) == len({run.data.tags["carkp.trial"] for run in good}) == NUM_TRIALS
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {study.info.run_id}
    assert "RUNNING" not in [run.info.status for run in (study, *trials)]
    assert f"{NUM_TRIALS} trainings ended" in out
    table = project.artifact(study, "trials.csv").read_text().splitlines()[1:]
    assert sum(",complete," in row or ",pruned," in row for row in table) == NUM_TRIALS
    marked = {run.data.tags[JOB_TAG]: run for run in trials if run.info.status in ("FAILED", "KILLED")}
    assert lost
    assert {cancelled, *lost} <= set(marked)
    assert all(job in marked[job].data.tags["carkp.error"] for job in lost)
    assert f"[{cancelled}] the job is CANCELLED" in out


def test_mlflow_runs_an_entry_point_as_a_job(project: Project, cluster: SlurmCluster, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    with started(project, cluster, log, *mlflow_run("calops")) as process:
        out = wait_for_end(process, log, 180)
    (run,) = project.runs("calops")
    assert run.info.status == "FINISHED", out
    job = run.data.tags[JOB_TAG]
    assert cluster.jobs()[job] == run.data.tags["carkp.slurm_state"] == "COMPLETED"
    assert run.data.tags["mlflow.project.backend"] == "carkp-slurm"
    assert any(line.startswith(f"[{job}]") and "parameters" in line.lower() for line in out.splitlines()), out


def test_nodes_train_together(project: Project, cluster: SlurmCluster, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    float_words = [sys.executable, "-m", "carkp.stages.float", "--config", TINY, "--set", "name=nodes"]
    float_words += ["--set", "train.batch_size=4", "--nnodes", "2", "--rdzv_endpoint", f"127.0.0.1:{port}"]
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/sh\nsrun --ntasks-per-node=1 {shlex.join(float_words)}\n")
    words = ["--wait", "--nodes=2", "--cpus-per-task=2", f"--output={tmp_path}/log", f"--chdir={project.path}"]
    environment = {**project.environment(), **cluster.environment}
    done = subprocess.run(["sbatch", *words, str(script)], env=environment, timeout=300, check=False)
    assert done.returncode == 0, (tmp_path / "log").read_text()
    (run,) = [run for run in project.finished("float") if run.data.tags["carkp.experiment"] == "nodes"]
    inputs = json.loads(project.artifact(run, "inputs.json").read_text())
    assert inputs["given"]["nproc"] == "2"


def test_a_failing_entry_point_fails_its_run(project: Project, cluster: SlurmCluster, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    with started(project, cluster, log, *mlflow_run("float", "-P", "resume=no_such_file.pt")) as process:
        out = wait_for_end(process, log, 180)
    assert process.returncode == 1
    assert "no_such_file.pt" in out
    assert project.runs("float")[0].info.status == "FAILED"


@pytest.mark.parametrize(
    ("how", "state"), [("Ctrl-C", "CANCELLED"), ("scancel", "CANCELLED"), ("the node dies", "NODE_FAIL")]
)
def test_a_training_that_is_ended_is_marked(
    project: Project, cluster: SlurmCluster, tmp_path: Path, how: str, state: str
) -> None:
    log = tmp_path / "run.log"
    settings = '{"options": {"no-requeue": true, "nodelist": "west"}, "poll_s": 1}'
    command = [*mlflow_run("float", "-P", "overrides=train.epochs=5000"), "--backend-config", settings]
    with started(project, cluster, log, *command) as process:
        wait_until(lambda: b"epoch 3/5000" in log.read_bytes(), 240)
        (run,) = [run for run in project.runs("float") if run.info.status == "RUNNING"]
        job = run.data.tags[JOB_TAG]
        match how:
            case "Ctrl-C":
                process.send_signal(signal.SIGINT)
            case "scancel":
                cluster.call("scancel", job)
            case _:
                cluster.kill_node("west")
        out = wait_for_end(process, log, 150)
    assert process.returncode == 1, out
    assert cluster.jobs()[job] == state
    ended = project.client.get_run(run.info.run_id)
    assert ended.info.status in ("FAILED", "KILLED")
    assert ended.data.tags["carkp.error"]
    if how == "the node dies":
        assert (ended.info.status, state in ended.data.tags["carkp.error"]) == ("FAILED", True)
