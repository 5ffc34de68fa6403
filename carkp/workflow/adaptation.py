"""Adaptation of a float model to a user's own pictures: self-training without labels, fine-tuning with labels.

Every batch mixes these cars with the configuration's data, so that the model does not forget that data. A model that
forgets too much is refused.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from carkp.config.schema import ExperimentConfig
from carkp.config.sources import shares as shares_of_sources
from carkp.data.dataset import CropDataset, TrainLoader, normalise
from carkp.data.mixture import MixedStore
from carkp.data.store import Store, Stores
from carkp.data.transforms import TrainTransform
from carkp.data.views import Part, TwoViewDataset, parted_loader
from carkp.disk import publish
from carkp.keypoints.predictions import Predictions
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import Checkpoint, load_checkpoint, load_net, weights_digest
from carkp.training.distributed import ProcessContext
from carkp.training.fit import BEST_NAME, EpochResult, FitResult, FitSettings
from carkp.training.mean_teacher import MeanTeacher
from carkp.workflow.build import build_fit_settings, prepare_torch
from carkp.workflow.cli import AdaptationError
from carkp.workflow.judging import LABELLED, Judge, Measured, log_looks
from carkp.workflow.preparation import PreparedData, require_samples
from carkp.workflow.references import ModelFile, check_codec, check_input_size, codec_of, warn
from carkp.workflow.reuse import log_inputs, stage_inputs
from carkp.workflow.scoring import (
    VAL,
    Scorer,
    build_scorer,
    describe_run,
    log_scored_splits,
    log_sheet,
)
from carkp.workflow.target_cars import Slice, TargetCars, TargetSources, collect_cars
from carkp.workflow.training import (
    CHECKPOINT_DIR,
    Training,
    best_checkpoint,
    log_choice,
    log_float_onnx,
    predict_all,
    train,
)

REFUSED_NAME = "refused.pt"
"""File name for the checkpoint of a refused model, so that nothing uses it by mistake."""

BEFORE = "before"
UNLABELLED, GENERATED = "unlabelled", "generated"


@dataclass(frozen=True)
class AdaptInputs:
    """Prepared data of the configuration, the float model to start from, and the user's own cars."""

    data: PreparedData
    model: ModelFile
    target: TargetSources


@dataclass(frozen=True)
class AdaptResult:
    """The scores before and after, and the training speed."""

    before: Measured
    after: Measured
    samples_per_s: float


def run(
    config: ExperimentConfig, inputs: AdaptInputs, out_dir: Path, tracker: Tracker, context: ProcessContext
) -> AdaptResult:
    """Adapt the model; log its scores before and after, and everything that float training logs.

    Raises:
        AdaptationError: it got worse on the configuration's data; its checkpoint is logged under another name.
        ConfigError, CheckpointError, DataError: the model or the cars cannot be used.
    """
    stores = inputs.data.open()
    require_samples(stores.train, "training")
    require_samples(stores.val, "the measure of forgetting")
    prepare_torch(config)
    checkpoint = _open_model(config, inputs.model)
    cars = collect_target(config, inputs.target, out_dir)
    _log_given(config, inputs, checkpoint, cars, tracker)
    scorer = build_scorer(config, context)
    judge = Judge(config, scorer, stores, cars)
    net = load_net(checkpoint).to(context.device)
    before, seen_before = judge.measure(net), judge.look(net)
    tracker.log_metrics({f"{BEFORE}/{name}": value for name, value in before.metrics().items()})
    fitted = adapt(config, net, checkpoint, cars, stores, out_dir, tracker, scorer)
    best = best_checkpoint(out_dir, context)
    net = load_net(best).to(context.device)
    after = judge.measure(net)
    tracker.log_metrics(after.metrics(), step=config.adapt.epochs)
    log_looks(seen_before, judge.look(net), out_dir, tracker)
    tracker.set_tags({"carkp.model_digest": weights_digest(best.weights)})
    refuse_worse(config, before, after, out_dir, tracker)
    tracker.log_file(out_dir / CHECKPOINT_DIR / BEST_NAME, CHECKPOINT_DIR)
    _log_model(config, inputs.model, net, fitted, stores, scorer, out_dir, tracker)
    return AdaptResult(before, after, fitted.samples_per_s)


def collect_target(config: ExperimentConfig, target: TargetSources, out_dir: Path) -> TargetCars:
    """Pack the user's cars; print what had to be left out."""
    for note in () if target.boxes is None else target.boxes.notes:
        print(note, file=sys.stderr)  # noqa: T201
    cars = collect_cars(
        target,
        out_dir / "target",
        config.data.jpeg_quality,
        config.data.boxes,
        config.adapt.holdout_share,
        config.data.num_workers,
        config.seed,
    )
    if cars.issues.skipped:
        warn(f"left out: {cars.issues.describe_skipped()}")
    if config.adapt.holdout_share > 0 and cars.unlabelled is not None and len(cars.unlabelled.held_out) == 0:
        warn(
            "no unlabelled car is held out, because there are too few pictures: the effect of self-training is not "
            "measured"
        )
    return cars


def build_batches(config: ExperimentConfig, stores: Stores, cars: TargetCars, pin_memory: bool) -> TrainLoader:
    """Return batches of the configuration's data and the user's cars, with the shares that ``adapt`` sets.

    Labelled and unlabelled cars share the user's part of a batch equally.
    """
    size, adapt = config.model.input_size, config.adapt
    strong = TrainTransform(input_size=size, **adapt.augment.model_dump())
    weak = TrainTransform(
        size, adapt.augment.flip_probability, random_padding=True, noise_probability=0.0, noise_sigma=0.0
    )
    parts = _generated_parts(stores.train, strong, config.seed)
    sources = shares_of_sources(config.data) or {GENERATED: 1.0}
    given: dict[str, Part] = {}
    if cars.labelled is not None:
        given[LABELLED] = Part(CropDataset(cars.labelled.store, strong, config.seed), cars.labelled.learnt)
    if cars.unlabelled is not None:
        given[UNLABELLED] = Part(
            TwoViewDataset(cars.unlabelled.store, weak, strong, config.seed), cars.unlabelled.learnt
        )
    shares = {name: share * (1 - adapt.target_share) for name, share in sources.items()}
    shares |= dict.fromkeys(given, adapt.target_share / len(given))
    return parted_loader(
        {**parts, **given},
        shares,
        num_batches=adapt.steps_per_epoch,
        batch_size=config.train.batch_size,
        num_workers=config.train.num_workers,
        seed=config.seed,
        pin_memory=pin_memory,
    )


def build_adapt_settings(config: ExperimentConfig, device: torch.device) -> FitSettings:
    """Return the settings of float training with the changes of ``adapt``, uncompiled.

    Training trusts the first weights and keeps the last ones.
    """
    names = ("epochs", "lr", "warmup_epochs", "ema_decay")
    changes = {name: getattr(config.adapt, name) for name in names} | {"compile": False}
    settings = build_fit_settings(config.train.model_copy(update=changes), device, trusts_start=True)
    return replace(settings, ships_last=True, reduced_epochs=0)


def adapt(
    config: ExperimentConfig,
    net: nn.Module,
    checkpoint: Checkpoint,
    cars: TargetCars,
    stores: Stores,
    out_dir: Path,
    tracker: Tracker,
    scorer: Scorer,
) -> FitResult:
    """Train ``net`` of ``checkpoint`` on the configuration's data and the user's cars.

    The adapted network becomes the best checkpoint below ``out_dir``.
    """
    device = scorer.context.device
    settings = build_adapt_settings(config, device)
    teacher = MeanTeacher(
        scorer.codec,
        normalise,
        config.adapt.min_confidence,
        config.adapt.unlabelled_weight,
        settings.channels_last,
        settings.autocast_dtype,
    )
    training = Training(
        net,
        dict(checkpoint.architecture),
        settings,
        keeps_last=False,
        keeps_best=False,
        batches=build_batches(config, stores, cars, device.type == "cuda"),
        extra_loss=teacher if cars.unlabelled is not None else None,
    )

    def log(result: EpochResult) -> None:
        if cars.unlabelled is not None:
            tracker.log_metrics({"train/trusted": teacher.take_trusted_share()}, step=result.epoch)

    return train(config, training, stores, out_dir, tracker, scorer, log)


def refuse_worse(config: ExperimentConfig, before: Measured, after: Measured, out_dir: Path, tracker: Tracker) -> None:
    """Refuse a model that lost more PCK than ``adapt.max_loss_on_generated``; its checkpoint is kept.

    Raises:
        AdaptationError: the model lost more.
    """
    lost, allowed = before.val.pck - after.val.pck, config.adapt.max_loss_on_generated
    if lost <= allowed:
        return
    refused = out_dir / CHECKPOINT_DIR / REFUSED_NAME
    publish(out_dir / CHECKPOINT_DIR / BEST_NAME, refused)
    tracker.log_file(refused, CHECKPOINT_DIR)
    raise AdaptationError(
        f"the adapted model is refused: it lost {lost:.4f} of PCK on the validation split of the configuration's data "
        f"({before.val.pck:.4f} before, {after.val.pck:.4f} after), but adapt.max_loss_on_generated={allowed:g} is "
        f"allowed. Its checkpoint is {CHECKPOINT_DIR}/{REFUSED_NAME} of the run. Lower adapt.lr, adapt.epochs or "
        "adapt.target_share, check boxes and labels, or raise adapt.max_loss_on_generated"
    )


def _generated_parts(store: Store, transform: TrainTransform, seed: int) -> dict[str, Part]:
    """Return the configuration's training data, split by source if there are several."""
    dataset = CropDataset(store, transform, seed)
    ranges = store.ranges if isinstance(store, MixedStore) else {GENERATED: range(len(store))}
    return {name: Part(dataset, np.array(places)) for name, places in ranges.items()}


def _open_model(config: ExperimentConfig, model: ModelFile) -> Checkpoint:
    checkpoint = load_checkpoint(model.path)
    check_input_size(checkpoint.architecture, config, model.path)
    check_codec(codec_of(checkpoint), config, model.path)
    return checkpoint


def _log_given(
    config: ExperimentConfig, inputs: AdaptInputs, checkpoint: Checkpoint, cars: TargetCars, tracker: Tracker
) -> None:
    """Log everything that decides the result, and the number of cars."""
    given = {"data": inputs.data.digest, "model": weights_digest(checkpoint.weights), **cars.digests}
    log_inputs(tracker, stage_inputs("adapt", config, given))
    tracker.set_tags({"carkp.data_digest": inputs.data.digest, "carkp.source_run": inputs.model.run_id})
    tracker.set_tags({"carkp.adapted_from": inputs.model.reference})
    tracker.set_tags({f"carkp.{name}_digest": digest for name, digest in cars.digests.items()})
    tracker.log_dataset(config.name, inputs.data.digest, config.data.title, "training")
    tracker.log_metrics(
        {
            **_counts(UNLABELLED, cars.unlabelled),
            **_counts(LABELLED, cars.labelled),
            "data/num_labelled_scored": float(sum(map(len, cars.scored))),
        }
    )


def _counts(name: str, cars: Slice | None) -> Mapping[str, float]:
    if cars is None:
        return {}
    return {f"data/num_{name}": float(len(cars.learnt)), f"data/num_{name}_held_out": float(len(cars.held_out))}


def _log_model(
    config: ExperimentConfig,
    model: ModelFile,
    net: nn.Module,
    fitted: FitResult,
    stores: Stores,
    scorer: Scorer,
    out_dir: Path,
    tracker: Tracker,
) -> None:
    """Log the same as float training: splits, pictures, ONNX, and a description of the run."""
    predictions: Mapping[str, Predictions] = predict_all(scorer, stores, net)
    scored = {split: (getattr(stores, split), found) for split, found in predictions.items()}
    scores = log_scored_splits(scorer, scored, tracker, out_dir, "adapt", step=config.adapt.epochs)
    log_sheet(scorer, stores.val, predictions[VAL], tracker, out_dir / "val_predictions.jpg")
    log_choice(scorer, fitted, predictions[VAL], tracker)
    tracker.set_tags({"carkp.model": "float"})
    describe_run(tracker, f"Adapted `{model.reference}` for {config.adapt.epochs} epochs.", scores)
    log_float_onnx(config.name, scorer, stores, net, out_dir, tracker)
