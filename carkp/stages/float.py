"""Entry point ``float``: train the float model, choose by validation PCK, score the test split once."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.data.dataset import normalise
from carkp.data.store import Stores
from carkp.deploy.float_onnx import check_against_torch, export_float_onnx
from carkp.keypoints.metrics import Scores
from carkp.keypoints.predictions import Predictions
from carkp.model.pose_net import BuiltModel
from carkp.stages import data as data_stage
from carkp.stages._build import (
    build_codec,
    build_eval_dataset,
    build_eval_split,
    build_fit_settings,
    build_model,
    build_train_loader,
    prepare_torch,
)
from carkp.stages._cli import DATA, Arguments, Parameter, execute, guarded, parse
from carkp.stages._data import PreparedData, find_data, require_samples
from carkp.stages._models import load_net, resolve_resume
from carkp.stages._scoring import describe_scores, log_scored_splits, log_sheet, mean_oracle_error_px
from carkp.tracking import Tracker
from carkp.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from carkp.training.distributed import ProcessContext, is_under_torchrun, process_context, run_under_torchrun
from carkp.training.evaluate import EvalSplit, eval_forward, predict
from carkp.training.fit import EpochResult, FitInputs, FitResult, Trainer, fit

MODULE = "carkp.stages.float"
CHECKPOINT_DIR = "checkpoints"
ONNX_DIR = "onnx"
ONNX_TOLERANCE = 1e-4
NUM_ONNX_IMAGES = 16


@dataclass(frozen=True)
class FloatInputs:
    """Prepared data, and the ``last.pt`` to go on from, if any."""

    data: PreparedData
    resume: Path | None


@dataclass(frozen=True)
class FloatResult:
    """Scores of the best epoch by split."""

    best_epoch: int
    samples_per_s: float
    scores: Mapping[str, Scores]


def run(
    config: ExperimentConfig, inputs: FloatInputs, out_dir: Path, tracker: Tracker, context: ProcessContext
) -> FloatResult:
    """Train, then log what the run is worth: checkpoints, ONNX, predictions, pictures, metrics."""
    stores = inputs.data.open()
    require_samples(stores.train, "training")
    require_samples(stores.val, "the choice of the best epoch")
    prepare_torch(config)
    model = build_model(config)
    _log_inputs(config, inputs, model, tracker)
    fitted = _train(config, inputs, stores, model, out_dir, tracker, context)
    best = context.broadcast(load_checkpoint(out_dir / CHECKPOINT_DIR / "best.pt") if context.is_main else None)
    assert best is not None
    net = load_net(best).to(context.device)
    predictions = _predict_all(config, stores, net, context)
    if not context.is_main:
        return _result(config, fitted, predictions)
    _log_model(config, stores, net.cpu(), out_dir, tracker)
    scored = {split: (getattr(stores, split), found) for split, found in predictions.items()}
    log_scored_splits(config, scored, tracker, out_dir, "float", step=config.train.epochs)
    log_sheet(config, stores.val, predictions["val"], tracker, out_dir / "val_predictions.jpg")
    result = _result(config, fitted, predictions)
    codec = build_codec(config.heatmap, config.model.input_size)
    oracle_error_px = mean_oracle_error_px(codec, predictions["val"])
    tracker.log_metrics({"best_epoch": fitted.best_epoch, "val/oracle_error_px": oracle_error_px})
    tracker.set_tags({"carkp.model": "float"})
    return result


def main(argv: Sequence[str] | None = None) -> int:
    def work() -> int:
        parameters = [
            DATA,
            Parameter("nproc", "", "training processes on this machine; empty: train.nproc of the configuration"),
            Parameter("resume", "", "latest (the newest float run that did not finish), a run id, or a last.pt"),
        ]
        arguments = parse(
            "float", "Train the float model; prepares the data where that is still to do.", parameters, argv
        )
        nproc = _parse_nproc(arguments.values["nproc"], arguments.config)
        if nproc > 1 and not is_under_torchrun():
            return run_under_torchrun(MODULE, arguments.raw, nproc)
        with process_context() as context:
            _execute(arguments, context)
        return 0

    return guarded(work)


def _parse_nproc(text: str, config: ExperimentConfig) -> int:
    if not text:
        return config.train.nproc
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"nproc={text!r}: expected a number of processes, 1 or more")
    return int(text)


def _execute(arguments: Arguments, context: ProcessContext) -> None:
    config = arguments.config

    def work(tracker: Tracker, out_dir: Path) -> None:
        inputs = context.broadcast(_prepare_inputs(arguments, tracker) if context.is_main else None)
        assert inputs is not None
        result = run(config, inputs, out_dir, tracker, context)
        if context.is_main:
            print(describe(result))  # noqa: T201

    execute("float", config, work, is_main=context.is_main)


def _prepare_inputs(arguments: Arguments, tracker: Tracker) -> FloatInputs:
    """Find the data, or make them in a child run; find the checkpoint to go on from."""
    config = arguments.config
    data = find_data(config, arguments.values["data"])
    if data is None:
        data = data_stage.run_as_child(config, tracker).prepared
    return FloatInputs(data, resolve_resume(arguments.values["resume"], config, data.digest))


def describe(result: FloatResult) -> str:
    """The outcome in a few lines, for a person."""
    head = f"best epoch {result.best_epoch}, trained at {result.samples_per_s:.1f} samples/s"
    return f"{head}\n{describe_scores(result.scores)}"


def _result(config: ExperimentConfig, fitted: FitResult, predictions: Mapping[str, Predictions]) -> FloatResult:
    scores = {split: found.score(config.eval.alpha) for split, found in predictions.items()}
    return FloatResult(fitted.best_epoch, fitted.samples_per_s, scores)


def _log_inputs(config: ExperimentConfig, inputs: FloatInputs, model: BuiltModel, tracker: Tracker) -> None:
    digest = inputs.data.digest
    tracker.set_tags(
        {
            "carkp.data_digest": digest,
            "carkp.pretrained": f"{model.source.kind}: {model.source.detail}",
            "carkp.resumed_from": str(inputs.resume or ""),
        }
    )
    tracker.log_dataset(config.name, digest, config.data.source, "training")


def _train(
    config: ExperimentConfig,
    inputs: FloatInputs,
    stores: Stores,
    model: BuiltModel,
    out_dir: Path,
    tracker: Tracker,
    context: ProcessContext,
) -> FitResult:
    split = build_eval_split(config, stores.val, context)
    codec = build_codec(config.heatmap, config.model.input_size)
    fit_inputs = FitInputs(
        batches=build_train_loader(config, stores.train, context),
        codec=codec,
        normalise=normalise,
        validate=lambda net: _predict(config, net, split, context).score(config.eval.alpha),
        architecture=model.architecture,
        config=config.model_dump(mode="json"),
    )
    trainer = Trainer(model.net, fit_inputs, build_fit_settings(config.train, context.device), context)
    if inputs.resume is not None:
        _resume(trainer, inputs.resume, out_dir, tracker)
    if context.world_size > 1 and context.device.type == "cpu" and context.is_main:
        tqdm.write("batch norm keeps statistics of its own in each process: synchronised batch norm needs CUDA")
    steps = len(fit_inputs.batches)
    with tqdm(
        total=steps * config.train.epochs, initial=steps * trainer.epoch, desc="train", disable=not context.is_main
    ) as bar:

        def on_epoch(result: EpochResult) -> None:
            _log_epoch(result.numbers(), tracker)
            if result.is_best:  # before last.pt, which speaks of it
                tracker.log_file(out_dir / CHECKPOINT_DIR / "best.pt", CHECKPOINT_DIR)
            tracker.log_file(out_dir / CHECKPOINT_DIR / "last.pt", CHECKPOINT_DIR)
            bar.write(
                f"epoch {result.epoch}/{config.train.epochs}: loss {result.loss:.3f}, val pck {result.scores.pck:.4f}, "
                f"mean distance {result.scores.mean_dist:.2f} px, {result.samples_per_s:.1f} samples/s"
            )

        return fit(trainer, out_dir / CHECKPOINT_DIR, on_epoch, on_step=lambda loss: _advance(bar, loss))


def _advance(bar: "tqdm[Any]", loss: float) -> None:
    bar.update()
    bar.set_postfix(loss=f"{loss:.2f}", refresh=False)


def _resume(trainer: Trainer, last: Path, out_dir: Path, tracker: Tracker) -> None:
    """Go on from ``last``; checkpoints and metrics of the epochs before come along, for no later one may be better."""
    try:
        trainer.resume(load_checkpoint(last))
    except ValueError as error:
        raise CheckpointError(f"{last}: {error}") from error
    if trainer.context.is_main:
        for source in (last.with_name("best.pt"), last):
            kept = out_dir / CHECKPOINT_DIR / source.name
            save_checkpoint(load_checkpoint(source), kept)
            tracker.log_file(kept, CHECKPOINT_DIR)
    for numbers in trainer.history:
        _log_epoch(numbers, tracker)


def _log_epoch(numbers: dict[str, float], tracker: Tracker) -> None:
    tracker.log_metrics(
        {
            "train/loss": numbers["loss"],
            "train/lr": numbers["lr"],
            "train/samples_per_s": numbers["samples_per_s"],
            "val/pck": numbers["pck"],
            "val/pck_hat": numbers["pck_hat"],
            "val/mean_dist": numbers["mean_dist"],
        },
        step=int(numbers["epoch"]),
    )


def _predict_all(
    config: ExperimentConfig, stores: Stores, net: nn.Module, context: ProcessContext
) -> dict[str, Predictions]:
    """Predictions on validation and, where it has samples, on test."""
    splits = {"val": stores.val, "test": stores.test}
    return {
        name: _predict(config, net, build_eval_split(config, store, context), context)
        for name, store in splits.items()
        if len(store) > 0
    }


def _log_model(config: ExperimentConfig, stores: Stores, net: nn.Module, out_dir: Path, tracker: Tracker) -> None:
    """Export the float ONNX, hold it against torch on validation crops, log it as file and as MLflow model."""
    path = out_dir / ONNX_DIR / "float.onnx"
    metadata = {"run_id": tracker.run_id, "experiment": config.name, "stage": "float"}
    net = net.to(memory_format=torch.contiguous_format)
    export_float_onnx(net, config.model.input_size, path, metadata)
    dataset = build_eval_dataset(config, stores.val)
    images = normalise(torch.stack([dataset[i]["image"] for i in range(min(NUM_ONNX_IMAGES, len(dataset)))]))
    difference = check_against_torch(path, net, images, ONNX_TOLERANCE)
    tracker.log_metrics({"onnx/max_abs_difference": difference})
    tracker.log_file(path, ONNX_DIR)
    with torch.inference_mode():
        tracker.log_onnx_model(path, "model", images.numpy(), net(images).numpy())


def _predict(config: ExperimentConfig, net: nn.Module, split: EvalSplit, context: ProcessContext) -> Predictions:
    codec = build_codec(config.heatmap, config.model.input_size)
    return predict(eval_forward(net, normalise, config.train.channels_last), split, codec, context)


if __name__ == "__main__":
    sys.exit(main())
