"""Entry point ``qat``: fine-tune the calibrated model with fake quantisation."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from carkp.config.schema import ExperimentConfig
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import weights_digest
from carkp.training.distributed import ProcessContext
from carkp.workflow.build import build_qat_settings, prepare_torch
from carkp.workflow.cli import Arguments, guarded, parse_stage
from carkp.workflow.preparation import PreparedData, require_samples
from carkp.workflow.quantising import (
    build_target,
    check_target,
    describe_retention,
    load_prepared,
    quantisation_tags,
    retention_metrics,
    write_scales,
)
from carkp.workflow.references import CALIBRATION, ModelFile, check_codec, check_input_size, require_data, resolve_model
from carkp.workflow.reuse import log_inputs, stage_inputs
from carkp.workflow.scoring import build_scorer, describe_run, describe_scores, log_scored_splits, log_sheet
from carkp.workflow.training import (
    Training,
    best_checkpoint,
    log_choice,
    log_float_onnx,
    predict_all,
    run_on_ranks,
    train,
)


@dataclass(frozen=True)
class QatInputs:
    """Prepared data and the calibrated checkpoint to start from."""

    data: PreparedData
    model: ModelFile


def run(config: ExperimentConfig, inputs: QatInputs, out_dir: Path, tracker: Tracker, context: ProcessContext) -> str:
    """Fine-tune with the calibrated scales, which stay fixed; log as float training does.

    Return a summary for a person.
    """
    stores = inputs.data.open()
    require_samples(stores.train, "training")
    require_samples(stores.val, "the choice of the best epoch")
    prepare_torch(config)
    prepared = load_prepared(inputs.model.path)
    check_input_size(prepared.architecture, config, inputs.model.path)
    check_codec(prepared.codec, config, inputs.model.path)
    tags = {"carkp.data_digest": inputs.data.digest, "carkp.source_run": inputs.model.run_id}
    tracker.set_tags({**quantisation_tags(prepared), **tags})
    given = {
        "data": inputs.data.digest,
        "model": weights_digest(prepared.net.state_dict()),
        "nproc": str(context.world_size),
    }
    log_inputs(tracker, stage_inputs("qat", config, given))
    tracker.log_dataset(config.name, inputs.data.digest, config.data.title, "training")
    settings = build_qat_settings(config, context.device)
    prepared.net.round_to_nearest()  # the chosen rounding was for the old weights
    training = Training(prepared.net, dict(prepared.architecture), settings)
    scorer = build_scorer(config, context)
    fitted = train(config, training, stores, out_dir, tracker, scorer)
    best = best_checkpoint(out_dir, context)
    net = prepared.net
    net.load_state_dict(best.weights)
    predictions = predict_all(scorer, stores, net.eval())
    if not context.is_main:
        return ""
    scored = {split: (getattr(stores, split), found) for split, found in predictions.items()}
    scores = log_scored_splits(scorer, scored, tracker, out_dir, "qat", step=config.qat.epochs)
    kept = retention_metrics(scorer, prepared.origin, inputs.data, scores)
    tracker.log_metrics(kept)
    what = f"Fine-tuned `{inputs.model.reference}` for {config.qat.epochs} epochs with fake quantisation."
    describe_run(tracker, what, scores, kept, prepared.net.target.name)
    log_sheet(scorer, stores.val, predictions["val"], tracker, out_dir / "val_predictions.jpg")
    log_choice(scorer, fitted, predictions["val"], tracker)
    net = net.cpu()
    log_float_onnx(config.name, scorer, stores, net.graph, out_dir, tracker)
    write_scales(net, out_dir / "scales.json")
    tracker.log_file(out_dir / "scales.json", "")
    tracker.set_tags({"carkp.model": "qat", "carkp.model_digest": weights_digest(best.weights)})
    head = f"best epoch {fitted.best_epoch}, trained at {fitted.samples_per_s:.1f} samples/s"
    return "\n".join([head, describe_scores(scores), describe_retention(kept)])


def main(argv: Sequence[str] | None = None) -> int:
    def work() -> int:
        arguments = parse_stage("qat", argv)
        return run_on_ranks("qat", arguments, _find_inputs, run)

    return guarded(work)


def _find_inputs(arguments: Arguments, tracker: Tracker) -> QatInputs:
    del tracker
    config = arguments.config
    target = build_target(config, arguments.values["target"])
    data = require_data(config, arguments.values["data"])
    tags = {"carkp.experiment": config.name, "carkp.data_digest": data.digest, "carkp.target": target.name}
    model = resolve_model(arguments.values["model"], CALIBRATION, tags)
    check_target(load_prepared(model.path).net.target, target, model.path)
    return QatInputs(data, model)


if __name__ == "__main__":
    sys.exit(main())
