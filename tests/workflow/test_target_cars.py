"""The user's own cars: cut out as inference cuts them, held out by picture, labelled ones by their own splits."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from carkp.config.loading import load_config
from carkp.data import jpeg
from carkp.data.boxes import read_boxes
from carkp.data.frames import Box
from carkp.data.issues import DataError, Issues
from carkp.data.pictures import list_pictures
from carkp.data.rectangles import crop_rectangle
from carkp.data.video import VideoWriter
from carkp.synthetic.generate import generate
from carkp.workflow.preparation import synthetic_spec
from carkp.workflow.target_cars import NONE, NUM_FRAMES_TOGETHER, TargetSources, collect_cars, pack_unlabelled
from tests.stages.conftest import ROOT, TINY

BOXES = {"a.png": [[10, 20, 60, 40], [100, 30, 50, 50]], "b.png": [[40, 40, 80, 60]]}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    y, x = np.mgrid[:120, :200]
    image = np.stack((x, 2 * y, 255 - x), axis=-1).astype(np.uint8)  # place and channel tell in every pixel
    for name in ("a.png", "b.png", "no_boxes.png"):
        cv2.imwrite(str(folder / name), image)
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


def given(folder: Path, boxes: Path | None, labels: Path | None = None) -> TargetSources:
    return TargetSources(list_pictures(folder), read_boxes(boxes) if boxes else None, labels)


def boxes_as(form: str, folder: Path) -> Path:
    path = folder / f"boxes.{form}"
    if form == "json":
        path.write_text(json.dumps(BOXES))
    elif form == "csv":
        rows = [f"{name},{','.join(map(str, box))}" for name, boxes in BOXES.items() for box in boxes]
        path.write_text("\n".join(["image,x,y,w,h", *rows]))
    else:
        path.mkdir()
        for name, boxes in BOXES.items():
            lines = "\n".join(as_line(form, box) for box in boxes)
            (path / f"{Path(name).stem}.txt").write_text(lines)
    return path


def as_line(form: str, box: list[int]) -> str:
    x, y, width, height = box
    if form == "yolo":
        return f"2 {(x + width / 2) / 200} {(y + height / 2) / 120} {width / 200} {height / 120}"
    return f"[{x} {y} {width} {height}],car"


@pytest.mark.parametrize("form", ["json", "csv", "bb", "yolo"])
def test_every_form_of_boxes_that_inference_reads_gives_its_crops(pictures: Path, tmp_path: Path, form: str) -> None:
    issues = Issues()
    store, groups = pack_unlabelled(given(pictures, boxes_as(form, tmp_path)), tmp_path / "store", 100, issues)
    assert groups == ["a.png", "a.png", "b.png"]
    unused = [] if form == "yolo" else ["picture has no boxes that can be used"]  # no labels are no cars there
    assert sorted(issues.skipped) == [*unused, "picture or video cannot be read"]
    image = cv2.imread(str(pictures / "a.png"))
    for place, box in enumerate(BOXES["a.png"]):
        x1, y1, x2, y2 = crop_rectangle(Box(*map(float, box)), (120, 200))
        record = store[place]
        assert record.size == (y2 - y1, x2 - x1)
        assert (record.validity == 0).all()
        decoded = jpeg.decode_bgr(record.jpeg)
        assert decoded is not None
        assert np.abs(decoded.astype(int) - image[y1:y2, x1:x2]).mean() < 2


def test_without_boxes_a_whole_picture_is_a_car(pictures: Path, tmp_path: Path) -> None:
    store, groups = pack_unlabelled(given(pictures, None), tmp_path / "store", 90, Issues())
    assert groups == ["a.png", "b.png", "no_boxes.png"]
    assert store[0].size == (120, 200)


def test_no_car_at_all_is_an_error_that_says_why(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps({"z.png": [[0, 0, 9, 9]]}))
    with pytest.raises(DataError, match=r"no car to adapt to in 4 pictures: .*no boxes"):
        pack_unlabelled(given(pictures, tmp_path / "boxes.json"), tmp_path / "store", 90, Issues())
    assert not (tmp_path / "store").exists()


def test_stretches_of_a_video_stay_together(tmp_path: Path) -> None:
    path = tmp_path / "drive.mp4"
    with VideoWriter(path, 10.0) as writer:
        for number in range(NUM_FRAMES_TOGETHER + 2):
            writer.add(np.full((64, 96, 3), 4 * number, np.uint8))
    _, groups = pack_unlabelled(TargetSources([path], None, None), tmp_path / "store", 90, Issues())
    assert groups == [*["drive.mp4#0"] * NUM_FRAMES_TOGETHER, *["drive.mp4#1"] * 2]


def test_held_out_cars_are_of_other_pictures(pictures: Path, tmp_path: Path) -> None:
    cars = collect_cars(given(pictures, boxes_as("json", tmp_path)), tmp_path / "out", 90, "files", 0.4, 1, 0)
    assert cars.unlabelled is not None
    learnt, held_out = (
        {cars.unlabelled.store[int(place)].scene for place in places}
        for places in (cars.unlabelled.learnt, cars.unlabelled.held_out)
    )
    assert learnt | held_out == {"a.png", "b.png"}
    assert not learnt & held_out
    assert cars.digests == {"unlabelled": cars.unlabelled.store.info.digest, "labelled": NONE}


def test_nothing_given_is_nothing_to_adapt_to(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to adapt to"):
        collect_cars(TargetSources([], None, None), tmp_path, 90, "files", 0.2, 1, 0)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labelled") / "source"
    generate(path, synthetic_spec(load_config(ROOT / TINY, [])), num_workers=1)
    return path


def test_labelled_cars_of_a_test_split_are_scored_and_all_others_learnt(labelled: Path, tmp_path: Path) -> None:
    cars = collect_cars(TargetSources([], None, labelled), tmp_path, 90, "files", 0.2, 1, 0)
    assert cars.unlabelled is None
    assert cars.labelled is not None
    assert len(cars.labelled.learnt) == len(cars.labelled.store) > 0
    assert len(cars.labelled.held_out) == 0
    assert [store.sample_id(0).split("/")[0] for store in cars.scored] == ["test"]
    assert cars.digests["labelled"] != NONE


def test_without_a_test_split_some_pictures_are_held_out(labelled: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "train").symlink_to(labelled / "train")
    cars = collect_cars(TargetSources([], None, source), tmp_path / "out", 90, "files", 0.3, 1, 0)
    assert cars.labelled is not None
    assert not cars.scored
    ids = [
        {cars.labelled.store.sample_id(int(place)).rpartition("_")[0] for place in places}
        for places in (cars.labelled.learnt, cars.labelled.held_out)
    ]
    assert all(ids)
    assert not ids[0] & ids[1]


def test_labels_without_cars_to_learn_from_are_refused(labelled: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "test").symlink_to(labelled / "test")
    with pytest.raises(DataError, match="no car to train on"):
        collect_cars(TargetSources([], None, source), tmp_path / "out", 90, "files", 0.3, 1, 0)


def test_large_pictures_without_boxes_are_warned_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((480, 700, 3), np.uint8))
    pack_unlabelled(given(tmp_path, None), tmp_path / "store", 90, Issues())
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert "a.png: the whole picture, 700x480 pixels, was used as one car" in warning
    assert "boxes=auto" in warning
