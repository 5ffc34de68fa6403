"""Keypoints of pictures and videos: predicted, drawn and written. A failure of one picture does not stop the others."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from carkp.data.boxes import FRAME_MARK, BoxSource
from carkp.data.headers import UPRIGHT, count_pages, read_header
from carkp.data.issues import DataError, printable
from carkp.data.jpeg import Image
from carkp.data.orientation import IGNORE
from carkp.data.pictures import Video, VideoWriter, count_images, decode_picture, is_video, read_bytes
from carkp.data.video import writable_fps
from carkp.disk import write_atomic
from carkp.keypoints.schema import KEYPOINT_NAMES
from carkp.predictor import ModelError, Prediction, Predictor
from carkp.report.drawing import draw_cars
from carkp.workflow.boxes import WAYS_TO_BOXES, describe_whole_picture
from carkp.workflow.output_names import Source, list_sources
from carkp.workflow.picture_files import write_picture

JSON_NAME = "keypoints.json"
FEW_FRAMES = 0.9
"""A note is made if a smaller share of a video's stated frames was read. The stated number is often an estimate."""

FPS_TOLERANCE = 0.001
TURNED_NOTE = (
    "it states a rotation, which was ignored because boxes refer to the stored pixels; "
    "-P orientation=apply uses it as viewers show it"
)
NO_CAR_NOTE = "no box contains a car"
BOXES_NOTE = "boxes"
"""Name under which notes on the boxes as a whole are stored."""

NOT_DRAWN = f"its keypoints are in {JSON_NAME}, but the drawn file could not be written"


@dataclass(frozen=True)
class InferInputs:
    """Inputs of a prediction.

    Attributes:
        pictures: pictures and videos.
        boxes: boxes of their cars; None: each whole picture is one car.
        predictor: an open model.
        model: reference that the user gave for the model.
        orientation: as in :mod:`carkp.data.orientation`.
    """

    pictures: Sequence[Path]
    boxes: BoxSource | None
    predictor: Predictor
    model: str
    orientation: str = IGNORE


@dataclass
class InferResult:
    """Results and errors by the name of a picture or video frame; ``files`` are the written files.

    ``notes`` tell the user about special cases of pictures or videos that were processed.
    """

    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    num_cars: int = 0
    seconds: float = 0.0


def infer_all(inputs: InferInputs, out_dir: Path, result: InferResult) -> None:
    """Predict and draw every picture and video; fill ``result`` on the way."""
    sources = list_sources(inputs.pictures, out_dir)
    boxes = None if inputs.boxes is None else inputs.boxes.for_pictures([source.place for source in sources])
    if inputs.boxes is not None and inputs.boxes.notes:
        result.notes[BOXES_NOTE] = "; ".join(inputs.boxes.notes)
    worker = _Worker(inputs.predictor, boxes, inputs.orientation, result)
    with tqdm(total=count_images(inputs.pictures), desc="infer", unit="image") as bar:
        for source in sources:
            with worker.errors_kept(source.name):
                source.remove_old()
                if is_video(source.path):
                    worker.infer_video(source, bar.update)
                    continue
                worker.infer_picture(source)
            bar.update()


class _DrawnVideo:
    """A video writer that stops at its first error; ``error`` says why there is no video."""

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
    """Predicts and draws one source after the other, and stores the outcome in ``result``."""

    predictor: Predictor
    boxes: BoxSource | None
    orientation: str
    result: InferResult

    @contextlib.contextmanager
    def errors_kept(self, name: str) -> Iterator[None]:
        """Record the failure of one picture; a ModelError is raised, because it concerns all pictures."""
        try:
            yield
        except ModelError:
            raise
        except (DataError, ValueError, OSError, RuntimeError, cv2.error, MemoryError) as error:
            self.result.errors[name] = _reason(error)

    def infer_picture(self, source: Source) -> None:
        data = read_bytes(source.path)
        image = decode_picture(data, self.orientation)
        self._judge_size(source, image)
        self._judge_picture(source, data)
        prediction = self._predict(source.name, source.place, image)
        try:
            drawn = draw_cars(image, prediction.boxes, prediction.points, prediction.scores)
            self.result.files.append(write_picture(source.out, drawn))
        except (OSError, cv2.error, MemoryError) as error:
            self.result.errors[source.name] = f"{NOT_DRAWN}: {_reason(error)}"

    def infer_video(self, source: Source, on_frame: Callable[[], Any]) -> None:
        """Predict all frames; a frame that fails stays in the video without drawing."""
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
        self._judge_size(source, frame)
        with self.errors_kept(source.name + frame_mark):
            prediction = self._predict(source.name + frame_mark, source.place + frame_mark, frame)
            return draw_cars(frame, prediction.boxes, prediction.points, prediction.scores)
        return frame

    def _predict(self, name: str, place: str, image: Image) -> Prediction:
        """Predict the cars of a picture and store them in ``result``.

        Raises:
            DataError, BoxError, ValueError: the boxes are not usable, or the model gives NaN or infinite values.
        """
        start = time.perf_counter()
        boxes = None if self.boxes is None else self.boxes.find(place, image)
        prediction = self.predictor(image, boxes)
        record = {"width": image.shape[1], "height": image.shape[0], "cars": prediction.cars()}
        _json(record)  # a number that JSON cannot hold is an error of this picture
        self.result.seconds += time.perf_counter() - start
        self.result.num_cars += len(prediction)
        self.result.found[name] = record
        if not len(prediction):
            self._note(name, NO_CAR_NOTE)
        return prediction

    def _judge_size(self, source: Source, image: Image) -> None:
        """Note pictures that may be too large for one car; print a warning only for the first."""
        note = describe_whole_picture((image.shape[0], image.shape[1])) if self.boxes is None else ""
        if note and source.name not in self.result.notes:
            if not any(WAYS_TO_BOXES in text for text in self.result.notes.values()):
                tqdm.write(f"WARNING: {source.name}: {note}", file=sys.stderr)
            self._note(source.name, note)

    def _note(self, name: str, text: str) -> None:
        known = self.result.notes.get(name)
        self.result.notes[name] = f"{known}; {text}" if known else text

    def _judge_picture(self, source: Source, data: bytes) -> None:
        header, num_pages, notes = read_header(data), count_pages(data), []
        if num_pages > 1:
            notes.append(f"it has {num_pages} pages or pictures, only the first was used")
        if header is not None and header.orientation != UPRIGHT and self.orientation == IGNORE:
            notes.append(TURNED_NOTE)
        if notes:
            self._note(source.name, "; ".join(notes))

    def _judge_video(self, source: Source, video: Video) -> None:
        notes = []
        if video.is_cut_short:
            promised = f"{video.num_frames} frames" if video.num_frames else "more"
            self.result.errors[source.name] = (
                f"video is cut short: it states {promised}; {video.num_read} could be read and were processed"
            )
        elif video.num_read < FEW_FRAMES * video.num_frames - 1:
            notes.append(f"it states {video.num_frames} frames, but only {video.num_read} could be read")
        if video.is_turned and self.orientation == IGNORE:
            notes.append(TURNED_NOTE)
        if abs(writable_fps(video.fps) - video.stated_fps) > FPS_TOLERANCE * video.stated_fps:
            stated = f"{video.stated_fps:g} frames a second" if video.stated_fps else "no frame rate"
            notes.append(f"it states {stated}; the drawn video has {writable_fps(video.fps):g}")
        if notes:
            self._note(source.name, "; ".join(notes))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    if isinstance(error, MemoryError):
        return "too large for this machine's memory"
    return printable(" ".join(str(error).split()) or type(error).__name__)


def write_json(inputs: InferInputs, result: InferResult, path: Path) -> Path:
    """Write the results as JSON, one line for each picture. NaN and infinity are refused."""
    head = {
        "model": printable(inputs.model),
        "model_kind": inputs.predictor.kind,
        "orientation": inputs.orientation,
        "boxes": None if inputs.boxes is None else inputs.boxes.description,
        "keypoints": KEYPOINT_NAMES,
    }
    fields = [f"{_json(name)}: {_json(value)}" for name, value in head.items()]
    for title, content in (("images", result.found), ("errors", result.errors), ("notes", result.notes)):
        lines = ",\n".join(f"{_json(name)}: {_json(value)}" for name, value in content.items())
        fields.append(f'"{title}": {{\n{lines}\n}}')
    write_atomic(path, ("{\n" + ",\n".join(fields) + "\n}\n").encode())
    return path


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)
