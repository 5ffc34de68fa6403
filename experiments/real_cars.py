"""How good is a model on real cars, and is one model better than another?

Command:  python experiments/real_cars.py <folder>[,<folder>…] <model>…       (seconds for fifty cars)
          python experiments/real_cars.py <folder>… --model <model> --model <model>
Asks:     PCK at 0.05, 0.1 and 0.2 of labelled cars in photographs, with 95 % intervals of a bootstrap over photographs;
          by kind, view, heading, size, truncation, occlusion, and of visible and hidden keypoints; the share of cars
          turned front to back and of those mirrored left to right. Several models: side by side, each against the
          first, paired. A folder holds a COCO keypoints JSON with its pictures, or annotations.json (a list) beside
          images/, or CarFusion's raw layout; the cars of all folders are pooled. A model is an ONNX file, a float
          checkpoint, runs:/…, models:/…, or latest. Writes figures.json, groups.csv, cars.csv, and of each model a
          sheet of all cars, worst first, and its predictions.
Expect:   PCK@0.1 >= 0.88, PCK@0.05 >= 0.60 and at most 3 % of the cars turned for a model that can be shipped, int8
          within half a point of float.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.data.files import expand_path
from carkp.data.issues import explain_write_errors
from carkp.predictor import Predictor
from carkp.tracking.store import TrackingError
from carkp.tracking.tracker import NullTracker, Tracker
from carkp.workflow.cli import Arguments, Parameter, execute, guarded, parse
from carkp.workflow.real_cars import RealCarScores, load_real_cars, score_predictors
from carkp.workflow.real_cars_report import compare, comparison_table, groups_table, headline_table, write_report
from carkp.workflow.references import find_predicting_model, warn

STUDY = "real_cars"
OUTPUT = Parameter("output", "runs/real_cars", "folder for the files")
FLAGS = {"track": "also make an MLflow run with the figures and files"}
LISTS = {
    "words": "folders of real cars, separated by commas, then models; with --model, all words are folders",
    "--model": "a model: an ONNX file, a float checkpoint, runs:/…, models:/…, or latest; may be repeated",
}


def folders_and_models(words: Sequence[str], models: Sequence[str]) -> tuple[list[str], list[str]]:
    """Raises ConfigError where no folder is named."""
    if not words:
        raise ConfigError("name a folder of real cars, and the models to score: real_cars.py <folder> <model>…")
    folders = words if models else words[:1]
    split = [part for word in folders for part in word.split(",") if part]
    return split, list(models or words[1:] or ["latest"])


def open_models(config: ExperimentConfig, references: Sequence[str]) -> dict[str, Predictor]:
    """By the names that they were given by."""
    predictors = {}
    for reference in references:
        model = find_predicting_model(config, reference)
        try:
            predictors[reference] = Predictor.load(model.path, torch.get_num_threads())
        except FileNotFoundError as error:
            raise TrackingError(str(error)) from error
    return predictors


def short_names(references: Sequence[str]) -> dict[str, str]:
    """Reference -> as many of its last parts as tell it from the others."""
    parts = {reference: reference.rstrip("/").split("/") for reference in references}
    most = max(len(found) for found in parts.values())
    for num in range(1, most + 1):
        names = {reference: "/".join(found[-num:]) for reference, found in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return {reference: reference for reference in references}


def show(scores: Mapping[str, RealCarScores], out_dir: Path) -> None:
    console = Console(width=max(120, 60 + 40 * len(scores)))
    console.print(headline_table(scores), groups_table(scores))
    if len(scores) > 1:
        console.print(comparison_table(compare(scores)))
    if warning := next(iter(scores.values())).predictions.units.resampled.warning:
        console.print(warning, markup=False)
    console.print(f"files: {out_dir}", markup=False)


def run(arguments: Arguments, tracker: Tracker) -> None:
    folders, models = folders_and_models(arguments.lists["words"], arguments.lists["--model"])
    cars = load_real_cars(folders)
    if skipped := cars.issues.describe_skipped():
        warn(f"left out: {skipped}")
    names = short_names(models)
    predictors = open_models(arguments.config, models)
    scores = score_predictors({names[reference]: item for reference, item in predictors.items()}, cars)
    out_dir = expand_path(arguments.values["output"])
    with explain_write_errors(out_dir):
        paths = write_report(scores, {name: reference for reference, name in names.items()}, cars, out_dir)
    for number, item in enumerate(scores.values(), 1):
        prefix = f"model_{number}/" if len(scores) > 1 else ""
        tracker.log_metrics({f"{prefix}{name}": value for name, value in item.metrics().items()})
    for path in paths:
        tracker.log_file(path, STUDY)
    show(scores, out_dir)


def main() -> int:
    arguments = parse(
        STUDY, str(__doc__), [OUTPUT], None, prog=f"python experiments/{STUDY}.py", flags=FLAGS, lists=LISTS
    )
    if "track" in arguments.flags:
        execute(STUDY, arguments.config, lambda tracker, _: run(arguments, tracker))
    else:
        run(arguments, NullTracker())
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
