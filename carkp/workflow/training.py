"""Code that all training stages share: the training loop with progress bar and logging, and the scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from carkp.config.schema import ExperimentConfig
from carkp.config.sources import choosing, shares
from carkp.data.dataset import normalise
from carkp.data.issues import DataError
from carkp.data.mixture import MixedStore, restrict
from carkp.data.shares import describe_shares
from carkp.data.store import Store, Stores, data_digest
from carkp.deploy.float_onnx import check_against_torch, export_float_onnx
from carkp.disk import describe_free_space, write_atomic
from carkp.keypoints.codec import CODEC_KEY, codec_to_json
from carkp.keypoints.metrics import Scores, labelled_extent
from carkp.keypoints.predictions import Predictions
from carkp.progress import is_hidden
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from carkp.training.distributed import ProcessContext, is_under_torchrun, process_context
from carkp.training.divergence import Divergence, divergences_to_json
from carkp.training.evaluate import predict
from carkp.training.fit import (
    BEST_NAME,
    LAST_NAME,
    SOURCE_PCK,
    EpochResult,
    FitInputs,
    FitResult,
    FitSettings,
    LossTerm,
    TrainBatches,
    Trainer,
    fit,
)
from carkp.training.resume import load_resumable
from carkp.workflow.build import build_train_loader, require_sources
from carkp.workflow.cli import Arguments, execute
from carkp.workflow.process import run_under_torchrun
from carkp.workflow.process_group import parse_group
from carkp.workflow.restarts import clear_unfinished, name_launch, rejoin_run
from carkp.workflow.resuming import (
    CODE,
    DATA_DIGEST,
    MIXED_CODE,
    NUM_PROCESSES,
    PRECISION,
    describe_precision,
    require_same_training,
)
from carkp.workflow.scoring import VAL, Scorer

Inputs = TypeVar("Inputs")

CHECKPOINT_DIR = "checkpoints"
ONNX_DIR = "onnx"
ONNX_TOLERANCE = 1e-4
NUM_ONNX_IMAGES = 16
DIVERGENCE_FILE = "divergence.json"
MAX_NOTED = 100
"""Limit on skipped steps that are listed in the run's file."""


@dataclass(frozen=True)
class Training:
    """Inputs and options of one training.

    Attributes:
        net: the network.
        architecture: description from which a checkpoint can build the network again.
        settings: settings of the training loop.
        resume: the ``last.pt`` to continue from.
        is_own: whether ``resume`` belongs to this same run, which has already logged its epochs.
        keeps_last: whether ``last.pt`` is logged, for a training that can be resumed.
        keeps_best: whether ``best.pt`` is logged at each new best epoch, not only by the stage at its end.
        batches: training batches; None: the training split as configured.
        decided: values that ``last.pt`` keeps for comparison, named as in ``resuming``.
        extra_loss: an additional term of the loss.
    """

    net: nn.Module
    architecture: dict[str, Any]
    settings: FitSettings
    resume: Path | None = None
    is_own: bool = False
    keeps_last: bool = True
    keeps_best: bool = True
    batches: TrainBatches | None = None
    decided: Mapping[str, str] = field(default_factory=dict)
    extra_loss: LossTerm | None = None


def run_on_ranks(
    stage: str,
    arguments: Arguments,
    find_inputs: Callable[[Arguments, Tracker], Inputs],
    run: Callable[[ExperimentConfig, Inputs, Path, Tracker, ProcessContext], str],
) -> int:
    """Run a training stage in as many processes as it asks for; return the exit status.

    The main process finds the inputs and prints the text that ``run`` returns.
    """
    config = arguments.config
    group = parse_group(arguments.values, config.train)
    if group.needs_torchrun and not is_under_torchrun():
        return run_under_torchrun(
            f"carkp.stages.{stage}", arguments.raw, group.nproc, group.options(), group.variables()
        )
    with process_context() as context:
        if context.is_main:
            rejoin_run(stage)

        @context.naming_lost_peers()
        def work(tracker: Tracker, out_dir: Path) -> None:
            if context.is_main:
                name_launch(tracker)
                clear_unfinished(out_dir / CHECKPOINT_DIR)
            inputs = context.broadcast(find_inputs(arguments, tracker) if context.is_main else None)
            assert inputs is not None
            context.limit_waiting(config.train.process_timeout_s)
            summary = run(config, inputs, out_dir, tracker, context)
            if context.is_main:
                print(summary)  # noqa: T201

        execute(stage, config, work, is_main=context.is_main)
    return 0


def train(
    config: ExperimentConfig,
    training: Training,
    stores: Stores,
    out_dir: Path,
    tracker: Tracker,
    scorer: Scorer,
    on_epoch: Callable[[EpochResult], None] = lambda result: None,
) -> FitResult:
    """Train, and validate after every epoch; log each epoch and its checkpoints, then call ``on_epoch``."""
    require_sources(config, stores.train)
    require_labels(stores, scorer.choosing)
    trainer, context = _build_trainer(config, training, stores, scorer), scorer.context
    if context.is_main:
        trainer.inputs = replace(trainer.inputs, on_divergence=_divergence_log(out_dir, tracker))
    if training.resume is not None:
        _resume(trainer, training.resume, config, out_dir, tracker)
        if not training.is_own:
            _log_history(trainer, tracker)
    if context.world_size > 1 and context.device.type == "cpu" and context.is_main:
        tqdm.write("batch norm keeps separate statistics in each process: synchronised batch norm needs CUDA")
    if scorer.choosing and context.is_main:
        tqdm.write(describe_mixture(config, stores, context))
    steps, epochs = len(trainer.inputs.batches), training.settings.epochs
    with tqdm(
        total=steps * epochs, initial=steps * trainer.epoch, desc="train", disable=is_hidden(not context.is_main)
    ) as bar:

        def log(result: EpochResult) -> None:
            _log_epoch(result.numbers(), tracker)
            names = [BEST_NAME] if result.is_best and training.keeps_best else []  # before last.pt, which refers to it
            _log_checkpoints([*names, *([LAST_NAME] if training.keeps_last else [])], out_dir, tracker)
            bar.write(f"epoch {result.epoch}/{epochs}: {_describe(result)}")
            on_epoch(result)

        return fit(trainer, out_dir / CHECKPOINT_DIR, log, on_step=lambda loss: _advance(bar, loss))


def _build_trainer(config: ExperimentConfig, training: Training, stores: Stores, scorer: Scorer) -> Trainer:
    context, split = scorer.context, scorer.split(stores.val)

    def validate(net: nn.Module) -> Scores:
        return scorer.score(predict(scorer.forward(net), split, scorer.codec, context), VAL)

    known = {
        DATA_DIGEST: data_digest(stores),
        NUM_PROCESSES: str(context.world_size),
        PRECISION: describe_precision(training.settings),
    }
    inputs = FitInputs(
        batches=training.batches or build_train_loader(config, stores.train, context),
        codec=scorer.codec,
        normalise=normalise,
        validate=validate,
        architecture=training.architecture,
        config=config.model_dump(mode="json"),
        decided={**known, **training.decided},
        extra_loss=training.extra_loss,
    )
    return Trainer(training.net, inputs, training.settings, context)


def describe_mixture(config: ExperimentConfig, stores: Stores, context: ProcessContext) -> str:
    """Describe the shares of every batch, and the sources whose validation chooses the epoch."""
    assert isinstance(stores.train, MixedStore)
    ratio, settings = shares(config.data), config.train
    drawn = describe_shares(stores.train, ratio, settings.batch_size, settings.num_samples, context.world_size)
    return f"{drawn}\nval pck, which chooses the epoch, is computed on {' and '.join(choosing(config.data))}"


def _divergence_log(out_dir: Path, tracker: Tracker) -> Callable[[Divergence], None]:
    """Return a callback that warns of a skipped step and lists it in a file of the run."""
    noted: list[Divergence] = []

    def note(found: Divergence) -> None:
        tqdm.write(f"warning: {found}; the step is skipped")
        if len(noted) < MAX_NOTED:
            noted.append(found)
            path = out_dir / DIVERGENCE_FILE
            write_atomic(path, divergences_to_json(noted).encode())
            tracker.log_file(path, "")

    return note


def has_labels(store: Store) -> bool:
    """Return whether any keypoint of a split is labelled."""
    return any(bool((store[index].validity > 0).any()) for index in range(len(store)))


def is_scorable(store: Store) -> bool:
    """Return whether a split has a PCK: it needs a car with two labelled keypoints at different places."""
    records = (store[index] for index in range(len(store)))
    return any(
        float(labelled_extent(item.points[None].astype(np.float64), item.validity[None])[0]) > 0 for item in records
    )


def require_labels(stores: Stores, sources: Sequence[str] = ()) -> None:
    """Refuse data without labels for training or for choosing the epoch; warn if the test split cannot be scored.

    ``sources``: names of the sources that choose the epoch; empty if there is only one.

    Raises:
        DataError: labels are missing.
    """
    remedy = "check the labels (the summary of the data run counts them)"
    if not has_labels(stores.train):
        raise DataError(f"{stores.train.path}: no keypoint of the training split is labelled: {remedy}")
    if not is_scorable(restrict(stores.val, sources) if sources else stores.val):
        of_these = f" of {' and '.join(sources)}" if sources else ""
        raise DataError(
            f"{stores.val.path}: the validation PCK would be NaN, because no car of the validation split{of_these} has "
            f"two labelled keypoints at different positions, and it chooses the best epoch: {remedy}, or choose other "
            "data.val_scenes"
        )
    if len(stores.test) > 0 and not is_scorable(stores.test):
        tqdm.write(
            f"warning: {stores.test.path}: no car of the test split has two labelled keypoints, so the test split is "
            "not scored"
        )


def best_checkpoint(out_dir: Path, context: ProcessContext) -> Checkpoint:
    """Return the checkpoint that validation chose, on every process."""
    best = context.broadcast(load_checkpoint(out_dir / CHECKPOINT_DIR / BEST_NAME) if context.is_main else None)
    assert best is not None
    return best


def predict_all(scorer: Scorer, stores: Stores, net: nn.Module) -> dict[str, Predictions]:
    """Predict validation and test, as far as they can be scored."""
    splits = {name: getattr(stores, name) for name in ("val", "test")}
    forward = scorer.forward(net)
    return {name: scorer.predict(forward, store) for name, store in splits.items() if is_scorable(store)}


def log_float_onnx(
    experiment: str, scorer: Scorer, stores: Stores, net: nn.Module, out_dir: Path, tracker: Tracker
) -> None:
    """Export the float ONNX, compare it with torch on validation crops, and log it as a file and as an MLflow model."""
    path = out_dir / ONNX_DIR / "float.onnx"
    metadata = {
        "run_id": tracker.run_id,
        "experiment": experiment,
        "stage": "float",
        CODEC_KEY: codec_to_json(scorer.codec),
    }
    net = net.cpu().to(memory_format=torch.contiguous_format)
    export_float_onnx(net, scorer.input_size, path, metadata)
    dataset = scorer.dataset(stores.val)
    images = normalise(torch.stack([dataset[i]["image"] for i in range(min(NUM_ONNX_IMAGES, len(dataset)))]))
    difference = check_against_torch(path, net, images, ONNX_TOLERANCE)
    tracker.log_metrics({"onnx/max_abs_difference": difference})
    tracker.log_file(path, ONNX_DIR)
    with torch.inference_mode():
        tracker.log_onnx_model(path, "model", images.numpy(), net(images).numpy())


def log_choice(scorer: Scorer, fitted: FitResult, predictions: Predictions, tracker: Tracker) -> None:
    """Log the chosen epoch, and the error of the codec alone on the validation split."""
    tracker.log_metrics(
        {"best_epoch": fitted.best_epoch, "val/oracle_error_px": scorer.mean_oracle_error_px(predictions)}
    )


def _describe(result: EpochResult) -> str:
    scores = result.scores
    by_source = ", ".join(f"{name} {found.pck:.4f}" for name, found in scores.by_source.items())
    return (
        f"loss {result.loss:.3f}, val pck {scores.pck:.4f}{f' ({by_source})' if by_source else ''}, "
        f"mean distance {scores.mean_dist:.2f} px, {result.samples_per_s:.1f} samples/s"
    )


def _advance(bar: "tqdm[Any]", loss: float) -> None:
    bar.update()
    bar.set_postfix(loss=f"{loss:.2f}", refresh=False)


def _resume(trainer: Trainer, last: Path, config: ExperimentConfig, out_dir: Path, tracker: Tracker) -> None:
    """Continue from ``last``. Earlier checkpoints and metrics are copied, because no later epoch may be better."""
    checkpoint = load_resumable(last)
    require_same_training(checkpoint, last, config, trainer.inputs.decided)
    try:
        trainer.resume(checkpoint)
    except ValueError as error:
        raise CheckpointError(f"{last}: {error}") from error
    kept, decided = checkpoint.training_state.get("decided", {}), trainer.inputs.decided
    if kept.get(CODE) != decided.get(CODE):
        trainer.inputs = replace(trainer.inputs, decided={**decided, CODE: MIXED_CODE})
    if trainer.context.is_main:
        folder = out_dir / CHECKPOINT_DIR
        save_checkpoint(trainer.best_checkpoint(), folder / BEST_NAME)
        save_checkpoint(checkpoint, folder / LAST_NAME)
        _log_checkpoints([BEST_NAME, LAST_NAME], out_dir, tracker)
        total = trainer.settings.epochs
        tqdm.write(
            f"continues from {last}: {checkpoint.epoch} of {total} epochs are done, best epoch {trainer.best_epoch}"
        )


def _log_history(trainer: Trainer, tracker: Tracker) -> None:
    for numbers in trainer.history:
        _log_epoch(numbers, tracker)


def _log_checkpoints(names: Sequence[str], out_dir: Path, tracker: Tracker) -> None:
    """Copy checkpoints to the run.

    Raises:
        CheckpointError: the copy cannot be written; the original is complete.
    """
    for name in names:
        path = out_dir / CHECKPOINT_DIR / name
        try:
            tracker.log_file(path, CHECKPOINT_DIR)
        except OSError as error:
            free = describe_free_space(Path(str(error.filename or ".")))
            raise CheckpointError(
                f"the run's artifact {CHECKPOINT_DIR}/{name} cannot be written: {error.strerror or error}. {free}; "
                f"{path} is complete: free some space, then continue with resume={path}"
            ) from error


def _log_epoch(numbers: dict[str, float], tracker: Tracker) -> None:
    tracker.log_metrics(
        {
            "train/loss": numbers["loss"],
            "train/lr": numbers["lr"],
            "train/samples_per_s": numbers["samples_per_s"],
            "val/pck": numbers["pck"],
            "val/pck_hat": numbers["pck_hat"],
            "val/mean_dist": numbers["mean_dist"],
            **{f"val/{name}": value for name, value in numbers.items() if name.startswith(SOURCE_PCK)},
        },
        step=int(numbers["epoch"]),
    )
