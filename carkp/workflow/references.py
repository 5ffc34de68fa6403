"""Which model a reference names, and the networks in checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carkp.config.schema import ExperimentConfig
from carkp.data.issues import DataError
from carkp.quant.target import Target
from carkp.tracking.runs import (
    LATEST,
    fetch_artifact,
    fetch_reference,
    find_latest_run,
    find_run,
    find_runs,
    has_artifact,
    run_id_of,
)
from carkp.tracking.store import TrackingError, project_root
from carkp.training.checkpoint import CheckpointError
from carkp.training.checkpoint import load_net as load_net
from carkp.workflow.preparation import PreparedData, data_key, open_prepared
from carkp.workflow.resuming import DATA, choose_resumable

BEST = "checkpoints/best.pt"
LAST = "checkpoints/last.pt"
CALIBRATED = "calibration/model.pt"
ONNX_DIR = "onnx"
FLOAT_ONNX = f"{ONNX_DIR}/float.onnx"


def find_data(config: ExperimentConfig, reference: str) -> PreparedData | None:
    """The prepared data that ``reference`` names; None where ``latest`` has not been made yet.

    Raises:
        DataError: the reference names something that is not there or cannot be used.
    """
    if reference != LATEST:
        return _find_named(reference)
    run = find_latest_run("data", {"carkp.data_key": data_key(config)})
    if run is None:
        return None
    directory = Path(run.tags["carkp.data_dir"])
    try:
        prepared = open_prepared(directory)
    except DataError:
        return None
    return prepared if prepared.digest == run.tags["carkp.data_digest"] else None


def require_data(config: ExperimentConfig, reference: str) -> PreparedData:
    """``find_data``, with an error that names the command to run where there is nothing."""
    prepared = find_data(config, reference)
    if prepared is None:
        raise DataError(f"no prepared data for the experiment {config.name!r}: run `mlflow run . -e data` first")
    return prepared


@dataclass(frozen=True)
class ModelFile:
    """A model on this machine, the run that it comes from ("" for a file alone), and what names it elsewhere."""

    path: Path
    run_id: str
    reference: str


@dataclass(frozen=True)
class ModelKind:
    """Where models of a kind are found: the stage that makes them and its artifact."""

    stage: str
    artifact: str


FLOAT = ModelKind("float", BEST)
CALIBRATION = ModelKind("calibration", CALIBRATED)
QAT = ModelKind("qat", BEST)
QUANTISED_KINDS = {"calibration": CALIBRATION, "qat": QAT}
"""Of models that are exported, by the stage that makes them."""


def onnx_name(target: str) -> str:
    """File name of the program with symbolic batch."""
    return f"int8_{target}.onnx"


def model_kind(stage: str, target: str) -> ModelKind:
    """What ``latest`` means for a stage."""
    kinds = {"float": FLOAT, "calibration": CALIBRATION, "qat": QAT}
    return kinds.get(stage) or ModelKind("export", f"{ONNX_DIR}/{onnx_name(target)}")


def resolve_model(reference: str, kind: ModelKind, tags: Mapping[str, str]) -> ModelFile:
    """The file that ``reference`` names; ``latest`` is that of the newest finished run of the stage with these tags.

    Raises:
        TrackingError: there is none.
    """
    if reference == LATEST:
        run = find_latest_run(kind.stage, tags)
        if run is None:
            wanted = ", ".join(f"{name.removeprefix('carkp.')} {value[:20]}" for name, value in tags.items())
            raise TrackingError(f"no finished {kind.stage} run ({wanted}): run `mlflow run . -e {kind.stage}` first")
        path = fetch_artifact(run.run_id, kind.artifact)
        return ModelFile(path, run.run_id, f"runs:/{run.run_id}/{kind.artifact}")
    if not reference.startswith(("runs:", "models:")):
        path = Path(reference).expanduser().resolve()
        reference = str(path)
    elif _is_bare_run(reference):
        path = fetch_artifact(str(run_id_of(reference)), kind.artifact)
        reference = f"{reference.rstrip('/')}/{kind.artifact}"
    else:
        path = fetch_reference(reference)
    if not path.is_file():
        raise TrackingError(
            f"{reference}: no such file; give a file, latest, runs:/<id>, or models:/<name>@<alias>/<path>"
        )
    return ModelFile(path, run_id_of(reference) or "", reference)


def find_export(config: ExperimentConfig, reference: str, target: Target) -> ModelFile:
    """The int8 ONNX that ``reference`` names.

    Raises:
        TrackingError: there is none.
    """
    tags = {"carkp.experiment": config.name, "carkp.target": target.name}
    return resolve_model(reference, model_kind("onnxruntime", target.name), tags)


def resolve_resume(reference: str, config: ExperimentConfig, data_digest: str) -> Path | None:
    """The ``last.pt`` to go on from; None for an empty reference.

    ``latest`` is the newest float run on the same data that has a checkpoint, did not finish and is of this
    configuration - where none is of it, the newest; anything else is a run id, ``runs:/<id>`` or a file.

    Raises:
        TrackingError: there is none.
    """
    if not reference:
        return None
    local = Path(reference).expanduser()
    if local.is_file():
        return local
    if reference != LATEST:
        return _last_checkpoint(run_id_of(reference) or reference)
    tags = {"carkp.stage": "float", "carkp.experiment": config.name, "carkp.data_digest": data_digest}
    unfinished = find_runs(tags, is_finished=False, max_results=20)
    paths = (_last_checkpoint(run.run_id) for run in unfinished if has_artifact(run.run_id, LAST))
    chosen = choose_resumable(paths, config, {DATA: data_digest})
    if chosen is None:
        raise TrackingError(
            f"no unfinished float run of the experiment {config.name!r} on these data has a checkpoint to go on from"
        )
    return chosen


def _last_checkpoint(run_id: str) -> Path:
    """What training itself wrote, where it is still on this machine: a kill can leave half of the artifact's copy."""
    own = project_root() / "runs" / run_id / LAST
    return own if own.is_file() else fetch_artifact(run_id, str(Path(LAST).parent)) / Path(LAST).name


def check_input_size(architecture: Mapping[str, Any], config: ExperimentConfig, path: Path) -> None:
    """Refuse a checkpoint whose network takes another size than the configuration prepares.

    Raises:
        CheckpointError: the sizes differ.
    """
    trained = tuple(architecture.get("input_size", ()))
    if trained != config.model.input_size:
        raise CheckpointError(
            f"{path}: the network takes {trained} (height, width), the configuration says {config.model.input_size}: "
            "give the configuration that it was trained with, or set model.input_size"
        )


def _is_bare_run(reference: str) -> bool:
    run_id = run_id_of(reference)
    return run_id is not None and reference.rstrip("/").endswith(run_id)


def _find_named(reference: str) -> PreparedData:
    run_id = run_id_of(reference)
    if run_id is None:
        return open_prepared(Path(reference).expanduser())
    run = find_run(run_id)
    if "carkp.data_dir" not in run.tags:
        raise DataError(f"{reference}: the run {run.name!r} prepared no data")
    return open_prepared(Path(run.tags["carkp.data_dir"]))
