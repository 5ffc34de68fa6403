"""What fuzzing and looking closely found, each as a test of its own: memory, time, other files, and foreign errors."""

import io
import json
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from carkp.config.loading import ConfigError, load_config
from carkp.config.yaml_files import MAX_BYTES, YamlError, parse_plain_yaml, parse_yaml
from carkp.data import annotations, coco, jpeg, mixture, real_cars, store
from carkp.data.boxes import parse_boxes
from carkp.data.containers import is_video_cut_short
from carkp.data.files import parse_number, split_lines
from carkp.data.issues import DataError, Issues
from carkp.data.pictures import decode_picture
from carkp.data.video import Video
from carkp.deploy.int8_onnx import Int8OnnxError, load_program
from carkp.deploy.runtime import OnnxRunError, OnnxRunner
from carkp.keypoints.codec import checked_codec, codec_from_json, codec_to_json
from carkp.keypoints.predictions import PredictionsError, load_predictions
from carkp.model.weight_files import read_state_dict
from carkp.rendered.catalog import CatalogError, read_entries
from carkp.rendered.glb import MeshError, load_glb
from carkp.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, load_net
from tests.fuzz import seeds

MIB = 2**20
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGES = "m0: &m0 {a: 1, b: 2}\n" + "".join(
    f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)


@contextmanager
def bounded(mib: float, seconds: float = 5.0) -> Iterator[None]:
    """Python's and NumPy's memory, and time."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < mib * MIB
    assert time.perf_counter() - start < seconds


@pytest.mark.parametrize("text", [LAUGHS, MERGES, "a: &a [*a]", "&a x: {b: &b [*b]}"])
@pytest.mark.parametrize("parse", [parse_yaml, parse_plain_yaml])
def test_few_lines_of_yaml_stand_for_no_gigabytes(text: str, parse: Callable[[str], Any]) -> None:
    with bounded(8), pytest.raises(YamlError, match="alias"):
        parse(text)


def test_ordinary_aliases_and_merges_are_read() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]")["b"] == {"x": 1, "y": 2}


@pytest.mark.parametrize("value", ["!!int ''", "!!float ''", "!!timestamp x", "!!int 0b", "!!python/name:os.system x"])
def test_odd_tags_of_yaml(value: str) -> None:
    with pytest.raises(YamlError):
        parse_yaml(f"a: {value}")


def test_brackets_without_end_are_refused_in_time() -> None:
    for text in ("[" * 200_000, "{a: " * 50_000):
        with bounded(8, 2), pytest.raises(YamlError, match="nested too deeply"):
            parse_yaml(text)
    assert parse_yaml("a: " + "[" * 90 + "]" * 90)


def test_a_configuration_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"# ")
    with path.open("r+b") as file:
        file.truncate(2**34)  # takes no room on the disk
    with bounded(4 * MAX_BYTES / MIB), pytest.raises(ConfigError, match="larger than 1 MiB"):
        load_config(path)


def test_lines_are_split_in_time() -> None:
    with bounded(64, 2):
        assert split_lines(b"a" + b"\r" * 200_000 + b"b")[-1] == "b"
        assert len(split_lines(b"a\r\r\nb\rc\n")) == 3
        assert len(parse_boxes("x.csv", b"image,x,y,w,h" + b"\r" * 100_000 + b"\na,1,2,3,4").named) == 1


def test_numbers_are_read_in_time() -> None:
    with bounded(8, 2):
        assert parse_number("9" * 200_000 + "x") is None


@pytest.mark.parametrize(
    "content", [[{"image_id": "9" * 5000, "category_id": 3, "bbox": [1, 2, 3, 4]}], {"a#" + "9" * 5000: [[1, 2, 3, 4]]}]
)
def test_ids_of_thousands_of_digits(content: Any) -> None:
    book = parse_boxes("x.json", json.dumps(content).encode())
    with pytest.raises(DataError, match="has no boxes"):
        book.find("b.jpg")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A picture beside the data, which is not of them."""
    path = tmp_path / "secret.jpg"
    path.write_bytes(seeds.encoded(".jpg"))
    return path


@pytest.mark.parametrize(
    "spelling", ["{absolute}", "../../secret.jpg", "car_a/../../../secret.jpg", "link/../secret.jpg"]
)
def test_names_in_data_lead_to_no_other_pictures(spelling: str, secret: Path, tmp_path: Path) -> None:
    root = tmp_path / "data" / "cars"
    (tmp_path / "elsewhere").mkdir()
    (root / "images").mkdir(parents=True)
    (root / "images" / "link").symlink_to(tmp_path / "elsewhere")
    name = spelling.format(absolute=secret)
    content = json.loads(seeds.coco()[0])
    content["images"][0]["file_name"] = name
    path = root / "annotations" / "keypoints_test.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    issues = Issues()
    assert coco.read_annotation_file(path, "test", issues) == []
    assert not list(coco.list_images(root))
    (root / "simple_anno").mkdir()
    (root / "simple_anno/keypoints_test.json").write_text(json.dumps({name: [[0, 0, 0]] * 12}))
    assert not list(annotations.read_crops(root, issues, show_progress=False))
    (root / "annotations.json").write_text(json.dumps([{**json.loads(seeds.car_list()[0])[0], "image": name}]))
    assert real_cars.read_frames(root / "annotations.json", issues) == []


def test_a_picture_outside_is_said_to_be_so(secret: Path, tmp_path: Path) -> None:
    content = json.loads(seeds.coco()[0])
    content["images"][0]["file_name"] = str(secret)
    path = tmp_path / "data" / "cars" / "keypoints_test.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    issues = Issues()
    coco.read_annotation_file(path, "test", issues)
    assert "picture lies outside the data directory: link it into the directory" in issues.skipped


def test_links_in_the_data_are_followed(secret: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "car_a/images_jpg").mkdir(parents=True)
    (root / "car_a/images_jpg/1_00001.jpg").symlink_to(secret)
    (root / "keypoints_test.json").write_bytes(seeds.coco()[0])
    assert len(coco.read_annotation_file(root / "keypoints_test.json", "test", Issues())) == 1


@pytest.mark.parametrize("part", ["../other", "/etc", "..", "", "a/b", "a\0", "\ud800"])
def test_a_mixture_has_its_sources_beside_it(part: str, tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    content = {**json.loads(seeds.mixtures()[0]), "sources": {"a": part}}
    (tmp_path / "mixed" / mixture.MIXTURE_FILE).write_text(json.dumps(content))
    with pytest.raises(DataError, match="prepare the data again"):
        mixture.source_directories(tmp_path / "mixed")


@pytest.mark.parametrize("data", [b"", b"x" * 50, seeds.store_values()[0][:121] + b"\xff" * 40])
def test_a_damaged_value_of_a_store(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"bytes|utf-8"):
        store.unpack_record(data)


@pytest.mark.parametrize("change", [{"digest": 1}, {"num_samples": None}, {"schema_version": "x"}])
def test_damaged_notes_of_a_store(change: dict[str, Any], tmp_path: Path) -> None:
    notes = {**json.loads(seeds.store_notes()[0]), **change}
    with pytest.raises(DataError, match="prepare"):
        store._check_info(tmp_path, json.dumps(notes).encode(), 2)


@pytest.mark.parametrize(
    "change",
    [
        *({"window": 10**9 + 1}, {"heatmap_size": [10**9, 10**9]}, {"heatmap_size": 3}, {"sigma": []}),
        *({"stride": "4"}, {"decoder": []}, {"sigma": float("nan")}),
    ],
)
def test_a_codec_that_would_need_memory_without_end(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a codec"):
        codec_from_json(json.dumps({**json.loads(seeds.codecs()[0]), **change}))
    assert checked_codec(seeds.CODEC) == seeds.CODEC
    assert codec_to_json(seeds.CODEC).encode() == seeds.codecs()[0]


def test_json_that_is_nested_thousands_deep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a codec"):
        codec_from_json("[" * 100_000)
    (tmp_path / "meshes.json").write_text("[" * 100_000)
    with pytest.raises(CatalogError, match="not readable JSON"):
        read_entries(tmp_path)


def test_a_name_of_a_mesh_that_no_file_can_have(tmp_path: Path) -> None:
    entry = json.loads(seeds.meshes()[0])["car"]
    (tmp_path / "meshes.json").write_text(json.dumps({"x" * 5000: entry}))
    with pytest.raises(CatalogError, match="does not exist: add the file"):
        read_entries(tmp_path)


def _archive(members: dict[str, bytes], compression: int) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return written.getvalue()


def test_a_compressed_checkpoint_is_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(
        _archive({"archive/data.pkl": b"\x80\x02}.", "archive/data/0": bytes(64 * MIB)}, zipfile.ZIP_DEFLATED)
    )
    assert path.stat().st_size < MIB
    with bounded(4), pytest.raises(CheckpointError, match="unpacks to more"):
        load_checkpoint(path)
    with bounded(4), pytest.raises(ValueError, match="unpacks to more"):
        read_state_dict(path)


STRANGE = {
    "repeated": torch.zeros(1).expand(10**6, 10**6),
    "sparse": torch.sparse_coo_tensor(
        torch.zeros((1, 0), dtype=torch.long), torch.zeros(0), (10**12,), check_invariants=True
    ),
    "without memory": torch.empty(10**12, device="meta"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_tensors_that_state_more_than_they_hold(name: str, tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    content = {**seeds.checkpoint_content(), "weights": {"w": STRANGE[name]}}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="fewer values in the file"):
        load_checkpoint(path)
    torch.save(
        {"optimizer": [{"w": STRANGE[name]}], **seeds.checkpoint_content(), "training_state": {"a": (STRANGE[name],)}},
        path,
    )
    with pytest.raises(CheckpointError, match="fewer values in the file"):
        load_checkpoint(path)
    torch.save({"w": STRANGE[name]}, path)
    with pytest.raises(ValueError, match="fewer values in the file"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "change",
    [
        *({"input_size": [2**30, 2**30]}, {"input_size": "ab"}, {"head_channels": 10**9}, {"num_keypoints": 10**9}),
        *({"num_deconvs": 30}, {"name": "vit_giant_patch14_clip_224"}, {"name": None}, {"drop_path_rate": "x"}),
        *({"name": "hf-hub:someone/something"}, {"name": "local-dir:/tmp"}),
    ],
)
def test_an_architecture_that_would_need_memory_without_end(change: dict[str, Any]) -> None:
    architecture = {**seeds.ARCHITECTURE, **change}
    with bounded(64), pytest.raises(CheckpointError, match="no network of this architecture"):
        load_net(Checkpoint(architecture, seeds.weights_of_architecture(), {}, 1, {}))


def _with_array(name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(io.BytesIO(seeds.predictions()[0])) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    return _archive({**members, name: content}, compression)


def _array(header: str, content: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


@pytest.mark.parametrize(
    "array",
    [
        _array("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"),
        _array("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }", b"12"),
        _array("{'descr': '<U1000000000', 'fortran_order': False, 'shape': (3,), }"),
        _array("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }"),
        _array("{'descr': ("),
        _array("{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }"),
        b"",
    ],
)
def test_arrays_that_state_what_is_not_there(array: bytes, tmp_path: Path) -> None:
    path = tmp_path / "predictions.npz"
    path.write_bytes(_with_array("lengths.npy", array))
    with bounded(8), pytest.raises(PredictionsError, match=r"not a (readable )?predictions file"):
        load_predictions(path)


def test_predictions_are_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "predictions.npz"
    data = bytearray(_with_array("lengths.npy", bytes(MIB), zipfile.ZIP_DEFLATED))
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"lengths.npy"))
    data[at + 24 : at + 28] = struct.pack("<I", 2**31)  # as the archive's directory states it
    path.write_bytes(data)
    with bounded(8), pytest.raises(PredictionsError, match="unpacks to more"):
        load_predictions(path)


def _external(location: str) -> bytes:
    model = onnx.load_model_from_string(seeds.programs()[0])
    tensor = next(item for item in model.graph.initializer if item.name == "final.weight")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize("location", ["{absolute}", "../secret.bin", "link.bin", "/dev/zero"])
def test_models_read_no_other_files(location: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(MIB))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/link.bin").symlink_to(secret)
    path = tmp_path / "model" / "x.onnx"
    path.write_bytes(_external(location.format(absolute=secret)))
    with pytest.raises(Int8OnnxError, match="is stored in another file"):
        load_program(path)
    with pytest.raises(ValueError, match="not a readable ONNX file"):
        OnnxRunner(path)


def test_a_network_that_fails_as_it_runs(tmp_path: Path) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 3, 8, 8])
    heatmaps = helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["b", 12, "h", "w"])
    shape = helper.make_tensor("shape", TensorProto.INT64, [4], [1, 12, 7, 7])
    nodes = [helper.make_node("Reshape", ["image", "shape"], ["heatmaps"])]
    graph = helper.make_graph(nodes, "g", [image], [heatmaps], [shape])
    path = tmp_path / "x.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    with pytest.raises(OnnxRunError, match="cannot run the network"):
        OnnxRunner(path).run(np.zeros((1, 3, 8, 8), np.float32))


def _glb(change: Callable[[dict[str, Any]], None]) -> bytes:
    data = seeds.glbs()[0]
    length = struct.unpack_from("<I", data, 12)[0]
    header, rest = json.loads(data[20 : 20 + length]), data[20 + length :]
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    return data[:8] + struct.pack("<III", 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest


def _without_data(header: dict[str, Any]) -> None:
    del header["accessors"][0]["bufferView"]
    header["accessors"][0]["count"] = 10**12


def _counting(header: dict[str, Any]) -> None:
    header["accessors"][0]["count"] = 10**12


def _naming(header: dict[str, Any]) -> None:
    header["images"] = [{"uri": "../secret.jpg"}]


@pytest.mark.parametrize(
    ("change", "message"), [(_without_data, "no data"), (_counting, "states more"), (_naming, "refers to other")]
)
def test_meshes_that_need_memory_without_end_or_other_files(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "car.glb"
    path.write_bytes(_glb(change))
    with bounded(8), pytest.raises(MeshError, match=message):
        load_glb(path)
    path.write_bytes(_glb(lambda header: None))
    assert len(load_glb(path).faces)


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    "data",
    [
        _png(2**31 - 1, 2**31 - 1),
        _png(40_000, 40_000),
        b"P6 30000 30000 255\n" + b"0" * 100,
        b"P5 2000000000 1 255\n",
        b"PF\n30000 30000\n-1.0\n" + b"0" * 100,
        b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 30000 +X 30000\n" + b"\2\2\0\0" * 10,
        b"\x59\xa6\x6a\x95" + struct.pack(">7I", 30000, 30000, 24, 0, 1, 0, 0),
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
    ],
)
def test_a_few_bytes_stand_for_no_gigabytes_of_pixels(data: bytes) -> None:
    with bounded(8):
        with pytest.raises(DataError, match="image"):
            decode_picture(data)
        assert jpeg.decode_bgr(data) is None


def test_a_box_of_a_video_that_states_more_than_files_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(struct.pack(">I4sQ", 1, b"free", 2**64 - 1) + seeds.videos()[0])
    with pytest.raises(DataError, match="video"):
        Video(path)
    assert not is_video_cut_short(path)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile real.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nreal.mp4\n#EXT-X-ENDLIST\n",
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8"])
def test_a_playlist_opens_no_other_video(text: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / "real.mp4").write_bytes(seeds.videos()[0])
    path = tmp_path / f"list{suffix}"
    path.write_text(text)
    with pytest.raises(DataError, match="playlist"):
        Video(path)
    assert len(list(Video(tmp_path / "real.mp4"))) == 3
