"""The parts of a model to ship: a float run, its int8 export for ONNX Runtime, and its training data."""

from dataclasses import dataclass

from pydantic import ValidationError

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.deploy.int8_onnx import load_program
from carkp.keypoints.codec import CODEC_KEY, codec_from_json
from carkp.predictor import ModelError
from carkp.quant.program import QProgram
from carkp.tracking.runs import (
    DATA_TAG,
    EXPERIMENT_TAG,
    LATEST,
    STAGE_TAG,
    TARGET_TAG,
    FoundRun,
    find_latest_run,
    find_run,
    find_run_or_none,
)
from carkp.tracking.store import TrackingError
from carkp.training.checkpoint import Checkpoint, load_checkpoint, weights_digest
from carkp.workflow.preparation import PreparedData
from carkp.workflow.references import FLOAT, ModelFile, codec_of, model_kind, require_data, resolve_model
from carkp.workflow.report.sources import FLOAT_TAG

TARGET = "onnxruntime_cpu"
"""Target of the int8 file: ONNX Runtime on the CPU, which every user has."""


class ShippingError(ModelError):
    """A model cannot be shipped; the message says why and what to do."""


@dataclass(frozen=True)
class References:
    """References from the user: a float run, an export of it, and its training data."""

    model: str = LATEST
    export: str = LATEST
    data: str = LATEST


@dataclass(frozen=True, eq=False)
class Parts:
    """Everything that a model to ship is made from.

    Attributes:
        run, checkpoint: run of the float training, and its chosen checkpoint.
        config: resolved configuration of the training.
        export: run that wrote the int8 program; None if unknown.
        program: the int8 program.
        data_run, data: training data of the network, and the run that prepared them.
    """

    run: FoundRun
    checkpoint: Checkpoint
    config: ExperimentConfig
    export: FoundRun | None
    program: QProgram
    data_run: FoundRun
    data: PreparedData


def find_parts(config: ExperimentConfig, references: References) -> Parts:
    """Find the runs and files that ``references`` name.

    ``latest`` is the newest float run of the experiment of ``config``, the newest export of that run for ONNX Runtime,
    and the data that it was trained on.

    Raises:
        TrackingError, DataError: a run or file does not exist.
        ShippingError: the parts do not belong together.
    """
    model = resolve_model(references.model, FLOAT, {EXPERIMENT_TAG: config.name})
    if not model.run_id:
        raise TrackingError(
            f"model={references.model}: name a float run (latest or runs:/<id>), which says how it was made"
        )
    run, checkpoint = find_run(model.run_id), load_checkpoint(model.path)
    if (stage := run.tags.get(STAGE_TAG, "")) != FLOAT.stage:
        raise ShippingError(
            f"{model.reference}: is from a run of {stage}, whose data the card would not describe; give a float run"
        )
    export = _find_export(references.export, model)
    program = load_program(export.path)
    _require_same_model(program, checkpoint, export)
    data_run = _data_run(run)
    trained = _trained_config(checkpoint, model)
    data = require_data(trained, f"runs:/{data_run.run_id}" if references.data == LATEST else references.data)
    if data.digest != run.tags[DATA_TAG]:
        raise ShippingError(f"data={references.data}: not the data that {model.reference} was trained on")
    return Parts(run, checkpoint, trained, find_run_or_none(export.run_id), program, data_run, data)


def _find_export(reference: str, model: ModelFile) -> ModelFile:
    try:
        return resolve_model(
            reference, model_kind("onnxruntime", TARGET), {TARGET_TAG: TARGET, FLOAT_TAG: model.reference}
        )
    except TrackingError as error:
        if reference != LATEST:
            raise
        raise TrackingError(
            f"no export of {model.reference} for {TARGET}: run `mlflow run . -e calibration -P model=runs:/"
            f"{model.run_id} -P target={TARGET}` and `mlflow run . -e export -P target={TARGET}`, or the whole "
            f"pipeline with quant.target={TARGET}"
        ) from error


def _require_same_model(program: QProgram, checkpoint: Checkpoint, export: ModelFile) -> None:
    if program.target.name != TARGET:
        raise ShippingError(f"{export.reference}: is for {program.target.name}; export it for {TARGET}")
    if program.origin.get("float_digest") != weights_digest(checkpoint.weights):
        raise ShippingError(f"{export.reference}: was made of another float model; give the export of this one")
    if codec_from_json(program.origin[CODEC_KEY]) != codec_of(checkpoint):
        raise ShippingError(f"{export.reference}: decodes its heatmaps differently from the float model")


def _data_run(run: FoundRun) -> FoundRun:
    digest = run.tags[DATA_TAG]
    found = find_latest_run("data", {DATA_TAG: digest})
    if found is None:
        raise TrackingError(f"no finished data run with the digest {digest[:16]}…, which {run.run_id} was trained on")
    return found


def _trained_config(checkpoint: Checkpoint, model: ModelFile) -> ExperimentConfig:
    try:
        return ExperimentConfig.model_validate(checkpoint.config)
    except ValidationError as error:
        raise ConfigError(f"{model.reference}: its configuration is of another version of carkp: {error}") from error
