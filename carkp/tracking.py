"""Experiment tracking: the ``Tracker`` protocol and MLflow behind it. Only here and in serving is mlflow imported."""

import importlib.metadata
import logging
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlparse

import mlflow
import mlflow.onnx
import mlflow.pyfunc
import numpy as np
import onnx
from matplotlib.figure import Figure
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, infer_signature
from mlflow.tracking import MlflowClient

LATEST = "latest"
PROJECT_FILE = "MLproject"

_GENERATED_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")
_MAX_PARAM_LENGTH = 6000
_FIGURE_DPI = 110
_DIGEST_LENGTH = 36


class TrackingError(Exception):
    """A run or artifact that cannot be found; the message says what was looked for and what to do."""


@dataclass(frozen=True)
class PyfuncModel:
    """A model to register.

    Attributes:
        code: a script that calls ``mlflow.models.set_model``; what it imports must be installed where it is loaded.
        artifacts: title -> file, which the model gets beside it as ``artifacts/<file name>``.
        signature: of its inputs and outputs.
        example: an input that it answers.
        requirements: of pip.
    """

    code: Path
    artifacts: Mapping[str, Path]
    signature: ModelSignature
    example: Any
    requirements: Sequence[str]


class Tracker(Protocol):
    """Where a stage reports to. Names of metrics, tags and artifacts are the stage's."""

    @property
    def run_id(self) -> str: ...
    def log_params(self, params: Mapping[str, Any]) -> None: ...
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None: ...
    def set_tags(self, tags: Mapping[str, str]) -> None: ...
    def log_file(self, path: Path, folder: str) -> None: ...
    def log_figure(self, figure: Figure, name: str) -> None: ...
    def log_text(self, text: str, name: str) -> None: ...
    def log_onnx_model(self, path: Path, name: str, inputs: np.ndarray, outputs: np.ndarray) -> None: ...
    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None: ...
    def register_pyfunc(self, name: str, alias: str, model: PyfuncModel) -> str: ...
    def child(self, stage: str, experiment: str) -> AbstractContextManager["Tracker"]: ...


class NullTracker:
    """Reports nowhere: for ranks above 0 and for untracked use."""

    run_id = "untracked"

    def log_params(self, params: Mapping[str, Any]) -> None:
        del params

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        del metrics, step

    def set_tags(self, tags: Mapping[str, str]) -> None:
        del tags

    def log_file(self, path: Path, folder: str) -> None:
        del path, folder

    def log_figure(self, figure: Figure, name: str) -> None:
        del figure, name

    def log_text(self, text: str, name: str) -> None:
        del text, name

    def log_onnx_model(self, path: Path, name: str, inputs: np.ndarray, outputs: np.ndarray) -> None:
        del path, name, inputs, outputs

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        del name, digest, source, context

    def register_pyfunc(self, name: str, alias: str, model: PyfuncModel) -> str:
        del name, alias, model
        return "unregistered"

    @contextmanager
    def child(self, stage: str, experiment: str) -> Iterator[Tracker]:
        del stage, experiment
        yield self


class MlflowTracker:
    """The active MLflow run."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    @property
    def run_id(self) -> str:
        return self._run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        mlflow.log_params({name: str(value)[:_MAX_PARAM_LENGTH] for name, value in params.items()})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """NaN means that there was nothing to measure: it is left out."""
        finite = {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
        mlflow.log_metrics(finite, step=step, run_id=self._run_id)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        mlflow.set_tags(dict(tags))

    def log_file(self, path: Path, folder: str) -> None:
        mlflow.log_artifact(str(path), folder or None)

    def log_figure(self, figure: Figure, name: str) -> None:
        mlflow.log_figure(figure, name, save_kwargs={"dpi": _FIGURE_DPI})

    def log_text(self, text: str, name: str) -> None:
        mlflow.log_text(text, name)

    def log_onnx_model(self, path: Path, name: str, inputs: np.ndarray, outputs: np.ndarray) -> None:
        """Log an ONNX file as an MLflow model whose signature is inferred from an example."""
        requirements = [f"{package}=={version}" for package, version in _versions("onnx", "onnxruntime", "numpy")]
        mlflow.onnx.log_model(
            onnx.load(str(path)),
            name=name,
            signature=infer_signature(inputs, outputs),
            pip_requirements=requirements,
            save_as_external_data=False,
        )

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Name what the run works on; the samples themselves stay where they are."""
        origin = CodeDatasetSource(tags={"path": source})
        dataset = MetaDataset(origin, name=name, digest=digest[:_DIGEST_LENGTH])  # type: ignore[abstract]
        mlflow.log_input(dataset, context=context)

    def register_pyfunc(self, name: str, alias: str, model: PyfuncModel) -> str:
        """Log a pyfunc as a new version of the registered model ``name`` and point ``alias`` at it; the version."""
        logged = mlflow.pyfunc.log_model(
            name=f"registered_{name}",
            python_model=str(model.code),
            artifacts={title: str(path) for title, path in model.artifacts.items()},
            signature=model.signature,
            input_example=model.example,
            pip_requirements=list(model.requirements),
            registered_model_name=name,
        )
        version = str(logged.registered_model_version)
        MlflowClient().set_registered_model_alias(name, alias, version)
        return version

    @contextmanager
    def child(self, stage: str, experiment: str) -> Iterator[Tracker]:
        """A nested run in the experiment of this one."""
        with mlflow.start_run(run_name=_run_name(stage, experiment), nested=True) as run:
            tracker = MlflowTracker(run.info.run_id)
            _describe(tracker, stage, experiment)
            yield tracker


@contextmanager
def tracked_run(stage: str, experiment: str, system_metrics_interval_s: float) -> Iterator[Tracker]:
    """The run of a stage: the one that ``mlflow run`` opened, else a new one in the experiment of that name.

    An exception marks the run as failed and is kept as its description.
    """
    use_default_store()
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    mlflow.set_system_metrics_sampling_interval(system_metrics_interval_s)  # type: ignore[no-untyped-call]
    is_under_mlflow_run = "MLFLOW_RUN_ID" in os.environ
    if not is_under_mlflow_run:
        mlflow.set_experiment(experiment)
    name = None if is_under_mlflow_run else _run_name(stage, experiment)
    with mlflow.start_run(run_name=name, log_system_metrics=True) as run:
        if _GENERATED_NAME.fullmatch(run.info.run_name or ""):
            mlflow.set_tag("mlflow.runName", _run_name(stage, experiment))
        tracker = MlflowTracker(run.info.run_id)
        _describe(tracker, stage, experiment)
        try:
            yield tracker
        except BaseException as error:
            mlflow.set_tag("carkp.error", f"{type(error).__name__}: {error}"[:_MAX_PARAM_LENGTH])
            raise


def use_default_store() -> None:
    """Track to mlflow.db in the project unless MLFLOW_TRACKING_URI says otherwise."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(f"sqlite:///{project_root() / 'mlflow.db'}")


def project_root() -> Path:
    """The working directory where it holds the MLproject file, else the checkout that this module lies in, if any."""
    checkout = Path(__file__).resolve().parent.parent
    is_elsewhere = not (Path.cwd() / PROJECT_FILE).is_file()
    return checkout if is_elsewhere and (checkout / PROJECT_FILE).is_file() else Path.cwd()


@dataclass(frozen=True)
class FoundRun:
    """A run that answers a reference."""

    run_id: str
    name: str
    tags: Mapping[str, str]


def find_latest_run(stage: str, tags: Mapping[str, str]) -> FoundRun | None:
    """The newest finished run of ``stage`` with these tags, over all experiments of the tracking server."""
    runs = _search(stage, tags, "attributes.status = 'FINISHED'", max_results=1)
    return _found(runs[0]) if runs else None


def find_unfinished_run(stage: str, tags: Mapping[str, str], artifact: str) -> FoundRun | None:
    """The newest run of ``stage`` with these tags that failed, was killed or is said to go on, and has ``artifact``."""
    for run in _search(stage, tags, "attributes.status != 'FINISHED'", max_results=20):
        folder, _, _ = artifact.rpartition("/")
        if any(item.path == artifact for item in MlflowClient().list_artifacts(run.info.run_id, folder)):
            return _found(run)
    return None


def find_run(run_id: str) -> FoundRun:
    """The run of this id.

    Raises:
        TrackingError: the tracking server has none.
    """
    use_default_store()
    try:
        return _found(MlflowClient().get_run(run_id))
    except MlflowException as error:
        raise TrackingError(f"runs:/{run_id}: no such run in {mlflow.get_tracking_uri()}") from error


def run_id_of(reference: str) -> str | None:
    """The run id in ``runs:/<id>[/path]``; None for another kind of reference."""
    match = re.match(r"runs:/+([0-9a-f]+)", reference)
    return match.group(1) if match else None


def fetch_artifact(run_id: str, path: str) -> Path:
    """The original of an artifact of a run where it lies on this machine, else a copy.

    Raises:
        TrackingError: the run has no such artifact.
    """
    use_default_store()
    try:
        root = urlparse(MlflowClient().get_run(run_id).info.artifact_uri)
        if root.scheme in ("", "file") and (original := Path(unquote(root.path)) / path).exists():
            return original
        return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path))
    except (MlflowException, OSError) as error:
        raise TrackingError(f"runs:/{run_id}: the run has no artifact {path}") from error


def fetch_reference(reference: str) -> Path:
    """A local copy of a ``runs:/…`` or ``models:/…`` artifact.

    Raises:
        TrackingError: there is none.
    """
    use_default_store()
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=reference))
    except (MlflowException, OSError) as error:
        raise TrackingError(f"{reference}: no such artifact in {mlflow.get_tracking_uri()}") from error


def _search(stage: str, tags: Mapping[str, str], condition: str, max_results: int) -> list[Run]:
    use_default_store()
    client = MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    wanted = {"carkp.stage": stage, **tags}
    query = " and ".join([*(f"tags.`{name}` = '{value}'" for name, value in wanted.items()), condition])
    return list(
        client.search_runs(experiments, query, order_by=["attributes.start_time DESC"], max_results=max_results)
    )


def _found(run: Run) -> FoundRun:
    return FoundRun(run.info.run_id, run.info.run_name or run.info.run_id, dict(run.data.tags))


def _run_name(stage: str, experiment: str) -> str:
    return f"{stage} {experiment}"


def _describe(tracker: Tracker, stage: str, experiment: str) -> None:
    commit, is_dirty = git_state()
    tracker.set_tags(
        {
            "carkp.stage": stage,
            "carkp.experiment": experiment,
            "carkp.git_commit": commit,
            "carkp.git_dirty": str(is_dirty).lower(),
        }
    )


def git_state() -> tuple[str, bool]:
    """The commit of the checkout and whether it has uncommitted changes; ("unknown", True) outside a checkout."""
    root = Path(__file__).resolve().parent
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _versions(*packages: str) -> list[tuple[str, str]]:
    return [(package, importlib.metadata.version(package)) for package in packages]
