"""The crop rule, the annotation format and the files that are written."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carkp.data import jpeg
from carkp.data.annotations import read_crops
from carkp.data.carfusion import list_frames, read_frame
from carkp.data.crops import (
    AnnotationWriter,
    cut_frame,
    is_truncated,
    move_keypoints,
    write_crops,
)
from carkp.data.frames import Box, no_keypoints
from carkp.data.issues import DataError, Issues
from carkp.data.rectangles import CropRectangle, crop_rectangle
from carkp.data.store import pack_record, split_sample_id
from carkp.data.traits import Traits
from carkp.disk import write_atomic
from carkp.keypoints.schema import MISSING, VISIBLE

FRAME = (1080, 1920)


@pytest.mark.parametrize(
    ("box", "rectangle"),
    [
        (Box(100, 100, 50, 40), (95, 92, 155, 148)),
        (Box(2, 3, 50, 40), (0, 0, 60, 56)),  # cut left and above: the extent is kept
        (Box(1900, 1060, 50, 40), (1895, 1052, 1920, 1080)),
        (Box(525, 628, 130, 77), (512, 612, 668, 720)),  # the car of a real frame
    ],
)
def test_the_crop_rule(box, rectangle):
    assert crop_rectangle(box, FRAME) == CropRectangle(*rectangle)


@given(st.floats(-3000, 3000), st.floats(-3000, 3000), st.floats(0.1, 3000), st.floats(0.1, 3000))
def test_a_crop_lies_in_the_frame_or_is_empty(x, y, w, h):
    x1, y1, x2, y2 = crop_rectangle(Box(x, y, w, h), FRAME)
    assert min(x1, y1) >= 0
    assert x2 <= FRAME[1]
    assert y2 <= FRAME[0]


def test_keypoints_move_with_the_crop():
    car = no_keypoints()
    car.points[:3] = [[100, 50], [99, 60], [119, 69]]
    car.validity[:3] = VISIBLE
    moved = move_keypoints(car, CropRectangle(100, 50, 120, 70))
    assert moved.points[:3].tolist() == [[0, 0], [-1, 10], [19, 19]]
    assert moved.points[3].tolist() == [-100, -50], "a point never labelled is (0, 0) in the frame"
    assert moved.validity[:4].tolist() == [VISIBLE, MISSING, VISIBLE, MISSING]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(3, 3, 50, 40), False),
        (Box(2, 3, 50, 40), True),
        (Box(3, 2, 50, 40), True),
        (Box(1867, 100, 50, 40), False),
        (Box(1868, 100, 50, 40), True),
        (Box(100, 1038, 50, 40), True),
    ],
)
def test_truncated_boxes_touch_the_border(box, expected):
    assert is_truncated(box, FRAME) is expected


@pytest.mark.parametrize("num_workers", [1, 2])
def test_written_crops_are_read_back(raw, lines_of, tmp_path, num_workers):
    raw.add(gt=lines_of((40, 30, 60, 40)), bb="[40 30 60 40],car\n[0 10 30 30],car\n")
    raw.add_car("test", "car_b", "2_2")
    out, issues = tmp_path / "out", Issues()
    records = list(write_crops(list_frames(raw.root, issues), out, 95, num_workers, issues, show_progress=False))
    annotations = json.loads((out / "simple_anno/keypoints_train.json").read_text())
    assert list(annotations) == [f"train/car_a/crop_imgs/1_00001_{i}.jpg" for i in (0, 1)]
    assert annotations["train/car_a/crop_imgs/1_00001_0.jpg"][0] == [46 - 34, 34 - 22, VISIBLE]
    assert annotations["train/car_a/crop_imgs/1_00001_1.jpg"] == [[0, -4, MISSING]] * 12
    meta = json.loads((out / "simple_anno/meta_train.json").read_text())
    assert meta["train/car_a/crop_imgs/1_00001_1.jpg"] == {
        "frame_size": [90, 160],
        "box": [0, 10, 30, 30],
        "crop": [0, 4, 36, 46],
        "truncated": True,
    }
    crop = cv2.imread(str(out / "train/car_a/crop_imgs/1_00001_0.jpg"))
    frame = cv2.imread(str(raw.root / "train/car_a/images_jpg/1_00001.jpg"))
    assert np.abs(crop.astype(int) - frame[22:78, 34:106]).mean() < 3
    assert [record.sample_id for record in records] == [
        "train/car_a/1_00001_0",
        "train/car_a/1_00001_1",
        "test/car_b/2_2_0",
    ]
    again = list(read_crops(out, issues, show_progress=False))
    assert [pack_record(record) for record in again] == [pack_record(record) for record in records]
    assert not list(out.rglob("*.partial"))


def test_unusable_frames_and_boxes_are_counted(raw, lines_of, tmp_path, picture):
    data = cv2.imencode(".jpg", picture(90, 160))[1].tobytes()
    box, gt = "[40 30 60 40],car", lines_of((40, 30, 60, 40))
    raw.add(frame="1_1", gt=gt, bb=box, image=b"no picture")
    raw.add(frame="1_2", gt=gt, bb=box, image=b"")
    raw.add(frame="1_3", gt=gt, bb=box, image=data[: len(data) // 2])
    raw.add(frame="1_4", gt=lines_of((40, 30, 60, 40), instance=5), bb="[400 30 60 40],car\n[159.6 30 1 1],car")
    issues = Issues()
    assert not list(write_crops(list_frames(raw.root, issues), tmp_path / "out", 95, 1, issues, show_progress=False))
    assert json.loads((tmp_path / "out/simple_anno/keypoints_train.json").read_text()) == {}
    assert {reason: tally.count for reason, tally in issues.skipped.items()} == {
        "image cannot be decoded": 2,
        "image file is cut short": 1,
        "box lies outside the frame or is smaller than two pixels": 2,
        "car has keypoints but no box": 1,
    }


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    def interrupted():
        with AnnotationWriter(tmp_path, "train"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_is_replaced_as_a_whole(tmp_path):
    write_atomic(tmp_path / "a/b.bin", b"old")
    write_atomic(tmp_path / "a/b.bin", b"new")
    assert [path.read_bytes() for path in (tmp_path / "a").iterdir()] == [b"new"]


@pytest.mark.parametrize("size", [(1, 1), (17, 300), (120, 200)])
def test_the_size_is_read_from_the_header(size, picture):
    data = jpeg.encode_bgr(picture(*size), 90)
    assert jpeg.read_size(data) == size
    assert not jpeg.is_cut_short(data)
    assert jpeg.is_cut_short(data[:-2])


@given(st.binary(max_size=80))
def test_no_bytes_make_the_header_reader_raise(data):
    jpeg.read_size(data)
    jpeg.read_size(b"\xff\xd8" + data)


ENTRY = [[1.0, 2.0, 2]] * 12


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("train/car_a/crop_imgs/1_1_0.jpg", ENTRY[:11], "not 12 times"),
        ("train/car_a/crop_imgs/1_1_0.jpg", [[1, 2, 3]] * 12, "not 12 times"),
        ("train/car_a/crop_imgs/1_1_0.jpg", [["a", 2, 1]] * 12, "not 12 times"),
        ("train/car_a/crop_imgs/1_1_0.jpg", None, "not 12 times"),
        ("1_1_0.jpg", ENTRY, "names no scene"),
        ("train/car_a/crop_imgs/gone.jpg", ENTRY, "missing"),
    ],
)
def test_bad_entries_are_counted(tmp_path, key, value, reason):
    crop = tmp_path / "train/car_a/crop_imgs/1_1_0.jpg"
    write_atomic(crop, b"")
    write_atomic(tmp_path / "simple_anno/keypoints_train.json", json.dumps({key: value}).encode())
    issues = Issues()
    assert list(read_crops(tmp_path, issues, show_progress=False)) == []
    ((found, tally),) = issues.skipped.items()
    assert reason in found
    assert key in tally.first


@pytest.mark.parametrize(
    "key", ["./somewhere/else/train/car_a/crop_imgs/1_1_0.jpg", "train\\car_a\\crop_imgs\\1_1_0.jpg"]
)
def test_keys_of_other_writers_are_understood(tmp_path, key):
    write_atomic(tmp_path / "train/car_a/crop_imgs/1_1_0.jpg", jpeg.encode_bgr(np.zeros((5, 6, 3), np.uint8), 90))
    write_atomic(tmp_path / "simple_anno/keypoints_train.json", json.dumps({key: ENTRY}).encode())
    (record,) = read_crops(tmp_path, Issues(), show_progress=False)
    assert (record.sample_id, record.truncated) == ("train/car_a/1_1_0", -1)


def test_sample_ids_are_taken_apart():
    assert split_sample_id("train/car_a/1_00001_12") == ("train", "1_00001")
    assert split_sample_id("test/car_a/odd") == ("test", "odd")


def read_one(tmp_path, data: bytes, points) -> tuple[list, Issues]:
    write_atomic(tmp_path / "train/car_a/crop_imgs/1_1_0.jpg", data)
    content = {"train/car_a/crop_imgs/1_1_0.jpg": points}
    write_atomic(tmp_path / "simple_anno/keypoints_train.json", json.dumps(content).encode())
    issues = Issues()
    return list(read_crops(tmp_path, issues, show_progress=False)), issues


@pytest.mark.parametrize("place", [float("nan"), 1e30, -4.2e9])
def test_a_point_of_a_crop_far_away_is_missing(tmp_path, place):
    data = jpeg.encode_bgr(np.zeros((5, 6, 3), np.uint8), 90)
    (record,), issues = read_one(tmp_path, data, [[place, 1, 2], *ENTRY[1:]])
    assert record.validity.tolist() == [0] + [2] * 11
    assert record.points[0].tolist() == [0, 0]
    assert [tally.count for tally in issues.skipped.values()] == [1]


def test_a_crop_of_another_size_than_its_header_says_is_counted(tmp_path):
    data = bytearray(jpeg.encode_bgr(np.zeros((16, 16, 3), np.uint8), 90))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 7] = (0).to_bytes(2, "big")  # the height comes later, as some scanners write it
    records, issues = read_one(tmp_path, bytes(data), ENTRY)
    assert records == []
    assert [tally.count for tally in issues.skipped.values()] == [1]


def test_crops_of_one_scene_and_name_do_not_become_one_sample_twice(tmp_path):
    data = jpeg.encode_bgr(np.zeros((5, 6, 3), np.uint8), 90)
    keys = ["a/car_a/crop_imgs/1_1_0.jpg", "b/car_a/crop_imgs/1_1_0.jpg"]
    for key in keys:
        write_atomic(tmp_path / key, data)
    content = json.dumps(dict.fromkeys(keys, ENTRY))
    write_atomic(tmp_path / "simple_anno/keypoints_train.json", content.encode())
    issues = Issues()
    assert len(list(read_crops(tmp_path, issues, show_progress=False))) == 1
    assert [tally.count for tally in issues.skipped.values()] == [1]


def test_a_name_that_is_too_long_for_a_crop_is_counted(raw, tmp_path):
    raw.add_car(frame="x" * 250)
    raw.add_car(frame="y" * 245)
    issues = Issues()
    records = list(write_crops(list_frames(raw.root, issues), tmp_path / "out", 95, 1, issues, show_progress=False))
    assert [record.sample_id[-3:] for record in records] == ["y_0"]
    assert [tally.count for tally in issues.skipped.values()] == [1]


def test_a_crop_that_cannot_be_written_ends_with_what_to_do(raw, tmp_path, monkeypatch):
    raw.add_car()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    issues = Issues()
    with pytest.raises(DataError, match=r"1_00001_0\.jpg cannot be written: No space left"):
        list(write_crops(list_frames(raw.root, issues), tmp_path / "out", 95, 1, issues, show_progress=False))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_traits_go_into_the_sidecar_and_truncation_is_taken_from_them(raw, tmp_path):
    raw.add_car()
    (files,) = list_frames(raw.root, Issues())
    frame = read_frame(files, Issues())
    traits = Traits(kind="bus", occluded=False, truncated=True)
    frame = replace(frame, instances=tuple(replace(car, traits=traits) for car in frame.instances))
    (record,) = write_crops([frame], tmp_path / "out", 95, 1, Issues(), show_progress=False)
    assert record.truncated == 1  # the box touches no border, but a person said so
    (meta,) = json.loads((tmp_path / "out/simple_anno/meta_train.json").read_text()).values()
    assert (meta["kind"], meta["occluded"], meta["truncated"]) == ("bus", False, True)
    assert "heading" not in meta
    (again,) = read_crops(tmp_path / "out", Issues(), show_progress=False)
    assert again.truncated == 1


def test_cutting_a_frame_writes_nothing(raw, tmp_path):
    raw.add_car()
    (files,) = list_frames(raw.root, Issues())
    before = sorted(tmp_path.rglob("*"))
    (crop,) = cut_frame(files, 95, Issues())
    (record,) = write_crops([files], tmp_path / "out", 95, 1, Issues(), show_progress=False)
    assert sorted(path for path in tmp_path.rglob("*") if tmp_path / "out" not in (path, *path.parents)) == before
    assert pack_record(crop.record) == pack_record(record)
