"""What fails of one picture stops no other, and keypoints.json is there in any case."""

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from carkp.config.loading import ConfigError
from carkp.data.boxes import read_boxes
from carkp.data.issues import DataError
from carkp.predictor import Predictor
from carkp.stages import infer
from carkp.stages.infer import InferInputs, InferResult
from carkp.tracking.tracker import NullTracker
from carkp.workflow import inference, pictures
from carkp.workflow.car_detector import CarDetector
from carkp.workflow.own_pictures import describe_notes
from tests.tiny_models import TinyModels

SIZE = (90, 160)
BOX = [20, 10, 80, 50]
Picture = NDArray[np.uint8]


def picture(seed: int, size: tuple[int, int] = SIZE) -> Picture:
    small = np.random.default_rng(seed).integers(0, 256, (9, 16, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(small, size[::-1]), np.uint8)


def write(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, picture(seed, size))[1].tobytes())
    return path


def turn(path: Path, orientation: int = 6) -> Path:
    """Writes EXIF into a JPEG."""
    body = b"Exif\0\0II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, orientation, 0) + bytes(4)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:])
    return path


def clip(path: Path, num_frames: int = 6, fps: float = 10.0) -> Path:
    codec = "mp4v" if path.suffix == ".mp4" else "MJPG"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, SIZE[::-1])
    for index in range(num_frames):
        writer.write(picture(index))
    writer.release()
    return path


Run = Callable[..., InferResult]


@pytest.fixture
def run(tiny_models: TinyModels, tmp_path: Path) -> Run:
    predictor = Predictor.load(tiny_models.int8_onnx)

    def run_on(*paths: Path, boxes: Any = None, tracker: Any = None, **more: Any) -> InferResult:
        if boxes is not None:
            (tmp_path / "boxes.json").write_text(json.dumps(boxes))
        book = None if boxes is None else read_boxes(tmp_path / "boxes.json")
        inputs = InferInputs(paths, more.pop("source", book), more.pop("predictor", predictor), "tiny", **more)
        return infer.run(inputs, tmp_path / "out", tracker or NullTracker())

    return run_on


def found_in(folder: Path) -> Mapping[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content: Mapping[str, Any] = json.loads((folder / "out" / "keypoints.json").read_text(), parse_constant=refuse)
    return content


def names_in(folder: Path) -> set[str]:
    return set(os.listdir(folder / "out"))  # noqa: PTH208


def test_a_picture_too_wide_for_jpeg_is_drawn_as_png(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(cv2.imencode(".png", np.full((12, 66_000, 3), 90, np.uint8))[1].tobytes())
    result = run(write(tmp_path / "a.jpg"), tmp_path / "m.png", write(tmp_path / "z.jpg"))
    assert (list(result.found), result.errors) == (["a.jpg", "m.png", "z.jpg"], {})
    assert names_in(tmp_path) == {"a.jpg", "m.png", "z.jpg", "keypoints.json"}
    drawn = cv2.imread(str(tmp_path / "out" / "m.png"))
    assert drawn is not None
    assert drawn.shape == (12, 66_000, 3)


def test_an_output_that_cannot_be_written_costs_itself_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = Path.write_bytes
    count = 0

    def full(path: Path, data: bytes) -> int:
        nonlocal count
        count += path.suffix == ".partial"
        if path.suffix == ".partial" and count == 2:
            write_bytes(path, data[:10])
            raise OSError(28, "No space left on device")
        return write_bytes(path, data)

    paths = [write(tmp_path / f"{name}.jpg") for name in "abc"]
    monkeypatch.setattr(pictures.Path, "write_bytes", full)
    result = run(*paths)
    assert list(result.found) == ["a.jpg", "b.jpg", "c.jpg"]
    assert list(result.errors) == ["b.jpg"]
    assert "the drawn file could not be written: " in result.errors["b.jpg"]
    assert "b.jpg: No space left on device" in result.errors["b.jpg"]
    assert names_in(tmp_path) == {"a.jpg", "c.jpg", "keypoints.json"}
    assert found_in(tmp_path)["errors"] == result.errors


def test_a_folder_in_the_place_of_an_output(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out" / "a.jpg").mkdir(parents=True)
    (tmp_path / "out" / "clip.mp4" / "x").mkdir(parents=True)
    result = run(write(tmp_path / "a.jpg"), clip(tmp_path / "clip.avi"), write(tmp_path / "b.jpg"))
    assert set(result.errors) == {"a.jpg", "clip.avi"}
    assert names_in(tmp_path) == {"a.jpg", "clip.mp4", "b.jpg", "keypoints.json"}


def test_keypoints_are_written_also_when_the_run_is_ended(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write(tmp_path / "a.jpg"), write(tmp_path / "b.jpg")]
    write_picture = inference.write_picture

    def interrupted(stem: Path, image: Picture) -> Path:
        if stem.name == "b":
            raise KeyboardInterrupt
        return write_picture(stem, image)

    monkeypatch.setattr(inference, "write_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(*paths)
    assert set(found_in(tmp_path)["images"]) == {"a.jpg", "b.jpg"}


def test_a_model_of_nan_is_an_error_for_each_picture(run: Run, tiny_models: TinyModels, tmp_path: Path) -> None:
    def forward(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full((len(images), 12, 16, 16), np.nan, np.float32)

    diverged = Predictor(forward, tiny_models.codec, (64, 64), "float ONNX", 1)
    result = run(write(tmp_path / "a.jpg"), clip(tmp_path / "b.avi", 2), predictor=diverged)
    assert set(result.errors) == {"a.jpg", "b.avi#000000", "b.avi#000001"}
    assert all("NaN or infinite values" in text for text in result.errors.values())
    assert (found_in(tmp_path)["images"], result.num_cars) == ({}, 0)
    assert names_in(tmp_path) == {"b.mp4", "keypoints.json"}


def test_pictures_that_differ_by_folder_or_case_alone(run: Run, tmp_path: Path) -> None:
    paths = [write(tmp_path / name, seed) for seed, name in enumerate(("x/1.jpg", "y/1.jpg", "x/2.jpg", "x/2.png"))]
    boxes = {"x/1.jpg": [BOX], "y/1.jpg": [[0, 0, 30, 30]], "2.jpg": [BOX, BOX], "2.png": [BOX]}
    result = run(*paths, boxes=boxes)
    assert result.errors == {}
    found = {name: [car["box"] for car in record["cars"]] for name, record in result.found.items()}
    assert found == boxes
    assert len(result.files) == len(set(result.files)) == 5


def test_odd_names_are_drawn_and_logged_safely(run: Run, tmp_path: Path) -> None:
    logged: dict[str, bytes] = {}

    class Recorder(NullTracker):
        def log_file(self, path: Path, folder: str) -> None:
            assert folder == "infer"
            assert path.name not in logged
            logged[path.name] = path.read_bytes()

    names = ["car.jpg", "car#1.jpg", "car%1.jpg", "100%.jpg", "a b:c?.jpg"]
    paths = [write(tmp_path / name, seed) for seed, name in enumerate(names)]
    result = run(*paths, boxes={name: [BOX] for name in names}, tracker=Recorder())
    assert result.errors == {}
    assert names_in(tmp_path) == {*names, "keypoints.json"}
    safe = ["car.jpg", "car_1.jpg", "car_1 (2).jpg", "100_.jpg", "a b_c_.jpg"]
    assert list(logged) == ["keypoints.json", *safe]
    assert [logged[name] for name in safe] == [(tmp_path / "out" / name).read_bytes() for name in names]


def test_a_name_that_is_no_utf8(run: Run, tmp_path: Path) -> None:
    try:
        path = write(tmp_path / os.fsdecode(b"caf\xe9.jpg"))
    except OSError:
        pytest.skip("this file system takes no such name")
    result = run(path, boxes={"caf\u00e9.jpg": [BOX]})
    assert result.errors == {}
    assert list(found_in(tmp_path)["images"]) == ["caf\\udce9.jpg"]
    assert os.fsencode(result.files[1].name) == b"caf\xe9.jpg"


def test_an_artifact_that_is_refused_stops_no_other(run: Run, tmp_path: Path) -> None:
    logged = []

    class Refusing(NullTracker):
        def log_file(self, path: Path, folder: str) -> None:
            if path.name == "a.jpg":
                raise RuntimeError("the server says no")
            logged.append(path.name)

    result = run(write(tmp_path / "a.jpg"), write(tmp_path / "b.jpg"), tracker=Refusing())
    assert logged == ["keypoints.json", "b.jpg"]
    assert "is not stored in the run, but in" in result.errors["infer/a.jpg"]
    assert "the server says no" in result.errors["infer/a.jpg"]


def test_orientation_is_one_rule(run: Run, tmp_path: Path) -> None:
    upright_box = [100 - 60, 0, 50, 80]  # in the 90 wide, 160 high picture that a viewer shows
    path = turn(write(tmp_path / "a.jpg"))
    ignored = run(path, boxes={"a.jpg": [BOX]})
    record = ignored.found["a.jpg"]
    assert (record["width"], record["height"]) == (160, 90)
    assert "it states a rotation, which was ignored" in ignored.notes["a.jpg"]
    assert found_in(tmp_path)["notes"] == ignored.notes
    applied = run(path, boxes={"a.jpg": [upright_box]}, orientation="apply")
    record = applied.found["a.jpg"]
    assert (record["width"], record["height"], applied.notes) == (90, 160, {})
    drawn = cv2.imread(str(tmp_path / "out" / "a.jpg"))
    assert drawn is not None
    assert drawn.shape == (160, 90, 3)
    with pytest.raises(DataError, match="orientation=on: expected one of ignore, apply"):
        run(path, orientation="on")


def test_applied_orientation_gives_what_the_turned_picture_gives(run: Run, tmp_path: Path) -> None:
    stored, exif = picture(3), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(stored, -1)).save(tmp_path / "turned.png")
    Image.fromarray(stored).save(tmp_path / "stored.png", exif=exif)
    result = run(tmp_path / "turned.png", tmp_path / "stored.png", orientation="apply")
    assert result.found["turned.png"] == result.found["stored.png"]


def test_a_cut_video_gives_frames_and_an_error(run: Run, tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.avi", 40)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    result = run(path, write(tmp_path / "a.jpg"))
    assert "video is cut short: it states 40 frames" in result.errors["clip.avi"]
    assert 10 < len(result.found) < 40
    assert {"clip.mp4", "a.jpg", "keypoints.json"} == names_in(tmp_path)


def test_a_video_that_cannot_be_written_keeps_its_keypoints(run: Run, tmp_path: Path) -> None:
    size = (20, 9000)
    writer = cv2.VideoWriter(str(tmp_path / "w.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, size[::-1])
    for index in range(3):
        writer.write(picture(index, size))
    writer.release()
    result = run(tmp_path / "w.avi", write(tmp_path / "z.jpg"))
    assert [*result.found] == ["w.avi#000000", "w.avi#000001", "w.avi#000002", "z.jpg"]
    assert "cannot write a video of 9000x20 pixels" in result.errors["w.avi"]
    assert names_in(tmp_path) == {"z.jpg", "keypoints.json"}


def test_an_odd_rate_is_told(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(clip(tmp_path / "whole.avi")).notes == {}
    number = inference.Video._number
    monkeypatch.setattr(
        inference.Video, "_number", lambda video, prop: 0.0 if prop == cv2.CAP_PROP_FPS else number(video, prop)
    )
    result = run(tmp_path / "whole.avi")
    assert result.errors == {}
    assert result.notes == {"whole.avi": "it states no frame rate; the drawn video has 25"}


def test_a_rate_that_mpeg_4_cannot_hold_is_written_nearly(run: Run, tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.jpg"), clip(tmp_path / "clip.avi", fps=211.222), write(tmp_path / "z.jpg")]
    result = run(*paths)
    assert result.errors == {}
    assert {"a.jpg", "clip.mp4", "z.jpg", "keypoints.json"} == names_in(tmp_path)
    with inference.Video(tmp_path / "out" / "clip.mp4") as video:
        assert video.fps == pytest.approx(211.222, rel=1e-4)
        assert len(list(video)) == 6


def test_notes_are_joined() -> None:
    notes = {"a": "turned", "b": "fast", "c": "turned"}
    assert describe_notes(notes) == "note: a and 1 more: turned\nnote: b: fast\n"


def test_a_file_in_the_place_of_the_output_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="out cannot be written: File exists"):
        run(write(tmp_path / "a.jpg"))


def test_what_an_earlier_run_drew_does_not_stand_for_this_one(run: Run, tmp_path: Path) -> None:
    path, video = write(tmp_path / "a.jpg"), clip(tmp_path / "v.mp4")
    run(path, video)
    assert names_in(tmp_path) == {"a.jpg", "v.mp4", "keypoints.json"}
    path.write_bytes(path.read_bytes()[:500])
    video.write_bytes(video.read_bytes()[:500])
    result = run(path, video)
    assert set(result.errors) == {"a.jpg", "v.mp4"}
    assert names_in(tmp_path) == {"keypoints.json"}


def test_pictures_are_never_overwritten(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "out" / "a.jpg")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="would be overwritten"):
        run(path)
    assert path.read_bytes() == before


def test_boxes_that_json_cannot_hold_cost_their_picture_alone(run: Run, tmp_path: Path) -> None:
    far = [-8e306, -8e306, 1.6e307, 1.6e307]
    boxes = {"a.jpg": [far], "b.jpg": [BOX], "c.jpg": [[float("nan"), 1, 2, 3]], "d.jpg": [["x", 1, 2, 3]]}
    result = run(*(write(tmp_path / name) for name in boxes), boxes=boxes)
    assert "b.jpg" in result.found
    assert set(result.errors) >= {"c.jpg", "d.jpg"}
    assert set(found_in(tmp_path)["images"]) == set(result.found)


def test_pages_are_told(run: Run, tmp_path: Path) -> None:
    image = Image.fromarray(picture(0))
    image.save(tmp_path / "a.tif", save_all=True, append_images=[image])
    result = run(tmp_path / "a.tif")
    assert result.notes == {"a.tif": "it has 2 pages or pictures, only the first was used"}


def test_null_boxes_are_not_the_whole_picture(run: Run, tmp_path: Path) -> None:
    result = run(write(tmp_path / "a.jpg"), write(tmp_path / "b.jpg"), boxes={"a.jpg": None, "b.jpg": [[5, 5, 40, 30]]})
    assert list(result.found) == ["b.jpg"]
    assert "null" in result.errors["a.jpg"]


def test_boxes_without_names_are_not_for_several_pictures(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its boxes name no picture, and 2 pictures are given"):
        run(write(tmp_path / "a.jpg"), write(tmp_path / "b.jpg"), boxes=[[5, 5, 40, 30]])


def test_a_pipe_costs_itself_alone(run: Run, tmp_path: Path) -> None:
    for name in ("pipe.jpg", "pipe.mp4"):
        os.mkfifo(tmp_path / name)
    result = run(tmp_path / "pipe.jpg", tmp_path / "pipe.mp4", write(tmp_path / "z.jpg"))
    assert list(result.found) == ["z.jpg"]
    assert all("a pipe or a device" in result.errors[name] for name in ("pipe.jpg", "pipe.mp4"))


def test_a_png_that_an_earlier_run_drew_does_not_stand_for_this_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").write_bytes(b"old")
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    run(tmp_path / "a.jpg")
    assert names_in(tmp_path) == {"keypoints.json"}


def boxes_of(result: InferResult) -> dict[str, list[list[float]]]:
    return {name: [car["box"] for car in record["cars"]] for name, record in result.found.items()}


def test_frames_without_a_line_of_mot_have_no_car(run: Run, tmp_path: Path) -> None:
    (tmp_path / "det.txt").write_text("1,-1,21,11,80,50,0.9,-1,-1,-1\n3,-1,1,1,60,40,0.4,-1,-1,-1\n")
    result = run(clip(tmp_path / "clip.mp4", 4), source=read_boxes(tmp_path / "det.txt"))
    assert result.errors == {}
    frames = [f"clip.mp4#{index:06d}" for index in range(4)]
    assert boxes_of(result) == dict(zip(frames, [[BOX], [], [[0, 0, 60, 40]], []], strict=True))
    assert [result.notes[name] for name in (frames[1], frames[3])] == ["no box contains a car"] * 2
    assert "read as MOT, boxes of vehicles: 2" in result.notes["boxes"]
    assert "every box is kept" in found_in(tmp_path)["notes"]["boxes"]
    assert found_in(tmp_path)["boxes"] == str(tmp_path / "det.txt")


def test_shares_are_of_the_picture_as_it_is_taken(run: Run, tmp_path: Path) -> None:
    path = turn(write(tmp_path / "a.jpg"))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("2 0.5 0.25 0.5 0.5\n")
    book = read_boxes(tmp_path / "labels")
    assert boxes_of(run(path, source=book)) == {"a.jpg": [[40, 0, 80, 45]]}
    assert boxes_of(run(path, source=book, orientation="apply")) == {"a.jpg": [[22.5, 0, 45, 80]]}


def test_pictures_much_larger_than_a_car_are_warned_of_once(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = (500, 700)
    result = run(write(tmp_path / "a.png", 0, size), write(tmp_path / "b.png", 0, size), write(tmp_path / "c.png"))
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert "WARNING: a.png: the whole picture, 700x500 pixels, was used as one car" in warning
    assert "boxes=<file or folder>" in warning
    assert "boxes=auto" in warning
    assert list(result.notes) == ["a.png", "b.png"]
    assert describe_notes(result.notes).count("note: a.png and 1 more: the whole picture") == 1
    run(write(tmp_path / "a.png", 0, size), boxes={"a.png": [BOX]})
    assert "WARNING" not in capsys.readouterr().err


def test_a_detector_gives_the_boxes_of_each_picture_and_frame(run: Run, tmp_path: Path) -> None:
    calls = []

    def net(pictures: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        calls.append(tuple(pictures[0].shape))
        num_found = len(calls) % 2
        boxes = torch.tensor([[20.0, 10, 100, 60]])[:num_found]
        return [{"boxes": boxes, "labels": torch.full((num_found,), 3), "scores": torch.ones(num_found)}]

    result = run(write(tmp_path / "a.png"), clip(tmp_path / "b.mp4", 2), source=CarDetector(net))
    assert result.errors == {}
    assert boxes_of(result) == {"a.png": [BOX], "b.mp4#000000": [], "b.mp4#000001": [BOX]}
    assert calls == [(3, *SIZE)] * 3
    assert found_in(tmp_path)["boxes"].startswith("auto, torchvision")
    assert "with a confidence of 0.5 or more" in result.notes["boxes"]
