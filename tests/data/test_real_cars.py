"""Labelled cars are the same from every layout, and cut as data preparation cuts them."""

import json
from pathlib import Path

import numpy as np
import pytest

from carkp.data.issues import DataError, Issues
from carkp.data.prepare import prepare
from carkp.data.real_cars import LabelledCar, read_labelled_cars
from carkp.data.store import open_stores
from carkp.keypoints.clusters import units_of
from tests.real_cars import DrawnCar, write_coco, write_list

QUALITY = 95
CARS = [
    DrawnCar("a.png", traits={"kind": "suv", "heading": "rear", "occluded": True, "truncated": True, "source": "x"}),
    DrawnCar("a.png", box=(110.0, 40.0, 60.0, 50.0), hidden=(0, 4), missing=(1, 2)),
    DrawnCar("b.png", box=(150.0, 40.0, 50.0, 60.0)),
]


def read(*folders: Path) -> tuple[list[LabelledCar], Issues]:
    issues = Issues()
    return read_labelled_cars(folders, QUALITY, issues), issues


def described(cars: list[LabelledCar]) -> list[dict[str, str]]:
    return [car.described for car in cars]


def test_the_list_layout(tmp_path: Path) -> None:
    cars, issues = read(write_list(tmp_path / "set", CARS))
    assert not issues.skipped
    assert [car.record.sample_id for car in cars] == ["set/a/0", "set/a/1", "set/b/0"]
    assert [car.record.validity.tolist() for car in cars] == [[2] * 12, [1, 0, 0, 2, 1, *[2] * 7], [2] * 12]
    assert cars[0].record.size == (84, 108)  # the box of 90 x 60 with HAT's margins
    assert np.allclose(cars[0].record.points, np.array(CARS[0].rows())[:, :2] - (31, 18), atol=1e-3)
    first, second, third = described(cars)
    assert (first["kind"], first["view"], first["occluded"], first["source"]) == ("suv", "rear", "yes", "x")
    assert [car["truncated"] for car in (first, second, third)] == ["yes", "no", "yes"]  # as said, then by the box
    assert second["kind"] == second["heading"] == "unknown"


@pytest.mark.parametrize("name", ["annotations.json", "cars_of_a_street.json", "car_keypoints_test.json"])
def test_coco_gives_the_same_cars_under_any_name(tmp_path: Path, name: str) -> None:
    listed, _ = read(write_list(tmp_path / "list", CARS))
    cars, issues = read(write_coco(tmp_path / "coco", CARS, name))
    assert not issues.skipped
    assert described(cars) == described(listed)
    for car, other in zip(cars, listed, strict=True):
        assert car.record.jpeg == other.record.jpeg
        assert np.array_equal(car.record.points[car.record.validity > 0], other.record.points[car.record.validity > 0])
    assert [car.record.sample_id.split("/")[0] for car in cars] == ["coco"] * 3


def test_a_json_file_alone_is_enough(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "coco", CARS, "street.json")
    assert len(read(folder / "street.json")[0]) == 3
    assert len(read(write_list(tmp_path / "list", CARS) / "annotations.json")[0]) == 3


def test_cars_are_cut_as_data_preparation_cuts_them(raw, tmp_path: Path) -> None:
    raw.add_car("train", "car_a", "1_00001")
    raw.add_car("test", "car_penn1", "1_00002")
    prepare(raw.root, tmp_path / "out", (), 1, QUALITY, show_progress=False)
    stores = open_stores(tmp_path / "out")
    prepared = {store.sample_id(i): store[i] for store in (stores.train, stores.test) for i in range(len(store))}
    cars, _ = read(raw.root)
    assert [car.record.sample_id for car in cars] == ["raw/train/car_a/1_00001_0", "raw/test/car_penn1/1_00002_0"]
    for car in cars:
        record = prepared[car.record.sample_id.removeprefix("raw/")]
        assert car.record.jpeg == record.jpeg
        assert np.array_equal(car.record.points, record.points)
        assert np.array_equal(car.record.validity, record.validity)
        assert (car.record.size, car.record.truncated) == (record.size, record.truncated)


def test_clusters_are_photographs_and_cameras_of_videos(raw, tmp_path: Path) -> None:
    raw.add_car("train", "car_a", "1_00001")
    raw.add_car("train", "car_a", "1_00002")
    raw.add_car("train", "car_a", "2_00001")
    cars, _ = read(write_list(tmp_path / "set", CARS), raw.root)
    units = units_of([car.record.sample_id for car in cars], np.ones(len(cars), bool))
    assert units.places.tolist() == [0, 0, 1, 2, 2, 3]
    assert (units.resampled.num_scenes, units.resampled.num_cameras) == (2, 2)


def test_folders_of_one_name_stay_apart(tmp_path: Path) -> None:
    folders = [write_list(tmp_path / place / "set", CARS[:1]) for place in ("one", "two")]
    cars, _ = read(*folders)
    assert [car.record.sample_id for car in cars] == ["set/a/0", "set~1/a/0"]


def test_dirt_is_counted(tmp_path: Path) -> None:
    folder = write_list(tmp_path / "set", [*CARS, DrawnCar("gone.png"), DrawnCar("a.png", missing=range(12))])
    path = folder / "annotations.json"
    (folder / "images" / "gone.png").unlink()
    good = json.loads(path.read_text())
    spoilt = [
        "text",
        {**good[0], "image": None},
        {**good[0], "box": [1, 2, 0, 4]},
        {**good[0], "keypoints": [[1, 2, 3]] * 12},
        {**good[0], "keypoints": good[0]["keypoints"][:11]},
        {**good[0], "keypoints": [[1e9, 2, 2], *good[0]["keypoints"][1:]]},
        {**good[0], "box": [300, 30, 20, 20]},
    ]
    path.write_text(json.dumps(good + spoilt))
    cars, issues = read(folder)
    assert len(cars) == 3
    assert {reason: tally.count for reason, tally in issues.skipped.items()} == {
        "entry is not an object that names an image": 2,
        "box is empty or not four numbers": 1,
        "keypoints are not 12 times [x, y, 0, 1 or 2]": 3,
        "frame has labels but no image": 1,
        "car has no labelled keypoint in its box": 1,
        "box lies outside the frame or is smaller than two pixels": 1,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", r"annotations\.json:1: not JSON at column 2"),
        ("[]", "has no car with a labelled keypoint"),
        ('{"images": 1}', "needs the lists 'images' and 'annotations'"),
        ('[{"image": "a.png"}]', "left out: 1 x box is empty or not four numbers"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "annotations.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_what_is_no_folder_of_cars_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder of real cars"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is not CarFusion data"):
        read(tmp_path)
    (tmp_path / "simple_anno").mkdir()
    (tmp_path / "simple_anno" / "keypoints_train.json").write_text("{}")
    with pytest.raises(DataError, match="holds crops"):
        read(tmp_path)
