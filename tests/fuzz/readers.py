"""Every reader of bytes from outside: how carkp calls it, valid files for it, and the errors that it may raise.

``tests/fuzz/test_readers.py`` and ``experiments/fuzz.py`` run this table. A reader of a new kind of file belongs here.
"""

import linecache
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import invocations
from starlette.testclient import TestClient

from carkp.config.loading import ConfigError, load_config, load_yaml, split_overrides
from carkp.config.search import SearchConfig
from carkp.data import annotations, carfusion, coco, jpeg, mixture, real_cars, store
from carkp.data.box_formats.yolo import find_class_names
from carkp.data.boxes import parse_boxes
from carkp.data.frames import Frame
from carkp.data.headers import count_pages, read_header
from carkp.data.issues import DataError, Issues
from carkp.data.orientation import APPLY
from carkp.data.pictures import decode_picture, starts_video
from carkp.data.summary import SUMMARY_FILE, read_summary
from carkp.data.video import Video
from carkp.deploy.hardware import TargetFile
from carkp.deploy.int8_onnx import Int8OnnxError, load_program
from carkp.keypoints.codec import codec_from_json
from carkp.keypoints.predictions import PredictionsError, load_predictions
from carkp.measurements.record import RecordError, load_record
from carkp.model.weight_files import read_state_dict
from carkp.predictor import BoxError, ModelError, Predictor, check_boxes
from carkp.quant.program import ProgramError
from carkp.rendered.catalog import CatalogError, read_completions, read_entries
from carkp.rendered.glb import MeshError, load_glb
from carkp.report.model_card import CardError, card_from_yaml
from carkp.serving.model import SIGNATURE, KeypointModel
from carkp.serving.request import Settings
from carkp.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, load_net
from carkp.view.limits import Limits
from carkp.view.models import ViewedModel
from carkp.view.server import create_app
from carkp.workflow.reuse import Inputs
from tests.fuzz import seeds
from tests.fuzz.mutations import Form

PACKAGE = Path(carfusion.__file__).parents[1]
PIXELS = 4_000_000
"""Limit of pictures in requests here, so that many can be tried."""


@dataclass(frozen=True)
class Reader:
    """A way for bytes into carkp.

    Attributes:
        name: as figures call it.
        read: calls carkp with the bytes; the folder is the reader's own, empty or with the files of earlier calls.
        seeds: makes valid files.
        form: how their content is changed.
        errors: those of the project that may come out; ``ValueError`` where a ``raise`` of carkp itself raised it.
        is_slow: an input takes tens of milliseconds.
    """

    name: str
    read: Callable[[bytes, Path], None]
    seeds: Callable[[], Sequence[bytes]]
    form: Form
    errors: tuple[type[Exception], ...] = ()
    is_slow: bool = False


def is_foreign(error: BaseException, allowed: tuple[type[Exception], ...]) -> bool:
    """Whether ``error`` is none of those that a reader may raise."""
    own = tuple(kind for kind in allowed if kind is not ValueError)
    if isinstance(error, own):
        return False
    return not (ValueError in allowed and type(error) is ValueError and _is_raised_here(error))


def _is_raised_here(error: BaseException) -> bool:
    """Whether the innermost line is a ``raise`` of carkp, and not a call that failed."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(frame.filename, frame.lineno or 0)
    return Path(frame.filename).is_relative_to(PACKAGE) and line.strip().startswith("raise")


def place_of(error: BaseException) -> str:
    """``ValueError in coco._id, line 12``: one finding, however many inputs lead to it."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(PACKAGE)
    ]
    if not frames:
        return type(error).__name__
    return f"{type(error).__name__} in {Path(frames[-1].filename).stem}.{frames[-1].name}, line {frames[-1].lineno}"


def _write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _read_gt(data: bytes, folder: Path) -> None:
    carfusion.parse_keypoints(_write(folder, "gt.txt", data), Issues())


def _read_bb(data: bytes, folder: Path) -> None:
    carfusion.parse_boxes(_write(folder, "bb.txt", data), Issues())


def _read_crops(data: bytes, folder: Path) -> None:
    crop = folder / "test/car_a/images_jpg/1_00001_0.jpg"
    if not crop.exists():
        for name in (crop.name, "1_00001_1.jpg"):
            _write(crop.parent, name, seeds.encoded(".jpg"))
    _write(folder, "simple_anno/keypoints_test.json", data)
    list(annotations.read_crops(folder, Issues(), show_progress=False))
    list(annotations.list_crop_files(folder))


def _read_coco(data: bytes, folder: Path) -> None:
    picture = folder / "test/car_a/images_jpg/1_00001.jpg"
    if not picture.exists():
        _write(picture.parent, picture.name, seeds.encoded(".jpg"))
    path = _write(folder, "annotations/keypoints_test.json", data)
    for frame in coco.read_annotation_file(path, "test", Issues()):
        _require_inside(frame.image, folder)
    for image in coco.list_images(folder):
        _require_inside(image, folder)


def _read_car_list(data: bytes, folder: Path) -> None:
    if not (folder / "images/1.jpg").exists():
        _write(folder, "images/1.jpg", seeds.encoded(".jpg"))
    _write(folder, real_cars.LIST_NAME, data)
    for frame in real_cars.read_frames(folder, Issues()):
        assert isinstance(frame, Frame)
        _require_inside(frame.image, folder)


def _require_inside(path: Path, root: Path) -> None:
    assert path.resolve().is_relative_to(root.resolve()), f"{path} is outside of the data"


def _read_boxes(name: str, data: bytes) -> None:
    picture = seeds.picture()
    book = parse_boxes(name, data)
    for asked in ("1.jpg", "video.mp4#000001", "folder/1.png"):
        try:
            boxes = book.find(asked, picture)
            check_boxes(picture, boxes)
        except (DataError, BoxError):
            continue


def _read_class_names(data: bytes, folder: Path) -> None:
    find_class_names(_write(folder, "data.yaml", data).parent)


def _read_config(data: bytes, folder: Path) -> None:
    load_config(_write(folder, "config.yaml", data))


def _read_overrides(data: bytes, folder: Path) -> None:
    path = folder / "config.yaml"
    if not path.exists():
        path.write_text("name: x\n")
    load_config(path, split_overrides(data.decode("utf-8", "replace")))


def _read_target(data: bytes, folder: Path) -> None:
    load_yaml(_write(folder, "target.yaml", data), TargetFile, "target")


def _read_search(data: bytes, folder: Path) -> None:
    load_yaml(_write(folder, "search.yaml", data), SearchConfig, "search")


def _read_measurements(data: bytes, folder: Path) -> None:
    load_record(_write(folder, "fuzzed.yaml", data))


def _read_card(data: bytes, folder: Path) -> None:
    card_from_yaml(data.decode("utf-8", "replace"))


class _OneValue(store.LmdbStore):
    """A store of one value, which is not on a disk."""

    def __init__(self, value: bytes) -> None:
        self.path, self.value = Path("store"), value

    def _get(self, index: int) -> bytes:
        return self.value


def _read_store_value(data: bytes, folder: Path) -> None:
    values = _OneValue(data)
    values.sample_id(0)
    jpeg.decode_bgr(values[0].jpeg)


def _read_store_notes(data: bytes, folder: Path) -> None:
    store._check_info(folder, data, 2)


def _read_mixture(data: bytes, folder: Path) -> None:
    directory = folder / "mixed"
    _write(directory, mixture.MIXTURE_FILE, data)
    for path in mixture.source_directories(directory).values():
        _require_inside(path, folder)


def _read_summary(data: bytes, folder: Path) -> None:
    for name in store.STORE_NAMES.values():
        (folder / name).mkdir(exist_ok=True)
    _write(folder, SUMMARY_FILE, data)
    read_summary(folder)


def _read_inputs(data: bytes, folder: Path) -> None:
    Inputs.from_json(data.decode("utf-8", "replace"))


def _read_codec(data: bytes, folder: Path) -> None:
    codec_from_json(data.decode("utf-8", "replace"))


def _read_checkpoint(data: bytes, folder: Path) -> None:
    load_checkpoint(_write(folder, "best.pt", data))


def _build_net(data: bytes, folder: Path) -> None:
    import json

    try:
        architecture = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(architecture, dict):
        load_net(Checkpoint(architecture, seeds.weights_of_architecture(), {}, 1, {}))


def _read_weights(data: bytes, folder: Path) -> None:
    read_state_dict(_write(folder, "weights", data))


def _read_program(data: bytes, folder: Path) -> None:
    load_program(_write(folder, "fuzzed.onnx", data))


def _predict_onnx(data: bytes, folder: Path) -> None:
    predictor = Predictor.load(_write(folder, "fuzzed.onnx", data))
    if predictor.input_size == seeds.NETWORK_SIZE:
        predictor(seeds.picture())


def _predict_tflite(data: bytes, folder: Path) -> None:
    Predictor.load(_write(folder, "fuzzed.tflite", data))


def _read_predictions(data: bytes, folder: Path) -> None:
    load_predictions(_write(folder, "predictions.npz", data))


def _read_picture(data: bytes, folder: Path) -> None:
    header = read_header(data)
    stated = [(header.height, header.width)] if header is not None else []
    if any(height * width > 4 * PIXELS for height, width in [*stated, jpeg.read_size(data) or (0, 0)]):
        decode_if_refused(data)
        return
    count_pages(data)
    jpeg.is_cut_short(data)
    decode_picture(data, APPLY)
    jpeg.decode_bgr(data, 2)


def decode_if_refused(data: bytes) -> None:
    """Pictures that are refused for their size; those below are large, valid, and no finding."""
    header = read_header(data)
    if header is not None and header.is_huge:
        decode_picture(data, APPLY)


def _read_video(data: bytes, folder: Path) -> None:
    if not starts_video(data[:16], ".mp4"):
        return
    with Video(_write(folder, "video.mp4", data), APPLY) as video:
        for _, _frame in zip(range(4), video, strict=False):
            pass
        video.frame(1)


def _read_glb(data: bytes, folder: Path) -> None:
    load_glb(_write(folder, "car.glb", data))


def _read_meshes(data: bytes, folder: Path) -> None:
    _write(folder, "car.glb", b"")
    _write(folder, "meshes.json", data)
    read_entries(folder)


def _read_completions(data: bytes, folder: Path) -> None:
    read_completions(_write(folder, "points.json", data))


@cache
def still_predictor() -> Predictor:
    """One whose network gives zeros: everything around it is the real thing."""

    def forward(images: np.ndarray) -> np.ndarray:
        return np.zeros((len(images), 12, *seeds.CODEC.heatmap_size), np.float32)

    return Predictor(forward, seeds.CODEC, seeds.NETWORK_SIZE, "int8 ONNX", 1)


@cache
def served_model() -> Any:
    """What ``mlflow models serve`` calls, with the model's own signature."""
    model = KeypointModel()
    model.predictor, model.settings = still_predictor(), Settings(max_pixels=PIXELS, max_request_mib=4)
    described = Model(signature=SIGNATURE)
    described.add_flavor("python_function", loader_module=KeypointModel.__module__)
    called = SimpleNamespace(predict=lambda data, params=None: model.predict(None, data))  # type: ignore[arg-type]
    return PyFuncModel(described, called)


def _serve(data: bytes, folder: Path) -> None:
    """What MLflow's own part stumbles over, before it comes to carkp, is no matter here.

    It answers an unexpected error of the model with a message of its own.
    """
    try:
        invocations(data.decode("utf-8", "replace"), "application/json", served_model(), SIGNATURE.inputs)
    except MlflowException as error:
        if "Encountered an unexpected error" in str(error):
            raise error.__context__ or error from None
    except Exception as error:
        if place_of(error) != type(error).__name__:  # a line of carkp is in it
            raise


@cache
def page() -> TestClient:
    """The page of ``carkp view``, asked in this process."""
    limits = Limits(picture_mib=1.0, video_mib=1.0, text_mib=1.0, pixels=PIXELS, sources=2)
    app = create_app([ViewedModel("still", still_predictor())], limits=limits)
    client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=True)
    client.__enter__()
    return client


def _upload(data: bytes, folder: Path) -> None:
    answer = page().post("/api/sources", params={"name": "x.png"}, content=data)
    assert answer.status_code in (200, 400, 413), answer.text
    if answer.status_code == 200:
        shown = page().get(f"/api/sources/{answer.json()['key']}/picture")
        assert shown.status_code in (200, 400), shown.text


@cache
def shown_key() -> str:
    key: str = page().post("/api/sources", params={"name": "x.png"}, content=seeds.encoded(".png")).json()["key"]
    return key


def _ask_page(data: bytes, folder: Path) -> None:
    content = data.replace(b'{"frame"', b'{"key": "' + shown_key().encode() + b'", "frame"', 1)
    answer = page().post("/api/predict", content=content)
    assert answer.status_code in (200, 400, 404, 413), answer.text


def _boxes_of(suffix: str) -> Callable[[bytes, Path], None]:
    return lambda data, folder: _read_boxes(f"boxes{suffix}", data)


READERS: tuple[Reader, ...] = (
    Reader("CarFusion gt", _read_gt, seeds.gt, "text"),
    Reader("CarFusion bb", _read_bb, seeds.bb, "text"),
    Reader("crops (simple_anno)", _read_crops, seeds.crop_list, "json", (DataError,)),
    Reader("COCO keypoints", _read_coco, seeds.coco, "json", (DataError,)),
    Reader("list of real cars", _read_car_list, seeds.car_list, "json", (DataError,)),
    Reader("boxes: JSON, COCO", _boxes_of(".json"), seeds.boxes_json, "json", (DataError,)),
    Reader("boxes: bb, YOLO, KITTI, MOT", _boxes_of(".txt"), seeds.boxes_text, "text", (DataError,)),
    Reader("boxes: CSV", _boxes_of(".csv"), seeds.boxes_csv, "text", (DataError,)),
    Reader("boxes: VOC XML", _boxes_of(".xml"), seeds.boxes_xml, "text", (DataError,)),
    Reader("classes of YOLO", _read_class_names, seeds.class_names, "yaml", (DataError,)),
    Reader("configuration", _read_config, seeds.configs, "yaml", (ConfigError,)),
    Reader("overrides", _read_overrides, seeds.overrides, "text", (ConfigError,)),
    Reader("target", _read_target, seeds.targets, "yaml", (ConfigError,)),
    Reader("search", _read_search, seeds.searches, "yaml", (ConfigError,)),
    Reader("measurements", _read_measurements, seeds.measurement_records, "yaml", (RecordError,)),
    Reader("model's card", _read_card, seeds.cards, "yaml", (CardError,), is_slow=True),
    Reader("value of a store", _read_store_value, seeds.store_values, "bytes", (DataError,)),
    Reader("notes of a store", _read_store_notes, seeds.store_notes, "json", (DataError,)),
    Reader("mixture", _read_mixture, seeds.mixtures, "json", (DataError,)),
    Reader("summary of data", _read_summary, seeds.summaries, "json"),
    Reader("inputs of a run", _read_inputs, seeds.inputs, "json", (ValueError,)),
    Reader("codec", _read_codec, seeds.codecs, "json", (ValueError,)),
    Reader("checkpoint", _read_checkpoint, seeds.checkpoints, "zip", (CheckpointError,)),
    Reader("shipped weights", _read_checkpoint, seeds.half_weights, "safetensors", (CheckpointError,)),
    Reader("architecture", _build_net, seeds.architectures, "json", (CheckpointError,), is_slow=True),
    Reader(
        "pretrained weights", _read_weights, lambda: [*seeds.state_dicts(), *seeds.half_weights()], "zip", (ValueError,)
    ),
    Reader("int8 program", _read_program, seeds.programs, "onnx", (Int8OnnxError, ProgramError)),
    Reader("ONNX in ONNX Runtime", _predict_onnx, seeds.programs, "onnx", (ModelError, CheckpointError), is_slow=True),
    Reader("TFLite in LiteRT", _predict_tflite, seeds.tflites, "bytes", (ModelError, CheckpointError)),
    Reader("predictions", _read_predictions, seeds.predictions, "zip", (PredictionsError,)),
    Reader("picture", _read_picture, seeds.pictures, "image", (DataError,)),
    Reader("video", _read_video, seeds.videos, "bytes", (DataError,), is_slow=True),
    Reader("GLB", _read_glb, seeds.glbs, "glb", (MeshError,), is_slow=True),
    Reader("meshes.json", _read_meshes, seeds.meshes, "json", (CatalogError,)),
    Reader("points.json", _read_completions, seeds.completions, "json", (CatalogError,)),
    Reader("body of mlflow models serve", _serve, seeds.request_rows, "request", ()),
    Reader("upload of carkp view", _upload, seeds.pictures, "image", (), is_slow=True),
    Reader("request of carkp view", _ask_page, seeds.view_requests, "json", (), is_slow=True),
)


def quiet() -> None:
    """OpenCV and FFmpeg tell of every broken file on standard error."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
