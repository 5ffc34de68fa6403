"""How much of the float model's PCK does int8 keep, with which observer?

Command:  python experiments/int8_accuracy.py     (after `mlflow run . -e float`; about ten minutes on two cores)
Asks:     PCK of simulated int8 (the integer simulator in the target's own arithmetic) on validation and test, for both
          targets and several ways to choose the thresholds, from one pass over the calibration images. Also the share
          of the float model's PCK that each keeps, with the 95 % interval of a paired bootstrap over clusters of cars
          (scene and camera; their number is printed). The newest QAT run of a target, if any, is scored, too.
Expect:   the reference's setting (percentile 99.975) keeps >= 99 % on test for both targets, and the setting that is
          best on validation >= 99.5 %.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from carkp.config.schema import ExperimentConfig
from carkp.data.store import Store, Stores
from carkp.keypoints.paired import Interval, Retention, retention
from carkp.keypoints.predictions import Predictions
from carkp.measurements.record import Cell, Column, Measurement
from carkp.measurements.record import Table as RecordTable
from carkp.quant.calibrate import Observer, choose_thresholds, correct_biases
from carkp.quant.convert import convert
from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.histogram import AbsHistogram
from carkp.tracking.store import TrackingError
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import load_checkpoint
from carkp.training.distributed import ProcessContext, process_context
from carkp.training.evaluate import Forward
from carkp.workflow.build import prepare_torch
from carkp.workflow.calibrating import Calibrator, as_reference, build_calibrator
from carkp.workflow.cli import DATA, MODEL, Parameter, execute, guarded
from carkp.workflow.executions import simulator_forward
from carkp.workflow.preparation import PreparedData
from carkp.workflow.quantising import build_target, load_prepared
from carkp.workflow.recording import Findings, interval_cell, parse_study, write_record
from carkp.workflow.references import FLOAT, QAT, ModelFile, require_data, resolve_model
from carkp.workflow.scoring import build_scorer
from carkp.workflow.tables import write_table

STUDY = "int8_accuracy"
REFERENCE = "percentile 99.975"
SPLITS = ("val", "test")
COLUMNS = [
    Column(name="target", heading="target"),
    Column(name="setting", heading="setting"),
    Column(name="val_pck", heading="validation PCK", format=".4f"),
    Column(name="test_pck", heading="test PCK", format=".4f"),
    Column(name="kept", heading="kept of float, test", format=".2%"),
]


@dataclass(frozen=True)
class Setting:
    """A way to choose thresholds: the observer of all tensors, and that of the heatmaps."""

    name: str
    observer: Observer
    output: Observer
    is_bias_corrected: bool = False


def settings() -> Iterator[Setting]:
    reference, finer = Observer("percentile", 99.975), Observer("percentile", 99.999)
    minmax, mse, entropy = (Observer(kind, 100.0) for kind in ("minmax", "mse", "entropy"))
    yield Setting(REFERENCE, reference, reference)
    yield Setting("percentile 99.999", finer, finer)
    yield Setting("minmax", minmax, minmax)
    yield Setting("mse", mse, mse)
    yield Setting("entropy", entropy, entropy)
    yield Setting("percentile 99.975, heatmaps minmax", reference, minmax)
    yield Setting("percentile 99.975, biases corrected", reference, reference, is_bias_corrected=True)
    yield Setting("mse, heatmaps minmax, biases corrected", mse, minmax, is_bias_corrected=True)


@dataclass(frozen=True)
class Row:
    """Results of one setting for one target: PCK by split, and how much of float's PCK it keeps."""

    target: str
    setting: str
    pck: Mapping[str, float]
    kept: Mapping[str, Retention]


class Study:
    """The float model's predictions, and comparisons of int8 models with them."""

    def __init__(self, config: ExperimentConfig, stores: Stores, context: ProcessContext, net: FakeQuantNet) -> None:
        self.config, self.stores, self.scorer = config, stores, build_scorer(config, context)
        self.float_predictions = self.predict(self.scorer.forward(net.graph), "float")

    def predict(self, forward: Forward, title: str) -> dict[str, Predictions]:
        return {
            split: self.scorer.predict(forward, getattr(self.stores, split), f"{title}, {split}") for split in SPLITS
        }

    def row(self, target: str, setting: str, net: FakeQuantNet) -> Row:
        alpha = self.config.eval.alpha
        found = self.predict(simulator_forward(convert(net, {})), f"{target}, {setting}")
        return Row(
            target,
            setting,
            {split: predictions.score(alpha).pck for split, predictions in found.items()},
            {split: retention(self.float_predictions[split], found[split], alpha) for split in SPLITS},
        )


def set_thresholds(
    calibrator: Calibrator, net: FakeQuantNet, histograms: Mapping[str, AbsHistogram], setting: Setting, store: Store
) -> None:
    output = net.groups[net.graph.output]
    observers = {name: setting.output if name == output else setting.observer for name in net.num_levels}
    for quantiser in net.weights.values():
        quantiser.get_buffer("bias_shift").zero_()
    net.set_thresholds(choose_thresholds(histograms, net.num_levels, observers))
    if setting.is_bias_corrected:
        correct_biases(net, calibrator.images(store, calibrator.settings.num_images))


def run(
    config: ExperimentConfig, data: PreparedData, model: ModelFile, targets: list[str], out_dir: Path, tracker: Tracker
) -> tuple[float, list[Row]]:
    prepare_torch(config)
    stores, checkpoint = data.open(), load_checkpoint(model.path)
    rows: list[Row] = []
    histograms: Mapping[str, AbsHistogram] = {}
    with process_context() as context:
        study: Study | None = None
        for target in targets:
            calibrator = build_calibrator(config, build_target(config, target))
            net = calibrator.prepare(checkpoint)
            study = study or Study(config, stores, context, net)
            histograms = histograms or calibrator.calibrate(net, stores.train, calibrator.observers(net))
            for setting in settings():
                set_thresholds(calibrator, net, histograms, setting, stores.train)
                rows.append(study.row(target, setting.name, net))
            if (tuned := find_qat(config, data, target)) is not None:
                rows.append(study.row(target, "QAT", tuned))
        assert study is not None
        float_pck = study.float_predictions["test"].score(config.eval.alpha).pck
    log(rows, float_pck, out_dir, tracker)
    return float_pck, rows


def find_qat(config: ExperimentConfig, data: PreparedData, target: str) -> FakeQuantNet | None:
    tags = {"carkp.experiment": config.name, "carkp.data_digest": data.digest, "carkp.target": target}
    try:
        return load_prepared(resolve_model("latest", QAT, tags).path).net
    except TrackingError:
        return None


def best_on_validation(rows: list[Row], target: str) -> Row:
    return max((row for row in rows if row.target == target), key=lambda row: row.pck["val"])


def log(rows: list[Row], float_pck: float, out_dir: Path, tracker: Tracker) -> None:
    table = [
        {"target": row.target, "setting": row.setting}
        | {f"{split}_pck": row.pck[split] for split in SPLITS}
        | {f"{split}_retention": row.kept[split].share for split in SPLITS}
        | {"test_low": row.kept["test"].low, "test_high": row.kept["test"].high}
        | {"test_clusters": row.kept["test"].resampled.num_clusters}
        for row in rows
    ]
    write_table(table, out_dir / f"{STUDY}.csv")
    tracker.log_file(out_dir / f"{STUDY}.csv", "tables")
    tracker.log_metrics({"float/test_pck": float_pck})
    for target in dict.fromkeys(row.target for row in rows):
        reference = next(row for row in rows if row.target == target and row.setting == REFERENCE)
        best = best_on_validation(rows, target)
        tracker.set_tags({f"carkp.best_setting.{target}": best.setting})
        tracker.log_metrics(
            {
                f"{target}/reference_retention": reference.kept["test"].share,
                f"{target}/best_retention": best.kept["test"].share,
            }
        )


def show(float_pck: float, rows: list[Row]) -> None:
    table = Table("target", "setting", "val pck", "test pck", "test: kept of float", title=f"float: {float_pck:.4f}")
    for row in rows:
        is_best = row is best_on_validation(rows, row.target)
        name = f"{row.setting} (best on val)" if is_best else row.setting
        table.add_row(row.target, name, f"{row.pck['val']:.4f}", f"{row.pck['test']:.4f}", str(row.kept["test"]))
    console = Console(width=130)
    console.print(table)
    if warning := rows[0].kept["test"].resampled.warning:
        console.print(warning, markup=False)


def findings(float_pck: float, rows: list[Row]) -> Findings:
    """Return the findings for ``--record``."""
    table: list[dict[str, Cell]] = [
        {
            "target": f"`{row.target}`",
            "setting": f"{row.setting} (best on validation)"
            if row is best_on_validation(rows, row.target)
            else row.setting,
            "val_pck": row.pck["val"],
            "test_pck": row.pck["test"],
            "kept": interval_cell(Interval(row.kept["test"].share, row.kept["test"].low, row.kept["test"].high)),
        }
        for row in rows
    ]
    measured = Measurement(name="float_test_pck", quantity="test PCK of float", value=float_pck, format=".4f")
    note = f"Intervals are of a paired bootstrap over {rows[0].kept['test'].resampled.short}."
    return Findings([measured], [RecordTable(name="settings", columns=COLUMNS, rows=table)], note=note)


def main() -> int:
    parameters = [DATA, MODEL, Parameter("targets", "bpu onnxruntime_cpu", "targets, separated by spaces")]
    arguments = parse_study(STUDY, str(__doc__), parameters)
    config = as_reference(arguments.config)  # only the observers differ
    data = require_data(config, arguments.values["data"])
    tags = {"carkp.experiment": config.name, "carkp.data_digest": data.digest}
    model = resolve_model(arguments.values["model"], FLOAT, tags)
    targets = arguments.values["targets"].split()

    def work(tracker: Tracker, out_dir: Path) -> None:
        float_pck, rows = run(config, data, model, targets, out_dir, tracker)
        show(float_pck, rows)
        write_record(arguments, STUDY, findings(float_pck, rows))

    execute(STUDY, config, work)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
