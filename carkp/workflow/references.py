"""Resolution of references to models and data, and checks of the networks in checkpoints."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig, HeatmapConfig
from carkp.data.files import expand_path
from carkp.data.issues import DataError
from carkp.keypoints.codec import HeatmapCodec
from carkp.project import project_root
from carkp.quant.target import Target
from carkp.shipped import (
    CARD_FILE,
    DEFAULT_MODEL,
    ONNX_FILE,
    WEIGHTS_FILE,
    ShippedModelError,
    find_shipped_file,
    is_shipped,
)
from carkp.tracking.runs import (
    DATA_TAG,
    EXPERIMENT_TAG,
    LATEST,
    STAGE_TAG,
    TARGET_TAG,
    FoundRun,
    fetch_artifact,
    fetch_reference,
    find_latest_run,
    find_run,
    find_run_or_none,
    find_runs,
    has_artifact,
    run_id_of,
)
from carkp.tracking.store import TrackingError
from carkp.training.checkpoint import Checkpoint, CheckpointError
from carkp.workflow.build import build_codec
from carkp.workflow.preparation import PreparedData, data_key, open_prepared, stale_reason
from carkp.workflow.resuming import DATA_DIGEST, choose_resumable
from carkp.workflow.targets import load_target

BEST = "checkpoints/best.pt"
LAST = "checkpoints/last.pt"
CALIBRATED = "calibration/model.pt"
ONNX_DIR = "onnx"
FLOAT_ONNX = f"{ONNX_DIR}/float.onnx"
_SHOWN_DIGITS = 16


def find_data(config: ExperimentConfig, reference: str) -> PreparedData | None:
    """Return the prepared data that ``reference`` names; None if ``latest`` has not been prepared yet.

    Raises:
        DataError: the data that it names do not exist or cannot be used.
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
    return prepared if prepared.digest == run.tags[DATA_TAG] else None


def find_current_data(config: ExperimentConfig, reference: str) -> PreparedData | None:
    """Do the same as ``find_data``, but if ``latest`` is outdated, print why and return None."""
    prepared = find_data(config, reference)
    if prepared is not None and reference == LATEST and (reason := stale_reason(config, prepared)):
        print(f"data: prepared again, {reason}", flush=True)  # noqa: T201
        return None
    return prepared


def require_data(config: ExperimentConfig, reference: str) -> PreparedData:
    """Do the same as ``find_data``, but require data, and warn if they are outdated.

    Raises:
        DataError: there are no such data; the message names the command to run.
    """
    prepared = find_data(config, reference)
    if prepared is None:
        raise DataError(
            f"no prepared data for the experiment {config.name!r} as it is configured, by this version of the code: "
            "run `mlflow run . -e data` first, or name data by data=<directory> or data=runs:/<id of a data run>"
        )
    if reference == LATEST and (reason := stale_reason(config, prepared)):
        warn(
            f"data={LATEST} is used as prepared in {prepared.directory}, but {reason}: `mlflow run . -e data` prepares "
            "it again"
        )
    return prepared


def warn(text: str) -> None:
    """Print a warning on standard error."""
    print(f"warning: {text}", file=sys.stderr, flush=True)  # noqa: T201


@dataclass(frozen=True)
class ModelFile:
    """A model file on this machine, its run ("" if it has none), and a reference that works elsewhere."""

    path: Path
    run_id: str
    reference: str


@dataclass(frozen=True)
class ModelKind:
    """A kind of models: the stage that makes them and its artifact."""

    stage: str
    artifact: str


FLOAT = ModelKind("float", BEST)
CALIBRATION = ModelKind("calibration", CALIBRATED)
QAT = ModelKind("qat", BEST)
QUANTISED_KINDS = {"calibration": CALIBRATION, "qat": QAT}
"""Kinds of models that can be exported, by the stage that makes them."""


def reference_name(target: str) -> str:
    """Return the name of the ONNX file with the target's own arithmetic; it lies beside ``onnx_name``."""
    return f"int8_{target}_reference.onnx"


def tflite_names(target: str) -> dict[str, str]:
    """Return interface -> name of the .tflite file with that interface."""
    return {"float": f"int8_{target}.tflite", "int8": f"int8_{target}_int8.tflite"}


def onnx_name(target: str) -> str:
    """Return the file name of the program with a symbolic batch size."""
    return f"int8_{target}.onnx"


def model_kind(stage: str, target: str) -> ModelKind:
    """Return the kind of models that ``latest`` means for a stage."""
    kinds = {"float": FLOAT, "calibration": CALIBRATION, "qat": QAT}
    return kinds.get(stage) or ModelKind("export", f"{ONNX_DIR}/{onnx_name(target)}")


def resolve_model(reference: str, kind: ModelKind, tags: Mapping[str, str]) -> ModelFile:
    """Return the file that ``reference`` names; ``latest``: from the newest finished run of the stage with these tags.

    The name of a model that comes with carkp means its float weights or its int8 ONNX, depending on the kind.

    Raises:
        TrackingError: there is no such file.
        ConfigError: a model that comes with carkp has no file of this kind.
    """
    if is_shipped(reference):
        return _shipped_model(reference, kind)
    if reference == LATEST:
        run = find_latest_run(kind.stage, tags)
        if run is None:
            raise TrackingError(_none_found(kind.stage, tags))
        path = fetch_artifact(run.run_id, kind.artifact)
        return ModelFile(path, run.run_id, f"runs:/{run.run_id}/{kind.artifact}")
    if not reference.startswith(("runs:", "models:")):
        path = expand_path(reference).resolve()
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


SHIPPED_FILES: Mapping[str, str] = {"float": WEIGHTS_FILE, "export": ONNX_FILE}
"""Files of a model that comes with carkp, by the stage that makes such models."""


def _shipped_model(reference: str, kind: ModelKind) -> ModelFile:
    if kind.stage not in SHIPPED_FILES:
        raise ConfigError(
            f"model={reference}: has float weights and an int8 ONNX, but the model of a run of {kind.stage} is "
            f"needed: calibrate it first (`mlflow run . -e calibration -P model={reference}`), and give that run"
        )
    return _shipped_file(reference, SHIPPED_FILES[kind.stage])


def _shipped_file(reference: str, default: str) -> ModelFile:
    """Return a file of a model that comes with carkp."""
    try:
        return ModelFile(find_shipped_file(reference, default), "", reference)
    except ShippedModelError as error:
        raise TrackingError(str(error)) from error


def check_stage(model: ModelFile, stage: str) -> None:
    """Refuse a model from a run of another stage than the given one, because its scores would get a wrong name.

    Raises:
        ConfigError: the stages differ.
    """
    run = find_run_or_none(model.run_id)
    found = run.tags.get(STAGE_TAG, "") if run is not None else ""
    if stage in QUANTISED_KINDS and found in QUANTISED_KINDS and found != stage:
        raise ConfigError(f"{model.reference}: is from a run of {found}, but {stage} was requested: give stage={found}")


def latest_tags(config: ExperimentConfig, target: str) -> dict[str, str]:
    """Return the tags of a run that is ``latest`` for a stage without data: experiment, target, data.

    If the configuration's data are not prepared here, a run on any data is accepted, with a warning.
    """
    tags = {EXPERIMENT_TAG: config.name, TARGET_TAG: target}
    data = find_data(config, LATEST)
    if data is None:
        warn(f"the data of the configuration are not prepared here: {LATEST} may be a model trained on other data")
        return tags
    return tags | {DATA_TAG: data.digest}


def _command(stage: str, tags: Mapping[str, str]) -> str:
    """Return the command that makes such a run."""
    target = tags.get(TARGET_TAG)
    return f"mlflow run . -e {stage}" + (f" -P target={target}" if target else "")


def _none_found(stage: str, tags: Mapping[str, str]) -> str:
    """Describe what was looked for, the nearest match, and what to do."""

    def shown(found: Mapping[str, str]) -> str:
        return ", ".join(f"{name.removeprefix('carkp.')} {found.get(name, 'unknown')[:20]}" for name in tags)

    message = f"no finished {stage} run ({shown(tags)}): run `{_command(stage, tags)}` with this configuration first"
    if stage == FLOAT.stage:
        message += f", or give {DEFAULT_MODEL}"
    experiment = {name: value for name, value in tags.items() if name == EXPERIMENT_TAG}
    other = find_latest_run(stage, experiment) if experiment else None
    if other is None:
        return message
    return f"{message}, or name a run: the newest of the experiment is runs:/{other.run_id} ({shown(other.tags)})"


def find_export(config: ExperimentConfig, reference: str, target: Target) -> ModelFile:
    """Return the int8 ONNX that ``reference`` names; ``latest``: for the data and the target of the configuration.

    Raises:
        TrackingError: there is no such file.
    """
    tags = latest_tags(config, target.name) if reference == LATEST else {}
    return resolve_model(reference, model_kind("onnxruntime", target.name), tags)


def find_predicting_model(config: ExperimentConfig, reference: str) -> ModelFile:
    """Return the file or folder of a model for prediction.

    ``latest`` is the newest export for the data and the target of the configuration, else the newest of the experiment,
    with a warning. The name of a model that comes with carkp means its int8 ONNX.

    Raises:
        TrackingError: there is no such model.
    """
    if is_shipped(reference):
        return _shipped_file(reference, ONNX_FILE)
    if reference == LATEST:
        return _predicting_model_of(_latest_export(config))
    run_id = run_id_of(reference)
    if run_id is not None and _is_bare_run(reference):
        return _predicting_model_of(find_run(run_id))
    if reference.startswith(("runs:", "models:")):
        return ModelFile(fetch_reference(reference), run_id or "", reference)
    return ModelFile(expand_path(reference), "", reference)


def _latest_export(config: ExperimentConfig) -> FoundRun:
    tags = latest_tags(config, load_target(config.quant.target).name)
    run = find_latest_run("export", tags) or find_latest_run("export", {EXPERIMENT_TAG: config.name})
    if run is None:
        raise TrackingError(_none_found("export", {EXPERIMENT_TAG: config.name}))
    return run


def _predicting_model_of(run: FoundRun) -> ModelFile:
    """Return the model of a run that can predict."""
    target = run.tags.get(TARGET_TAG, "")
    artifacts = {
        "export": f"{ONNX_DIR}/{onnx_name(target)}",
        "compile": f"compiled/{target}.onnx",
        "float": BEST,
        "adapt": BEST,
    }
    stage = run.tags.get(STAGE_TAG, "")
    if stage not in artifacts:
        what = f"a run of {stage}" if stage else "no run of carkp"
        raise TrackingError(f"runs:/{run.run_id}: {what}; give one of {', '.join(artifacts)}, or an artifact's path")
    path = artifacts[stage]
    return ModelFile(fetch_artifact(run.run_id, path), run.run_id, f"runs:/{run.run_id}/{path}")


def describe_origin(config: ExperimentConfig, model: ModelFile) -> str:
    """Describe which model it is and its training data; warn if they do not match the configuration."""
    if is_shipped(model.reference):
        return f"model: {model.reference}, which comes with carkp; {model.path.parent / CARD_FILE} states its accuracy"
    run = find_run_or_none(model.run_id)
    if run is None:
        return f"model: {model.reference}, a file that belongs to no known run"
    data = run.tags.get(DATA_TAG, "")
    parts = {
        "experiment": (run.tags.get(EXPERIMENT_TAG, ""), config.name),
        "target": (run.tags.get(TARGET_TAG, ""), load_target(config.quant.target).name),
        "data": (data[:_SHOWN_DIGITS], _digest_of_latest(config)[:_SHOWN_DIGITS]),
    }
    known = ", ".join(f"{name} {found}" for name, (found, _) in parts.items() if found)
    differing = [
        f"{name} {found}, not {wanted}"
        for name, (found, wanted) in parts.items()
        if found and found != (wanted or found)
    ]
    lines = [f"model: {model.reference} of {run.started:%Y-%m-%d %H:%M} UTC ({known})"]
    if differing:
        lines.append(f"warning: the model does not match the configuration: {'; '.join(differing)}")
    return "\n".join(lines)


def describe_own_export(config: ExperimentConfig) -> str:
    """Return a note about the newest model of the experiment, for users who name no model; "" if there is none."""
    run = find_latest_run("export", {EXPERIMENT_TAG: config.name})
    if run is None:
        return ""
    return (
        f"note: the experiment {config.name} has its own model, exported {run.started:%Y-%m-%d %H:%M} UTC: "
        f"-P model={LATEST} uses it"
    )


def _digest_of_latest(config: ExperimentConfig) -> str:
    """Return the digest of the data prepared here for the configuration; "" if there are none."""
    data = find_data(config, LATEST)
    return "" if data is None else data.digest


def resolve_resume(reference: str, config: ExperimentConfig, data_digest: str) -> Path | None:
    """Return the ``last.pt`` to continue from; None for an empty reference.

    ``latest`` is the newest unfinished float run on the same data that has a checkpoint and the same configuration; if
    none has the same configuration, the newest one. Anything else is a run id, ``runs:/<id>`` or a file.

    Raises:
        TrackingError: there is no checkpoint.
    """
    if not reference:
        return None
    if reference != LATEST:
        return _named_checkpoint(reference)
    tags = {STAGE_TAG: "float", EXPERIMENT_TAG: config.name, DATA_TAG: data_digest}
    unfinished = find_runs(tags, is_finished=False, max_results=20)
    paths = (last_checkpoint(run.run_id) for run in unfinished if has_artifact(run.run_id, LAST))
    chosen = choose_resumable(paths, config, {DATA_DIGEST: data_digest})
    if chosen is None:
        raise TrackingError(
            f"no unfinished float run of the experiment {config.name!r} on these data has a checkpoint to resume from"
        )
    return chosen


def _named_checkpoint(reference: str) -> Path:
    if run_id := run_id_of(reference):
        return last_checkpoint(run_id)
    local = expand_path(reference)
    if local.is_file():
        return local
    if local.is_dir():
        raise TrackingError(f"{reference}: a directory; name the {Path(LAST).name} in it")
    if local.suffix or len(local.parts) > 1:
        raise TrackingError(f"{reference}: no such file; give a last.pt, a run id, runs:/<id>, or latest")
    return last_checkpoint(reference)


def last_checkpoint(run_id: str) -> Path:
    """Return the file that training itself wrote, if it is on this machine: the artifact may be cut off by a kill."""
    own = project_root() / "runs" / run_id / LAST
    return own if own.is_file() else fetch_artifact(run_id, str(Path(LAST).parent)) / Path(LAST).name


def check_input_size(architecture: Mapping[str, Any], config: ExperimentConfig, path: Path) -> None:
    """Refuse a checkpoint whose network has another input size than the configuration.

    Raises:
        CheckpointError: the sizes differ.
    """
    trained = tuple(architecture.get("input_size", ()))
    if trained != config.model.input_size:
        raise CheckpointError(
            f"{path}: the network's input size is {trained} (height, width), the configuration says "
            f"{config.model.input_size}: give the configuration with which it was trained, or set model.input_size"
        )


def codec_of(checkpoint: Checkpoint) -> HeatmapCodec:
    """Return the codec that the float network of a checkpoint was trained for.

    Raises:
        CheckpointError: the checkpoint does not store it.
    """
    try:
        heatmap = HeatmapConfig.model_validate(checkpoint.config["heatmap"])
        return build_codec(heatmap, tuple(checkpoint.architecture["input_size"]))
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"the checkpoint does not say which heatmaps it was trained for ({error})") from error


def codec_differences(found: HeatmapCodec, config: ExperimentConfig) -> list[str]:
    """List the settings in which a model's codec differs from the configuration; the model's value comes first."""
    wanted = build_codec(config.heatmap, config.model.input_size)
    return [
        f"heatmap.{name} {getattr(found, name)}, not {getattr(wanted, name)}"
        for name in HeatmapConfig.model_fields
        if getattr(found, name) != getattr(wanted, name)
    ]


def check_codec(found: HeatmapCodec, config: ExperimentConfig, path: Path) -> None:
    """Refuse a model that was trained for other heatmaps than the configuration describes.

    Raises:
        ConfigError: the codecs differ.
    """
    if not (differing := codec_differences(found, config)):
        return
    raise ConfigError(
        f"{path}: trained for other heatmaps than the configuration describes ({', '.join(differing)}): give "
        "the configuration with which it was trained"
    )


def _is_bare_run(reference: str) -> bool:
    run_id = run_id_of(reference)
    return run_id is not None and reference.rstrip("/").endswith(run_id)


def _find_named(reference: str) -> PreparedData:
    run_id = run_id_of(reference)
    if run_id is None:
        return open_prepared(expand_path(reference))
    run = find_run(run_id)
    if "carkp.data_dir" not in run.tags:
        raise DataError(f"{reference}: the run {run.name!r} prepared no data")
    prepared = open_prepared(Path(run.tags["carkp.data_dir"]))
    if prepared.digest != (digest := run.tags[DATA_TAG]):
        raise DataError(
            f"{reference}: {prepared.directory} was prepared again since: that run gave the digest "
            f"{digest[:_SHOWN_DIGITS]}…, now it is {prepared.digest[:_SHOWN_DIGITS]}…; data={LATEST} uses the current "
            "data"
        )
    return prepared
