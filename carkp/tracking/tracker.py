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
from carkp.tracking.runs import ERROR_TAG, create_child_run, find_run
from carkp.tracking.spool import Report
from carkp.tracking.store import FIRST_WAIT_S, TrackingError, open_experiment, use_default_store
from carkp.tracking.sync import send_left_over

_CHECKOUT = Path(__file__).resolve().parents[2]
_PACKAGE = "carkp"
_GIT_VARIABLES = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"})
"""Which git sets for its hooks, and which would name another repository."""
_GENERATED_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")
_MAX_PARAM_LENGTH = 6000
_FIGURE_DPI = 110
_FAILED_WAIT_S = 3.0
"""The end of a run that failed or was interrupted does not wait long for a server that is gone."""

_DIGEST_LENGTH = 36
_NAME_TAG = "mlflow.runName"
_GIT_TAGS, _COMMIT_TAG = "mlflow.source.git.", "mlflow.source.git.commit"
_STUDY_TAG = "carkp.study"
_SYSTEM_PREFIX = "system/"
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
    """An MLflow run, named by its id; whatever run others call active has no part in it.

    While the tracking server cannot be reached, reports are kept on the disk (``Delivery``). A pyfunc is registered and
    a child run is made at once or not at all: their names come from the server.
    """

    def __init__(self, run_id: str, stage: str, experiment: str, wait_s: float = 0.0) -> None:
        """``wait_s``: so long may the end of a child run wait for the server."""
        self._run_id = run_id
        self._stage, self._experiment = stage, experiment
        self._client = MlflowClient()
        self._delivery, self._wait_s = Delivery(run_id, _run_name(stage, experiment)), wait_s

    @property
    def run_id(self) -> str:
        return self._run_id

    def require_accepted(self) -> None:
        """Raises TrackingError where the server has refused something that an outage had held back."""
        self._delivery.require_accepted()

    def _report(self, report: Report) -> None:
        self._delivery.require_accepted()
        self._delivery.report(report)

    def log_params(self, params: Mapping[str, Any]) -> None:
        logged = {name: str(value)[:_MAX_PARAM_LENGTH] for name, value in params.items()}
        self._report(reports.params_report(logged))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """NaN means that there was nothing to measure: it is left out."""
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
        """Log an ONNX file as an MLflow model whose signature is inferred from an example."""
        requirements = [f"{package}=={version}" for package, version in _versions(_SERVING_ONNX)]
        signature = infer_signature(inputs, outputs)
        self._report(reports.onnx_model_report(path, name, signature, requirements))

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Name what the run works on; the samples themselves stay where they are."""
        self._report(reports.dataset_report(name, digest[:_DIGEST_LENGTH], source, context))

    def register_pyfunc(self, name: str, alias: str, model: PyfuncModel) -> str:
        """Log a pyfunc as a new version of the registered model ``name`` and point ``alias`` at it; the version."""
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
        """The run's description in Markdown; ``label`` follows the stage in its name, unless a user has named it."""
        plain = _run_name(self._stage, self._experiment)
        name = _run_name(self._stage, label) if label else ""
        self._report(reports.description_report(note, plain, name))

    @contextmanager
    def child(self, stage: str, experiment: str) -> Iterator[Tracker]:
        """A nested run in the experiment of this one."""
        with nested_run(self._run_id, stage, experiment, self._wait_s) as tracker:
            yield tracker

    def sync_files(self) -> None:
        """Bring the files of the run to the disk, where that is one of this machine.

        Raises:
            OSError: the disk does not take them.
        """
        folder = None
        with suppress(MlflowException), patience(_FAILED_WAIT_S):  # a server that is gone keeps nothing here
            folder = reports.folder_of(self._run_id)
        if folder is not None and folder.is_dir():
            disk.sync_tree(folder)

    def end(self, wait_s: float, error: BaseException | None = None) -> None:
        """The run has ended, by an error if there is one; what an outage has held back is given ``wait_s`` to arrive.

        Raises:
            TrackingError: the server has refused some of that.
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
    """A run below another one, which may have been opened by another process, in the experiment of that one.

    ``wait_s``: so long may its end wait for the server.
    """
    use_default_store()
    run_id = create_child_run(parent_run_id, _run_name(stage, experiment))
    tracker = MlflowTracker(run_id, stage, experiment, wait_s)
    with _ended_in_order(tracker, wait_s):
        _describe(tracker, stage, experiment)
        yield tracker


@contextmanager
def tracked_run(
    stage: str, experiment: str, system_metrics_interval_s: float, wait_s: float = FIRST_WAIT_S
) -> Iterator[Tracker]:
    """The run of a stage: the one that ``mlflow run`` opened, else a new one in the experiment of that name.

    An exception marks the run as failed, an interruption as killed; it is kept as its tag ``carkp.error``. What earlier
    runs of this project could not send to the server is sent first. ``wait_s``: so long is a server that does not
    answer waited for, at the start and at the end.

    Raises:
        TrackingError: the server gives no answer, or the run or the experiment cannot be used.
    """
    use_default_store(wait_s)
    send_left_over(spool_root())
    # those who start a stage in a run of theirs name it here; what this process starts has no part in it
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
    if tags.get(_COMMIT_TAG, commit) != commit:  # of the repository that the program's file lies in by chance
        tags = {name: value for name, value in tags.items() if not name.startswith(_GIT_TAGS)}
    tags[PROCESS_TAG] = process_name(os.getpid())
    name = _run_name(stage, experiment)
    run = while_locked(lambda: MlflowClient().create_run(experiment_id, tags=tags, run_name=name))
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
    while_locked(lambda: client.update_run(run_id, status="RUNNING"))
    if not is_study:  # on which several processes may work
        client.set_tag(run_id, PROCESS_TAG, process_name(os.getpid()))
    if _GENERATED_NAME.fullmatch(found.name):
        client.set_tag(run_id, _NAME_TAG, _run_name(stage, experiment))
    if ERROR_TAG in found.tags:  # of the process that it goes on from
        client.delete_tag(run_id, ERROR_TAG)
    return run_id


@contextmanager
def _ended_in_order(tracker: MlflowTracker, wait_s: float) -> Iterator[None]:
    """The run is finished at the end, when all that it holds is on the disk.

    What ends it before makes it failed, an interruption killed; it is kept as its tag ``carkp.error``.
    """
    try:
        yield
        tracker.require_accepted()
        tracker.sync_files()
    except BaseException as error:
        try:
            _end_early(tracker, wait_s, error)
        except KeyboardInterrupt:  # torchrun ends what is left of a group while the loss of a process is written down
            _end_early(tracker, wait_s, error)
        raise
    tracker.end(wait_s)


def _end_early(tracker: MlflowTracker, wait_s: float, error: BaseException) -> None:
    with suppress(MlflowException, TrackingError, OSError):  # the first error counts, and the server may be that
        tracker.end(min(wait_s, _FAILED_WAIT_S), error)


@contextmanager
def _system_metrics(tracker: MlflowTracker, interval_s: float, is_continued: bool) -> Iterator[None]:
    """Processor, memory and disk over time, beside what is done within.

    MLflow's own thread would end at the first request that fails, and would hold up the end of the run.
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
    """Report what the monitor finds, at last when it is over, or until the server refuses it."""
    step, is_last = monitor._logging_step, False
    with suppress(MlflowException, TrackingError, OSError):  # the run itself will meet them
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
    """A path whose last part is that of the artifact ``name``."""
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
