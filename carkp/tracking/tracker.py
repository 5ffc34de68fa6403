"""The ``Tracker`` protocol, through which stages report, and its implementation with MLflow."""

import importlib.metadata
import json
import logging
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import mlflow
import mlflow.pyfunc
import numpy as np
from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, infer_signature
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags

from carkp import disk
from carkp.processes import PROCESS_TAG, process_name
from carkp.tracking import reports
from carkp.tracking.delivery import Delivery, spool_root
from carkp.tracking.outage import patience, while_locked
from carkp.tracking.runs import ERROR_TAG, STAGE_TAG, create_child_run, find_run
from carkp.tracking.spool import Report
from carkp.tracking.store import FIRST_WAIT_S, TrackingError, open_experiment, use_default_store
from carkp.tracking.sync import send_left_over

_CHECKOUT = Path(__file__).resolve().parents[2]
_PACKAGE = "carkp"
_GIT_VARIABLES = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"})
"""Variables that git sets for its hooks; they would redirect git to another repository."""
_GENERATED_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")
_MAX_PARAM_LENGTH = 6000
_FIGURE_DPI = 110
_FAILED_WAIT_S = 3.0
"""A run that failed or was interrupted does not wait long for a server that is gone."""

_DIGEST_LENGTH = 36
_NAME_TAG = "mlflow.runName"
_GIT_TAGS, _COMMIT_TAG = "mlflow.source.git.", "mlflow.source.git.commit"
_STUDY_TAG = "carkp.study"
_SYSTEM_PREFIX = "system/"
_SERVING_ONNX = ("mlflow-skinny", "numpy", "onnx", "onnxruntime", "pandas")
"""Packages that MLflow needs to serve an ONNX file. All of ``mlflow`` would add packages of the tracking server."""
_RECORDED_PACKAGES = ("carkp", "torch", "timm", "onnx", "onnxruntime", "numpy", "opencv-python-headless", "mlflow")


@dataclass(frozen=True)
class PyfuncModel:
    """A model to register.

    Attributes:
        script: it calls ``mlflow.models.set_model``; its imports are in ``code`` or installed where the model is
            loaded.
        code: packages that are copied into the model; MLflow puts their folder at the head of ``sys.path``.
        artifacts: title -> file; the model gets a copy as ``artifacts/<file name>``.
        signature: types of its inputs and outputs.
        example: an input that the model can answer.
        requirements: pip requirements.
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
    """Receives the reports of a stage. The stage chooses the names of metrics, tags and artifacts."""

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
    """A tracker that discards all reports: for ranks above 0 and for untracked use."""

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
    """A tracker for one MLflow run, named by its id. It ignores MLflow's active run.

    While the tracking server cannot be reached, reports are kept on the disk (``Delivery``). Registering a pyfunc and
    creating a child run fail without the server, because it gives their names.
    """

    def __init__(self, run_id: str, stage: str, experiment: str, wait_s: float = 0.0) -> None:
        """``wait_s``: longest wait for the server at the end of a child run."""
        self._run_id = run_id
        self._stage, self._experiment = stage, experiment
        self._client = MlflowClient()
        self._delivery, self._wait_s = Delivery(run_id, _run_name(stage, experiment)), wait_s

    @property
    def run_id(self) -> str:
        return self._run_id

    def require_accepted(self) -> None:
        """Raise TrackingError if the server has refused a report that an outage held back."""
        self._delivery.require_accepted()

    def _report(self, report: Report) -> None:
        self._delivery.require_accepted()
        self._delivery.report(report)

    def log_params(self, params: Mapping[str, Any]) -> None:
        logged = {name: str(value)[:_MAX_PARAM_LENGTH] for name, value in params.items()}
        self._report(reports.params_report(logged))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics; NaN means that there was nothing to measure, and is left out, as infinity is."""
        finite = {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
        self._report(reports.metrics_report(finite, step or 0, _now_ms()))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._report(reports.tags_report({name: str(value) for name, value in tags.items()}))

    def log_file(self, path: Path, folder: str) -> None:
        self._report(reports.artifact_report(path, folder))

    def log_figure(self, figure: Figure, name: str) -> None:
        with _temporary_file(name) as path:
            figure.savefig(path, dpi=_FIGURE_DPI)
            self.log_file(path, name.rpartition("/")[0])

    def log_text(self, text: str, name: str) -> None:
        with _temporary_file(name) as path:
            path.write_text(text, encoding="utf-8")
            self.log_file(path, name.rpartition("/")[0])

    def log_onnx_model(self, path: Path, name: str, inputs: np.ndarray, outputs: np.ndarray) -> None:
        """Log an ONNX file as an MLflow model; its signature is inferred from an example."""
        requirements = [f"{package}=={version}" for package, version in _versions(_SERVING_ONNX)]
        signature = infer_signature(inputs, outputs)
        self._report(reports.onnx_model_report(path, name, signature, requirements))

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Record which data the run uses; the samples themselves are not copied."""
        self._report(reports.dataset_report(name, digest[:_DIGEST_LENGTH], source, context))

    def register_pyfunc(self, name: str, alias: str, model: PyfuncModel) -> str:
        """Log a pyfunc as a new version of the registered model ``name``, point ``alias`` at it; return the version."""
        logged = reports.log_model(
            self._client,
            self._run_id,
            f"registered_{name}",
            {},
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

    def describe(self, note: str, label: str = "") -> None:
        """Set the run's description in Markdown. A run that no user renamed is named after stage and ``label``."""
        plain = _run_name(self._stage, self._experiment)
        name = _run_name(self._stage, label) if label else ""
        self._report(reports.description_report(note, plain, name))

    @contextmanager
    def child(self, stage: str, experiment: str) -> Iterator[Tracker]:
        """Open a nested run in the experiment of this run."""
        with nested_run(self._run_id, stage, experiment, self._wait_s) as tracker:
            yield tracker

    def sync_files(self) -> None:
        """Flush the files of the run to the disk, if they are on this machine.

        Raises:
            OSError: the disk does not accept them.
        """
        folder = None
        with suppress(MlflowException), patience(_FAILED_WAIT_S):  # a server that is gone keeps no files here
            folder = reports.folder_of(self._run_id)
        if folder is not None and folder.is_dir():
            disk.sync_tree(folder)

    def end(self, wait_s: float, error: BaseException | None = None) -> None:
        """End the run, as failed or killed if ``error`` is given. Kept reports have ``wait_s`` to arrive.

        Raises:
            TrackingError: the server has refused some of them.
        """
        try:
            status = "FINISHED"
            if error is not None:
                status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
                text = f"{type(error).__name__}: {error}"[:_MAX_PARAM_LENGTH]
                self._delivery.report(reports.tags_report({ERROR_TAG: text}))
            self._delivery.report(reports.end_report(status, _now_ms()))
        finally:
            self._delivery.close(wait_s)
        self._delivery.require_accepted()


@contextmanager
def nested_run(parent_run_id: str, stage: str, experiment: str, wait_s: float = FIRST_WAIT_S) -> Iterator[Tracker]:
    """Open a run below another one, in the same experiment. Another process may have opened the parent.

    ``wait_s``: longest wait for the server at its end.
    """
    use_default_store()
    run_id = create_child_run(parent_run_id, _run_name(stage, experiment), _found_by(stage))
    tracker = MlflowTracker(run_id, stage, experiment, wait_s)
    with _ended_in_order(tracker, wait_s):
        _describe(tracker, stage, experiment)
        yield tracker


@contextmanager
def tracked_run(
    stage: str, experiment: str, system_metrics_interval_s: float, wait_s: float = FIRST_WAIT_S
) -> Iterator[Tracker]:
    """Open the run of a stage: the run that ``mlflow run`` created, else a new one in the experiment ``experiment``.

    An exception marks the run as failed, an interruption marks it as killed; the tag ``carkp.error`` keeps the error.
    Before that, reports that earlier runs of this project could not send are sent. ``wait_s``: longest wait for a
    server that does not answer, at the start and at the end.

    Raises:
        TrackingError: the server does not answer, or the run or the experiment cannot be used.
    """
    use_default_store(wait_s)
    send_left_over(spool_root())
    # the caller names its run here; processes that this process starts must not use it
    given = os.environ.pop("MLFLOW_RUN_ID", "")
    run_id = _join(given, stage, experiment) if given else _create_run(stage, experiment)
    tracker = MlflowTracker(run_id, stage, experiment, wait_s)
    with _ended_in_order(tracker, wait_s), _system_metrics(tracker, system_metrics_interval_s, bool(given)):
        _describe(tracker, stage, experiment)
        yield tracker


def _create_run(stage: str, experiment: str) -> str:
    experiment_id = while_locked(lambda: open_experiment(experiment))
    commit, _ = git_state()
    tags = resolve_tags()
    if tags.get(_COMMIT_TAG, commit) != commit:  # MLflow may find another repository around the program's file
        tags = {name: value for name, value in tags.items() if not name.startswith(_GIT_TAGS)}
    tags |= _found_by(stage)
    name = _run_name(stage, experiment)
    run = while_locked(lambda: MlflowClient().create_run(experiment_id, tags=tags, run_name=name))
    return str(run.info.run_id)


def _found_by(stage: str) -> dict[str, str]:
    """Return the tags by which later runs find this run if its process is killed."""
    return {STAGE_TAG: stage, PROCESS_TAG: process_name(os.getpid())}


def _join(run_id: str, stage: str, experiment: str) -> str:
    """Continue the run that MLFLOW_RUN_ID names.

    Raises:
        TrackingError: there is no such run, or it is finished: then the variable is left over from another program.
    """
    client, remedy = MlflowClient(), "If MLFLOW_RUN_ID is left over from another program, unset it"
    try:
        found = find_run(run_id)
    except TrackingError as error:
        raise TrackingError(f"MLFLOW_RUN_ID={run_id}: {error}. {remedy}") from error
    is_study = _STUDY_TAG in found.tags  # a study continues in its own run
    if found.status == "FINISHED" and not is_study:
        raise TrackingError(f"MLFLOW_RUN_ID={run_id}: the run {found.name!r} is finished. {remedy}")
    client.set_tag(run_id, STAGE_TAG, stage)
    while_locked(lambda: client.update_run(run_id, status="RUNNING"))
    if not is_study:  # several processes may work on a study
        client.set_tag(run_id, PROCESS_TAG, process_name(os.getpid()))
    if _GENERATED_NAME.fullmatch(found.name):
        client.set_tag(run_id, _NAME_TAG, _run_name(stage, experiment))
    if ERROR_TAG in found.tags:  # from the process that it continues
        client.delete_tag(run_id, ERROR_TAG)
    return run_id


@contextmanager
def _ended_in_order(tracker: MlflowTracker, wait_s: float) -> Iterator[None]:
    """Finish the run at the end, after flushing all its files to the disk.

    An error marks the run as failed, an interruption as killed; the tag ``carkp.error`` keeps the error.
    """
    try:
        yield
        tracker.require_accepted()
        tracker.sync_files()
    except BaseException as error:
        try:
            _end_early(tracker, wait_s, error)
        except KeyboardInterrupt:  # torchrun may interrupt this process while it reports the loss of another one
            _end_early(tracker, wait_s, error)
        raise
    tracker.end(wait_s)


def _end_early(tracker: MlflowTracker, wait_s: float, error: BaseException) -> None:
    with suppress(MlflowException, TrackingError, OSError):  # the first error counts, and it may be the server's
        tracker.end(min(wait_s, _FAILED_WAIT_S), error)


@contextmanager
def _system_metrics(tracker: MlflowTracker, interval_s: float, is_continued: bool) -> Iterator[None]:
    """Record processor, memory and disk over time during the block.

    MLflow's own thread would stop at the first failed request, and would delay the end of the run.
    """
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    monitor = SystemMetricsMonitor(tracker.run_id, resume_logging=is_continued)  # type: ignore[no-untyped-call]
    is_over = threading.Event()
    thread = threading.Thread(target=_sample, args=(monitor, tracker, interval_s, is_over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _sample(monitor: SystemMetricsMonitor, tracker: Tracker, interval_s: float, is_over: threading.Event) -> None:
    """Report the monitor's values until the run is over, with a last report then, or until the server refuses."""
    step, is_last = monitor._logging_step, False
    with suppress(MlflowException, TrackingError, OSError):  # the run itself will meet these errors
        while not is_last:
            monitor.collect_metrics()  # type: ignore[no-untyped-call]
            is_last = is_over.wait(interval_s)
            found = monitor.aggregate_metrics()  # type: ignore[no-untyped-call]
            tracker.log_metrics({f"{_SYSTEM_PREFIX}{name}": value for name, value in found.items()}, step)
            step += 1
            for part in monitor.monitors:
                part.clear_metrics()  # type: ignore[no-untyped-call]


@contextmanager
def _temporary_file(name: str) -> Iterator[Path]:
    """Yield a temporary path with the file name of the artifact ``name``."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / name.rpartition("/")[2]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


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
    """Return the command that started this process, without passwords in URLs."""
    command = shlex.join(["python", *sys.orig_argv[1:]])[:_MAX_PARAM_LENGTH]
    return re.sub(r"(://[^:/@\s]+):[^@\s]+@", r"\1:***@", command)


def git_state(root: Path = _CHECKOUT) -> tuple[str, bool]:
    """Return the commit of the checkout ``root`` and whether it has uncommitted changes; without one ("unknown", True).

    Only a repository that tracks carkp's own files counts, not for example a user's project with carkp in its .venv/.
    Changes below ``reports/`` do not count, because stages write there.
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
    """Return the versions of Python and of the important installed packages, and of those in ``further``."""
    return {"python": platform.python_version(), **dict(_versions((*_RECORDED_PACKAGES, *further)))}


def _versions(packages: Sequence[str]) -> list[tuple[str, str]]:
    """Return the versions of those packages that are installed."""
    found = []
    for package in packages:
        try:
            found.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
