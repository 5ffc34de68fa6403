"""What makes a model of generated cars good on real ones, ingredient by ingredient?

Command:  python experiments/transfer.py <folder of real cars>… --config configs/shipped.yaml
          … --set rendered.meshes=<folder of meshes> --set train.num_samples=12000 --set train.epochs=20
          … --steps "plain,+ augmentation" --seeds "0 1" --name <another name>
Asks:     PCK@0.05 and @0.1 on real cars, with 95 % intervals of a bootstrap over photographs, and the share of cars
          turned front to back, after trainings that differ in one thing each. Also the difference of each step to the
          step that it builds on, paired over the cars. The real cars choose nothing: neither an epoch nor a setting.
Expect:   a difference counts if its interval leaves out 0 with every seed. Every step sees the same number of samples,
          so train.num_samples is at most the size of the smallest source. First weights that were trained on cars would
          hide the effects: model.pretrained must not be carkp-car12. It may be the checkpoint of a training with plain
          drawn cars: then each step is a further training, and a short one is enough to compare the steps. Finished
          trainings are kept in runs/<name>/trainings.yaml, so that the same command continues with the missing
          ones; without that file, those with the same settings and cars are read from the record of --record. Give
          a study with other settings or other cars another --name.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from carkp import disk
from carkp.config.loading import ConfigError, load_config, split_overrides
from carkp.config.schema import AugmentConfig, ExperimentConfig
from carkp.keypoints.paired import Interval, paired_test
from carkp.keypoints.predictions import Predictions, load_predictions
from carkp.measurements.record import Cell, Column, load_record, record_path
from carkp.measurements.record import Table as RecordTable
from carkp.project import find_config, project_root
from carkp.shipped import is_shipped
from carkp.stages import float as float_stage
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import load_checkpoint, load_net
from carkp.training.distributed import process_context
from carkp.training.fit import BEST_NAME
from carkp.workflow.build import build_codec
from carkp.workflow.cli import Arguments, Parameter, execute, guarded, run_in_folder
from carkp.workflow.preparation import run_as_child
from carkp.workflow.real_cars import RealCars, RealCarScores, load_real_cars, score_real_cars
from carkp.workflow.recording import Findings, interval_cell, parse_study, write_record
from carkp.workflow.references import find_current_data
from carkp.workflow.shipping import digest_of, portable_config
from carkp.workflow.teachers import find_teacher
from carkp.workflow.training import CHECKPOINT_DIR

STUDY = "transfer"
FOLDERS = "folders"
TRAININGS = "trainings"
"""Name of the list of finished trainings, in the study's folder and in the details of its record."""

COLUMNS = [
    Column(name="step", heading="step"),
    Column(name="seed", heading="seed", format="d"),
    Column(name="pck_0.05", heading="PCK@0.05", format=".3f"),
    Column(name="pck_0.1", heading="PCK@0.1", format=".3f"),
    Column(name="turned", heading="turned", format=".3f"),
    Column(name="against", heading="against"),
    Column(name="difference", heading="difference @0.1", format="+.3f"),
]
PLAIN_AUGMENTATION = " ".join(
    f"augment.{name}={value}" for name, value in AugmentConfig(color_jitter=0.3).model_dump().items()
)
TEACHER = "teacher"
"""Step with a larger network; needs the extra ``carkp[teacher]``."""

INGREDIENTS = ("vehicles", "faces", "close_ups", "occluders", "light", "sensor", "cameras")


@dataclass(frozen=True)
class Step:
    """A training with ``overrides``, and the step that it is compared with; "" for the first.

    ``teacher``: the step whose model is its teacher; "" for none. ``epochs_factor``: factor on the configuration's
    epochs.
    """

    name: str
    against: str
    overrides: str
    teacher: str = ""
    epochs_factor: int = 1

    def config(self, path: Path, given: Sequence[str], seed: int, teacher: Path | None = None) -> ExperimentConfig:
        """Return the configuration of a training; ``teacher``: checkpoint of its teacher."""
        words = [*given, *split_overrides(self.overrides), f"seed={seed}", f"name={STUDY}"]
        if teacher is not None:
            words.append(f"train.teacher={teacher}")
        epochs = self.epochs_factor * load_config(path, words).train.epochs
        return load_config(path, [*words, f"train.epochs={epochs}"])


def steps() -> Iterator[Step]:
    """Yield the steps; each differs in one thing from the step that it is compared with."""
    own = "data.sources=[] data.source=synthetic train.ema_decay=0"
    yield Step("plain", "", f"{own} synthetic.ingredients=[] {PLAIN_AUGMENTATION}")
    yield Step("+ augmentation", "plain", f"{own} synthetic.ingredients=[]")
    on = "+ augmentation"
    for number, name in enumerate(INGREDIENTS, 1):
        chosen = ",".join(INGREDIENTS[:number])
        yield Step(f"+ {name}", on, f"{own} synthetic.ingredients=[{chosen}]")
        on = f"+ {name}"
    for share in (0.5, 0.25, 0.75):
        yield Step(f"rendered {share:.0%}", on, f"train.ema_decay=0 {mixture(share)}")
    yield Step("rendered alone", on, "data.sources=[] data.source=rendered train.ema_decay=0")
    average = f"{mixture(0.5)} train.ema_decay=0.998"
    yield Step("+ moving average", "rendered 50%", average)
    yield Step("+ three times as long", "+ moving average", average, epochs_factor=3)
    yield Step(TEACHER, "+ moving average", f"{average} model.backbone=tf_efficientnet_lite2")
    yield Step("+ distillation", "+ moving average", average, teacher=TEACHER)


def mixture(share: float) -> str:
    """Return an override for procedural and rendered cars."""
    sources = f"[{{source: synthetic, share: {1 - share}}}, {{source: rendered, share: {share}}}]"
    return f"'data.sources={sources}'"


@dataclass(frozen=True)
class Study:
    """What all trainings of a study have in common: configuration file, overrides and real cars."""

    path: Path
    given: Sequence[str]
    cars: RealCars

    def identity(self, step: Step, seed: int) -> dict[str, str]:
        """Return digests of the cars and of all settings of a training but its teacher, as its row has them."""
        settings = digest_of(portable_config(step.config(self.path, self.given, seed)))
        return {"cars": self.cars.digest[:16], "settings": settings[:16]}

    def has(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row is from a training of this study."""
        step = {step.name: step for step in steps()}.get(row["step"])
        try:
            return step is not None and self.identity(step, row["seed"]).items() <= row.items()
        except ConfigError:  # these settings do not allow the step
            return False


class Results:
    """Finished trainings of a study: their list, their predictions, for paired comparisons, and their weights.

    Attributes:
        folder: folder of these files.
        rows: the list. If the folder has none yet, it begins with the trainings of ``study`` in the file ``record``.

    Raises:
        ConfigError: the folder has trainings of another study.
    """

    def __init__(self, folder: Path, record: Path, study: Study) -> None:
        self.path, self.folder = folder / "trainings.yaml", folder
        self.rows: list[dict[str, Any]] = []
        if self.path.is_file():
            self.rows = yaml.safe_load(self.path.read_text())[TRAININGS]
            self._require_all_of(study)
        elif record.is_file():
            self.rows = [row for row in load_record(record).details.get(TRAININGS, []) if study.has(row)]

    def _require_all_of(self, study: Study) -> None:
        if others := [f"{row['step']} (seed {row['seed']})" for row in self.rows if not study.has(row)]:
            raise ConfigError(
                f"{self.path} has trainings with other settings or other real cars: {', '.join(others)}. Give this "
                "study another --name, or the settings and folders of that one"
            )

    def find(self, step: str, seed: int) -> dict[str, Any] | None:
        """Return the row of a step and seed, or None."""
        same = [row for row in self.rows if (row["step"], row["seed"]) == (step, seed)]
        return same[0] if same else None

    def add(self, row: dict[str, Any]) -> None:
        """Add a row and write the list, so that a later kill loses nothing."""
        self.rows.append(row)
        self._write()

    def renew_differences(self) -> None:
        """Compute the difference of each row to its compared step again, whichever of the two was trained first."""
        for row in self.rows:
            paths = [self.predictions_of(row[key], row["seed"]) for key in ("against", "step")]
            if self.find(row["against"], row["seed"]) and all(path.is_file() for path in paths):
                row["difference"] = difference(*(load_predictions(path) for path in paths))
        self._write()

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        disk.write_atomic(self.path, yaml.safe_dump({TRAININGS: self.rows}, sort_keys=False).encode())

    def predictions_of(self, step: str, seed: int) -> Path:
        return self.folder / f"{step.strip('+ ').replace(' ', '_').replace('%', '')}_{seed}.npz"

    def checkpoint_of(self, step: str, seed: int) -> Path:
        return self.predictions_of(step, seed).with_suffix(".pt")

    def teacher_of(self, step: Step, seed: int) -> Path | None:
        """Return the checkpoint of the step's teacher, None if it has no teacher.

        Raises:
            ConfigError: the teacher has not been trained yet.
        """
        if not step.teacher:
            return None
        teacher = self.checkpoint_of(step.teacher, seed)
        if not teacher.is_file():
            raise ConfigError(f"{step.name} is taught by {step.teacher}, which comes first: {teacher} is not there")
        return teacher


def train(
    config: ExperimentConfig, parent: Tracker, cars: RealCars, weights: Path
) -> tuple[RealCarScores, dict[str, Any]]:
    """Train as the float stage does, in a child run; score and keep the best epoch."""
    data = find_current_data(config, "latest") or run_as_child(config, parent).prepared
    found: list[tuple[RealCarScores, dict[str, Any]]] = []

    def work(tracker: Tracker, out_dir: Path) -> None:
        with process_context() as context:
            inputs = float_stage.FloatInputs(data, resume=None, teacher=find_teacher(config))
            result = float_stage.run(config, inputs, out_dir, tracker, context)
        best = out_dir / CHECKPOINT_DIR / BEST_NAME
        weights.parent.mkdir(parents=True, exist_ok=True)
        disk.write_atomic(weights, best.read_bytes())
        checkpoint = load_checkpoint(best)
        scores = score_real_cars(
            load_net(checkpoint).eval(), build_codec(config.heatmap, config.model.input_size), cars
        )
        tracker.log_metrics(scores.metrics())
        generated = {split: round(own.pck, 4) for split, own in result.scores.items()}
        found.append((scores, {"run": tracker.run_id, "generated_pck": generated}))

    with parent.child("float", config.name) as tracker:
        run_in_folder(config, tracker, work)
    return found[0]


def row_of(step: Step, seed: int, config: ExperimentConfig, scores: RealCarScores, study: Study) -> dict[str, Any]:
    """Return the figures of a training as plain data."""
    pck = {f"{alpha:g}": [round(v, 4) for v in (i.value, i.low, i.high)] for alpha, i in scores.total.pck.items()}
    turned, mirrored = (round(share.value, 4) for share in (scores.turned, scores.mirrored))
    return {
        "step": step.name, "against": step.against, "seed": seed, "num_cars": len(study.cars),
        "epochs": config.train.epochs, "pck": pck, "turned": turned, "mirrored": mirrored, "difference": {},
    } | study.identity(step, seed)  # fmt: skip


def difference(reference: Predictions, predictions: Predictions) -> dict[str, list[float]]:
    """Return alpha -> difference of PCK and its interval, paired over the cars."""
    tests = {alpha: paired_test(reference, predictions, alpha).difference for alpha in (0.05, 0.1)}
    return {f"{alpha:g}": [round(v, 4) for v in (d.value, d.low, d.high)] for alpha, d in tests.items()}


def run(arguments: Arguments, chosen: Sequence[Step], seeds: Sequence[int], tracker: Tracker) -> None:
    cars = load_real_cars([part for word in arguments.lists[FOLDERS] for part in word.split(",") if part])
    name = arguments.values["name"]
    given = [word for word in arguments.config_words[2:] if word != "--set"]
    study = Study(find_config(arguments.config_words[1]), given, cars)
    results = Results(project_root() / "runs" / name, record_path(project_root(), name), study)
    for seed in seeds:
        for step in chosen:
            if results.find(step.name, seed) is None:
                config = step.config(study.path, given, seed, results.teacher_of(step, seed))
                scores, extra = train(config, tracker, cars, results.checkpoint_of(step.name, seed))
                scores.predictions.save(results.predictions_of(step.name, seed))
                results.add(row_of(step, seed, config, scores, study) | extra)
            results.renew_differences()
            show(results, cars)
            write_record(arguments, name, findings(results))
    tracker.log_file(results.path, "tables")


def show(results: Results, cars: RealCars) -> None:
    table = Table("step", "seed", "PCK@0.05", "PCK@0.1", "turned", "@0.1 against", title=f"{len(cars)} real cars")
    for row in results.rows:
        value = "{:.3f} ({:.3f} to {:.3f})"
        pair = row["difference"].get("0.1")
        against = f"{row['against']}: " + "{:+.3f} ({:+.3f} to {:+.3f})".format(*pair) if pair else ""
        cells = [value.format(*row["pck"][alpha]) for alpha in ("0.05", "0.1")]
        table.add_row(row["step"], str(row["seed"]), *cells, f"{row['turned']:.0%}", against)
    Console(width=150).print(table)


def findings(results: Results) -> Findings:
    """Return the findings for ``--record``: a row for each training, and the list itself, to continue elsewhere."""
    rows: list[dict[str, Cell]] = []
    for row in results.rows:
        pck = {f"pck_{alpha}": _estimate(triple) for alpha, triple in row["pck"].items()}
        pair = row["difference"].get("0.1")
        rows.append(
            {name: row[name] for name in ("step", "seed", "turned", "against")}
            | {name: pck[name] for name in ("pck_0.05", "pck_0.1")}
            | {"difference": _estimate(pair) if pair else None}
        )
    return Findings(tables=[RecordTable(name="steps", columns=COLUMNS, rows=rows)], details={TRAININGS: results.rows})


def _estimate(triple: Sequence[float]) -> Cell:
    value, low, high = triple
    return interval_cell(Interval(value, low, high))


def choose(names: str) -> list[Step]:
    """Return the steps of a comma-separated list; empty: all.

    Raises:
        ConfigError: no step has that name.
    """
    known = {step.name: step for step in steps()}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(f"no step is called {', '.join(unknown)}; there are: {', '.join(known)}")
    return [known[name] for name in wanted] or list(known.values())


def main() -> int:
    parameters = [
        Parameter("steps", "", "steps, separated by commas; empty: all"),
        Parameter("seeds", "0", "seeds, separated by spaces"),
        Parameter("name", STUDY, "name of the study: of its folder below runs/, and of its record"),
    ]
    lists = {FOLDERS: "folders of real cars (see experiments/real_cars.py)"}
    arguments = parse_study(STUDY, str(__doc__), parameters, lists=lists)
    if not arguments.lists[FOLDERS]:
        raise ConfigError("name a folder of real cars: transfer.py <folder>")
    if is_shipped(arguments.config.model.pretrained):
        raise ConfigError(
            f"model.pretrained={arguments.config.model.pretrained} knows cars already, and would hide what each step "
            "brings: take --config configs/shipped.yaml, or set model.pretrained=auto"
        )
    if not re.fullmatch(r"[\w-]+", arguments.values["name"]):
        raise ConfigError(f"--name {arguments.values['name']!r}: give letters, digits, _ and -; it becomes a file name")
    chosen = choose(arguments.values["steps"])
    seeds = [int(seed) for seed in arguments.values["seeds"].split()]
    execute(STUDY, arguments.config, lambda tracker, _: run(arguments, chosen, seeds, tracker))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
