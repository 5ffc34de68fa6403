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
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
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
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature, infer_signature
from mlflow.models.model import ModelInfo
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags

from carkp.tracking.runs import ERROR_TAG, create_child_run, find_run
from carkp.tracking.store import TrackingError, open_experiment, use_default_store

_CHECKOUT = Path(__file__).resolve().parents[2]
_PACKAGE = "carkp"
_GIT_VARIABLES = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"})
"""Which git sets for its hooks, and which would name another repository."""
_GENERATED_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")
_MAX_PARAM_LENGTH = 6000
_FIGURE_DPI = 110
_DIGEST_LENGTH = 36
_NAME_TAG, _NOTE_TAG = "mlflow.runName", "mlflow.note.content"
_CONTEXT_TAG = "mlflow.data.context"
_GIT_TAGS, _COMMIT_TAG = "mlflow.source.git.", "mlflow.source.git.commit"
_STUDY_TAG = "carkp.study"
_SERVING_ONNX = ("mlflow-skinny", "numpy", "onnx", "onnxruntime", "pandas")
"""What MLflow needs to serve an ONNX file: the whole of ``mlflow`` brings packages of the tracking server as well."""
_RECORDED_PACKAGES = ("carkp", "torch", "timm", "onnx", "onnxruntime", "numpy", "opencv-python-headless", "mlflow")


@dataclass(frozen=True)
class PyfuncModel:
    """A model to register.

    Attributes:
        script: it calls ``mlflow.models.set_model``; what it imports is in ``code``, or installed where it is loaded.
        code: packages that the model keeps a copy of; MLflow puts their folder at the head of ``sys.path``.
        artifacts: title -> file, which the model gets beside it as ``artifacts/<file name>``.
        signature: of its inputs and outputs.
        example: an input that it answers.
        requirements: of pip.
        config: settings that can be changed when the model is loaded, with their defaults.
    """

    script: Path
    code: Sequence[Path]
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
    """An MLflow run, named by its id; whatever run others call active has no part in it."""

    def __init__(self, run_id: str, stage: str, experiment: str) -> None:
        self._run_id = run_id
        self._stage, self._experiment = stage, experiment
        self._client = MlflowClient()

    @property
    def run_id(self) -> str:
        return self._run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        logged = [Param(name, str(value)[:_MAX_PARAM_LENGTH]) for name, value in params.items()]
        self._client.log_batch(self._run_id, params=logged, synchronous=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """NaN means that there was nothing to measure: it is left out."""
        now_ms = time.time_ns() // 1_000_000
        finite = {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
        logged = [Metric(name, value, now_ms, step or 0) for name, value in finite.items()]
        self._client.log_batch(self._run_id, metrics=logged, synchronous=True)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        logged = [RunTag(name, str(value)) for name, value in tags.items()]
        self._client.log_batch(self._run_id, tags=logged, synchronous=True)

    def log_file(self, path: Path, folder: str) -> None:
        self._client.log_artifact(self._run_id, str(path), folder or None)

    def log_figure(self, figure: Figure, name: str) -> None:
        self._client.log_figure(self._run_id, figure, name, save_kwargs={"dpi": _FIGURE_DPI})

    def log_text(self, text: str, name: str) -> None:
        self._client.log_text(self._run_id, text, name)

    def log_onnx_model(self, path: Path, name: str, inputs: np.ndarray, outputs: np.ndarray) -> None:
        """Log an ONNX file as an MLflow model whose signature is inferred from an example."""
        requirements = [f"{package}=={version}" for package, version in _versions(_SERVING_ONNX)]
        self._log_model(
            name,
            flavor=mlflow.onnx,
            onnx_model=onnx.load(str(path)),
            signature=infer_signature(inputs, outputs),
            pip_requirements=requirements,
            save_as_external_data=False,
        )

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Name what the run works on; the samples themselves stay where they are."""
        origin = CodeDatasetSource(tags={"path": source})
        dataset = MetaDataset(origin, name=name, digest=digest[:_DIGEST_LENGTH])  # type: ignore[abstract]
        tags = [InputTag(_CONTEXT_TAG, context)]
        self._client.log_inputs(self._run_id, [DatasetInput(dataset._to_mlflow_entity(), tags)])

    def register_pyfunc(self, name: str, alias: str, model: PyfuncModel) -> str:
        """Log a pyfunc as a new version of the registered model ``name`` and point ``alias`` at it; the version."""
        logged = self._log_model(
            f"registered_{name}",
            flavor=mlflow.pyfunc,
            python_model=str(model.script),
            code_paths=[str(path) for path in model.code],
            artifacts={title: str(path) for title, path in model.artifacts.items()},
            signature=model.signature,
            input_example=model.example,
            pip_requirements=list(model.requirements),
            model_config=dict(model.config),
            registered_model_name=name,
        )
        version = str(logged.registered_model_version)
        self._client.set_registered_model_alias(name, alias, version)
        return version

    def _log_model(self, name: str, **settings: Any) -> ModelInfo:
        """``log_model`` of a flavour, into this run and its experiment; left alone, MLflow takes the active run."""
        run = self._client.get_run(self._run_id)
        model = self._client.create_logged_model(
            run.info.experiment_id, name, source_run_id=self._run_id, params=run.data.params
        )
        logged: ModelInfo = Model.log(
            artifact_path=None, name=name, run_id=self._run_id, model_id=model.model_id, **settings
        )
        return logged

    def describe(self, note: str, label: str = "") -> None:
        """The run's description in Markdown; ``label`` follows the stage in its name, unless a user has named it."""
        tags = {_NOTE_TAG: note}
        name = self._client.get_run(self._run_id).info.run_name or ""
        if label and name == _run_name(self._stage, self._experiment):
            tags[_NAME_TAG] = _run_name(self._stage, label)
        self.set_tags(tags)

    @contextmanager
    def child(self, stage: str, experiment: str) -> Iterator[Tracker]:
        """A nested run in the experiment of this one."""
        with nested_run(self._run_id, stage, experiment) as tracker:
            yield tracker


@contextmanager
def nested_run(parent_run_id: str, stage: str, experiment: str) -> Iterator[Tracker]:
    """A run below another one, which may have been opened by another process, in the experiment of that one."""
    use_default_store()
    run_id = create_child_run(parent_run_id, _run_name(stage, experiment))
    with _ended_in_order(run_id):
        tracker = MlflowTracker(run_id, stage, experiment)
        _describe(tracker, stage, experiment)
        yield tracker


@contextmanager
def tracked_run(stage: str, experiment: str, system_metrics_interval_s: float) -> Iterator[Tracker]:
    """The run of a stage: the one that ``mlflow run`` opened, else a new one in the experiment of that name.

    An exception marks the run as failed and is kept as its description.

    Raises:
        TrackingError: the server gives no answer, or the run or the experiment cannot be used.
    """
    use_default_store()
    # those who start a stage in a run of theirs name it here; what this process starts has no part in it
    given = os.environ.pop("MLFLOW_RUN_ID", "")
    run_id = _join(given, stage, experiment) if given else _create_run(stage, experiment)
    with _ended_in_order(run_id), _system_metrics(run_id, system_metrics_interval_s, is_continued=bool(given)):
        tracker = MlflowTracker(run_id, stage, experiment)
        _describe(tracker, stage, experiment)
        yield tracker


def _create_run(stage: str, experiment: str) -> str:
    experiment_id = open_experiment(experiment)
    commit, _ = git_state()
    tags = resolve_tags()
    if tags.get(_COMMIT_TAG, commit) != commit:  # of the repository that the program's file lies in by chance
        tags = {name: value for name, value in tags.items() if not name.startswith(_GIT_TAGS)}
    run = MlflowClient().create_run(experiment_id, tags=tags, run_name=_run_name(stage, experiment))
    return str(run.info.run_id)


def _join(run_id: str, stage: str, experiment: str) -> str:
    """Go on in the run that MLFLOW_RUN_ID names.

    Raises:
        TrackingError: there is no such run, or it is finished: the variable is left over from something else.
    """
    client, remedy = MlflowClient(), "MLFLOW_RUN_ID is left over from another program? Then unset it"
    try:
        found = find_run(run_id)
    except TrackingError as error:
        raise TrackingError(f"MLFLOW_RUN_ID={run_id}: {error}. {remedy}") from error
    is_study = _STUDY_TAG in found.tags  # which goes on in its own run
    if found.status == "FINISHED" and not is_study:
        raise TrackingError(f"MLFLOW_RUN_ID={run_id}: the run {found.name!r} is finished. {remedy}")
    client.update_run(run_id, status="RUNNING")
    if _GENERATED_NAME.fullmatch(found.name):
        client.set_tag(run_id, _NAME_TAG, _run_name(stage, experiment))
    if ERROR_TAG in found.tags:  # of the process that it goes on from
        client.delete_tag(run_id, ERROR_TAG)
    return run_id


@contextmanager
def _ended_in_order(run_id: str) -> Iterator[None]:
    """The run is finished at the end; what ends it before makes it failed and is kept as its tag ``carkp.error``."""
    client = MlflowClient()
    try:
        yield
    except BaseException as error:
        try:
            _mark_failed(client, run_id, error)
        except KeyboardInterrupt:  # torchrun ends what is left of a group while the loss of a process is written down
            _mark_failed(client, run_id, error)
        raise
    client.set_terminated(run_id, "FINISHED")


def _mark_failed(client: MlflowClient, run_id: str, error: BaseException) -> None:
    with suppress(MlflowException):  # the first error counts, and the server may be that
        client.set_tag(run_id, ERROR_TAG, f"{type(error).__name__}: {error}"[:_MAX_PARAM_LENGTH])
        client.set_terminated(run_id, "FAILED")


@contextmanager
def _system_metrics(run_id: str, interval_s: float, is_continued: bool) -> Iterator[None]:
    """Processor, memory and disk over time, beside what is done within."""
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    mlflow.set_system_metrics_sampling_interval(interval_s)  # type: ignore[no-untyped-call]
    monitor = SystemMetricsMonitor(run_id, resume_logging=is_continued)  # type: ignore[no-untyped-call]
    monitor.start()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        monitor.finish()  # type: ignore[no-untyped-call]


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
            "carkp.versions": json.dumps(package_versions()),
            "carkp.machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        }
    )


def command_line() -> str:
    """The command that started this process, without passwords of URLs."""
    command = shlex.join(["python", *sys.orig_argv[1:]])[:_MAX_PARAM_LENGTH]
    return re.sub(r"(://[^:/@\s]+):[^@\s]+@", r"\1:***@", command)


def git_state(root: Path = _CHECKOUT) -> tuple[str, bool]:
    """The commit of the checkout ``root`` and whether it has uncommitted changes; ("unknown", True) without one.

    A repository that holds carkp by chance, such as that of somebody's project around a .venv/, does not count: it must
    have carkp's files among its own. Changes below ``reports/`` do not count: stages write there.
    """
    package = _PACKAGE if (root / _PACKAGE).is_dir() else "."
    try:
        if not _git(root, "ls-files", "--", package):
            return "unknown", True
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain", "--", ".", ":!reports"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in _GIT_VARIABLES}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


def package_versions(further: Sequence[str] = ()) -> dict[str, str]:
    """Of Python, and of the packages that matter and are installed; ``further``: more of them."""
    return {"python": platform.python_version(), **dict(_versions((*_RECORDED_PACKAGES, *further)))}


def _versions(packages: Sequence[str]) -> list[tuple[str, str]]:
    """Versions of the packages that are installed."""
    found = []
    for package in packages:
        try:
            found.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
