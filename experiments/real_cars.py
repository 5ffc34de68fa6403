"""How good is a model on real cars, and is one model better than another?

Command:  python experiments/real_cars.py <folder>[,<folder>…] <model>…          (seconds for fifty cars)
          python experiments/real_cars.py <folder>… --model <model> --model <model>
Asks:     PCK at 0.05, 0.1 and 0.2 of labelled cars in photographs, with 95 % intervals of a bootstrap over photographs;
          by kind, view, heading, size of the crop, truncation and occlusion, and of visible and hidden keypoints; the
          share of cars turned front to back and of those mirrored left to right. Several models are shown side by side,
          and each is compared with the first, paired. A folder holds a COCO keypoints JSON with its pictures, or
          annotations.json (a list) beside images/, or CarFusion's raw layout; the cars of all folders are pooled. A
          model is an ONNX file, a float checkpoint, runs:/…, models:/…, or latest. Writes figures.json, groups.csv,
          cars.csv, and for each model a sheet of all cars, worst first, and its predictions.
Expect:   for a model to ship: PCK@0.1 >= 0.88, PCK@0.05 >= 0.60, at most 3 % of the cars turned front to back, and int8
          within half a point of float.
"""

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.data.files import exists, expand_path
from carkp.data.issues import explain_write_errors
from carkp.data.loose_boxes import BoxScale
from carkp.measurements.record import Cell, Column, Goal, Measurement
from carkp.measurements.record import Table as RecordTable
from carkp.predictor import Predictor, find_model_file
from carkp.tracking.store import TrackingError
from carkp.tracking.tracker import NullTracker, Tracker
from carkp.workflow.cli import Arguments, Parameter, execute, guarded
from carkp.workflow.real_cars import ALPHAS, RealCars, RealCarScores, load_real_cars, score_predictors
from carkp.workflow.real_cars_report import ModelCard, compare, write_report
from carkp.workflow.real_cars_tables import comparison_table, groups_table, headline_table
from carkp.workflow.recording import Findings, interval_cell, is_recorded, number_cell, parse_study, write_record
from carkp.workflow.references import find_predicting_model, warn

STUDY = "real_cars"
PARAMETERS = [
    Parameter("output", "runs/real_cars", "folder for the files"),
    Parameter("box_scale", "1", "factor on all boxes, to see how a model bears loose (1.2) and tight (0.8) boxes"),
]
FLAGS = {"track": "make an MLflow run of it"}
FOLDERS = "folder/model"
LISTS = {
    FOLDERS: "folders of real cars, separated by commas, and then models; with --model, all words are folders",
    "--model": "a model: an ONNX file, a float checkpoint, runs:/…, models:/…, or latest; may be repeated",
}
LABELS_WIDTH, MODEL_WIDTH = 110, 48
WANTED = {
    "pck_0.1": ("PCK@0.1", Goal(at_least=0.88)),
    "pck_0.05": ("PCK@0.05", Goal(at_least=0.60)),
    "turned": ("share of cars turned front to back", Goal(at_most=0.03)),
}
"""Name -> description, and goal for a model to ship."""

COLUMNS = [
    Column(name="cars", heading="real cars", format="d"),
    Column(name="points", heading="keypoints", format="d"),
    Column(name="model", heading="model"),
    *(Column(name=f"pck_{alpha:g}", heading=f"PCK@{alpha:g}", format=".3f") for alpha in ALPHAS),
    Column(name="turned", heading="turned front to back", format=".3f"),
    Column(name="mirrored", heading="mirrored left to right", format=".3f"),
]

BOXES_COLUMNS = [
    Column(name="factor", heading="factor on the boxes", format="g"),
    Column(name="model", heading="model"),
    Column(name="pck_0.05", heading="PCK@0.05", format=".3f"),
    Column(name="pck_0.1", heading="PCK@0.1", format=".3f"),
]
BOX_SCALES = (0.8, 0.9, 1.0, 1.1, 1.2, 1.35)


def folders_and_models(words: Sequence[str], models: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the arguments into folders and models. Raises ConfigError if no folder is named."""
    folders = [folder for word in (words if models else words[:1]) for folder in split_folders(word)]
    if not folders:
        raise ConfigError("name a folder of real cars, and the models to score: real_cars.py <folder> <model>…")
    return folders, list(dict.fromkeys(models or words[1:] or ["latest"]))


def split_folders(word: str) -> list[str]:
    """Split a word at its commas, unless a file or folder has this name."""
    return [word] if exists(Path(word)) else [part for part in word.split(",") if part]


def short_names(references: Sequence[str]) -> list[str]:
    """Return as many of the last parts of each reference as make it different from the others."""
    parts = [reference.rstrip("/").split("/") for reference in references]
    for num in range(1, max(map(len, parts)) + 1):
        names = ["/".join(found[-num:]) for found in parts]
        if len(set(names)) == len(names):
            return names
    return list(references)


def open_model(config: ExperimentConfig, reference: str) -> tuple[ModelCard, Predictor]:
    """Open a model. Raises TrackingError if it does not exist."""
    model = find_predicting_model(config, reference)
    try:
        path = find_model_file(model.path)
    except FileNotFoundError as error:
        raise TrackingError(f"{error} (to give several folders of cars: separate them by commas)") from error
    predictor = Predictor.load(path, torch.get_num_threads())
    return ModelCard(model.reference, predictor.kind, hashlib.sha256(path.read_bytes()).hexdigest()), predictor


def show(cars: RealCars, scores: Mapping[str, RealCarScores], out_dir: Path) -> None:
    console = Console(width=LABELS_WIDTH + len(scores) * MODEL_WIDTH, markup=False, highlight=False)
    console.print(headline_table(scores), groups_table(scores))
    if len(scores) > 1:
        console.print(comparison_table(compare(scores)))
    if warning := next(iter(scores.values())).predictions.units.resampled.warning:
        console.print(warning)
    console.print(f"{len(cars)} cars, digest {cars.digest[:12]}; files in {out_dir}")


def log(
    scores: Mapping[str, RealCarScores], models: Sequence[ModelCard], paths: Sequence[Path], tracker: Tracker
) -> None:
    for number, (item, model) in enumerate(zip(scores.values(), models, strict=True), 1):
        suffix = f"_{number}" if len(scores) > 1 else ""
        tracker.set_tags({f"carkp.real_cars_model{suffix}": model.reference})
        tracker.log_metrics(item.metrics(f"real{suffix}/"))
    for path in paths:
        tracker.log_file(path, STUDY)


def read_box_scale(word: str) -> BoxScale:
    """Read the parameter ``box_scale``. Raises ConfigError if it is no factor."""
    try:
        return BoxScale(float(word))
    except ValueError as error:
        raise ConfigError(f"box_scale={word}: {error}") from error


def findings(words: Sequence[str], predictors: Mapping[str, Predictor], cars: RealCars) -> Findings:
    """Return the findings for ``--record``: each word's folders alone, then all cars; goals are for the first word.

    Boxes of other sizes are measured on all cars.
    """
    sets = [load_real_cars(split_folders(word)) for word in words]
    sets += [cars] if len(words) > 1 else []
    scores = [score_predictors(predictors, item) for item in sets]
    rows: list[dict[str, Cell]] = []
    for found in scores:
        for name, item in found.items():
            pck = {f"pck_{alpha:g}": interval_cell(interval) for alpha, interval in item.total.pck.items()}
            shares = {"turned": number_cell(item.turned.value), "mirrored": number_cell(item.mirrored.value)}
            total = item.total
            rows.append({"cars": total.num_cars, "points": total.num_points, "model": f"`{name}`", **pck, **shares})
    first = next(iter(scores[0].values()))
    found_of = {f"pck_{alpha:g}": interval for alpha, interval in first.total.pck.items()} | {"turned": first.turned}
    measurements = [
        Measurement(
            name=name,
            quantity=f"{quantity}, `{next(iter(predictors))}`, {first.total.num_cars} real cars",
            value=found_of[name].value,
            low=number_cell(found_of[name].low),
            high=number_cell(found_of[name].high),
            goal=goal,
            format=".3f",
        )
        for name, (quantity, goal) in WANTED.items()
        if math.isfinite(found_of[name].value)
    ]
    tables = [RecordTable(name="models", columns=COLUMNS, rows=rows), boxes_table(words, predictors)]
    return Findings(measurements, tables)


def boxes_table(words: Sequence[str], predictors: Mapping[str, Predictor]) -> RecordTable:
    """Return the scores on all cars with boxes of several sizes."""
    folders = [folder for word in words for folder in split_folders(word)]
    rows: list[dict[str, Cell]] = []
    for factor in BOX_SCALES:
        scores = score_predictors(predictors, load_real_cars(folders, rule=BoxScale(factor)))
        for name, item in scores.items():
            pck = {f"pck_{alpha:g}": interval_cell(item.total.pck[alpha]) for alpha in (0.05, 0.1)}
            rows.append({"factor": factor, "model": f"`{name}`", **pck})
    return RecordTable(name="boxes", columns=BOXES_COLUMNS, rows=rows)


def run(arguments: Arguments, tracker: Tracker) -> None:
    folders, references = folders_and_models(arguments.lists[FOLDERS], arguments.lists["--model"])
    rule = read_box_scale(arguments.values["box_scale"])
    if is_recorded(arguments) and rule.factor != 1:
        raise ConfigError("--record measures boxes of several sizes itself: leave out box_scale")
    cars = load_real_cars(folders, rule=rule)
    if left_out := cars.issues.describe_skipped():
        warn(f"left out: {left_out}")
    names = short_names(references)
    opened = [open_model(arguments.config, reference) for reference in references]
    predictors = {name: item for name, (_, item) in zip(names, opened, strict=True)}
    scores = score_predictors(predictors, cars)
    models = [card for card, _ in opened]
    out_dir = expand_path(arguments.values["output"])
    with explain_write_errors(out_dir):
        paths = write_report(scores, dict(zip(names, models, strict=True)), cars, out_dir)
    log(scores, models, paths, tracker)
    tracker.set_tags({"carkp.real_cars_digest": cars.digest})
    show(cars, scores, out_dir)
    if is_recorded(arguments):
        words = arguments.lists[FOLDERS] if arguments.lists["--model"] else arguments.lists[FOLDERS][:1]
        write_record(arguments, STUDY, findings(words, predictors, cars))


def main() -> int:
    arguments = parse_study(STUDY, str(__doc__), PARAMETERS, flags=FLAGS, lists=LISTS)
    if "track" in arguments.flags:
        execute(STUDY, arguments.config, lambda tracker, _: run(arguments, tracker))
    else:
        run(arguments, NullTracker())
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
