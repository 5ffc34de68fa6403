"""Jobs of Slurm: submitted through submitit, queried, cancelled."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carkp.config.cluster import SlurmConfig

INSTALL_SLURM = 'pip install "carkp[slurm]"'

COMPLETED, FAILED, CANCELLED, VANISHED = "COMPLETED", "FAILED", "CANCELLED", "VANISHED"
"""States of jobs. VANISHED is carkp's own: Slurm does not know the job any more, and it left no result."""

PENDING = "PENDING"

JOB_TAG = "carkp.slurm_job"
"""Tag of a run: the job that runs it, or ran it."""

ENDED = frozenset(
    {
        COMPLETED,
        FAILED,
        CANCELLED,
        VANISHED,
        "BOOT_FAIL",
        "DEADLINE",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "TIMEOUT",
    }
)

_UNKNOWN_JOB = "Invalid job id"
_COMMAND_TIMEOUT_S = 60
_HEAD_BYTES = 64


class ClusterError(Exception):
    """A scheduler or its jobs cannot do what was asked; the message says what to do."""


class NoAnswerError(Exception):
    """Slurm's controller does not answer at this moment."""


@dataclass(frozen=True)
class Job:
    """A job in Slurm.

    Attributes:
        id: id as squeue shows it; in a job array with the index, as in ``12_3``.
        log: file with its output.
        result: file that submitit writes when the job's function has ended.
    """

    id: str
    log: Path
    result: Path


def require_slurm() -> None:
    """Check that jobs can be submitted from here.

    Raises:
        ClusterError: they cannot be submitted.
    """
    if importlib.util.find_spec("submitit") is None:
        raise ClusterError(f"jobs in Slurm need submitit, which is not installed: {INSTALL_SLURM}")
    missing = [name for name in ("sbatch", "squeue", "scancel", "srun") if shutil.which(name) is None]
    if missing:
        raise ClusterError(
            f"this machine has no {', '.join(missing)}: run the command on a machine that has Slurm's commands, such "
            "as the login node of the cluster"
        )


def submit(
    config: SlurmConfig, folder: Path, name: str, function: Callable[[Any], None], arguments: Sequence[Any]
) -> list[Job]:
    """Submit a job for each of ``arguments``, which calls ``function`` with it; several form one job array.

    The working directory, the environment and ``folder`` must be the same on all nodes.

    Raises:
        ClusterError: Slurm does not accept the jobs.
    """
    require_slurm()
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(job_name=name, **_parameters(config))
    try:
        submitted = executor.map_array(function, arguments)
    except (FailedJobError, FailedSubmissionError) as error:
        raise ClusterError(f"Slurm refuses the job {name}: {_last_line(error)}") from error
    return [Job(str(job.job_id), job.paths.stdout, job.paths.result_pickle) for job in submitted]


def find_states(jobs: Iterable[Job]) -> dict[str, str]:
    """Return job id -> state.

    Raises:
        NoAnswerError: the controller does not answer.
    """
    jobs = list(jobs)
    known = _controller_states({job.id.partition("_")[0] for job in jobs})
    return {job.id: known.get(job.id) or _accounted_state(job.id) or _state_by_result(job) for job in jobs}


def cancel(jobs: Iterable[Job]) -> None:
    """Ask Slurm to end jobs; jobs that have ended do not change.

    Raises:
        NoAnswerError: the controller does not answer.
    """
    if ids := [job.id for job in jobs]:
        done = _call("scancel", *ids)
        if done.returncode != 0 and _UNKNOWN_JOB not in done.stderr:
            raise NoAnswerError(_last_line(done.stderr))


def current_job_id() -> str:
    """Return the id of the job that this process runs in; "" outside of Slurm."""
    array, place = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{place}" if array and place else os.environ.get("SLURM_JOB_ID", "")


def _parameters(config: SlurmConfig) -> dict[str, Any]:
    """Return the parameters under submitit's names."""
    wanted = {
        "partition": config.partition,
        "account": config.account,
        "qos": config.qos,
        "constraint": config.constraint,
        "mem": f"{round(config.memory_gb * 1024)}M" if config.memory_gb else "",
        "gpus_per_node": config.gpus,
    }
    given = {name: value for name, value in wanted.items() if value}
    return {
        **given,
        "time": config.time_min,
        "cpus_per_task": config.cpus,
        "setup": list(config.setup),
        "additional_parameters": dict(config.options),
        "stderr_to_stdout": True,
        "srun_args": [f"--cpus-per-task={config.cpus}"],  # since Slurm 22.05 srun does not take it from sbatch
    }


def _controller_states(numbers: Iterable[str]) -> Mapping[str, str]:
    """Return the states of jobs that Slurm's controller still knows; it forgets them some minutes after their end."""
    done = _call("squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={','.join(numbers)}")
    if done.returncode != 0 and _UNKNOWN_JOB not in done.stderr:
        raise NoAnswerError(_last_line(done.stderr))
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line.strip())


def _accounted_state(job_id: str) -> str:
    """Return the state of a job in the accounting; "" if it is unknown there, or if the cluster has no accounting."""
    if shutil.which("sacct") is None:
        return ""
    done = _call("sacct", "--allocations", "--noheader", "--parsable2", "--format=State", f"--jobs={job_id}")
    words = done.stdout.split()
    return words[0] if done.returncode == 0 and words else ""


def _state_by_result(job: Job) -> str:
    """Return the state by the file that submitit leaves: ("success", …) or ("error", …); the file is not unpickled."""
    if not job.result.is_file():
        return VANISHED
    return COMPLETED if b"success" in job.result.read_bytes()[:_HEAD_BYTES] else FAILED


def _call(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(f"{command[0]} has not ended after {_COMMAND_TIMEOUT_S} s") from error


def _last_line(message: object) -> str:
    lines = str(message).strip().splitlines()
    return lines[-1] if lines else "no reason given"
