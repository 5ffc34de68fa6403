"""A process of several dies, or the network between two hosts: nobody hangs, and the result is that of no trouble."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run

from carkp.training.checkpoint import load_checkpoint
from tests.stages.conftest import TINY, Project
from tests.stages.hosts import Host, can_make_hosts, two_hosts

pytestmark = pytest.mark.slow

EPOCHS = 5
SETTINGS = (f"train.epochs={EPOCHS}", "train.batch_size=4", "train.num_workers=0")
FLOAT = [sys.executable, "-m", "carkp.stages.float", "--config", TINY]
TIMEOUT_S = 20.0
LIMIT_S = 300


def words(experiment: str, *settings: str) -> list[str]:
    both = (f"name={experiment}", *SETTINGS, *settings)
    return [*FLOAT, *(word for setting in both for word in ("--set", setting))]


@contextmanager
def started(project: Project, log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a session of its own, of which nothing is left at the end."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=project.path, env=project.environment(), stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ranks_of(process: subprocess.Popen[bytes]) -> dict[int, psutil.Process]:
    """Rank -> its process, below torchrun."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        environment = child.environ()
        if "RANK" in environment and "multiprocessing" not in " ".join(child.cmdline()):
            found[int(environment["RANK"])] = child
    return found


def wait_for_epoch(epoch: int, logs: Sequence[Path], *processes: subprocess.Popen[bytes]) -> None:
    """Rank 0 reports, which may be on either host."""
    end = time.monotonic() + LIMIT_S
    while not any(f"epoch {epoch}/" in log.read_text() for log in logs):
        told = "\n----\n".join(log.read_text() for log in logs)
        assert all(process.poll() is None for process in processes), told
        assert time.monotonic() < end, told
        time.sleep(0.05)


def runs_of(project: Project, experiment: str) -> list[Run]:
    """Newest first."""
    return [run for run in project.runs("float") if run.data.tags["carkp.experiment"] == experiment]


def history(project: Project, run: Run, name: str) -> dict[int, float]:
    """Step -> value, which must be one."""
    found: dict[int, set[float]] = {}
    for point in project.client.get_metric_history(run.info.run_id, name):
        found.setdefault(point.step, set()).add(point.value)
    assert all(len(values) == 1 for values in found.values())
    return {step: values.pop() for step, values in found.items()}


@pytest.fixture(scope="module")
def undisturbed(trained: Project) -> Run:
    done = trained.call(*words("undisturbed"), "--nproc", "2")
    assert done.returncode == 0, done.stderr
    (run,) = runs_of(trained, "undisturbed")
    return run


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_started_again_and_the_result_is_the_same(
    trained: Project, undisturbed: Run, tmp_path: Path, rank: int
) -> None:
    log, experiment = tmp_path / "log", f"restarted{rank}"
    with started(trained, log, *words(experiment, "train.max_restarts=1"), "--nproc", "2") as process:
        wait_for_epoch(2, [log], process)
        ranks_of(process)[rank].kill()
        assert process.wait(LIMIT_S) == 0, log.read_text()
    (run,) = runs_of(trained, experiment)
    assert run.info.status == "FINISHED"
    assert "carkp.error" not in run.data.tags
    assert run.data.tags["carkp.model_digest"] == undisturbed.data.tags["carkp.model_digest"]
    assert re.search(rf"continues from .*: [2-4] of {EPOCHS} epochs are done", log.read_text())
    name = next(name for name in run.data.metrics if name.endswith("loss"))
    assert history(trained, run, name) == history(trained, undisturbed, name)


def test_a_killed_rank_ends_all_and_the_checkpoint_can_be_gone_on_with(
    trained: Project, undisturbed: Run, tmp_path: Path
) -> None:
    log, experiment = tmp_path / "log", "ended"
    with started(trained, log, *words(experiment), "--nproc", "2") as process:
        wait_for_epoch(2, [log], process)
        ranks = ranks_of(process)
        ranks[1].kill()
        assert process.wait(60) != 0
        assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks.values())
    assert runs_of(trained, experiment)[0].info.status in ("FAILED", "KILLED")
    done = trained.call(*words(experiment), "--nproc", "2", "--resume", "latest")
    assert done.returncode == 0, done.stderr
    run = runs_of(trained, experiment)[0]
    assert run.data.tags["carkp.model_digest"] == undisturbed.data.tags["carkp.model_digest"]


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    if not can_make_hosts():
        pytest.skip("needs root and iproute2, to make network namespaces")
    with two_hosts() as made:
        yield made


def on_host(host: Host, experiment: str, endpoint: str) -> list[str]:
    parameters = ["--nproc", "1", "--nnodes", "2", "--rdzv_endpoint", endpoint]
    return host.command(*words(experiment, f"train.process_timeout_s={TIMEOUT_S}"), *parameters)


def test_two_hosts_train_as_two_processes_of_one(
    trained: Project, undisturbed: Run, hosts: list[Host], tmp_path: Path
) -> None:
    logs = [tmp_path / name for name in ("first", "second")]
    commands = [on_host(host, "hosts", f"{hosts[0].address}:29400") for host in hosts]
    with started(trained, logs[0], *commands[0]) as first, started(trained, logs[1], *commands[1]) as second:
        assert [first.wait(LIMIT_S), second.wait(LIMIT_S)] == [0, 0], logs[0].read_text()
    (run,) = runs_of(trained, "hosts")
    assert run.data.tags["carkp.model_digest"] == undisturbed.data.tags["carkp.model_digest"]


def test_a_host_without_network_ends_both(
    trained: Project, undisturbed: Run, hosts: list[Host], tmp_path: Path
) -> None:
    logs, experiment = [tmp_path / name for name in ("first", "second")], "cut"
    commands = [on_host(host, experiment, f"{hosts[0].address}:29400") for host in hosts]
    with started(trained, logs[0], *commands[0]) as first, started(trained, logs[1], *commands[1]) as second:
        wait_for_epoch(2, logs, first, second)
        hosts[1].cut_off()
        begin = time.monotonic()
        statuses = [first.wait(LIMIT_S), second.wait(LIMIT_S)]
        took_s = time.monotonic() - begin
    told = [log.read_text() for log in logs]
    print(f"both ended after {took_s:.0f} s", *told, sep="\n----\n")
    assert 0 not in statuses
    assert took_s < 3 * TIMEOUT_S + 120
    assert all("has lost the connection to the others" in text for text in told)
    (run,) = runs_of(trained, experiment)
    assert run.info.status == "FAILED"
    last = trained.artifact(run, "checkpoints/last.pt")
    assert 2 <= load_checkpoint(last).epoch < EPOCHS
    done = trained.call(*words(experiment), "--nproc", "2", "--resume", "latest")
    assert done.returncode == 0, done.stderr
    again = runs_of(trained, experiment)[0]
    assert again.data.tags["carkp.model_digest"] == undisturbed.data.tags["carkp.model_digest"]
