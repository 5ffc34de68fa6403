"""``mlflow run -b carkp-slurm``: MLflow's plugin that runs an entry point as a job in Slurm."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from mlflow.entities import Run, RunStatus
from mlflow.exceptions import ExecutionException
from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun
from mlflow.projects.utils import (
    MLFLOW_LOCAL_BACKEND_RUN_ID_CONFIG,
    PROJECT_BUILD_IMAGE,
    PROJECT_DOCKER_ARGS,
    PROJECT_DOCKER_AUTH,
    PROJECT_ENV_MANAGER,
    PROJECT_STORAGE_DIR,
    PROJECT_SYNCHRONOUS,
    fetch_and_validate_project,
    get_or_create_run,
)
from mlflow.tracking import MlflowClient
from pydantic import ValidationError

from carkp.cluster.following import follow
from carkp.cluster.slurm import (
    COMPLETED,
    ENDED,
    JOB_TAG,
    PENDING,
    ClusterError,
    Job,
    NoAnswerError,
    cancel,
    find_states,
    require_slurm,
    submit,
)
from carkp.config.cluster import SlurmConfig
from carkp.config.loading import ConfigError, load_yaml
from carkp.project import find_config
from carkp.tracking.runs import end_lost_run

DEFAULT_FILE = "configs/backend/slurm.yaml"
STATE_TAG = "carkp.slurm_state"

_FILE, _WAIT = "file", "wait"
_FOLDER = Path("runs") / "slurm"

_FOR_MLFLOW = frozenset(
    {
        MLFLOW_LOCAL_BACKEND_RUN_ID_CONFIG,
        PROJECT_BUILD_IMAGE,
        PROJECT_DOCKER_ARGS,
        PROJECT_DOCKER_AUTH,
        PROJECT_ENV_MANAGER,
        PROJECT_STORAGE_DIR,
        PROJECT_SYNCHRONOUS,
    }
)
"""Settings that MLflow adds to those of a backend."""


@dataclass(frozen=True)
class Command:
    """A command for a job, and environment variables in addition to those of the node."""

    words: tuple[str, ...]
    environment: Mapping[str, str]


class SlurmBackend(AbstractBackend):
    """Backend of ``[project.entry-points."mlflow.project_backend"]``."""

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, str],
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> "SlurmRun":
        """Submit the entry point.

        Unless ``wait`` is false, also follow its job, because MLflow's command line does not wait.

        Raises:
            ExecutionException: the job cannot be submitted, the settings cannot be used, or the job failed.
        """
        if not Path(project_uri).is_dir():
            raise ExecutionException(
                f"{project_uri}: no such folder; carkp-slurm needs the project in a folder that all nodes can read"
            )
        try:
            config = read_config(backend_config)
            require_slurm()
        except (ClusterError, ConfigError) as error:
            raise ExecutionException(str(error)) from error
        folder = _call(fetch_and_validate_project, project_uri, version, entry_point, params)
        given = backend_config.get(MLFLOW_LOCAL_BACKEND_RUN_ID_CONFIG)
        run = _call(get_or_create_run, given, project_uri, experiment_id, folder, version, entry_point, params)
        command = _command(folder, entry_point, params, run, backend_config, tracking_uri)
        job = _submit(config, folder, entry_point, run.info.run_id, command)
        submitted = SlurmRun(run.info.run_id, job, config)
        if backend_config.get(_WAIT, True) and not backend_config.get(PROJECT_SYNCHRONOUS):
            _follow(submitted)
        return submitted


class SlurmRun(SubmittedRun):
    """A run whose entry point runs as a job."""

    def __init__(self, run_id: str, job: Job, config: SlurmConfig) -> None:
        super().__init__()
        self._run_id = run_id
        self._job = job
        self._config = config

    @property
    def run_id(self) -> str:
        return self._run_id

    def wait(self) -> bool:
        """Print the job's output until it has ended; return whether it succeeded.

        The run of a lost job is marked as failed.
        """
        states = follow([self._job], self._config.poll_s, self._config.patience_min * 60, self._fail)
        MlflowClient().set_tag(self._run_id, STATE_TAG, states[self._job.id])
        return states[self._job.id] == COMPLETED

    def get_status(self) -> str:
        state = find_states([self._job])[self._job.id]
        if state in ENDED:
            return str(RunStatus.to_string(RunStatus.FINISHED if state == COMPLETED else RunStatus.FAILED))
        return str(RunStatus.to_string(RunStatus.SCHEDULED if state == PENDING else RunStatus.RUNNING))

    def cancel(self) -> None:
        """Cancel the job if it has not ended; mark its run as killed, unless its process has already closed it."""
        with suppress(NoAnswerError):
            cancel([self._job])
        end_lost_run(self._run_id, "KILLED", f"the Slurm job {self._job.id} was cancelled")

    def _fail(self, job: Job, state: str) -> None:
        end_lost_run(self._run_id, "FAILED", f"the Slurm job {job.id} is {state}")


def _follow(run: SlurmRun) -> None:
    try:
        is_good = run.wait()
    except KeyboardInterrupt:
        run.cancel()
        raise
    except ClusterError as error:
        raise ExecutionException(str(error)) from error
    if not is_good:
        raise ExecutionException(f"the job of run {run.run_id} failed")


def read_config(given: Mapping[str, Any]) -> SlurmConfig:
    """Read the settings of ``--backend-config``: from the YAML file named by ``file``, or given one by one.

    Without ``file``, the base is configs/backend/slurm.yaml.

    Raises:
        ConfigError: they cannot be used.
    """
    own = {name: value for name, value in given.items() if name in SlurmConfig.model_fields}
    names = {_FILE, _WAIT, *SlurmConfig.model_fields}
    unknown = sorted(given.keys() - names - _FOR_MLFLOW)
    if unknown:
        raise ConfigError(
            f"--backend-config: no such setting: {', '.join(unknown)}; {', '.join(sorted(names))} are known"
        )
    base = load_yaml(find_config(str(given.get(_FILE, DEFAULT_FILE))), SlurmConfig, "backend")
    try:
        return SlurmConfig.model_validate({**base.model_dump(), **own})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"--backend-config: {problems}") from error


def run_command(command: Command) -> None:
    """Run the command in the job, end it when Slurm is about to end the job, and exit with its status."""
    with subprocess.Popen(command.words, env={**os.environ, **command.environment}) as process:

        def end(number: int, frame: FrameType | None) -> None:
            del number, frame
            process.terminate()

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGUSR2, end)  # submitit makes Slurm send it 90 s before the time limit
        status = process.wait()
    if status != 0:
        sys.exit(status if status > 0 else 128 - status)


def _submit(config: SlurmConfig, folder: str, entry_point: str, run_id: str, command: Command) -> Job:
    logs = Path(folder) / _FOLDER / run_id
    try:
        (job,) = submit(config, logs, f"carkp-{entry_point}", run_command, [command])
    except ClusterError as error:
        end_lost_run(run_id, "FAILED", str(error))
        raise ExecutionException(str(error)) from error
    MlflowClient().set_tag(run_id, JOB_TAG, job.id)
    print(f"job {job.id} runs {entry_point} in run {run_id}; its output: {job.log}", flush=True)  # noqa: T201
    return job


def _command(
    folder: str,
    entry_point: str,
    params: Mapping[str, str],
    run: Run,
    backend_config: Mapping[str, Any],
    tracking_uri: str,
) -> Command:
    """Return ``mlflow run`` for the node, in the existing run; it marks that run itself when it ends."""
    words = [sys.executable, "-m", "mlflow", "run", folder, "-e", entry_point, "--run-id", run.info.run_id]
    if manager := backend_config.get(PROJECT_ENV_MANAGER):
        words += ["--env-manager", manager]
    words += [word for name, value in params.items() for word in ("-P", f"{name}={value}")]
    return Command(
        tuple(words), {"MLFLOW_TRACKING_URI": tracking_uri, "MLFLOW_EXPERIMENT_ID": str(run.info.experiment_id)}
    )


def _call(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function of MLflow without types."""
    return function(*arguments)
