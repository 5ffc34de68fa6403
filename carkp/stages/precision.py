"""Entry point ``precision``: calibrate with the fewest 16-bit tensors that bring the loss under ``quant.max_loss``."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import Tensor

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig, QuantConfig
from carkp.data.store import Store
from carkp.deploy.check import judge_program
from carkp.deploy.hardware import Hardware
from carkp.deploy.perf import predict
from carkp.keypoints.codec import HeatmapCodec
from carkp.keypoints.displacement import expected_loss, mean_shift_px
from carkp.keypoints.predictions import Predictions
from carkp.quant.calibrate import choose_thresholds
from carkp.quant.convert import convert
from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.histogram import AbsHistogram
from carkp.quant.sensitivity import TensorSensitivity, tensor_sensitivities
from carkp.report import figures
from carkp.tracking.tracker import Tracker
from carkp.training.distributed import ProcessContext, cpu_context
from carkp.workflow.build import prepare_torch
from carkp.workflow.calibrating import Calibrator, build_calibrator, require_wide_arithmetic
from carkp.workflow.calibration_run import (
    SQNR_BATCH,
    CalibrationInputs,
    CalibrationResult,
    calibrate_and_score,
    describe,
    open_inputs,
)
from carkp.workflow.cli import Arguments, execute, guarded, parse_stage
from carkp.workflow.precision import Found, Trial, find_fewest
from carkp.workflow.quantising import build_hardware, build_target
from carkp.workflow.references import FLOAT, require_data, resolve_model
from carkp.workflow.scoring import VAL, Scorer, build_scorer
from carkp.workflow.tables import write_table

FOLDER = "precision"


@dataclass(frozen=True)
class PrecisionResult:
    """The search, and the final calibration with its result."""

    found: Found
    calibration: CalibrationResult


@dataclass(frozen=True)
class Bench:
    """Builds and measures networks that differ only in their tensors of 16 bits.

    Attributes:
        store: validation cars.
        base: calibrated network of 8 bits; rounding and biases are taken from it.
        reference: predictions of the float network on the validation cars.
    """

    config: ExperimentConfig
    store: Store
    hardware: Hardware
    calibrator: Calibrator
    base: FakeQuantNet
    histograms: Mapping[str, AbsHistogram]
    scorer: Scorer
    reference: Predictions

    def build(self, wide: tuple[str, ...]) -> FakeQuantNet:
        """Return the base network with the tensors ``wide`` in 16 bits."""
        net = FakeQuantNet(self.base.graph, self.base.target, self.calibrator.per_channel_weights, wide).eval()
        net.weights.load_state_dict(self.base.weights.state_dict())
        net.set_thresholds(choose_thresholds(self.histograms, net.num_levels, self.calibrator.observers(net)))
        return net

    def measure(self, wide: tuple[str, ...]) -> Trial:
        net = self.build(wide)
        program = convert(net, {})
        predicted = predict(program, self.hardware.performance, judge_program(program, self.hardware))
        title = f"{len(wide)} 16-bit tensors"
        predictions = self.scorer.judged(self.scorer.predict(self.scorer.forward(net), self.store, title), VAL)
        loss = expected_loss(self.reference, predictions, self.config.quant.loss_alpha)
        return Trial(wide, loss, mean_shift_px(self.reference, predictions), predicted.total_us)


def run(
    config: ExperimentConfig,
    inputs: CalibrationInputs,
    hardware: Hardware,
    out_dir: Path,
    tracker: Tracker,
    context: ProcessContext,
) -> PrecisionResult:
    """Calibrate in 8 bits, rank the tensors, search; log tables and figure; calibrate with the tensors found.

    Raises:
        ConfigError: the target supports no 16 bits, or 16 bits everywhere lose too much.
    """
    if hardware.performance.wide_products is None:
        raise ConfigError(
            f"precision: {inputs.target.name} takes no 16-bit tensors (its file gives no performance.wide_products)"
        )
    require_wide_arithmetic(inputs.target)
    prepare_torch(config)
    stores, checkpoint = open_inputs(config, inputs)
    calibrator = build_calibrator(with_int16(config, ()), inputs.target)
    base = calibrator.prepare(checkpoint)
    histograms = calibrator.calibrate(base, stores.train, calibrator.observers(base))
    scorer = build_scorer(config, context)
    images = calibrator.images(stores.train, config.quant.num_sqnr_images, SQNR_BATCH)
    ranked = tensor_sensitivities(base, images, partial(_decode, scorer.codec))
    reference = scorer.judged(scorer.predict(scorer.forward(base.graph), stores.val, "score float, val"), VAL)
    bench = Bench(config, stores.val, hardware, calibrator, base, histograms, scorer, reference)
    found = find_fewest([row.tensor for row in ranked], config.quant.max_loss, bench.measure)
    log_search(config, ranked, found, out_dir, tracker)
    show(config, found)
    if found.chosen is None:
        raise ConfigError(_limit_not_reached(config, found.trials[-1]))
    final = with_int16(config, found.chosen.wide)
    tracker.set_tags({"carkp.int16": ",".join(found.chosen.wide)})
    return PrecisionResult(found, calibrate_and_score(final, inputs, out_dir, tracker, context))


def with_int16(config: ExperimentConfig, names: Sequence[str]) -> ExperimentConfig:
    return config.model_copy(update={"quant": config.quant.model_copy(update={"int16": tuple(names)})})


def log_search(
    config: ExperimentConfig, ranked: Sequence[TensorSensitivity], found: Found, out_dir: Path, tracker: Tracker
) -> None:
    """Log ``precision/sensitivity.csv``, ``precision/trials.csv``, the figure of loss and speed, and metrics."""
    tables = {
        "sensitivity": [asdict(row) for row in ranked],
        "trials": [trial_row(trial, trial is found.chosen) for trial in found.trials],
    }
    for name, rows in tables.items():
        path = out_dir / FOLDER / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(rows, path)
        tracker.log_file(path, FOLDER)
    points = [(len(trial.wide), trial.predicted_us, trial.loss) for trial in found.trials]
    chosen_place = next((place for place, trial in enumerate(found.trials) if trial is found.chosen), None)
    figure = figures.trade_figure(points, chosen_place, config.quant.max_loss)
    tracker.log_figure(figure, f"figures/{FOLDER}.png")
    before = found.trials[0]
    metrics = {"precision/loss_before": before.loss.value, "precision/shift_px_before": before.shift_px}
    if (chosen := found.chosen) is not None:
        metrics |= {
            "precision/num_wide": len(chosen.wide),
            "precision/loss": chosen.loss.value,
            "precision/shift_px": chosen.shift_px,
            "precision/predicted_us_ratio": chosen.predicted_us / before.predicted_us,
        }
    tracker.log_metrics(metrics)


def trial_row(trial: Trial, is_chosen: bool) -> dict[str, str | float]:
    return {
        "num_wide": len(trial.wide),
        "loss": trial.loss.value,
        "loss_low": trial.loss.low,
        "loss_high": trial.loss.high,
        "shift_px": trial.shift_px,
        "predicted_us": trial.predicted_us,
        "chosen": "yes" if is_chosen else "",
        "wide": " ".join(trial.wide),
    }


def show(config: ExperimentConfig, found: Found) -> None:
    """Print the trials as a table, and the setting that reproduces the chosen one."""
    quant = config.quant
    title = f"expected loss of validation PCK at alpha {quant.loss_alpha:g}, at most {quant.max_loss:.2%} allowed"
    table = Table("16-bit tensors", "loss [95 %]", "shift (px)", "predicted (us)", "", title=title)
    for trial in found.trials:
        loss = f"{trial.loss.value:+.2%} [{trial.loss.low:+.2%}, {trial.loss.high:+.2%}]"
        mark = "chosen" if trial is found.chosen else ""
        table.add_row(str(len(trial.wide)), loss, f"{trial.shift_px:.3f}", f"{trial.predicted_us:.1f}", mark)
    Console(width=100).print(table)
    if found.chosen is not None:
        print(f"quant.int16=[{','.join(found.chosen.wide)}]", flush=True)  # noqa: T201


def main(argv: Sequence[str] | None = None) -> int:
    def work() -> int:
        _execute(parse_stage("precision", argv), cpu_context())
        return 0

    return guarded(work)


def _execute(arguments: Arguments, context: ProcessContext) -> None:
    config = arguments.config
    target = build_target(config, arguments.values["target"])
    hardware = build_hardware(config, arguments.values["target"])
    data = require_data(config, arguments.values["data"])
    tags = {"carkp.experiment": config.name, "carkp.data_digest": data.digest}
    inputs = CalibrationInputs(data, resolve_model(arguments.values["model"], FLOAT, tags), target)

    def work(tracker: Tracker, out_dir: Path) -> None:
        result = run(config, inputs, hardware, out_dir, tracker, context)
        print(describe(result.calibration))  # noqa: T201
        print(f"export it: mlflow run . -e export -P model=runs:/{tracker.run_id}")  # noqa: T201

    execute("precision", config, work)


def _decode(codec: HeatmapCodec, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    found = codec.decode(heatmaps)
    return found.points, found.scores


def _limit_not_reached(config: ExperimentConfig, widest: Trial) -> str:
    return (
        f"precision: with 16 bits in all {len(widest.wide)} tensors the loss is {widest.loss.value:.2%}, "
        f"but quant.max_loss is {config.quant.max_loss:.2%}: the weights cause this loss. {_remedy(config.quant)}"
    )


def _remedy(quant: QuantConfig) -> str:
    """Say which settings may reduce the loss that 8-bit weights cause."""
    changes = []
    if quant.rounding != "second_moments":
        changes.append("quant.rounding=second_moments")
    if not quant.bias_correction:
        changes.append("quant.bias_correction=true")
    first = f"Set {' and '.join(changes)}" if changes else "Train the weights for int8 (stage qat)"
    return f"{first}, or raise quant.max_loss"


if __name__ == "__main__":
    sys.exit(main())
