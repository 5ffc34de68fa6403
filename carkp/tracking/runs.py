"""Lookup of existing runs by their tags, and of their artifacts."""

import errno
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType

import mlflow
from mlflow.entities import LifecycleStage, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import append_to_uri_path, is_local_uri

from carkp.disk import describe_free_space, make_process_folder
from carkp.tracking.outage import while_locked
from carkp.tracking.store import TrackingError, use_default_store

LATEST = "latest"
STAGE_TAG = "carkp.stage"
EXPERIMENT_TAG = "carkp.experiment"
DATA_TAG, TARGET_TAG = "carkp.data_digest", "carkp.target"
PARENT_TAG = "mlflow.parentRunId"
ERROR_TAG = "carkp.error"
"""Tag: the error that ended a run."""
NOT_THERE, NO_ID = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)


@dataclass(frozen=True)
class FoundRun:
    """A run as stored by the tracking server.

    Attributes:
        run_id, name, tags, params, metrics: as in MLflow; of each metric the last value.
        experiment_id: id of MLflow's experiment.
        status: RUNNING, SCHEDULED, FINISHED, FAILED or KILLED.
        started: start time in UTC.
    """

    run_id: str
    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    experiment_id: str
    status: str
    started: datetime


def find_runs(tags: Mapping[str, str], is_finished: bool = True, max_results: int = 1000) -> list[FoundRun]:
    """Return the runs with these tags, newest first, over all experiments of the tracking server.

    ``is_finished`` False selects all other runs: failed, killed, or marked as running.
    """
    use_default_store()
    client = MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    wanted = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    query = " and ".join([*wanted, f"attributes.status {'=' if is_finished else '!='} 'FINISHED'"])
    found = client.search_runs(experiments, query, order_by=["attributes.start_time DESC"], max_results=max_results)
    return [_found(run) for run in found]


def find_latest_run(stage: str, tags: Mapping[str, str]) -> FoundRun | None:
    """Return the newest finished run of ``stage`` with these tags, or None."""
    runs = find_runs({STAGE_TAG: stage, **tags}, max_results=1)
    return runs[0] if runs else None


def has_artifact(run_id: str, path: str) -> bool:
    """Return whether a run has the artifact ``path``."""
    return path in list_artifacts(run_id, path.rpartition("/")[0])


def list_artifacts(run_id: str, folder: str = "") -> list[str]:
    """Return the paths in a folder of a run's artifacts, folders included; empty if the folder does not exist.

    Other errors (a server that does not answer, a folder without read permission) are raised unchanged.
    """
    use_default_store()
    try:
        return [item.path for item in MlflowClient().list_artifacts(run_id, folder or None)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except MlflowException as error:
        if error.error_code == NOT_THERE:
            return []
        raise


def create_child_run(parent_run_id: str, name: str, further_tags: Mapping[str, str] = MappingProxyType({})) -> str:
    """Create a run below another one, in its experiment; return its id. It stays open until somebody ends it."""
    use_default_store()
    client = MlflowClient()
    parent = client.get_run(parent_run_id)
    tags = {PARENT_TAG: parent_run_id, **further_tags}
    run = while_locked(lambda: client.create_run(parent.info.experiment_id, tags=tags, run_name=name))
    return str(run.info.run_id)


def adopt_run(run_id: str, parent_run_id: str) -> None:
    """Make a run a child of another one."""
    use_default_store()
    while_locked(lambda: MlflowClient().set_tag(run_id, PARENT_TAG, parent_run_id))


def end_run(run_id: str, status: str) -> None:
    """Mark a run as ended after its process is gone."""
    use_default_store()
    while_locked(lambda: MlflowClient().set_terminated(run_id, status))


def end_lost_run(run_id: str, status: str, reason: str) -> bool:
    """End a run that is marked as running but has no process; return whether it was. Its tag keeps the reason."""
    use_default_store()
    client = MlflowClient()
    if client.get_run(run_id).info.status not in ("RUNNING", "SCHEDULED"):
        return False
    client.set_tag(run_id, ERROR_TAG, reason)
    client.set_terminated(run_id, status)
    return True


def find_run(run_id: str) -> FoundRun:
    """Return the run with this id.

    Raises:
        TrackingError: the tracking server has no such run, or the run was deleted.
    """
    use_default_store()
    try:
        run = MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code not in (NOT_THERE, NO_ID):  # the server failed
            raise
        raise TrackingError(f"runs:/{run_id}: no such run in {mlflow.get_tracking_uri()}") from error
    if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
        raise TrackingError(f"runs:/{run_id}: the run was deleted; `mlflow gc` has not removed it yet")
    return _found(run)


def find_run_or_none(run_id: str) -> FoundRun | None:
    """Return a run that another one names, or None if it is deleted, on another server, or ``run_id`` is ""."""
    if not run_id:
        return None
    try:
        return find_run(run_id)
    except TrackingError:
        return None


def local_artifacts(run_id: str) -> Path | None:
    """Return the folder that keeps a run's files, or None if it is not on this machine."""
    use_default_store()
    return _on_this_machine(str(MlflowClient().get_run(run_id).info.artifact_uri))


def _on_this_machine(uri: str) -> Path | None:
    if not is_local_uri(uri):  # type: ignore[no-untyped-call]
        return None
    return Path(local_file_uri_to_path(uri))  # type: ignore[no-untyped-call]


def describe_place(run_id: str, path: str) -> str:
    """Return the path of a run's artifact if it lies on this machine, else its ``runs:/`` reference."""
    folder = local_artifacts(run_id)
    return f"runs:/{run_id}/{path}" if folder is None else str(folder / path)


def run_id_of(reference: str) -> str | None:
    """Return the run id in ``runs:/<id>[/path]``; None for other references."""
    match = re.match(r"runs:/+([0-9a-f]+)", reference)
    return match.group(1) if match else None


def fetch_artifact(run_id: str, path: str) -> Path:
    """Return the path of a run's artifact: the original if it lies on this machine, else a copy.

    The copy is removed when this process ends.

    Raises:
        TrackingError: the run has no such artifact, or it cannot be copied.
    """
    use_default_store()
    try:
        root = str(MlflowClient().get_run(run_id).info.artifact_uri)
        folder = _on_this_machine(root)
        if folder is not None and (folder / path).exists():
            return folder / path
        return _download(str(append_to_uri_path(root, path)))  # type: ignore[no-untyped-call]
    except (MlflowException, OSError) as error:
        if not _is_missing(run_id, path):
            raise TrackingError(_describe_failed_copy(f"runs:/{run_id}/{path}", error)) from error
        raise TrackingError(
            f"runs:/{run_id}: the run has no artifact {path}; `mlflow artifacts list -r {run_id}` lists what it has. "
            "A run that was stopped may lack some: run its stage again"
        ) from error


def fetch_reference(reference: str) -> Path:
    """Return the path of a ``runs:/…/…`` or ``models:/…`` artifact, which may be a copy: see :func:`fetch_artifact`.

    Raises:
        TrackingError: the artifact does not exist, or it cannot be copied.
    """
    use_default_store()
    place = re.fullmatch(r"runs:/+([0-9a-f]+)/+(.+?)/*", reference)
    try:
        if place is not None and not _is_missing(place[1], place[2]):
            return fetch_artifact(place[1], place[2])
        return _download(reference)  # MLflow also knows the models that a run has logged
    except (MlflowException, OSError) as error:
        if not _says_missing(error):
            raise TrackingError(_describe_failed_copy(reference, error)) from error
        raise TrackingError(f"{reference}: no such artifact in {mlflow.get_tracking_uri()}") from error


def _is_missing(run_id: str, path: str) -> bool:
    """Return whether the run, or this artifact of it, does not exist; a server that does not answer cannot say so."""
    try:
        return not has_artifact(run_id, path)
    except (MlflowException, OSError):
        return False


def _says_missing(error: MlflowException | OSError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (None, errno.ENOENT)  # MLflow's own OSError for a missing file has no number
    return error.error_code in (NOT_THERE, NO_ID)


def _download(uri: str) -> Path:
    """Copy an artifact into a folder of its own, which is removed when this process ends."""
    folder = tempfile.mkdtemp(dir=_downloads_of(os.getpid()))
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))


@cache
def _downloads_of(pid: int) -> Path:
    del pid  # a forked process makes a folder of its own
    return make_process_folder("carkp-artifacts-")


def _describe_failed_copy(reference: str, error: Exception) -> str:
    folder = Path(tempfile.gettempdir())
    return (
        f"{reference}: the artifact cannot be copied to {folder}: {error}. {describe_free_space(folder)} (TMPDIR names "
        "another folder). If the tracking server did not answer, give the command again when it does"
    )


def _found(run: Run) -> FoundRun:
    return FoundRun(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        tags=dict(run.data.tags),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        experiment_id=run.info.experiment_id,
        status=run.info.status,
        started=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
    )
