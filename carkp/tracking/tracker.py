"""The ``Tracker`` protocol that stages report through, and MLflow behind it."""

import importlib.metadata
import json
import logging
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import mlflow
import mlflow.onnx
import mlflow.pyfunc
import numpy as np
import onnx
from matplotlib.figure import Figure
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.models import ModelSignature, infer_signature
from mlflow.tracking import MlflowClient

from carkp.tracking.runs import create_child_run
from carkp.tracking.store import use_default_store

_CHECKOUT = Path(__file__).resolve().parents[2]
_GENERATED_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")
_MAX_PARAM_LENGTH = 6000
_FIGURE_DPI = 110
_DIGEST_LENGTH = 36
_NAME_TAG, _NOTE_TAG = "mlflow.runName", "mlflow.note.content"
_ERROR_TAG = "carkp.error"
_RECORDED_PACKAGES = ("carkp", "torch", "timm", "onnx", "onnxruntime", "numpy", "opencv-python-headless", "mlflow")


@dataclass(frozen=True)
class PyfuncModel:
    """A model to register.

    Attributes:
        code: a script that calls ``mlflow.models.set_model``; what it imports must be installed where it is loaded.
        artifacts: title -> file, which the model gets beside it as ``artifacts/<file name>``.
        signature: of its inputs and outputs.
        example: an input that it answers.
        requirements: of pip.
        config: settings that can be changed when the model is loaded, with their defaults.
    """

    code: Path
    artifacts: Mapping[str, Path]
    signature: ModelSignature
    example: Any
    requirements: Sequence[str]
    config: Mapping[str, Any]


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
    def describe(self, note: str, label: str = "") -> None: ...
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

    def describe(self, note: str, label: str = "") -> None:
        del note, label

    @contextmanager
    def child(self, stage: str, experiment: str) -> Iterator[Tracker]:
        del stage, experiment
        yield self


class MlflowTracker:
    """The active MLflow run."""

    def __init__(self, run_id: str, stage: str, experiment: str) -> None:
        self._run_id = run_id
        self._stage, self._experiment = stage, experiment

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
        requirements = [f"{package}=={version}" for package, version in _versions(("onnx", "onnxruntime", "numpy"))]
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
            model_config=dict(model.config),
            registered_model_name=name,
        )
        version = str(logged.registered_model_version)
        MlflowClient().set_registered_model_alias(name, alias, version)
        return version

    def describe(self, note: str, label: str = "") -> None:
        """The run's description in Markdown; ``label`` follows the stage in its name, unless a user has named it."""
        mlflow.set_tag(_NOTE_TAG, note)
        name = mlflow.get_run(self._run_id).info.run_name or ""
        if label and name == _run_name(self._stage, self._experiment):
            mlflow.set_tag(_NAME_TAG, _run_name(self._stage, label))

    @contextmanager
    def child(self, stage: str, experiment: str) -> Iterator[Tracker]:
        """A nested run in the experiment of this one."""
        with nested_run(self._run_id, stage, experiment) as tracker:
            yield tracker


@contextmanager
def nested_run(parent_run_id: str, stage: str, experiment: str) -> Iterator[Tracker]:
    """A run below another one, which may have been opened by another process, in the experiment of that one."""
    use_default_store()
    name = _run_name(stage, experiment)
    with mlflow.start_run(run_id=create_child_run(parent_run_id, name), nested=True) as run:
        tracker = MlflowTracker(run.info.run_id, stage, experiment)
        _describe(tracker, stage, experiment)
        with _error_kept():
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
    name = _run_name(stage, experiment)
    with mlflow.start_run(run_name=None if is_under_mlflow_run else name, log_system_metrics=True) as run:
        if _GENERATED_NAME.fullmatch(run.info.run_name or ""):
            mlflow.set_tag(_NAME_TAG, name)
        if _ERROR_TAG in run.data.tags:  # of the process that it goes on from
            mlflow.delete_tag(_ERROR_TAG)
        tracker = MlflowTracker(run.info.run_id, stage, experiment)
        _describe(tracker, stage, experiment)
        with _error_kept():
            yield tracker


@contextmanager
def _error_kept() -> Iterator[None]:
    """What ends the active run is kept as its tag ``carkp.error``."""
    try:
        yield
    except BaseException as error:
        mlflow.set_tag(_ERROR_TAG, f"{type(error).__name__}: {error}"[:_MAX_PARAM_LENGTH])
        raise


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
            "carkp.command": command_line(),
            "carkp.versions": json.dumps({"python": platform.python_version(), **dict(_versions())}),
            "carkp.machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        }
    )


def command_line() -> str:
    """The command that started this process, without passwords of URLs."""
    command = shlex.join(["python", *sys.orig_argv[1:]])[:_MAX_PARAM_LENGTH]
    return re.sub(r"(://[^:/@\s]+):[^@\s]+@", r"\1:***@", command)


def git_state(root: Path = _CHECKOUT) -> tuple[str, bool]:
    """The commit of the checkout ``root`` and whether it has uncommitted changes; ("unknown", True) without one.

    Changes below ``reports/`` do not count: stages write there.
    """
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain", "--", ".", ":!reports"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _versions(packages: Sequence[str] = _RECORDED_PACKAGES) -> list[tuple[str, str]]:
    """Versions of the packages that are installed."""
    found = []
    for package in packages:
        try:
            found.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
