"""Entry point ``evaluate``: score a model on validation and test."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.data.issues import DataError
from carkp.deploy.int8_onnx import load_program
from carkp.deploy.runtime import OnnxRunner
from carkp.keypoints.codec import CODEC_KEY, HeatmapCodec, codec_from_json
from carkp.keypoints.metrics import Scores
from carkp.quant.program import QProgram
from carkp.quant.target import Target
from carkp.tracking.store import TrackingError
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import load_checkpoint, load_net
from carkp.training.distributed import ProcessContext, process_context
from carkp.training.evaluate import Forward
from carkp.workflow.build import prepare_torch
from carkp.workflow.cli import Arguments, execute, guarded, parse_stage
from carkp.workflow.executions import onnx_forward, simulator_forward
from carkp.workflow.preparation import PreparedData
from carkp.workflow.quantising import (
    build_target,
    check_target,
    describe_retention,
    load_prepared,
    retention_metrics,
)
from carkp.workflow.references import (
    ModelFile,
    check_input_size,
    check_stage,
    codec_differences,
    codec_of,
    model_kind,
    require_data,
    resolve_model,
    warn,
)
from carkp.workflow.scoring import (
    Scorer,
    build_scorer,
    describe_run,
    describe_scores,
    log_scored_splits,
    log_sheet,
)


@dataclass(frozen=True)
class Executable:
    """A model ready to run.

    Attributes:
        forward: function from uint8 images to heatmaps.
        codec: codec of the heatmaps that it was trained for.
        origin: data of the float model that it was made from; empty for float.
        target: name of its target, "" for float.
    """

    forward: Forward
    codec: HeatmapCodec
    origin: Mapping[str, str]
    target: str


@dataclass(frozen=True)
class EvaluateInputs:
    """Inputs of a score. ``stage``: how to execute the model file."""

    data: PreparedData
    stage: str
    model: ModelFile
    target: Target


@dataclass(frozen=True)
class EvaluateResult:
    """Scores by split, and the kept share of the float model's PCK, if known."""

    scores: Mapping[str, Scores]
    retention: Mapping[str, float]


def run(
    config: ExperimentConfig, inputs: EvaluateInputs, out_dir: Path, tracker: Tracker, context: ProcessContext
) -> EvaluateResult:
    """Score the model on validation and test, as far as they have samples."""
    prepare_torch(config)
    scorer = build_scorer(config, context)
    executable = OPENERS[inputs.stage](config, inputs, scorer)
    stores = inputs.data.open()
    splits = {name: store for name, store in (("val", stores.val), ("test", stores.test)) if len(store) > 0}
    if not splits:
        raise DataError(f"{inputs.data.directory}: the validation and the test split are empty, nothing to score")
    tracker.set_tags({"carkp.model": inputs.stage, "carkp.data_digest": inputs.data.digest})
    if executable.target:
        tracker.set_tags({"carkp.target": executable.target})
    tracker.log_dataset(config.name, inputs.data.digest, config.data.title, "evaluation")
    scored = {
        name: (store, scorer.predict(executable.forward, store, f"score {name}")) for name, store in splits.items()
    }
    scores = log_scored_splits(scorer, scored, tracker, out_dir, inputs.stage)
    kept = retention_metrics(scorer, executable.origin, inputs.data, scores)
    tracker.log_metrics(kept)
    what = f"Scored `{inputs.model.reference}` as {inputs.stage}."
    if differing := codec_differences(executable.codec, config):
        decoded = f"decoded with other settings than in training ({', '.join(differing)})"
        warn(f"{inputs.model.path}: {decoded}")
        tracker.set_tags({"carkp.decoded": decoded})
        what = f"{what} It was {decoded}."
    describe_run(tracker, what, scores, kept, executable.target)
    first_split, (store, predictions) = next(iter(scored.items()))
    tracker.log_metrics({f"{first_split}/oracle_error_px": scorer.mean_oracle_error_px(predictions)})
    log_sheet(scorer, store, predictions, tracker, out_dir / f"{first_split}_predictions.jpg")
    return EvaluateResult(scores, kept)


def open_float(config: ExperimentConfig, inputs: EvaluateInputs, scorer: Scorer) -> Executable:
    """Open a float checkpoint in torch."""
    checkpoint = load_checkpoint(inputs.model.path)
    net = load_net(checkpoint).to(scorer.context.device)
    check_input_size(checkpoint.architecture, config, inputs.model.path)
    return Executable(scorer.forward(net), codec_of(checkpoint), {}, "")


def open_fake_quant(config: ExperimentConfig, inputs: EvaluateInputs, scorer: Scorer) -> Executable:
    """Open a calibrated checkpoint, fake-quantised in torch."""
    prepared = load_prepared(inputs.model.path)
    check_input_size(prepared.architecture, config, inputs.model.path)
    check_target(prepared.net.target, inputs.target, inputs.model.path)
    net = prepared.net.to(scorer.context.device)
    return Executable(scorer.forward(net), prepared.codec, prepared.origin, net.target.name)


def open_simulator(config: ExperimentConfig, inputs: EvaluateInputs, scorer: Scorer) -> Executable:
    """Open the program of an int8 ONNX file in the integer simulator."""
    program = _checked_program(config, inputs)
    return Executable(simulator_forward(program), codec_of_program(program), program.origin, program.target.name)


def open_onnxruntime(config: ExperimentConfig, inputs: EvaluateInputs, scorer: Scorer) -> Executable:
    """Open an int8 ONNX file in ONNX Runtime."""
    program = _checked_program(config, inputs)
    runner = OnnxRunner(inputs.model.path, torch.get_num_threads())
    return Executable(onnx_forward(runner), codec_of_program(program), program.origin, program.target.name)


OPENERS: dict[str, Callable[[ExperimentConfig, EvaluateInputs, Scorer], Executable]] = {
    "float": open_float,
    "calibration": open_fake_quant,
    "qat": open_fake_quant,
    "int_infer": open_simulator,
    "onnxruntime": open_onnxruntime,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of the entry point."""

    def work() -> int:
        arguments = parse_stage("evaluate", argv)
        if arguments.values["stage"] not in OPENERS:
            raise ConfigError(f"stage={arguments.values['stage']!r}: expected one of {', '.join(OPENERS)}")
        with process_context() as context:
            _execute(arguments, context)
        return 0

    return guarded(work)


def _execute(arguments: Arguments, context: ProcessContext) -> None:
    config, stage = arguments.config, arguments.values["stage"]
    target = build_target(config, arguments.values["target"])
    data = require_data(config, arguments.values["data"])
    tags = {"carkp.experiment": config.name, "carkp.data_digest": data.digest}
    if stage != "float":
        tags["carkp.target"] = target.name
    model = resolve_model(arguments.values["model"], model_kind(stage, target.name), tags)
    check_stage(model, stage)

    def work(tracker: Tracker, out_dir: Path) -> None:
        tracker.set_tags({"carkp.scored": model.reference})
        result = run(config, EvaluateInputs(data, stage, model, target), out_dir, tracker, context)
        lines = [describe_scores(result.scores), describe_retention(result.retention)]
        print("\n".join(line for line in lines if line))  # noqa: T201

    execute("evaluate", config, work)


def codec_of_program(program: QProgram) -> HeatmapCodec:
    """Return the codec of the heatmaps that an int8 program was made for.

    Raises:
        TrackingError: its file does not store it.
    """
    try:
        return codec_from_json(program.origin[CODEC_KEY])
    except (KeyError, ValueError) as error:
        raise TrackingError(f"the int8 program does not describe its heatmaps ({error}): export it again") from error


def _checked_program(config: ExperimentConfig, inputs: EvaluateInputs) -> QProgram:
    program = load_program(inputs.model.path)
    check_target(program.target, inputs.target, inputs.model.path)
    size = program.tensors[program.input].shape[1:]
    check_input_size({"input_size": size}, config, inputs.model.path)
    return program


if __name__ == "__main__":
    sys.exit(main())
