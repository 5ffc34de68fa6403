"""The Python API: it takes a picture and the boxes of its cars, and returns their keypoints in pixels of the picture.

Legend: N cars, K keypoints, H and W height and width of the network's input, h and w those of the heatmaps.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from carkp.data import colour, geometry
from carkp.data.colour import INPUT_SCALE, INPUT_ZERO
from carkp.data.frames import Box
from carkp.data.geometry import Placement, Size
from carkp.data.rectangles import MIN_CROP_EXTENT_PX, CropRectangle, crop_rectangle
from carkp.deploy.litert import LiteRtRunner, is_tflite
from carkp.deploy.notes import ORIGIN_PREFIX, TARGET_KEY
from carkp.deploy.runtime import OnnxRunError, OnnxRunner
from carkp.entry_points import INSTALL_TRAIN
from carkp.file_kinds import is_checkpoint, is_safetensors
from carkp.keypoints.codec import CODEC_KEY, HeatmapCodec, checked_codec, codec_for_input, codec_from_json
from carkp.keypoints.schema import NUM_KEYPOINTS
from carkp.shipped import DEFAULT_MODEL, ONNX_FILE, find_shipped_file, is_shipped

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

MODEL_FILES = ("artifacts/model.onnx", "model.onnx")
"""Where the model lies in a folder: in a registered model, and in an ONNX model of MLflow."""

DECIMALS = 3
"""Decimals of numbers in JSON."""


BATCH_SIZE = 16
"""Cars per batch. Larger batches take more memory and, on a CPU, no less time per car."""

_SHOWN = 200
_THREADS_LOCK = threading.RLock()


class ModelError(ValueError):
    """A file that cannot be loaded as a predictor; the message names the file and what to do."""


class HeatmapError(ValueError):
    """Heatmaps with NaN or infinite values, in which no keypoint can be found; the message says what to do."""


class BoxError(ValueError):
    """A box that does not hold any part of the picture; the message says which box."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The cars of a picture, in the order of their boxes.

    Attributes:
        points: (N, K, 2) float32, (x, y) in pixels of the picture; ``carkp.keypoints.schema`` lists the names.
        scores: (N, K) float32, heights of the heatmap peaks: about 1 for a certain keypoint, 0 for none.
        boxes: (N, 4) float64 x, y, width, height, as given by the caller.
    """

    points: Floats
    scores: Floats
    boxes: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.boxes)

    def cars(self) -> list[dict[str, Any]]:
        """Return ``{"box": [4], "points": [[x, y] * K], "scores": [K]}`` for each car, ready for JSON."""
        rows = zip(self.boxes, self.points, self.scores, strict=True)
        return [
            {"box": _rounded(box), "points": _rounded(points), "scores": _rounded(scores)}
            for box, points, scores in rows
        ]


class Inputs(NamedTuple):
    """Inputs of the network, and how to map its points back to the picture.

    Attributes:
        images: (N, 3, H, W) float32 normalised YUV444.
        corners: (N, 2) float32, (x, y) of each crop's top left pixel in the picture.
        scales: (N,) float32, number of input pixels per pixel of the picture.
    """

    images: Floats
    corners: Floats
    scales: Floats


Forward = Callable[[Floats], Floats]
"""Normalised images (N, 3, H, W) -> heatmaps (N, K, h, w)."""


class Predictor:
    """Finds keypoints: ``predictor(image, boxes)``. :meth:`load` opens the model that comes with carkp, or a file.

    A call takes its cars in batches of ``batch_size``, so that memory does not grow with their number.

    Inside a call, cv2 and torch are limited to ``num_threads`` threads; afterwards the old limits are restored. Both
    limits belong to the whole process. So calls from several Python threads wait for each other there, but not while
    ONNX Runtime runs.
    """

    def __init__(
        self,
        forward: Forward,
        codec: HeatmapCodec,
        input_size: Size,
        kind: str,
        num_threads: int,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.codec, self.input_size, self.kind, self.num_threads = codec, input_size, kind, num_threads
        self.batch_size = batch_size
        self._forward = forward
        expected = codec.heatmap_size[0] * codec.stride, codec.heatmap_size[1] * codec.stride
        if expected != tuple(input_size):
            raise ModelError(f"the codec is for inputs of {expected} (height, width), the network takes {input_size}")

    @classmethod
    def load(cls, path: Path | str = DEFAULT_MODEL, num_threads: int = 1, codec: HeatmapCodec | None = None) -> Self:
        """Load a float checkpoint, a float ONNX, an int8 ONNX or a .tflite file; its content decides which kind it is.

        Args:
            path: the name of a model that comes with carkp (its int8 ONNX is opened), a file, or a folder that holds
                ``artifacts/model.onnx`` (the registered model) or ``model.onnx``.
            num_threads: number of threads of one operator, at least 1.
            codec: how to read the heatmaps; None: as stored in the model. Files of the first versions do not store it.

        Raises:
            FileNotFoundError: the file does not exist, or it is not in this installation.
            ModelError: the file is no such model, or it stores no codec and none is given.
            CheckpointError: the checkpoint cannot be read.
        """
        if num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {num_threads}")
        file = find_model_file(Path(path).expanduser())
        if is_checkpoint(file) or is_safetensors(file):
            return cls._load_checkpoint(file, num_threads, codec)
        return (cls._load_tflite if is_tflite(file) else cls._load_onnx)(file, num_threads, codec)

    @classmethod
    def _load_checkpoint(cls, path: Path, num_threads: int, codec: HeatmapCodec | None) -> Self:
        try:
            import torch

            from carkp.training.checkpoint import load_checkpoint, load_net
        except ImportError as error:
            raise ModelError(f"{path}: a float network needs torch and timm ({error}): {INSTALL_TRAIN}") from error
        checkpoint = load_checkpoint(path)
        if "fake_quant" in checkpoint.architecture:
            raise ModelError(f"{path}: contains a calibrated network: run export on it, and give the ONNX file")
        net = load_net(checkpoint).to(memory_format=torch.channels_last)
        height, width = checkpoint.architecture["input_size"]
        try:
            codec = codec or checked_codec(codec_for_input((height, width), **checkpoint.config["heatmap"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: its configuration has no codec ({error}): give one") from error

        def forward(images: Floats) -> Floats:
            with torch.inference_mode(), _limited_threads(num_threads):
                inputs = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
                heatmaps: Floats = net(inputs).numpy()
                return heatmaps

        return cls(forward, codec, (height, width), "float checkpoint", num_threads)

    @classmethod
    def _load_onnx(cls, path: Path, num_threads: int, codec: HeatmapCodec | None) -> Self:
        try:
            runner = OnnxRunner(path, num_threads)
        except ValueError as error:
            raise ModelError(str(error)) from error
        codec = codec or _codec_in(path, runner.metadata)
        predictor = cls(runner.run_all, codec, runner.input_size, _kind_of(runner.metadata), num_threads)
        _check_heatmaps(path, runner.heatmaps_shape, codec)
        return predictor

    @classmethod
    def _load_tflite(cls, path: Path, num_threads: int, codec: HeatmapCodec | None) -> Self:
        try:
            runner = LiteRtRunner(path, num_threads=num_threads)
        except (ValueError, ImportError) as error:
            raise ModelError(str(error)) from error
        codec = codec or _codec_in(path, runner.metadata)
        predictor = cls(runner.run, codec, runner.input_size, "int8 TFLite", num_threads)
        _check_heatmaps(path, runner.heatmaps_shape, codec)
        return predictor

    def __call__(self, image: Image, boxes: ArrayLike | None = None) -> Prediction:
        """Return the keypoints of every car.

        Args:
            image: (height, width, 3) uint8 RGB, of any size and strides; it is neither changed nor copied.
            boxes: (N, 4) x, y, width, height in pixels of ``image``; None: one box, the whole image; N may be 0.

        Raises:
            ValueError: the image has another type or shape.
            BoxError: the boxes have another shape, or a box has values that are not finite, no extent, or lies off the
                image.
            HeatmapError: the model gives NaN or infinite values.
        """
        checked = check_boxes(image, boxes)
        points = np.zeros((len(checked), NUM_KEYPOINTS, 2), np.float32)
        scores = np.zeros((len(checked), NUM_KEYPOINTS), np.float32)
        for start in range(0, len(checked), self.batch_size):
            batch = slice(start, start + self.batch_size)
            inputs = self.prepare(image, checked[batch])
            points[batch], scores[batch] = self.locate(self.heatmaps(inputs.images), inputs)
        return Prediction(points, scores, checked)

    def prepare(self, image: Image, boxes: NDArray[np.float64]) -> Inputs:
        """Return every car's crop as input of the network, with the crop rule and the transforms of evaluation.

        ``boxes`` must be checked. A crop of twice the input's size or more is first reduced by 2, 4 or 8, as the data
        set does when it decodes JPEG.
        """
        height, width = self.input_size
        rectangles = [crop_rectangle(Box(*box), image.shape[:2]) for box in boxes.tolist()]
        planes = np.empty((len(rectangles), 3, height, width), np.uint8)
        scales = np.empty(len(rectangles), np.float32)
        with _limited_threads(self.num_threads):
            for index, (x1, y1, x2, y2) in enumerate(rectangles):
                planes[index], scales[index] = _network_input(image[y1:y2, x1:x2], self.input_size)
        images = np.subtract(planes, INPUT_ZERO, dtype=np.float32)
        images *= INPUT_SCALE
        return Inputs(images, np.array([rectangle[:2] for rectangle in rectangles], np.float32), scales)

    def heatmaps(self, images: Floats) -> Floats:
        """Return heatmaps (N, K, h, w) of normalised images (N, 3, H, W).

        Raises:
            ModelError: the network cannot be run.
        """
        try:
            return self._forward(images)
        except OnnxRunError as error:
            raise ModelError(str(error)) from error

    def locate(self, heatmaps: Floats, inputs: Inputs) -> tuple[Floats, Floats]:
        """Return points (N, K, 2) in pixels of the picture and scores (N, K).

        Raises:
            ModelError: the number of heatmaps is not the number of keypoints.
            HeatmapError: the heatmaps have NaN or infinite values.
        """
        if heatmaps.shape[1] != NUM_KEYPOINTS:
            raise ModelError(f"the model gives {heatmaps.shape[1]} heatmaps, a car has {NUM_KEYPOINTS} keypoints")
        if not np.isfinite(heatmaps).all():
            raise HeatmapError(
                "the model gives heatmaps with NaN or infinite values: its training diverged, or its file is "
                "damaged; use an earlier checkpoint, or train it again"
            )
        points, scores = self.codec.decode_array(heatmaps)
        points = points / inputs.scales[:, None, None] + inputs.corners[:, None]
        return points.astype(np.float32), scores


def find_model_file(path: Path) -> Path:
    """Return the model file at ``path``: a file, the file in a folder, or the file of a model that comes with carkp.

    Raises:
        FileNotFoundError: there is no model.
    """
    if is_shipped(str(path)):
        return find_shipped_file(str(path), ONNX_FILE)
    if path.is_file():
        return path
    for name in MODEL_FILES:
        if (path / name).is_file():
            return path / name
    what = f"holds none of {', '.join(MODEL_FILES)}" if path.is_dir() else "no such model file"
    raise FileNotFoundError(f"{path}: {what}")


def check_boxes(image: Image, boxes: ArrayLike | None) -> NDArray[np.float64]:
    """Return the boxes (N, 4) as float64; None stands for the whole ``image``.

    Raises:
        ValueError: the image is smaller than a crop may be, or not (height, width, 3) uint8.
        BoxError: the boxes have another shape, or a box has values that are not finite, no extent, or lies off the
            image.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"expected an RGB image (height, width, 3) of uint8, got {found}")
    height, width = image.shape[:2]
    if min(height, width) < MIN_CROP_EXTENT_PX:
        raise ValueError(f"the image is {width}x{height} pixels: too small for a car")
    if boxes is None:
        return np.array([[0.0, 0.0, width, height]])
    checked = _box_array(boxes)
    for index, values in enumerate(checked.tolist()):
        problem = _problem_of_box(Box(*values), (height, width))
        if problem:
            raise BoxError(f"box {index} {[float(f'{value:g}') for value in values]}: {problem}")
    return checked


def _box_array(boxes: ArrayLike) -> NDArray[np.float64]:
    try:
        array = np.asarray(boxes)
    except (TypeError, ValueError, OverflowError) as error:
        raise BoxError(f"boxes must be (N, 4), with x, y, width, height per car: {error}") from error
    if array.shape == (0,):
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        hint = "; put a single box into a list" if array.shape == (4,) else ""
        raise BoxError(f"boxes must be (N, 4), with x, y, width, height per car, got shape {array.shape}{hint}")
    if array.dtype.kind not in "iuf":
        raise BoxError(f"boxes must be numbers, x, y, width, height per car, got {array.tolist()}"[:_SHOWN])
    return np.array(array, np.float64)


def _problem_of_box(box: Box, image_size: Size) -> str:
    if not np.isfinite(box).all():
        return "x, y, width and height must be finite"
    if box.width <= 0 or box.height <= 0:
        return "width and height must be positive"
    height, width = image_size
    is_off = box.x >= width or box.y >= height or box.x + box.width <= 0 or box.y + box.height <= 0
    if is_off:
        return f"is outside the image of {width}x{height} pixels"
    if max(box) <= 1:
        return f"is relative to the image's size: give pixels, of {width}x{height}"
    if min(_extent(crop_rectangle(box, image_size))) < MIN_CROP_EXTENT_PX:
        return f"less than {MIN_CROP_EXTENT_PX} pixels of it are inside the image of {width}x{height} pixels"
    return ""


def _extent(rectangle: CropRectangle) -> Size:
    return rectangle.y2 - rectangle.y1, rectangle.x2 - rectangle.x1


def _network_input(crop: Image, input_size: Size) -> tuple[Image, float]:
    """Return (3, H, W) YUV444 of an RGB crop, as ``EvalTransform`` makes it, and the scale of its placement."""
    size = crop.shape[0], crop.shape[1]
    scale = geometry.fit_scale(size, input_size)
    reduced = geometry.reduce_image(crop, geometry.choose_reduction(size, input_size, 1.0))
    placed = geometry.place(reduced, Placement(False, scale, 0.0, (0.0, 0.0)), size, input_size)
    return colour.rgb_to_yuv(placed), scale


def _kind_of(metadata: dict[str, str]) -> str:
    """Return the kind of an ONNX file by its metadata. A compiled file keeps its target, but not its program."""
    if TARGET_KEY in metadata:
        return "int8 ONNX"
    return "float ONNX" if CODEC_KEY in metadata else "ONNX of unknown origin"


def _check_heatmaps(path: Path, shape: tuple[int | str, ...], codec: HeatmapCodec) -> None:
    """Raise ModelError if an output of ``shape`` (B, K, h, w) does not fit the codec. A named extent fits any size."""
    expected = (NUM_KEYPOINTS, *codec.heatmap_size)
    if any(isinstance(got, int) and got != want for got, want in zip(shape[1:], expected, strict=True)):
        raise ModelError(
            f"{path}: gives heatmaps of shape {shape[1:]} (keypoints, height, width), its codec expects {expected}: "
            "the model is for other objects, or the codec belongs to another model"
        )


def _codec_in(path: Path, metadata: dict[str, str]) -> HeatmapCodec:
    text = metadata.get(CODEC_KEY) or metadata.get(ORIGIN_PREFIX + CODEC_KEY)
    if text is None:
        raise ModelError(
            f"{path}: does not say how to read its heatmaps (no codec in its metadata: a file from an older carkp, "
            "or not from carkp): run calibration and export again, or give Predictor.load the codec"
        )
    try:
        return codec_from_json(text)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: the codec in its metadata cannot be read: {error}") from error


@contextmanager
def _limited_threads(num_threads: int) -> Iterator[None]:
    """Limit cv2, and torch if it is loaded, to ``num_threads`` threads; restore the process's own limits afterwards."""
    torch = sys.modules.get("torch")
    with _THREADS_LOCK:
        previous = cv2.getNumThreads(), torch.get_num_threads() if torch else 0
        cv2.setNumThreads(num_threads)
        if torch:
            torch.set_num_threads(num_threads)
        try:
            yield
        finally:
            cv2.setNumThreads(previous[0])
            if torch:
                torch.set_num_threads(previous[1])


def _rounded(values: Sequence[Any] | NDArray[Any]) -> list[Any]:
    rounded: list[Any] = np.round(np.asarray(values, np.float64), DECIMALS).tolist()
    return rounded
