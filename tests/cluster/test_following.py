"""What is made of the answers of Slurm's commands; test_slurm asks a real one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from carkp.cluster.following import LogTail, follow
from carkp.cluster.slurm import ClusterError, Job, NoAnswerError, current_job_id, find_states, require_slurm

SQUEUE = """#!/bin/sh
cat "$ANSWERS/squeue" 2>/dev/null && exit 0
echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2
exit 1
"""
SACCT = """#!/bin/sh
cat "$ANSWERS/sacct" 2>/dev/null && exit 0
echo "Slurm accounting storage is disabled" >&2
exit 1
"""
SCANCEL = """#!/bin/sh
echo "$@" >> "$ANSWERS/cancelled"
"""

Answer = Callable[[str, str], None]


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Sets what a command of Slurm prints."""
    for name, script in {"squeue": SQUEUE, "sacct": SACCT, "scancel": SCANCEL}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    answers = tmp_path / "answers"
    answers.mkdir()
    monkeypatch.setenv("ANSWERS", str(answers))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return lambda command, text: (answers / command).write_text(text) and None


def job(tmp_path: Path, job_id: str) -> Job:
    return Job(job_id, tmp_path / f"{job_id}.log", tmp_path / f"{job_id}.pkl")


def test_states_come_from_the_controller_the_accounting_and_the_result(tmp_path: Path, answer: Answer) -> None:
    jobs = [job(tmp_path, name) for name in ("7_0", "7_1")]
    answer("squeue", "7_0 RUNNING\n7_1 PENDING\n")
    assert find_states(jobs) == {"7_0": "RUNNING", "7_1": "PENDING"}
    answer("squeue", "7_0 RUNNING\n")
    assert find_states(jobs)["7_1"] == "VANISHED"
    jobs[1].result.write_bytes(b"\x80\x05\x95\x0e\x00\x00\x00\x00\x00\x00\x00\x8c\x07success\x94N\x86\x94.")
    assert find_states(jobs)["7_1"] == "COMPLETED"
    jobs[1].result.write_bytes(b"\x80\x05\x95\x0e\x00\x00\x00\x00\x00\x00\x00\x8c\x05error\x94N\x86\x94.")
    assert find_states(jobs)["7_1"] == "FAILED"
    answer("sacct", "CANCELLED by 1000\n")
    assert find_states(jobs)["7_1"] == "CANCELLED"


def test_a_silent_controller_is_no_state(tmp_path: Path, answer: Answer) -> None:
    with pytest.raises(NoAnswerError, match="Unable to contact"):
        find_states([job(tmp_path, "7")])


def test_a_vanished_job_is_lost_and_its_last_line_shown(
    tmp_path: Path, answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    gone, good = job(tmp_path, "7"), job(tmp_path, "8")
    answer("squeue", "8 COMPLETED\n")
    gone.log.write_text("submitit INFO x\nbegun\n 1%\r 50%\r 51%\nnot the end of a li")
    lost: list[tuple[str, str]] = []
    states = follow([gone, good], 0.01, 1, lambda job, state: lost.append((job.id, state)))
    assert states == {"7": "VANISHED", "8": "COMPLETED"}
    assert lost == [("7", "VANISHED")]
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if "the job" not in line] == ["[7] begun", "[7]  51%", "[7] not the end of a li"]


def test_jobs_that_wait_are_cancelled_once_nothing_is_left(tmp_path: Path, answer: Answer) -> None:
    jobs = [job(tmp_path, name) for name in ("7_0", "7_1")]
    answer("squeue", "7_0 COMPLETED\n7_1 PENDING\n")

    def is_done() -> bool:
        if (tmp_path / "answers" / "cancelled").exists():
            answer("squeue", "7_0 COMPLETED\n7_1 CANCELLED\n")
        return True

    follow(jobs, 0.01, 1, lambda job, state: None, is_done)
    assert set((tmp_path / "answers" / "cancelled").read_text().split()) == {"7_1"}


def test_an_interruption_cancels_what_is_under_way(tmp_path: Path, answer: Answer) -> None:
    jobs = [job(tmp_path, name) for name in ("7_0", "7_1")]
    answer("squeue", "7_0 RUNNING\n7_1 RUNNING\n")

    def interrupt() -> bool:
        answer("squeue", "7_0 CANCELLED\n7_1 CANCELLED\n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(jobs, 0.01, 1, lambda job, state: None, interrupt)
    assert (tmp_path / "answers" / "cancelled").read_text() == "7_0 7_1\n"


def test_patience_with_the_controller_ends(tmp_path: Path, answer: Answer) -> None:
    with pytest.raises(ClusterError, match="has not answered for 0 minutes"):
        follow([job(tmp_path, "7")], 0.01, 0.05, lambda job, state: None)


def test_a_log_is_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = LogTail(path)
    assert list(tail.new_lines()) == []
    path.write_bytes("für\nzw".encode())
    assert list(tail.new_lines()) == ["für"]
    with path.open("ab") as file:
        file.write(b"ei\n\nlast")
    assert list(tail.new_lines()) == ["zwei", ""]
    assert list(tail.new_lines(is_last=True)) == ["last"]
    assert list(tail.new_lines(is_last=True)) == []


def test_a_job_knows_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert current_job_id() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert current_job_id() == "12"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "11")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert current_job_id() == "11_3"


def test_without_slurm_s_commands_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"no sbatch, squeue, scancel, srun: .*login node"):
        require_slurm()
