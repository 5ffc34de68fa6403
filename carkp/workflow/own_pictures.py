"""Inference on a user's own pictures and videos: request, work and report, with or without a tracked run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from carkp.config.loading import ConfigError
from carkp.data.boxes import BoxSource
from carkp.data.files import expand_path
from carkp.data.issues import DataError, explain_write_errors, printable
from carkp.data.orientation import check_orientation
from carkp.data.pictures import list_pictures
from carkp.predictor import Predictor
from carkp.workflow.boxes import open_boxes
from carkp.workflow.inference import JSON_NAME, InferInputs, InferResult, infer_all, write_json

NUM_SHOWN_ERRORS = 10


class InferenceError(DataError):
    """Some pictures failed; the others were processed."""


@dataclass(frozen=True)
class Request:
    """A user's request: pictures and videos, the boxes of their cars, and the folder for the results."""

    pictures: Sequence[Path]
    boxes: BoxSource | None
    out_dir: Path
    orientation: str

    def inputs(self, predictor: Predictor, model: str) -> InferInputs:
        """Combine the request with a predictor and the name of its model."""
        return InferInputs(self.pictures, self.boxes, predictor, model, self.orientation)


def read_request(values: Mapping[str, str]) -> Request:
    """Read a request from the parameters ``image``, ``boxes``, ``output`` and ``orientation``.

    Raises:
        ConfigError: a parameter cannot be used.
        DataError: pictures or boxes cannot be read.
    """
    orientation = check_orientation(values["orientation"])
    pictures = list_pictures(_given_path(values["image"], "image"))
    out_dir = _given_path(values["output"], "output")
    _refuse_own_folder(pictures, out_dir)
    return Request(pictures, open_boxes(values["boxes"], pictures), out_dir, orientation)


def infer_own(inputs: InferInputs, out_dir: Path) -> InferResult:
    """Predict, draw and write everything. A failure is recorded by name, and the others continue.

    ``keypoints.json`` is always written, even if an error ends the run.
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
    return result


def show(inputs: InferInputs, result: InferResult, out_dir: Path) -> None:
    """Print the result.

    Raises:
        InferenceError: some pictures failed.
    """
    print(describe_notes(result.notes) + describe(inputs, result, out_dir))  # noqa: T201
    if result.errors:
        raise InferenceError(f"{len(result.errors)} images failed:\n  {describe_errors(result.errors)}")


def describe(inputs: InferInputs, result: InferResult, out_dir: Path) -> str:
    """Describe the result in a few lines, for a person."""
    whole = "" if inputs.boxes is not None else " (no boxes given: each whole picture used as one car)"
    return printable(
        f"{inputs.predictor.kind} {inputs.model}: {result.num_cars} cars in {len(result.found)} images{whole}, "
        f"{len(result.errors)} failed; see {out_dir}"
    )


def describe_errors(errors: Mapping[str, str]) -> str:
    """Return the first errors, one per line."""
    lines = [f"{name}: {message}" for name, message in errors.items()]
    more = [f"… and {len(lines) - NUM_SHOWN_ERRORS} more, see {JSON_NAME}"] if len(lines) > NUM_SHOWN_ERRORS else []
    return "\n  ".join([*lines[:NUM_SHOWN_ERRORS], *more])


def describe_notes(notes: Mapping[str, str]) -> str:
    """Return a line for each different note, with the first picture and the number of others."""
    counts = Counter(notes.values())
    firsts = {text: name for name, text in reversed(list(notes.items()))}
    more = {text: f" and {count - 1} more" if count > 1 else "" for text, count in counts.items()}
    return "".join(f"note: {firsts[text]}{more[text]}: {text}\n" for text in counts)


def _refuse_own_folder(pictures: Sequence[Path], out_dir: Path) -> None:
    if out_dir.resolve() in {path.parent.resolve() for path in pictures}:
        raise ConfigError(
            f"output={out_dir}: is the folder of the pictures, which would be overwritten; give another folder"
        )


def _given_path(text: str, parameter: str) -> Path:
    if not text:
        raise ConfigError(f"{parameter}: give a path")
    return expand_path(text)
