"""Quantise a float model after training, score it with fake quantisation, and log the results."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor
from torch.nn import Module
from tqdm import tqdm

from carkp.config.schema import ExperimentConfig, QuantConfig
from carkp.data.store import Stores
from carkp.keypoints.metrics import Scores
from carkp.keypoints.paired import Retention, retention
from carkp.keypoints.predictions import Predictions
from carkp.quant.calibrate import Observer, choose_thresholds
from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.histogram import AbsHistogram
from carkp.quant.sqnr import layer_sqnr
from carkp.quant.target import Target
from carkp.report import figures
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, weights_digest
from carkp.training.distributed import ProcessContext
from carkp.training.evaluate import EvalSplit
from carkp.workflow.build import prepare_torch, vary_percentile
from carkp.workflow.calibrating import build_calibrator
from carkp.workflow.preparation import PreparedData, require_samples
from carkp.workflow.quantising import (
    Prepared,
    origin_of,
    prepared_architecture,
    quantisation_tags,
    retention_metrics,
    write_scales,
)
from carkp.workflow.references import (
    CALIBRATED,
    ModelFile,
    check_codec,
    check_input_size,
    codec_of,
)
from carkp.workflow.reuse import log_inputs, stage_inputs, target_digest
from carkp.workflow.scoring import (
    VAL,
    Scorer,
    build_scorer,
    describe_run,
    describe_scores,
    log_scored_splits,
    log_sheet,
)
from carkp.workflow.tables import write_table

SQNR_BATCH = 8
"""Batch size of the SQNR measurement, which keeps every tensor of a batch in memory at once."""


@dataclass(frozen=True)
class CalibrationInputs:
    """Prepared data, the float checkpoint, and the target."""

    data: PreparedData
    model: ModelFile
    target: Target


@dataclass(frozen=True)
class CalibrationResult:
    """The calibrated network, its scores by split, and the share of the float model's PCK that it keeps."""

    prepared: Prepared
    scores: Mapping[str, Scores]
    retention: Mapping[str, Retention]


def calibrate_and_score(
    config: ExperimentConfig, inputs: CalibrationInputs, out_dir: Path, tracker: Tracker, context: ProcessContext
) -> CalibrationResult:
    """Observe, choose thresholds, score; log scales, layer table, sweep and the calibrated checkpoint."""
    prepare_torch(config)
    stores, checkpoint = open_inputs(config, inputs)
    calibrator = build_calibrator(config, inputs.target)
    net = calibrator.prepare(checkpoint)
    observers = calibrator.observers(net)
    histograms = calibrator.calibrate(net, stores.train, observers)
    scorer = build_scorer(config, context)
    float_predictions = _predict_all(scorer, net.graph, stores, "float")
    float_scores = {split: scorer.score(found, split) for split, found in float_predictions.items()}
    model_digest = weights_digest(checkpoint.weights)
    origin = origin_of(config.name, scorer, inputs.model, model_digest, inputs.data, float_scores)
    architecture = prepared_architecture(checkpoint.architecture, net, calibrator.per_channel_weights, origin)
    prepared = Prepared(net, origin, architecture)
    _save(config, prepared, out_dir, tracker)
    upstream = {"data": inputs.data.digest, "model": model_digest, "target": target_digest(inputs.target)}
    log_inputs(tracker, stage_inputs("calibration", config, upstream))
    tracker.set_tags({"carkp.source_run": inputs.model.run_id})
    tracker.set_tags({"carkp.model": "calibration", **quantisation_tags(prepared)})
    tracker.log_dataset(config.name, inputs.data.digest, config.data.title, "calibration")
    predictions = _predict_all(scorer, net, stores, "calibrated")
    scored = {split: (getattr(stores, split), found) for split, found in predictions.items()}
    scores = log_scored_splits(scorer, scored, tracker, out_dir, "calibration")
    shares = retention_metrics(scorer, origin, inputs.data, scores)
    tracker.log_metrics(shares)
    what = f"Calibrated `{inputs.model.reference}` for {inputs.target.name} ({config.quant.observer})."
    describe_run(tracker, what, scores, shares, inputs.target.name)
    log_sheet(scorer, stores.val, predictions["val"], tracker, out_dir / "val_predictions.jpg")
    _log_sqnr(net, calibrator.images(stores.train, config.quant.num_sqnr_images, SQNR_BATCH), out_dir, tracker)
    if config.quant.sweep:
        sample = scorer.sample(scorer.judged_store(stores, VAL), config.quant.num_sweep_images)
        swept = sweep_percentiles(config.quant, scorer, net, histograms, observers, sample)
        float_pck = float_predictions[VAL].of_samples(sample.sample_ids).score(scorer.alpha).pck
        _log_sweep(swept, float_pck, scorer.alpha, out_dir, tracker)
    kept = {
        name: retention(scorer.judged(float_predictions[name], name), scorer.judged(found, name), scorer.alpha)
        for name, found in predictions.items()
    }
    tracker.log_metrics(
        {f"{name}/retention_{end}": getattr(found, end) for name, found in kept.items() for end in ("low", "high")}
    )
    return CalibrationResult(prepared, scores, kept)


def open_inputs(config: ExperimentConfig, inputs: CalibrationInputs) -> tuple[Stores, Checkpoint]:
    """Open the data and the float model, and check them against the configuration.

    Raises:
        DataError: there are no cars to calibrate with, or to score on.
        CheckpointError, ConfigError: the model belongs to another configuration.
    """
    stores = inputs.data.open()
    require_samples(stores.train, "calibration")
    require_samples(stores.val, "the score of the calibrated model")
    checkpoint = load_checkpoint(inputs.model.path)
    check_input_size(checkpoint.architecture, config, inputs.model.path)
    check_codec(codec_of(checkpoint), config, inputs.model.path)
    return stores, checkpoint


def sweep_percentiles(
    quant: QuantConfig,
    scorer: Scorer,
    net: FakeQuantNet,
    histograms: Mapping[str, AbsHistogram],
    observers: Mapping[str, Observer],
    sample: EvalSplit,
) -> dict[float, Predictions]:
    """Return predictions on ``sample`` for every percentile of the configuration, computed from the same histograms.

    Tensors whose rule names another observer keep it. The thresholds of ``net`` are restored afterwards.
    """
    found: dict[float, Predictions] = {}
    chosen = choose_thresholds(histograms, net.num_levels, observers)
    for percentile in tqdm(quant.sweep, "sweep percentiles"):
        varied = vary_percentile(observers, quant, percentile)
        net.set_thresholds(choose_thresholds(histograms, net.num_levels, varied))
        found[percentile] = scorer.predict_sample(scorer.forward(net), sample)
    net.set_thresholds(chosen)
    return found


def describe(result: CalibrationResult) -> str:
    """Describe the result in a few lines, for a person."""
    kept = [f"{split:>5}: keeps {found} of the float model's pck" for split, found in result.retention.items()]
    return "\n".join([f"target {result.prepared.net.target.name}", describe_scores(result.scores), *kept])


def _save(config: ExperimentConfig, prepared: Prepared, out_dir: Path, tracker: Tracker) -> None:
    weights = {name: value.detach().cpu() for name, value in prepared.net.state_dict().items()}
    path = out_dir / CALIBRATED
    save_checkpoint(
        Checkpoint(dict(prepared.architecture), weights, config.model_dump(mode="json"), epoch=0, training_state={}),
        path,
    )
    tracker.log_file(path, str(Path(CALIBRATED).parent))
    tracker.set_tags({"carkp.model_digest": weights_digest(weights)})
    write_scales(prepared.net, out_dir / "scales.json")
    tracker.log_file(out_dir / "scales.json", "")


def _predict_all(scorer: Scorer, net: Module, stores: Stores, label: str) -> dict[str, Predictions]:
    splits = {name: getattr(stores, name) for name in ("val", "test")}
    forward = scorer.forward(net)
    return {
        name: scorer.predict(forward, store, f"score {label}, {name}") for name, store in splits.items() if len(store)
    }


def _log_sqnr(net: FakeQuantNet, images: Iterable[Tensor], out_dir: Path, tracker: Tracker) -> None:
    rows = layer_sqnr(net, images)
    write_table([asdict(row) for row in rows], out_dir / "sqnr.csv")
    tracker.log_file(out_dir / "sqnr.csv", "")
    drawn = rows[1:]  # the image has no error
    columns = {
        "whole network so far": [row.total_db for row in drawn],
        "its own activations alone": [row.activations_db for row in drawn],
        "its own weights alone": [row.weights_db for row in drawn],
    }
    tracker.log_figure(
        figures.layer_figure([row.name for row in drawn], columns, "SQNR by layer", "SQNR (dB)"), "figures/sqnr.png"
    )
    tracker.log_metrics({"sqnr/output_db": rows[-1].total_db, "sqnr/worst_db": min(row.total_db for row in rows)})


def _log_sweep(
    swept: Mapping[float, Predictions], float_pck: float, alpha: float, out_dir: Path, tracker: Tracker
) -> None:
    pck = {percentile: found.score(alpha).pck for percentile, found in swept.items()}
    rows = [
        {
            "percentile": percentile,
            "val_pck": value,
            "val_retention": value / float_pck if float_pck else float("nan"),
            "num_crops": len(swept[percentile]),
        }
        for percentile, value in pck.items()
    ]
    write_table(rows, out_dir / "percentile_sweep.csv")
    tracker.log_file(out_dir / "percentile_sweep.csv", "")
    tracker.log_figure(figures.sweep_figure(pck, float_pck), "figures/percentile_sweep.png")
