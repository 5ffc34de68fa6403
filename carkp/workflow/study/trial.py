"""One trial of a study: train shortly, calibrate, and score the simulated int8 model at several percentiles."""

import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from carkp.config.schema import ExperimentConfig
from carkp.config.search import SearchBudget
from carkp.data.store import Store, Stores
from carkp.keypoints.predictions import Predictions
from carkp.project import project_root
from carkp.quant.calibrate import choose_thresholds
from carkp.quant.convert import convert
from carkp.quant.program import QProgram
from carkp.quant.target import Target
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import Checkpoint
from carkp.training.distributed import cpu_context, process_context
from carkp.training.fit import EpochResult, FitResult
from carkp.workflow.build import (
    build_fit_settings,
    build_model,
    prepare_torch,
    vary_percentile,
)
from carkp.workflow.calibrating import Calibrator, build_calibrator
from carkp.workflow.cli import log_config
from carkp.workflow.executions import simulator_forward
from carkp.workflow.preparation import PreparedData
from carkp.workflow.scoring import Scorer, build_scorer
from carkp.workflow.tables import write_table
from carkp.workflow.training import Training, best_checkpoint, train

SIGMA, LR, Q = "sigma", "lr", "q"
PERCENTILE_DIGITS = 7


@dataclass(frozen=True)
class TrialInputs:
    """What every trial of a study works on.

    Attributes:
        config: what trials vary.
        budget: of a training.
        data: prepared.
        target: whose arithmetic is simulated.
        num_scored: split -> how many of its samples are scored, 0 for all; the first is the objective's.
        swept_q: further values of q that are scored.
    """

    config: ExperimentConfig
    budget: SearchBudget
    data: PreparedData
    target: Target
    num_scored: Mapping[str, int]
    swept_q: tuple[float, ...] = ()


@dataclass(frozen=True)
class TrialResult:
    """What a trial found.

    Attributes:
        float_pck: of the best epoch on validation.
        int8_pck: q -> split -> PCK of the simulated int8 model.
        oracle_error_px: what the codec alone gets wrong on the labels.
        scoring_share: of the trial's time that scoring every q took.
    """

    float_pck: float
    int8_pck: Mapping[float, Mapping[str, float]]
    oracle_error_px: float
    scoring_share: float


def percentile_of(q: float) -> float:
    """``100 (1 - 10^-q)``: 99 for 2, 99.999 for 5."""
    return round(100 * (1 - 10**-q), PERCENTILE_DIGITS)


def q_of(percentile: float) -> float:
    """``-log10(1 - percentile / 100)``; infinite for 100."""
    return -math.log10(1 - percentile / 100) if percentile < 100 else math.inf


def tuned_config(config: ExperimentConfig, params: Mapping[str, float]) -> ExperimentConfig:
    """``config`` with the sigma, lr and calibration percentile of a trial; the decoder's window follows sigma."""
    heatmap = config.heatmap.model_copy(update={"sigma": params[SIGMA], "window": "auto"})
    quant = config.quant.model_copy(update={"observer": "percentile", "percentile": percentile_of(params[Q])})
    train_config = config.train.model_copy(update={"lr": params[LR]})
    return config.model_copy(update={"heatmap": heatmap, "quant": quant, "train": train_config})


def budgeted_config(config: ExperimentConfig, budget: SearchBudget) -> ExperimentConfig:
    """``config`` with the short training of a study, without a teacher: trials vary sigma, and a teacher has one."""
    changes = {"epochs": budget.epochs, "num_samples": budget.num_train_samples, "teacher": ""}
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def run_trial(
    inputs: TrialInputs,
    params: Mapping[str, float],
    tracker: Tracker,
    on_epoch: Callable[[EpochResult], None] = lambda result: None,
) -> TrialResult:
    """Train with ``params``, then score their q and the swept ones out of one pass of calibration.

    Logs the configuration, every epoch, the best checkpoint, the scores and the table of percentiles. What ``on_epoch``
    raises ends the trial.
    """
    start = time.perf_counter()
    config = budgeted_config(tuned_config(inputs.config, params), inputs.budget)
    log_config(config, tracker)
    tracker.log_params({SIGMA: params[SIGMA], LR: params[LR], Q: params[Q], "percentile": config.quant.percentile})
    tracker.log_dataset(config.name, inputs.data.digest, config.data.title, "training")
    stores = inputs.data.open()
    out_dir = project_root() / "runs" / tracker.run_id
    try:
        fitted, checkpoint = _train(config, stores, out_dir, tracker, on_epoch)
        calibrator, scorer = build_calibrator(config, inputs.target), build_scorer(config, cpu_context())
        found, scoring_s = score_percentiles(calibrator, scorer, inputs, stores, checkpoint, params[Q])
        result = _result(scorer, fitted, found, scoring_s / (time.perf_counter() - start))
        _log(result, params[Q], out_dir, tracker)
    finally:
        shutil.rmtree(out_dir, ignore_errors=True)
    return result


def score_percentiles(
    calibrator: Calibrator,
    scorer: Scorer,
    inputs: TrialInputs,
    stores: Stores,
    checkpoint: Checkpoint,
    own_q: float,
) -> tuple[dict[float, dict[str, Predictions]], float]:
    """Predictions of the simulated int8 model by q, the own one and the swept ones, and split; and their seconds.

    Tensors whose rule names another observer keep theirs. Calibration itself is not in the seconds.
    """
    net = calibrator.prepare(checkpoint)
    observers = calibrator.observers(net)
    histograms = calibrator.calibrate(net, stores.train, observers)
    start = time.perf_counter()
    scorers = {
        split: int8_scorer(scorer, scorer.judged_store(stores, split), num) for split, num in inputs.num_scored.items()
    }
    found = {}
    for q in dict.fromkeys((own_q, *inputs.swept_q)):
        varied = vary_percentile(observers, calibrator.settings, percentile_of(q))
        net.set_thresholds(choose_thresholds(histograms, net.num_levels, varied))
        program = convert(net, {})
        found[q] = {split: score(program) for split, score in scorers.items()}
    return found, time.perf_counter() - start


def int8_scorer(scorer: Scorer, store: Store, num_samples: int) -> Callable[[QProgram], Predictions]:
    """Predictions of int8 programs on ``num_samples`` samples of a split, 0 for all, which are read once."""
    sample = scorer.sample(store, num_samples)
    return lambda program: scorer.predict_sample(simulator_forward(program), sample)


def _train(
    config: ExperimentConfig, stores: Stores, out_dir: Path, tracker: Tracker, on_epoch: Callable[[EpochResult], None]
) -> tuple[FitResult, Checkpoint]:
    prepare_torch(config)
    model = build_model(config)
    with process_context() as context:
        settings = build_fit_settings(config.train, context.device, model.source.has_head)
        training = Training(model.net, model.architecture, settings, keeps_last=False)
        fitted = train(config, training, stores, out_dir, tracker, build_scorer(config, context), on_epoch)
        return fitted, best_checkpoint(out_dir, context)


def _result(
    scorer: Scorer, fitted: FitResult, found: Mapping[float, Mapping[str, Predictions]], share: float
) -> TrialResult:
    labels = next(iter(next(iter(found.values())).values()))
    scores = {q: {split: scorer.score(item, split).pck for split, item in by.items()} for q, by in found.items()}
    return TrialResult(fitted.best_pck, scores, scorer.mean_oracle_error_px(labels), share)


def _log(result: TrialResult, own_q: float, out_dir: Path, tracker: Tracker) -> None:
    own = result.int8_pck[own_q]
    tracker.log_metrics({f"{split}/int8_pck": pck for split, pck in own.items()})
    tracker.log_metrics({"val/float_pck": result.float_pck, "val/oracle_error_px": result.oracle_error_px})
    tracker.log_metrics({"scoring_share": result.scoring_share})
    rows = [
        {Q: q, "percentile": percentile_of(q)} | {f"{split}_int8_pck": pck for split, pck in by.items()}
        for q, by in sorted(result.int8_pck.items())
    ]
    write_table(rows, out_dir / "percentile_sweep.csv")
    tracker.log_file(out_dir / "percentile_sweep.csv", "")
