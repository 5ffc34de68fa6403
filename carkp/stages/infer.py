"""Entry point ``infer``: keypoints of the cars in pictures and videos of one's own, drawn and as JSON."""

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from carkp.config.loading import ConfigError
from carkp.data.files import expand_path
from carkp.data.issues import DataError, explain_write_errors, printable
from carkp.data.orientation import check_orientation
from carkp.data.pictures import list_pictures
from carkp.predictor import Predictor
from carkp.shipped import DEFAULT_MODEL
from carkp.tracking.store import TrackingError
from carkp.tracking.tracker import NullTracker, Tracker
from carkp.workflow.boxes import open_boxes
from carkp.workflow.cli import Arguments, execute, guarded, parse_stage
from carkp.workflow.inference import JSON_NAME, InferInputs, InferResult, infer_all, write_json
from carkp.workflow.output_names import artifact_names
from carkp.workflow.references import ModelFile, describe_origin, describe_own_export, find_predicting_model

ARTIFACT_DIR = "infer"
NUM_SHOWN_ERRORS = 10


class InferenceError(DataError):
    """Pictures that could not be done; the others were."""


def run(inputs: InferInputs, out_dir: Path, tracker: Tracker) -> InferResult:
    """Predict, draw and write everything; what fails is written down by name, and the others go on.

    ``keypoints.json`` is written in any case, also when something ends the run.
    """
    check_orientation(inputs.orientation)
    _refuse_own_folder(inputs.pictures, out_dir)
    if inputs.boxes is not None:
        inputs.boxes.refuse_several(inputs.pictures)
    with explain_write_errors(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
    result = InferResult()
    try:
        infer_all(inputs, out_dir, result)
    finally:
        with explain_write_errors(out_dir / JSON_NAME):
            result.files.insert(0, write_json(inputs, result, out_dir / JSON_NAME))
    _log(inputs, result, tracker)
    return result


def _refuse_own_folder(pictures: Sequence[Path], out_dir: Path) -> None:
    if out_dir.resolve() in {path.parent.resolve() for path in pictures}:
        raise ConfigError(
            f"output={out_dir}: is where the pictures are, which would be overwritten; give another folder"
        )


def open_model(model: ModelFile) -> Predictor:
    """A predictor of the model.

    Raises:
        TrackingError: there is no such file.
        ModelError, CheckpointError: it is no model that predicts.
    """
    try:
        return Predictor.load(model.path, torch.get_num_threads())
    except FileNotFoundError as error:
        raise TrackingError(str(error)) from error


def _log(inputs: InferInputs, result: InferResult, tracker: Tracker) -> None:
    tracker.set_tags({"carkp.infer_model": printable(inputs.model), "carkp.infer_model_kind": inputs.predictor.kind})
    tracker.log_metrics(
        {
            "infer/num_images": len(result.found),
            "infer/num_failed": len(result.errors),
            "infer/num_cars": result.num_cars,
            "infer/ms_per_image": 1000 * result.seconds / len(result.found) if result.found else np.nan,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        for path, name in zip(result.files, artifact_names([path.name for path in result.files]), strict=True):
            try:
                tracker.log_file(_called(path, name, Path(folder)), ARTIFACT_DIR)
            except Exception as error:  # of whatever library stores them
                result.errors[f"{ARTIFACT_DIR}/{name}"] = printable(f"is not in the run, but here: {path} ({error})")


def _called(path: Path, name: str, folder: Path) -> Path:
    """``path`` under another name, in ``folder`` where it has to be copied."""
    if path.name == name:
        return path
    return Path(shutil.copyfile(path, folder / name))


def describe_errors(errors: Mapping[str, str]) -> str:
    """The first of them, a line each."""
    lines = [f"{name}: {message}" for name, message in errors.items()]
    more = [f"… and {len(lines) - NUM_SHOWN_ERRORS} more, see {JSON_NAME}"] if len(lines) > NUM_SHOWN_ERRORS else []
    return "\n  ".join([*lines[:NUM_SHOWN_ERRORS], *more])


def describe_notes(notes: Mapping[str, str]) -> str:
    """A line for each different note, with the number of pictures and the first."""
    counts = Counter(notes.values())
    firsts = {text: name for name, text in reversed(list(notes.items()))}
    more = {text: f" and {count - 1} more" if count > 1 else "" for text, count in counts.items()}
    return "".join(f"note: {firsts[text]}{more[text]}: {text}\n" for text in counts)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the entry point."""

    def work() -> int:
        _execute(parse_stage("infer", argv))
        return 0

    return guarded(work)


def _execute(arguments: Arguments) -> None:
    config, values = arguments.config, arguments.values
    orientation = check_orientation(values["orientation"])
    pictures = list_pictures(_given_path(values["image"], "image"))
    out_dir = _given_path(values["output"], "output")
    _refuse_own_folder(pictures, out_dir)
    boxes = open_boxes(values["boxes"], pictures)
    model = find_predicting_model(config, values["model"])
    print(describe_origin(config, model), file=sys.stderr)  # noqa: T201
    inputs = InferInputs(pictures, boxes, open_model(model), model.reference, orientation)

    def work(tracker: Tracker, _: Path) -> None:
        result = run(inputs, out_dir, tracker)
        print(describe_notes(result.notes) + describe(inputs, result, out_dir))  # noqa: T201
        if result.errors:
            raise InferenceError(f"{len(result.errors)} images failed:\n  {describe_errors(result.errors)}")

    if "no-track" in arguments.flags:  # nor is the tracking server asked
        work(NullTracker(), out_dir)
    else:
        if values["model"] == DEFAULT_MODEL and (note := describe_own_export(config)):
            print(note, file=sys.stderr)  # noqa: T201
        execute("infer", config, work)


def describe(inputs: InferInputs, result: InferResult, out_dir: Path) -> str:
    """The outcome in a few lines, for a person."""
    whole = "" if inputs.boxes is not None else " (no boxes given: each whole picture taken as one car)"
    return printable(
        f"{inputs.predictor.kind} {inputs.model}: {result.num_cars} cars in {len(result.found)} images{whole}, "
        f"{len(result.errors)} failed; see {out_dir}"
    )


def _given_path(text: str, parameter: str) -> Path:
    if not text:
        raise ConfigError(f"{parameter}: give a path")
    return expand_path(text)


if __name__ == "__main__":
    sys.exit(main())
