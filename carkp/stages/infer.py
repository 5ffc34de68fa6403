"""Entry point ``infer``: keypoints of the cars in pictures and videos of one's own, drawn and as JSON."""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from carkp.data.issues import printable
from carkp.predictor import Predictor
from carkp.shipped import DEFAULT_MODEL
from carkp.tracking.store import TrackingError
from carkp.tracking.tracker import NullTracker, Tracker
from carkp.workflow.cli import Arguments, execute, guarded, parse_stage
from carkp.workflow.inference import InferInputs, InferResult
from carkp.workflow.output_names import artifact_names
from carkp.workflow.own_pictures import infer_own, read_request, show
from carkp.workflow.references import ModelFile, describe_origin, describe_own_export, find_predicting_model

ARTIFACT_DIR = "infer"


def run(inputs: InferInputs, out_dir: Path, tracker: Tracker) -> InferResult:
    """Predict, draw, write and log everything; see :func:`carkp.workflow.own_pictures.infer_own`."""
    result = infer_own(inputs, out_dir)
    _log(inputs, result, tracker)
    return result


def open_model(model: ModelFile) -> Predictor:
    """Open a predictor of the model.

    Raises:
        TrackingError: the file does not exist.
        ModelError, CheckpointError: it is not a model for prediction.
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
            except Exception as error:  # from any library that stores them
                result.errors[f"{ARTIFACT_DIR}/{name}"] = printable(
                    f"is not stored in the run, but in {path} ({error})"
                )


def _called(path: Path, name: str, folder: Path) -> Path:
    """Return ``path`` under another name; a copy is made in ``folder`` if the name differs."""
    if path.name == name:
        return path
    return Path(shutil.copyfile(path, folder / name))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of the entry point."""

    def work() -> int:
        _execute(parse_stage("infer", argv))
        return 0

    return guarded(work)


def _execute(arguments: Arguments) -> None:
    config, values = arguments.config, arguments.values
    request = read_request(values)
    model = find_predicting_model(config, values["model"])
    print(describe_origin(config, model), file=sys.stderr)  # noqa: T201
    inputs = request.inputs(open_model(model), model.reference)

    def work(tracker: Tracker, _: Path) -> None:
        show(inputs, run(inputs, request.out_dir, tracker), request.out_dir)

    if "no-track" in arguments.flags:  # then the tracking server is not asked either
        work(NullTracker(), request.out_dir)
    else:
        if values["model"] == DEFAULT_MODEL and (note := describe_own_export(config)):
            print(note, file=sys.stderr)  # noqa: T201
        execute("infer", config, work)


if __name__ == "__main__":
    sys.exit(main())
