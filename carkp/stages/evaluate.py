"""Entry point ``evaluate``: score a model on validation and test."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.data.dataset import normalise
from carkp.data.issues import DataError
from carkp.data.store import Store
from carkp.keypoints.metrics import Scores
from carkp.keypoints.predictions import Predictions
from carkp.model.pose_net import PoseNet
from carkp.stages._build import build_codec, build_eval_split, prepare_torch
from carkp.stages._cli import DATA, MODEL, Arguments, Parameter, execute, guarded, parse
from carkp.stages._data import PreparedData, require_data
from carkp.stages._models import check_input_size, load_net, resolve_float_checkpoint
from carkp.stages._scoring import describe_scores, log_scored_splits, log_sheet, mean_oracle_error_px
from carkp.tracking import Tracker
from carkp.training.checkpoint import load_checkpoint
from carkp.training.distributed import ProcessContext, process_context
from carkp.training.evaluate import eval_forward, predict

STAGES = ("float",)
"""Models that can be scored so far."""


@dataclass(frozen=True)
class EvaluateInputs:
    """``model``: what kind of model the file ``path`` holds."""

    data: PreparedData
    model: str
    path: Path


def run(
    config: ExperimentConfig, inputs: EvaluateInputs, out_dir: Path, tracker: Tracker, context: ProcessContext
) -> dict[str, Scores]:
    """Score the model on every split that has samples but train; the scores by split."""
    prepare_torch(config)
    checkpoint = load_checkpoint(inputs.path)
    check_input_size(checkpoint, config, inputs.path)
    net = load_net(checkpoint).to(context.device)
    stores = inputs.data.open()
    splits = {name: store for name, store in (("val", stores.val), ("test", stores.test)) if len(store) > 0}
    if not splits:
        raise DataError(f"{inputs.data.directory}: the validation and the test split are empty, nothing to score")
    tracker.set_tags({"carkp.model": inputs.model, "carkp.data_digest": inputs.data.digest})
    tracker.log_dataset(config.name, inputs.data.digest, config.data.source, "evaluation")
    scored = {name: (store, _predict(config, net, name, store, context)) for name, store in splits.items()}
    scores = log_scored_splits(config, scored, tracker, out_dir, inputs.model)
    first_split, (store, predictions) = next(iter(scored.items()))
    codec = build_codec(config.heatmap, config.model.input_size)
    tracker.log_metrics({f"{first_split}/oracle_error_px": mean_oracle_error_px(codec, predictions)})
    log_sheet(config, store, predictions, tracker, out_dir / f"{first_split}_predictions.jpg")
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the entry point."""

    def work() -> int:
        parameters = [Parameter("stage", "float", f"what to score: {', '.join(STAGES)}"), MODEL, DATA]
        arguments = parse("evaluate", "Score a model on validation and test.", parameters, argv)
        model = arguments.values["stage"]
        if model not in STAGES:
            raise ConfigError(f"stage={model!r}: can score {', '.join(STAGES)}")
        with process_context() as context:
            _execute(arguments, model, context)
        return 0

    return guarded(work)


def _execute(arguments: Arguments, model: str, context: ProcessContext) -> None:
    config = arguments.config
    data = require_data(config, arguments.values["data"])
    path = resolve_float_checkpoint(arguments.values["model"], config, data.digest)

    def work(tracker: Tracker, out_dir: Path) -> None:
        tracker.set_tags({"carkp.scored": str(path)})
        scores = run(config, EvaluateInputs(data, model, path), out_dir, tracker, context)
        print(describe_scores(scores))  # noqa: T201

    execute("evaluate", config, work)


def _predict(config: ExperimentConfig, net: PoseNet, name: str, store: Store, context: ProcessContext) -> Predictions:
    codec = build_codec(config.heatmap, config.model.input_size)
    with tqdm(total=len(store), desc=f"score {name}", unit="crop") as bar:
        forward = eval_forward(net, normalise, config.train.channels_last)
        return predict(
            forward, build_eval_split(config, store, context), codec, context, on_batch=lambda num: _advance(bar, num)
        )


def _advance(bar: "tqdm[Any]", num_samples: int) -> None:
    bar.update(num_samples)


if __name__ == "__main__":
    sys.exit(main())
