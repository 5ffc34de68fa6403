"""Entry point ``infer``: keypoints of the cars in pictures and videos of one's own, drawn and as JSON."""

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.data.boxes import FRAME_MARK, BoxBook, read_boxes
from carkp.data.files import expand_path, fold_name
from carkp.data.headers import UPRIGHT, read_header
from carkp.data.issues import DataError, explain_write_errors, printable
from carkp.data.jpeg import Image
from carkp.data.orientation import IGNORE, check_orientation
from carkp.data.pictures import Video, VideoWriter, decode_picture, is_video, list_pictures, read_bytes
from carkp.data.video import writable_fps
from carkp.keypoints.schema import KEYPOINT_NAMES
from carkp.predictor import BoxError, ModelError, Prediction, Predictor
from carkp.report.drawing import draw_cars
from carkp.tracking.runs import LATEST, FoundRun, fetch_artifact, fetch_reference, find_latest_run, find_run, run_id_of
from carkp.tracking.store import TrackingError
from carkp.tracking.tracker import NullTracker, Tracker
from carkp.workflow.cli import MODEL, Arguments, Parameter, execute, guarded, parse
from carkp.workflow.pictures import write_atomically, write_picture
from carkp.workflow.references import FLOAT, ModelFile, model_kind

ARTIFACT_DIR = "infer"
JSON_NAME = "keypoints.json"
NUM_SHOWN_ERRORS = 10
FEW_FRAMES = 0.9
"""A smaller share of the frames that a video says it has is told; what it says often is an estimate."""

FPS_TOLERANCE = 0.001
TURNED_NOTE = (
    "it says that it was held turned, which was ignored: boxes mean the stored pixels; "
    "-P orientation=apply takes it as viewers show it"
)
NOT_FINITE = (
    "the model gives keypoints that are no numbers (NaN or infinite): its training diverged, or its file is damaged; "
    "give another model"
)
NOT_DRAWN = f"its keypoints are in {JSON_NAME}, but the drawn one could not be written"

IMAGE = Parameter("image", "", "a picture, a video, or a folder of them")
BOXES = Parameter(
    "boxes", "", "a .json, .csv or CarFusion bb .txt file, a folder of bb files; empty: the whole picture"
)
OUTPUT = Parameter("output", "runs/infer", "folder for the drawn pictures and keypoints.json")
ORIENTATION = Parameter(
    "orientation",
    IGNORE,
    "what a photograph or video says of how it was held: ignore (take the stored pixels, as CarFusion's labels do) or apply "
    "(turn it upright as viewers do: for boxes that were drawn in one)",
)
FLAGS = {"no-track": "make no MLflow run"}


class InferenceError(DataError):
    """Pictures that could not be done; the others were."""


@dataclass(frozen=True)
class InferInputs:
    """What to predict.

    Attributes:
        pictures: pictures and videos.
        boxes: of their cars; None: the whole picture is one.
        predictor: an open model.
        model: the name that it was given by.
        orientation: as in :mod:`carkp.data.orientation`.
    """

    pictures: Sequence[Path]
    boxes: BoxBook | None
    predictor: Predictor
    model: str
    orientation: str = IGNORE


@dataclass
class InferResult:
    """What was found and what went wrong, by the name of a picture or video frame; ``files`` were written.

    ``notes`` say what the person should know of a picture or video that was done.
    """

    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    num_cars: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Source:
    """A picture or video, its name in the results, and where it is drawn, without suffix."""

    path: Path
    name: str
    out: Path

    @property
    def place(self) -> str:
        """Where it lies; boxes are looked for by it."""
        return str(self.path.absolute())


def run(inputs: InferInputs, out_dir: Path, tracker: Tracker) -> InferResult:
    """Predict, draw and write everything; what fails is written down by name, and the others go on.

    ``keypoints.json`` is written in any case, also when something ends the run.
    """
    check_orientation(inputs.orientation)
    with explain_write_errors(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
    result = InferResult()
    try:
        _infer_all(inputs, out_dir, result)
    finally:
        with explain_write_errors(out_dir / JSON_NAME):
            result.files.insert(0, _write_json(inputs, result, out_dir / JSON_NAME))
    _log(inputs, result, tracker)
    return result


def _infer_all(inputs: InferInputs, out_dir: Path, result: InferResult) -> None:
    sources = list_sources(inputs.pictures, out_dir)
    boxes = None if inputs.boxes is None else inputs.boxes.for_pictures([source.place for source in sources])
    worker = _Worker(inputs.predictor, boxes, inputs.orientation, result)
    with tqdm(total=_num_images(inputs.pictures), desc="infer", unit="image") as bar:
        for source in sources:
            with worker.errors_kept(source.name):
                if is_video(source.path):
                    worker.infer_video(source, bar.update)
                else:
                    worker.infer_picture(source)
                    bar.update()


def list_sources(pictures: Sequence[Path], out_dir: Path) -> list[Source]:
    names, stems = name_pictures(pictures), output_stems(pictures)
    return [Source(path, name, out_dir / stem) for path, name, stem in zip(pictures, names, stems, strict=True)]


def name_pictures(pictures: Sequence[Path]) -> list[str]:
    """File names; with as many of their folders as tell them apart where they are the same."""
    names = [printable(path.name) for path in pictures]
    for depth in range(2, max((len(path.absolute().parts) for path in pictures), default=0)):
        counts = Counter(names)
        names = [
            printable("/".join(path.absolute().parts[-depth:])) if counts[name] > 1 else name
            for name, path in zip(names, pictures, strict=True)
        ]
    return _numbered(names)


def output_stems(pictures: Sequence[Path]) -> list[str]:
    """Names without suffix for what is drawn, different also where upper and lower case are the same.

    Those that two files share keep the suffix of the source.
    """
    names = [os.fsdecode(path.name) for path in pictures]
    named = name_pictures(pictures)
    flat = [long.replace("/", "_") if "/" in long else name for name, long in zip(names, named, strict=True)]
    are_videos = [is_video(path) for path in pictures]
    counts = Counter((fold_name(Path(name).stem), kind) for name, kind in zip(flat, are_videos, strict=True))
    stems = [
        Path(name).stem if counts[fold_name(Path(name).stem), kind] == 1 else name
        for name, kind in zip(flat, are_videos, strict=True)
    ]
    drawn = _numbered([f"{stem}\0{kind}" for stem, kind in zip(stems, are_videos, strict=True)], "\0")
    return [name.split("\0")[0] for name in drawn]


def _numbered(names: Sequence[str], end: str = "") -> list[str]:
    """``names``, those that were there before with a number, put before ``end``."""
    taken: set[str] = set()
    found = []
    for name in names:
        stem, mark, rest = name.partition(end) if end else (name, "", "")
        number, candidate = 1, name
        while fold_name(candidate) in taken:
            number += 1
            candidate = f"{stem} ({number}){mark}{rest}"
        taken.add(fold_name(candidate))
        found.append(candidate)
    return found


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
    return ModelFile(expand_path(reference), "", reference)


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


class _DrawnVideo:
    """A video that is written as long as that goes well; ``error`` says why it is not there."""

    def __init__(self, path: Path, fps: float) -> None:
        self._writer = VideoWriter(path, fps)
        self.error = ""

    def add(self, image: Image) -> None:
        if not self.error:
            with self._errors_kept():
                self._writer.add(image)

    def finish(self) -> None:
        if not self.error:
            with self._errors_kept():
                self._writer.__exit__(None, None, None)

    def discard(self, error: BaseException) -> None:
        self.error = self.error or str(error)
        self._writer.__exit__(type(error), error, error.__traceback__)

    @contextlib.contextmanager
    def _errors_kept(self) -> Iterator[None]:
        try:
            yield
        except (OSError, cv2.error) as error:
            self.error = _reason(error)
            self.discard(error)


@dataclass(frozen=True)
class _Worker:
    """Predicts and draws one source after the other, and keeps in ``result`` what comes of it."""

    predictor: Predictor
    boxes: BoxBook | None
    orientation: str
    result: InferResult

    @contextlib.contextmanager
    def errors_kept(self, name: str) -> Iterator[None]:
        """What fails of one picture is written down; an unfit model fails for all."""
        try:
            yield
        except ModelError:
            raise
        except (DataError, ValueError, OSError, cv2.error, MemoryError) as error:
            self.result.errors[name] = _reason(error)

    def infer_picture(self, source: Source) -> None:
        data = read_bytes(source.path)
        image = decode_picture(data, self.orientation)
        header = read_header(data)
        if header is not None and header.orientation != UPRIGHT and self.orientation == IGNORE:
            self.result.notes[source.name] = TURNED_NOTE
        prediction = self._predict(source.name, source.place, image)
        try:
            drawn = draw_cars(image, prediction.boxes, prediction.points, prediction.scores)
            self.result.files.append(write_picture(source.out, drawn))
        except (OSError, cv2.error, MemoryError) as error:
            self.result.errors[source.name] = f"{NOT_DRAWN}: {_reason(error)}"

    def infer_video(self, source: Source, on_frame: Callable[[], Any]) -> None:
        """Frames that fail stay in the video, undrawn."""
        out = source.out.with_name(f"{source.out.name}.mp4")
        with Video(source.path, self.orientation) as video:
            drawn = _DrawnVideo(out, video.fps)
            try:
                for index, frame in enumerate(video):
                    drawn.add(self._drawn_frame(source, f"{FRAME_MARK}{index:06d}", frame))
                    on_frame()
            except BaseException as error:
                drawn.discard(error)
                raise
            drawn.finish()
            self._judge_video(source, video)
        if drawn.error:
            self.result.errors[source.name] = f"{NOT_DRAWN}: {drawn.error}"
        else:
            self.result.files.append(out)

    def _drawn_frame(self, source: Source, frame_mark: str, frame: Image) -> Image:
        with self.errors_kept(source.name + frame_mark):
            prediction = self._predict(source.name + frame_mark, source.place + frame_mark, frame)
            return draw_cars(frame, prediction.boxes, prediction.points, prediction.scores)
        return frame

    def _predict(self, name: str, place: str, image: Image) -> Prediction:
        """Keeps what was found.

        Raises:
            DataError, BoxError, ValueError: its boxes are no good, or the model gives no numbers.
        """
        start = time.perf_counter()
        boxes = None if self.boxes is None else self.boxes.find(place)
        prediction = self.predictor(image, boxes)
        if not (np.isfinite(prediction.points).all() and np.isfinite(prediction.scores).all()):
            raise DataError(NOT_FINITE)
        height, width = image.shape[:2]
        self.result.seconds += time.perf_counter() - start
        self.result.num_cars += len(prediction)
        self.result.found[name] = {"width": width, "height": height, "cars": prediction.cars()}
        return prediction

    def _judge_video(self, source: Source, video: Video) -> None:
        notes = []
        if video.is_cut_short:
            promised = f"{video.num_frames} frames" if video.num_frames else "more"
            self.result.errors[source.name] = (
                f"video is cut short: it says that it has {promised}; {video.num_read} could be read and were done"
            )
        elif video.num_read < FEW_FRAMES * video.num_frames - 1:
            notes.append(f"it says that it has {video.num_frames} frames, of which {video.num_read} could be read")
        if video.is_turned and self.orientation == IGNORE:
            notes.append(TURNED_NOTE)
        if abs(writable_fps(video.fps) - video.stated_fps) > FPS_TOLERANCE * video.stated_fps:
            stated = f"{video.stated_fps:g} frames a second" if video.stated_fps else "no frame rate"
            notes.append(f"it says {stated}; the drawn one has {writable_fps(video.fps):g}")
        if notes:
            self.result.notes[source.name] = "; ".join(notes)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    if isinstance(error, MemoryError):
        return "too large for this machine's memory"
    return printable(" ".join(str(error).split()) or type(error).__name__)


def _write_json(inputs: InferInputs, result: InferResult, path: Path) -> Path:
    """A line a picture. Numbers alone: JSON knows no NaN."""
    head = {
        "model": printable(inputs.model),
        "model_kind": inputs.predictor.kind,
        "orientation": inputs.orientation,
        "keypoints": KEYPOINT_NAMES,
    }
    fields = [f"{_json(name)}: {_json(value)}" for name, value in head.items()]
    for title, content in (("images", result.found), ("errors", result.errors), ("notes", result.notes)):
        lines = ",\n".join(f"{_json(name)}: {_json(value)}" for name, value in content.items())
        fields.append(f'"{title}": {{\n{lines}\n}}')
    write_atomically(path, ("{\n" + ",\n".join(fields) + "\n}\n").encode())
    return path


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


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
            except Exception as error:  # noqa: BLE001 - of whatever library stores them
                result.errors[f"{ARTIFACT_DIR}/{name}"] = f"is not in the run, but here: {path} ({_reason(error)})"


def artifact_names(names: Sequence[str]) -> list[str]:
    """File names that are safe in URLs and on every file system, all different."""
    safe = [re.sub(r"[^\w .()-]", "_", printable(name)) for name in names]
    pairs = [(Path(name).stem, Path(name).suffix) for name in safe]
    numbered = _numbered([f"{stem}\0{suffix}" for stem, suffix in pairs], "\0")
    return [name.replace("\0", "") for name in numbered]


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
    firsts = {text: name for name, text in reversed(notes.items())}
    more = {text: f" and {count - 1} more" if count > 1 else "" for text, count in counts.items()}
    return "".join(f"note: {firsts[text]}{more[text]}: {text}\n" for text in counts)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the entry point."""

    def work() -> int:
        _execute(parse("infer", str(__doc__), [IMAGE, BOXES, MODEL, OUTPUT, ORIENTATION], argv, flags=FLAGS))
        return 0

    return guarded(work)


def _execute(arguments: Arguments) -> None:
    config, values = arguments.config, arguments.values
    orientation = check_orientation(values["orientation"])
    pictures = list_pictures(_given_path(values["image"], "image"))
    out_dir = _given_path(values["output"], "output")
    if out_dir.resolve() in {path.parent.resolve() for path in pictures}:
        raise ConfigError(
            f"output={out_dir}: is where the pictures are, which would be overwritten; give another folder"
        )
    boxes = read_boxes(expand_path(values["boxes"])) if values["boxes"] else None
    if boxes is not None and boxes.unnamed is not None and len(pictures) > 1:
        raise DataError(f"{boxes.source}: boxes without names for {len(pictures)} pictures; name the picture of each")
    model = find_model(config, values["model"])
    inputs = InferInputs(pictures, boxes, open_model(model), model.reference, orientation)

    def work(tracker: Tracker, _: Path) -> None:
        result = run(inputs, out_dir, tracker)
        print(describe_notes(result.notes) + describe(inputs, result, out_dir))  # noqa: T201
        if result.errors:
            raise InferenceError(f"{len(result.errors)} images failed:\n  {describe_errors(result.errors)}")

    if "no-track" in arguments.flags:
        work(NullTracker(), out_dir)
    else:
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
