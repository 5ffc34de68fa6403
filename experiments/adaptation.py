"""What do a user's own cars bring: without labels, and with 5, 20 or 50 of them?

Command:  python experiments/adaptation.py --labels <source of the user's cars> --model <float model>   (minutes an arm)
Asks:     the model is adapted (stage adapt) to all training cars of the source without their labels, to a few cars
          with labels, and to both. Every adapted model is scored on the test cars of the source, which are not learnt
          from. The source is COCO JSON or CarFusion's layout, with a train and a test split. The few cars are drawn at
          random, --draws times.
Expect:   more labels bring more; cars without labels bring most if the model is often right already.
          Differences whose interval holds 0 say nothing: take more cars to score on.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.data.files import expand_path
from carkp.keypoints.paired import Interval, paired_test
from carkp.keypoints.predictions import Predictions
from carkp.measurements.record import Cell, Column
from carkp.measurements.record import Table as RecordTable
from carkp.tracking.tracker import NullTracker, Tracker
from carkp.training.checkpoint import load_checkpoint, load_net
from carkp.training.distributed import ProcessContext, process_context
from carkp.workflow.adaptation import adapt
from carkp.workflow.build import prepare_torch
from carkp.workflow.cli import DATA, MODEL, Arguments, Parameter, execute, guarded
from carkp.workflow.judging import Judge
from carkp.workflow.preparation import PreparedData
from carkp.workflow.recording import Findings, interval_cell, number_cell, parse_study, write_record
from carkp.workflow.references import FLOAT, ModelFile, require_data, resolve_model
from carkp.workflow.scoring import build_scorer
from carkp.workflow.tables import write_table
from carkp.workflow.target_cars import Slice, TargetCars, TargetSources, collect_cars
from carkp.workflow.training import best_checkpoint

STUDY = "adaptation"
LABELS = Parameter("labels", "", "the user's cars: COCO keypoints JSON or CarFusion's layout, with train and test")
NUMBERS = Parameter("numbers", "5,20,50", "how many labelled cars the arms have")
DRAWS = Parameter("draws", "2", "how often each number of cars is drawn")
ALPHAS = (0.05, 0.1, 0.2)
COLUMNS = [
    Column(name="arm", heading="cars"),
    Column(name="draw", heading="draw", format="d"),
    Column(name="val_pck", heading="generated validation", format=".3f"),
    Column(name="pck_0_05", heading="PCK@0.05", format=".3f"),
    Column(name="pck_0_1", heading="PCK@0.1", format=".3f"),
    Column(name="pck_0_2", heading="PCK@0.2", format=".3f"),
    Column(name="gain", heading="gain @0.1", format="+.3f"),
]


@dataclass(frozen=True)
class Arm:
    """The cars for one adaptation: whether unlabelled cars are used, and the indices of the labelled ones."""

    name: str
    draw: int
    has_unlabelled: bool
    labelled: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """Scores of an arm: PCK at three thresholds, and the gain over the model before adaptation with its interval."""

    arm: str
    draw: int
    num_labelled: int
    val_pck: float
    pck_0_05: float
    pck_0_1: float
    pck_0_2: float
    gain_0_1: float
    gain_low: float
    gain_high: float


def arms_of(num_cars: int, numbers: Sequence[int], num_draws: int) -> Iterator[Arm]:
    """Yield the arm without labels; then, for every number and draw, the arms with labels only and with both."""
    yield Arm("unlabelled", 0, has_unlabelled=True)
    for number in numbers:
        for draw in range(num_draws):
            chosen = np.random.default_rng((number, draw)).permutation(num_cars)[:number]
            places = tuple(sorted(chosen.tolist()))
            yield Arm(f"{number} labelled", draw, has_unlabelled=False, labelled=places)
            yield Arm(f"{number} labelled + unlabelled", draw, has_unlabelled=True, labelled=places)


def cars_of(arm: Arm, everything: TargetCars) -> TargetCars:
    """Return the cars of an arm; labelled cars are not also used as unlabelled ones."""
    assert everything.labelled is not None
    store, nothing = everything.labelled.store, np.array([], np.int64)
    others = np.setdiff1d(np.arange(len(store)), np.array(arm.labelled, np.int64))
    return TargetCars(
        unlabelled=Slice(store, others, nothing) if arm.has_unlabelled else None,
        labelled=Slice(store, np.array(arm.labelled, np.int64), nothing) if arm.labelled else None,
        scored=everything.scored,
        digests=everything.digests,
        issues=everything.issues,
    )


def row_of(arm: Arm, val_pck: float, before: Predictions, after: Predictions) -> Row:
    strict, usual, loose = (after.score(alpha).pck for alpha in ALPHAS)
    gain = paired_test(before, after, ALPHAS[1]).difference
    return Row(arm.name, arm.draw, len(arm.labelled), val_pck, strict, usual, loose, gain.value, gain.low, gain.high)


def run(
    config: ExperimentConfig,
    data: PreparedData,
    model: ModelFile,
    arguments: Arguments,
    out_dir: Path,
    tracker: Tracker,
    context: ProcessContext,
) -> list[Row]:
    """Run one adaptation per arm, each from the same model; the table is written after every arm."""
    prepare_torch(config)
    numbers, draws = (read_numbers(arguments.values[item.name]) for item in (NUMBERS, DRAWS))
    source = TargetSources([], None, expand_path(arguments.values["labels"]))
    everything = collect_cars(source, out_dir, config.data.jpeg_quality, config.data.boxes, 0.0, 0, config.seed)
    if everything.labelled is None or not everything.scored:
        raise ConfigError(f"labels={arguments.values['labels']}: it needs a train and a test split of labelled cars")
    stores, scorer, checkpoint = data.open(), build_scorer(config, context), load_checkpoint(model.path)
    judge = Judge(config, scorer, stores, everything)
    before = judge.predict_labelled(load_net(checkpoint).to(context.device))
    assert before is not None
    rows = [row_of(Arm("as it was", 0, False), float("nan"), before, before)]
    for arm in arms_of(len(everything.labelled.store), numbers, draws[0]):
        folder = out_dir / f"arm{len(rows)}"
        net = load_net(checkpoint).to(context.device)
        adapt(config, net, checkpoint, cars_of(arm, everything), stores, folder, NullTracker(), scorer)
        adapted = load_net(best_checkpoint(folder, context)).to(context.device)
        after = judge.predict_labelled(adapted)
        assert after is not None
        val = scorer.score(scorer.predict(scorer.forward(adapted), stores.val), "val").pck
        rows.append(row_of(arm, val, before, after))
        write_table([asdict(row) for row in rows], out_dir / f"{STUDY}.csv")
        tracker.log_file(out_dir / f"{STUDY}.csv", "tables")
    return rows


def read_numbers(text: str) -> list[int]:
    """Parse positive numbers separated by commas. Raises ConfigError for anything else."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"{text!r}: expected numbers from 1 on, separated by commas")
    return [int(part) for part in parts]


def show(rows: Sequence[Row]) -> None:
    table = Table("arm", "draw", "generated val", "pck@0.05", "pck@0.1", "pck@0.2", "gain at 0.1 [95 %]")
    for row in rows:
        numbers = (f"{value:.3f}" for value in (row.val_pck, row.pck_0_05, row.pck_0_1, row.pck_0_2))
        gain = f"{row.gain_0_1:+.3f} [{row.gain_low:+.3f}, {row.gain_high:+.3f}]"
        table.add_row(row.arm, str(row.draw), *numbers, gain)
    Console(width=120).print(table)


def findings(rows: Sequence[Row]) -> Findings:
    """Return the findings for ``--record``."""
    plain = ("arm", "draw", "pck_0_05", "pck_0_1", "pck_0_2")
    table: list[dict[str, Cell]] = [
        {name: getattr(row, name) for name in plain}
        | {
            "val_pck": number_cell(row.val_pck),
            "gain": interval_cell(Interval(row.gain_0_1, row.gain_low, row.gain_high)),
        }
        for row in rows
    ]
    return Findings(tables=[RecordTable(name="arms", columns=COLUMNS, rows=table)])


def main() -> int:
    parameters = [LABELS, DATA, MODEL, NUMBERS, DRAWS]
    arguments = parse_study(STUDY, str(__doc__), parameters)
    config, values = arguments.config, arguments.values
    if not values["labels"]:
        raise ConfigError("labels: give the source of the user's cars")
    data = require_data(config, values["data"])
    model = resolve_model(values["model"], FLOAT, {"carkp.experiment": config.name, "carkp.data_digest": data.digest})
    with process_context() as context:

        def work(tracker: Tracker, out_dir: Path) -> None:
            rows = run(config, data, model, arguments, out_dir, tracker, context)
            show(rows)
            write_record(arguments, STUDY, findings(rows))

        execute(STUDY, config, work)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
