"""Small valid files of every kind that carkp reads, made here."""

import base64
import io
import json
import pickle
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from carkp.config.loading import dump_yaml
from carkp.config.schema import ExperimentConfig
from carkp.data.issues import Tally
from carkp.data.store import Record, pack_record
from carkp.data.summary import DataSummary, SceneCounts
from carkp.data.video import VideoWriter
from carkp.deploy.int8_onnx import save_program
from carkp.deploy.tflite import tflite_bytes
from carkp.keypoints.codec import CODEC_KEY, HeatmapCodec, codec_to_json
from carkp.keypoints.predictions import Predictions
from carkp.model.half_weights import HalfWeights, encode_half_weights
from carkp.model.pose_net import pose_net_from_architecture
from carkp.quant.program import QProgram
from carkp.shipped import FIGURES_FILE, shipped_folder
from carkp.workflow.reuse import Inputs
from carkp.workflow.source_code import SourceCode
from tests.deploy.programs import Net
from tests.rendered.painted_car import POINTS, write_car

CHECKOUT = Path(__file__).parents[2]
HEIGHT, WIDTH = 24, 32
NETWORK_SIZE = (32, 32)
CODEC = HeatmapCodec((8, 8), 4, 1.0, 5, "averaged", 1.0)
ARCHITECTURE: dict[str, Any] = {
    "name": "efficientnet_lite0",
    "input_size": [64, 64],
    "num_keypoints": 12,
    "head_channels": 8,
    "num_deconvs": 3,
    "activation": "default",
    "drop_path_rate": 0.0,
}
HEATMAP = {"sigma": 1.0, "decoder": "averaged", "window": 5, "background_weight": 1.0}


@cache
def picture() -> np.ndarray:
    """(HEIGHT, WIDTH, 3) BGR of smooth colours."""
    small = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)


def encoded(suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, picture())[1])


@cache
def pictures() -> list[bytes]:
    """One of every kind, a JPEG that is to be turned, and a grey TIFF with transparency."""
    import PIL.Image

    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned, grey = io.BytesIO(), io.BytesIO()
    image = PIL.Image.fromarray(picture()[..., ::-1])
    image.save(turned, "JPEG", exif=exif)
    image.convert("LA").save(grey, "TIFF")
    kinds = [encoded(suffix) for suffix in (".jpg", ".png", ".bmp", ".webp", ".tiff", ".gif", ".ppm")]
    return [*kinds, turned.getvalue(), grey.getvalue()]


@cache
def videos() -> list[bytes]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with VideoWriter(path, 10.0) as writer:
            for index in range(3):
                writer.add(np.roll(picture(), index, 1))
        found.append(path.read_bytes())
        for suffix, codec in ((".avi", "MJPG"), (".mkv", "MJPG")):
            path = Path(folder) / f"other{suffix}"
            writer_of_cv = cv2.VideoWriter(
                str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 10.0, (WIDTH, HEIGHT)
            )
            for _ in range(3):
                writer_of_cv.write(picture())
            writer_of_cv.release()
            found.append(path.read_bytes())
    return found


def gt() -> list[bytes]:
    lines = [f"{4 + k}.5,{3 + k},{k},{car},{1 + k % 3}" for car in range(2) for k in range(1, 15)]
    return ["\n".join(lines).encode(), b"10.0,20.0,1,0,1,\r\n11,21,2,0,2\n"]


def bb() -> list[bytes]:
    return [b"[1 2 20 12],car\n[5 6 10 10],car\n", b"[1, 2, 12, 20],car\n\n[3.5, 4.25, 1e1, 8]"]


def crop_list() -> list[bytes]:
    table = [[float(k), float(k), k % 3] for k in range(12)]
    names = ("test/car_a/images_jpg/1_00001_0.jpg", "/old/disk/test/car_a/images_jpg/1_00001_1.jpg")
    return [json.dumps(dict.fromkeys(names, table)).encode()]


def coco() -> list[bytes]:
    keypoints = [value for k in range(14) for value in (k + 1, k + 2, k % 3)]
    car = {"image_id": 1, "bbox": [1, 2, 20, 12], "keypoints": keypoints, "iscrowd": 0, "kind": "van"}
    image = {"id": 1, "file_name": "car_a/images_jpg/1_00001.jpg", "height": HEIGHT, "width": WIDTH}
    other = {"id": "2", "file_name": "car_a\\images_jpg\\1_00002.JPG"}
    content = {"images": [image, other], "annotations": [{**car, "id": 1}, {**car, "id": 2, "image_id": 2.0}]}
    return [json.dumps(content).encode()]


def car_list() -> list[bytes]:
    entry = {
        "image": "1.jpg",
        "box": [1, 2, 20, 12],
        "keypoints": [[k + 1, k + 2, k % 3] for k in range(12)],
        "heading": "front_left",
        "occluded": False,
    }
    return [json.dumps([entry, {**entry, "truncated": 1}]).encode()]


def boxes_json() -> list[bytes]:
    row = [1, 2, 20, 12]
    result = {"image_id": 1, "category_id": 3, "bbox": row, "score": 0.9}
    annotations = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"id": 1, **result, "iscrowd": 0}],
        "categories": [{"id": 3, "name": "car"}],
    }
    contents = (
        {"1.jpg": [row, row], "b#000001": [row]},
        [row],
        [result, {**result, "file_name": "1.jpg"}],
        annotations,
    )
    return [json.dumps(content).encode() for content in contents]


def boxes_text() -> list[bytes]:
    kitti = b"Car 0.00 0 -1.5 1 2 20 12 1.5 1.6 3.7 1 1 10 0\nVan 0 0 0 3 4 9 9 1 1 1 1 1 1 0"
    return [
        *bb(),
        b"2 0.5 0.5 0.25 0.5 0.9 7\n7 0.25 0.25 0.1 0.1\n0 0.5 0.5 0.1 0.1",
        kitti,
        b"1,1,1,2,20,12,1,3,1\n2,1,1,2,20,12,0.5,3,1\n3,-1,1,2,20,12,-1,-1,-1,-1",
    ]


def boxes_csv() -> list[bytes]:
    return [b"image,x,y,w,h,note\n1.jpg,1,2,20,12,a\n1.jpg,3,4,9,9,b\n", b'sep=;\n"image";x;y;w;h\n1;1,5;2;20;12']


def boxes_xml() -> list[bytes]:
    box = b"<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>20</xmax><ymax>12</ymax></bndbox>"
    size = b"<size><width>32</width><height>24</height></size>"
    car = b"<object><name>car</name>" + box + b"</object>"
    return [b"<annotation><filename>1.jpg</filename>" + size + car + car + b"</annotation>"]


def class_names() -> list[bytes]:
    return [b"names: [person, bicycle, car]\npath: ../x\n", b"names:\n  0: person\n  2: car\nnc: 2\n"]


def configs() -> list[bytes]:
    text = (CHECKOUT / "configs/shipped.yaml").read_text().replace("base: synthetic.yaml", "")
    return [text.encode(), (CHECKOUT / "configs/carfusion.yaml").read_bytes(), dump_yaml(ExperimentConfig()).encode()]


def overrides() -> list[bytes]:
    return [b"train.lr=1.0e-3 name='ab' data.val_scenes=[car_v]", b"heatmap.sigma=2 train.epochs=3"]


def targets() -> list[bytes]:
    return [path.read_bytes() for path in sorted((CHECKOUT / "configs/targets").glob("*.yaml"))[:2]]


def searches() -> list[bytes]:
    return [(CHECKOUT / "configs/search/default.yaml").read_bytes()]


def measurement_records() -> list[bytes]:
    table = {
        "name": "t",
        "columns": [{"name": "a", "heading": "b"}],
        "rows": [{"a": 1}, {"a": {"value": 1, "low": 0, "high": 2}}],
    }
    measurement = {"name": "ratio", "quantity": "a / b", "value": 0.87, "format": ".2f", "goal": {"at_least": 0.8}}
    record = {
        "name": "fuzzed",
        "origin": "transcribed",
        "date": "2026-01-02",
        "measurements": [measurement],
        "tables": [table],
        "details": {"x": [1, 2]},
    }
    return [yaml.safe_dump(record).encode()]


def cards() -> list[bytes]:
    return [(shipped_folder("carkp-car12") / FIGURES_FILE).read_bytes()]


def meshes() -> list[bytes]:
    entry = {"points": POINTS, "author": "nobody", "license": "CC0-1.0", "source": "https://example.org"}
    return [json.dumps({"car": {**entry, "missing": [3], "kind": "van"}}).encode()]


def completions() -> list[bytes]:
    points = {"0": [0.0, 1.0, 2.0], "3": None}
    return [json.dumps({"car": {"sha256": "ab" * 32, "points": points, "kind": "car"}}).encode()]


@cache
def glbs() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "car.glb"
        write_car(path)
        return [path.read_bytes()]


def record() -> Record:
    points = np.arange(24, dtype=np.float32).reshape(12, 2)
    validity = np.arange(12, dtype=np.uint8) % 3
    return Record("train/car_a/1_00001_0", "car_a", encoded(".jpg"), points, validity, (HEIGHT, WIDTH), 0)


def store_values() -> list[bytes]:
    return [pack_record(record())]


def store_notes() -> list[bytes]:
    notes = {"format": "carkp-crops", "schema_version": 1, "num_samples": 1, "digest": "ab" * 32}
    return [json.dumps(notes).encode()]


def mixtures() -> list[bytes]:
    return [json.dumps({"format": "carkp-mixture", "sources": {"a": "a", "b": "b"}}).encode()]


def summaries() -> list[bytes]:
    tallies = {"why": Tally(1, "x")}
    scenes = {"train": {"car_a": SceneCounts(num_frames=1)}}
    summary = DataSummary("raw", "raw", "ab", ("car_v",), 90, scenes, tallies, tallies, ("it is so",), {"train": "ab"})
    return [summary.to_json().encode()]


def codecs() -> list[bytes]:
    return [codec_to_json(CODEC).encode()]


def inputs() -> list[bytes]:
    return [
        Inputs("float", {"train.lr": 1}, {"data": "ab"}, SourceCode({"carkp": "ab"}, {"torch": "2"})).to_json().encode()
    ]


def tensors() -> dict[str, torch.Tensor]:
    return {"final.weight": torch.arange(12.0).reshape(3, 4), "count": torch.tensor(3)}


def checkpoint_content() -> dict[str, Any]:
    return {
        "format_version": 1,
        "architecture": ARCHITECTURE,
        "weights": tensors(),
        "config": {"heatmap": HEATMAP},
        "epoch": 3,
        "training_state": {"optimizer": {"state": {0: torch.ones(2)}}},
    }


def checkpoints() -> list[bytes]:
    saved = io.BytesIO()
    torch.save(checkpoint_content(), saved)
    return [saved.getvalue()]


def state_dicts() -> list[bytes]:
    saved, old = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": {f"module.{name}": value for name, value in tensors().items()}}, saved)
    torch.save(tensors(), old, _use_new_zipfile_serialization=False)
    return [saved.getvalue(), old.getvalue()]


def half_weights() -> list[bytes]:
    content = HalfWeights(ARCHITECTURE, {"heatmap": HEATMAP}, 3, {CODEC_KEY: codec_to_json(CODEC)}, tensors())
    return [encode_half_weights(content)]


@cache
def weights_of_architecture() -> dict[str, torch.Tensor]:
    return dict(pose_net_from_architecture(ARCHITECTURE).state_dict())


def architectures() -> list[bytes]:
    return [json.dumps(ARCHITECTURE).encode()]


@cache
def small_program() -> QProgram:
    """An image of 32x32 to heatmaps of 8x8 through every integer layer."""
    net = Net("int8", NETWORK_SIZE)
    stem = net.conv("stem", "image", 4, stride=2, pads=(0, 0, 1, 1))
    deep = net.conv("deep", stem, 4, stride=2, groups=4, pads=(0, 0, 1, 1))
    lower = net.conv("lower", deep, 4, stride=2, pads=(0, 0, 1, 1))
    total = net.add("sum", lower, lower, relu=True)
    return net.program(net.conv("final", net.upsample("up", total, 4), 12, relu=False), **_notes())


def _notes() -> dict[str, str]:
    return {CODEC_KEY: codec_to_json(CODEC)}


@cache
def programs() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.onnx"
        save_program(small_program(), path)
        return [path.read_bytes()]


@cache
def tflites() -> list[bytes]:
    return [tflite_bytes(small_program(), "float", _notes())]


@cache
def predictions() -> list[bytes]:
    num = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.npz"
        Predictions(
            sample_ids=np.array([f"train/car_a/1_{index:05d}_0" for index in range(num)]),
            points=np.zeros((num, 12, 2), np.float32),
            scores=np.zeros((num, 12), np.float32),
            targets=np.zeros((num, 12, 2), np.float32),
            validity=np.zeros((num, 12), np.uint8),
            lengths=np.ones(num, np.float32),
            lengths_hat=np.ones(num, np.float32),
            crop_size=np.ones((num, 2), np.int32),
            truncated=np.zeros(num, np.int8),
        ).save(path)
        return [path.read_bytes()]


def request_rows() -> list[bytes]:
    image = base64.b64encode(encoded(".png")).decode()
    row = {"image": image, "boxes": [[1, 2, 20, 12]]}
    forms: tuple[Any, ...] = (
        {"dataframe_records": [row, {"image": image}]},
        {"dataframe_split": {"columns": ["image", "boxes"], "data": [[image, [[1, 2, 20, 12]]]]}},
        {"inputs": [row]},
        {"inputs": {"image": [image], "boxes": [[[1, 2, 20, 12]]]}},
        {"instances": [row]},
    )
    return [json.dumps(form).encode() for form in forms]


def view_requests() -> list[bytes]:
    return [b'{"frame": 0, "boxes": [[1, 2, 20, 12]]}', b'{"frame": "0", "boxes": null}']


class _Executed:
    """What pickle would execute."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(tempfile.gettempdir()) / "carkp-was-unpickled",)


def executing_pickles() -> dict[str, bytes]:
    """Files of kinds that pickle can hide in, which touch ``carkp-was-unpickled`` where they are unpickled."""
    saved, array, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"weights": _Executed()}, saved)
    np.save(array, np.array([_Executed()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(io.BytesIO(predictions()[0])) as whole, zipfile.ZipFile(archive, "w") as changed:
        for name in whole.namelist():
            changed.writestr(name, array.getvalue() if name == "lengths.npy" else whole.read(name))
    return {"checkpoint": saved.getvalue(), "predictions": archive.getvalue(), "pickle": pickle.dumps(_Executed())}
