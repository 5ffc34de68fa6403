"""Entry point ``infer``: keypoints of the cars in pictures and videos of one's own, drawn and as JSON."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.data.boxes import FRAME_MARK, BoxBook, read_boxes
from carkp.data.issues import DataError
from carkp.data.jpeg import Image
from carkp.data.pictures import Video, VideoWriter, is_video, list_pictures, read_picture
from carkp.keypoints.schema import KEYPOINT_NAMES
from carkp.predictor import BoxError, ModelError, Prediction, Predictor
from carkp.report.drawing import draw_cars
from carkp.tracking.runs import LATEST, FoundRun, fetch_artifact, fetch_reference, find_latest_run, find_run, run_id_of
from carkp.tracking.store import TrackingError
from carkp.tracking.tracker import NullTracker, Tracker
from carkp.workflow.cli import MODEL, Arguments, Parameter, execute, guarded, parse
from carkp.workflow.pictures import write_jpeg
from carkp.workflow.references import FLOAT, ModelFile, model_kind

ARTIFACT_DIR = "infer"
JSON_NAME = "keypoints.json"
NUM_SHOWN_ERRORS = 10

IMAGE = Parameter("image", "", "a picture, a video, or a folder of them")
BOXES = Parameter(
    "boxes", "", "a .json, .csv or CarFusion bb .txt file, a folder of bb files; empty: the whole picture"
)
OUTPUT = Parameter("output", "runs/infer", "folder for the drawn pictures and keypoints.json")
FLAGS = {"no-track": "make no MLflow run"}


class InferenceError(DataError):
    """Pictures that could not be done; the others were."""


@dataclass(frozen=True)
class InferInputs:
    """Pictures and videos, their boxes (None: the whole picture), and an open model with the name it was given by."""

    pictures: Sequence[Path]
    boxes: BoxBook | None
    predictor: Predictor
    model: str


@dataclass
class InferResult:
    """What was found and what went wrong, by the name of a picture or video frame; ``files`` were written."""

    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    num_cars: int = 0
    seconds: float = 0.0


def run(inputs: InferInputs, out_dir: Path, tracker: Tracker) -> InferResult:
    """Predict, draw and write everything; what fails is written down by name, and the others go on."""
    out_dir.mkdir(parents=True, exist_ok=True)
    result = InferResult()
    with tqdm(total=_num_images(inputs.pictures), desc="infer", unit="image") as bar:
        for path, stem in zip(inputs.pictures, output_stems(inputs.pictures), strict=True):
            try:
                if is_video(path):
                    _infer_video(inputs, path, out_dir / f"{stem}.mp4", result, bar.update)
                else:
                    _infer_picture(inputs, path, out_dir / f"{stem}.jpg", result)
                    bar.update()
            except DataError as error:
                result.errors[path.name] = str(error)
    result.files.append(_write_json(inputs, result, out_dir / JSON_NAME))
    _log(inputs, result, tracker)
    return result


def output_stems(pictures: Sequence[Path]) -> list[str]:
    """Names without suffix for what is drawn; those that two files share keep the suffix of the source."""
    targets = [(path.stem, is_video(path)) for path in pictures]
    pairs = zip(pictures, targets, strict=True)
    return [path.stem if targets.count(target) == 1 else path.name for path, target in pairs]


def find_model(config: ExperimentConfig, reference: str) -> ModelFile:
    """The file or folder that ``reference`` names; ``latest``: that of the newest export of the experiment, any target.

    Raises:
        TrackingError: there is none.
    """
    if reference == LATEST:
        run = find_latest_run("export", {"carkp.experiment": config.name})
        if run is None:
            raise TrackingError(
                f"no finished export run (experiment {config.name}): run `mlflow run . -e export` first"
            )
        return _model_of(run)
    run_id = run_id_of(reference)
    if run_id is not None and reference.rstrip("/").endswith(run_id):
        return _model_of(find_run(run_id))
    if reference.startswith(("runs:", "models:")):
        return ModelFile(fetch_reference(reference), run_id or "", reference)
    return ModelFile(Path(reference).expanduser(), "", reference)


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


def _model_of(run: FoundRun) -> ModelFile:
    match run.tags.get("carkp.stage"):
        case "export":
            kind = model_kind("onnxruntime", run.tags["carkp.target"])
        case "float":
            kind = FLOAT
        case stage:
            raise TrackingError(
                f"runs:/{run.run_id}: a run of {stage}; give one of export or float, or an artifact's path"
            )
    return ModelFile(fetch_artifact(run.run_id, kind.artifact), run.run_id, f"runs:/{run.run_id}/{kind.artifact}")


def _num_images(pictures: Sequence[Path]) -> int:
    """Pictures and, as far as videos say, frames."""
    total = 0
    for path in pictures:
        if not is_video(path):
            total += 1
            continue
        try:
            with Video(path) as video:
                total += video.num_frames
        except DataError:
            pass  # said when its turn comes
    return total


def _infer_picture(inputs: InferInputs, path: Path, out: Path, result: InferResult) -> None:
    drawn = _predict(inputs, path.name, read_picture(path), result)
    if drawn is not None:
        write_jpeg(out, drawn)
        result.files.append(out)


def _infer_video(inputs: InferInputs, path: Path, out: Path, result: InferResult, on_frame: Callable[[], Any]) -> None:
    """Frames that fail stay in the video, undrawn."""
    with Video(path) as video, VideoWriter(out, video.fps) as writer:
        for name, frame in _named_frames(path, video):
            drawn = _predict(inputs, name, frame, result)
            writer.add(frame if drawn is None else drawn)
            on_frame()
    result.files.append(out)


def _named_frames(path: Path, video: Video) -> Iterator[tuple[str, Image]]:
    for index, frame in enumerate(video):
        yield f"{path.name}{FRAME_MARK}{index:06d}", frame


def _predict(inputs: InferInputs, name: str, image: Image, result: InferResult) -> Image | None:
    """The drawn picture; None where its boxes are no good, which ``result`` then says."""
    start = time.perf_counter()
    try:
        boxes = None if inputs.boxes is None else inputs.boxes.find(name)
        prediction = inputs.predictor(image, boxes)
    except ModelError:
        raise
    except (DataError, BoxError, ValueError) as error:
        result.errors[name] = str(error)
        return None
    result.seconds += time.perf_counter() - start
    result.num_cars += len(prediction)
    result.found[name] = _record(image, prediction)
    return draw_cars(image, prediction.boxes, prediction.points, prediction.scores)


def _record(image: Image, prediction: Prediction) -> dict[str, Any]:
    height, width = image.shape[:2]
    return {"width": width, "height": height, "cars": prediction.cars()}


def _write_json(inputs: InferInputs, result: InferResult, path: Path) -> Path:
    """A line a picture."""
    head = {"model": inputs.model, "model_kind": inputs.predictor.kind, "keypoints": KEYPOINT_NAMES}
    fields = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    for title, content in (("images", result.found), ("errors", result.errors)):
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
        fields.append(f'"{title}": {{\n{lines}\n}}')
    path.write_text("{\n" + ",\n".join(fields) + "\n}\n")
    return path


def _log(inputs: InferInputs, result: InferResult, tracker: Tracker) -> None:
    tracker.set_tags({"carkp.infer_model": inputs.model, "carkp.infer_model_kind": inputs.predictor.kind})
    tracker.log_metrics(
        {
            "infer/num_images": len(result.found),
            "infer/num_failed": len(result.errors),
            "infer/num_cars": result.num_cars,
            "infer/ms_per_image": 1000 * result.seconds / len(result.found) if result.found else np.nan,
        }
    )
    for path in result.files:
        tracker.log_file(path, ARTIFACT_DIR)


def describe_errors(errors: dict[str, str]) -> str:
    """The first of them, a line each."""
    lines = [f"{name}: {message}" for name, message in errors.items()]
    more = [f"… and {len(lines) - NUM_SHOWN_ERRORS} more, see {JSON_NAME}"] if len(lines) > NUM_SHOWN_ERRORS else []
    return "\n  ".join([*lines[:NUM_SHOWN_ERRORS], *more])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the entry point."""

    def work() -> int:
        _execute(parse("infer", str(__doc__), [IMAGE, BOXES, MODEL, OUTPUT], argv, flags=FLAGS))
        return 0

    return guarded(work)


def _execute(arguments: Arguments) -> None:
    config, values = arguments.config, arguments.values
    pictures = list_pictures(_given_path(values["image"], "image"))
    out_dir = _given_path(values["output"], "output")
    if out_dir.resolve() in {path.resolve().parent for path in pictures}:
        raise ConfigError(
            f"output={out_dir}: is where the pictures are, which would be overwritten; give another folder"
        )
    boxes = read_boxes(Path(values["boxes"]).expanduser()) if values["boxes"] else None
    if boxes is not None and boxes.unnamed is not None and len(pictures) > 1:
        raise DataError(f"{boxes.source}: boxes without names for {len(pictures)} pictures; name the picture of each")
    model = find_model(config, values["model"])
    inputs = InferInputs(pictures, boxes, open_model(model), model.reference)

    def work(tracker: Tracker, _: Path) -> None:
        result = run(inputs, out_dir, tracker)
        print(describe(inputs, result, out_dir))  # noqa: T201
        if result.errors:
            raise InferenceError(f"{len(result.errors)} images failed:\n  {describe_errors(result.errors)}")

    if "no-track" in arguments.flags:
        work(NullTracker(), out_dir)
    else:
        execute("infer", config, work)


def describe(inputs: InferInputs, result: InferResult, out_dir: Path) -> str:
    """The outcome in a few lines, for a person."""
    whole = "" if inputs.boxes is not None else " (no boxes given: each whole picture taken as one car)"
    return (
        f"{inputs.predictor.kind} {inputs.model}: {result.num_cars} cars in {len(result.found)} images{whole}, "
        f"{len(result.errors)} failed; see {out_dir}"
    )


def _given_path(text: str, parameter: str) -> Path:
    if not text:
        raise ConfigError(f"{parameter}: give a path")
    return Path(text).expanduser()


if __name__ == "__main__":
    sys.exit(main())
