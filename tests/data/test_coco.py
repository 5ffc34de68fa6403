"""CarFusion's COCO JSON gives the same frames and cars as the raw layout."""

import json
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest

from carkp.data.coco import (
    find_annotation_files,
    load_json_object,
    parse_annotation,
    read_annotation_file,
    read_frames,
    scene_of,
)
from carkp.data.frames import Box
from carkp.data.issues import DataError, Issues
from carkp.data.traits import Traits
from carkp.keypoints.schema import CARFUSION_IDS


def edit(source: Path, change) -> Path:
    path = source / "annotations/car_keypoints_train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_a_frame_is_read(coco_source):
    issues = Issues()
    (frame,) = read_frames(coco_source, issues)
    assert (frame.split, frame.scene, frame.frame_id) == ("train", "car_a", "1_00001")
    assert frame.image.is_file()
    (car,) = frame.instances
    assert car.box == Box(40, 30, 60, 40)
    assert car.keypoints.points.tolist() == [[40 + 3 * raw_id, 40 + raw_id] for raw_id in CARFUSION_IDS]
    assert car.keypoints.validity.tolist() == [1 + raw_id % 2 for raw_id in CARFUSION_IDS]
    assert not issues.skipped
    assert any("'test'" in warning for warning in issues.warnings)


def test_a_json_file_alone_is_a_source(coco_source):
    path = coco_source / "annotations/car_keypoints_train.json"
    assert find_annotation_files(path) == {"train": path}
    assert len(read_frames(path, Issues())) == 1


def test_dirt_is_counted(coco_source):
    def soil(content):
        good = content["annotations"][0]
        content["annotations"] += [
            {**good, "bbox": [0, 0, 0, 0]},
            {**good, "keypoints": [1, 2, 3]},
            {**good, "keypoints": [5, 5, 9, *good["keypoints"][3:]]},
            {**good, "image_id": 99},
            "nonsense",
        ]
        image = content["images"][0]
        content["images"] += [{"id": 8, "file_name": "car_a/images_jpg/none.jpg"}, {"id": 9}, dict(image, id=10)]
        content["annotations"] += [{**good, "image_id": 8}, {**good, "image_id": 10}]

    edit(coco_source, soil)
    issues = Issues()
    (frame,) = read_frames(coco_source, issues)
    assert [car.instance_id for car in frame.instances] == [0, 3]
    assert frame.instances[1].keypoints.validity[0] == 0
    assert {reason: tally.count for reason, tally in issues.skipped.items()} == {
        "COCO annotation is not an object": 1,
        "COCO box is empty or not four numbers": 1,
        "COCO annotation does not hold 14 keypoints": 1,
        "COCO visibility is not 0, 1 or 2": 1,
        "frame has labels but no image": 1,
        "COCO image has no file_name": 1,
        "frame is listed twice in a COCO file": 1,
        "COCO annotation belongs to no listed image": 1,
    }


def test_broken_json_names_file_and_line(coco_source):
    path = coco_source / "annotations/car_keypoints_train.json"
    path.write_text('{"images": [],\n"annotations": [}')
    with pytest.raises(DataError, match=r"car_keypoints_train\.json:2: not JSON"):
        read_frames(coco_source, Issues())


def test_json_without_the_lists_is_refused(coco_source):
    path = edit(coco_source, lambda content: content.update(annotations={}))
    with pytest.raises(DataError, match=f"{path.name} is not a COCO"):
        read_frames(coco_source, Issues())


@pytest.mark.parametrize(
    ("name", "scene"),
    [
        ("car_a/images_jpg/1.jpg", "car_a"),
        ("train/car_a/images/1.jpg", "car_a"),
        ("car_a/1.jpg", "car_a"),
        ("images/1.jpg", "unnamed"),
        ("train/1.jpg", "unnamed"),
        ("1.jpg", "unnamed"),
    ],
)
def test_the_scene_comes_from_the_path(name, scene):
    assert scene_of(PurePosixPath(name)) == scene


KEYPOINTS = [value for k in range(14) for value in (45 + 3 * k, 40 + k, 2)]


def make(root: Path, name: str, images: list[dict], annotations: list[dict], folder: str = "train") -> Path:
    """A JSON file, and a picture for each of its images."""
    for image in images:
        path = root / folder / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((90, 160, 3), np.uint8))
    path = root / "annotations" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def a_car(image_id, **changes) -> dict:
    return {"id": 1, "image_id": image_id, "bbox": [40, 30, 60, 40], "keypoints": KEYPOINTS, **changes}


def test_pictures_that_share_an_id_get_no_labels(tmp_path):
    images = [{"id": 1, "file_name": f"car_{s}/images_jpg/1.jpg"} for s in "ab"]
    images.append({"id": 2, "file_name": "car_c/images_jpg/1.jpg"})
    make(tmp_path, "keypoints_train.json", images, [a_car(1), a_car(1), a_car(2)])
    issues = Issues()
    assert [frame.scene for frame in read_frames(tmp_path, issues)] == ["car_c"]
    ((reason, tally),) = issues.skipped.items()
    assert "have the same COCO image id" in reason
    assert tally.count == 2


@pytest.mark.parametrize(
    ("of_image", "of_annotation"), [(1, "1"), ("1", 1), (1.0, 1), (1, "1.0"), ("a", "a"), (0, 0.0)]
)
def test_ids_of_other_types_are_the_same(tmp_path, of_image, of_annotation):
    make(tmp_path, "train.json", [{"id": of_image, "file_name": "car_a/images_jpg/1.jpg"}], [a_car(of_annotation)])
    (frame,) = read_frames(tmp_path, Issues())
    assert len(frame.instances) == 1


def test_what_has_no_id_belongs_to_nothing(tmp_path):
    images = [{"file_name": "car_a/images_jpg/1.jpg"}, {"id": None, "file_name": "car_b/images_jpg/1.jpg"}]
    make(tmp_path, "train.json", images, [a_car(None), {"bbox": [1, 2, 3, 4]}])
    issues = Issues()
    assert read_frames(tmp_path, issues) == []
    assert {reason: tally.count for reason, tally in issues.skipped.items()} == {
        "COCO annotation has no image_id": 2,
        "COCO image has no id": 2,
    }


def test_an_annotation_listed_twice_is_one_car(tmp_path):
    image = {"id": 1, "file_name": "car_a/images_jpg/1.jpg"}
    make(tmp_path, "train.json", [image, image], [a_car(1), a_car(1, id=2), a_car(1, id=3, bbox=[41, 30, 60, 40])])
    issues = Issues()
    (frame,) = read_frames(tmp_path, issues)
    assert [car.instance_id for car in frame.instances] == [0, 2]
    assert sorted(tally.count for tally in issues.skipped.values()) == [1, 1]
    assert all("twice" in reason for reason in issues.skipped)


def test_names_that_differ_by_folder_alone_are_two_frames(tmp_path):
    images = [
        {"id": k, "file_name": name}
        for k, name in enumerate(("car_a/cam0/1.jpg", "car_b/cam0/1.jpg", "car_b/cam1/1.jpg"))
    ]
    make(tmp_path, "train.json", images, [a_car(k) for k in range(3)])
    names = [(frame.scene, frame.frame_id) for frame in read_frames(tmp_path, Issues())]
    assert names == [("car_a", "cam0_1"), ("car_b", "cam0_1"), ("car_b", "cam1_1")]


def test_no_frame_takes_the_name_of_another(tmp_path):
    names = ("car_a/images/1.jpg", "car_a/images_jpg/1.jpg", "x/s/cam/1.jpg", "y/s/cam/1.jpg", "car_a/images/1.JPG")
    images = [{"id": k, "file_name": name} for k, name in enumerate(names)]
    make(tmp_path, "train.json", images, [a_car(k) for k in range(len(names))])
    issues = Issues()
    frames = read_frames(tmp_path, issues)
    assert len({(frame.scene, frame.frame_id.lower()) for frame in frames}) == len(names)
    assert [tally.count for tally in issues.corrected.values()] == [3]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("person_keypoints_val2017", "val"),
        ("carValid", "val"),
        ("validation", "val"),
        ("TRAIN", "train"),
        ("trained_on_test", "test"),
        ("instances_trainval", "train"),
        ("testSet", "test"),
        ("train2017", "train"),
    ],
)
def test_the_split_is_a_word_of_the_name(tmp_path, name, split):
    path = make(tmp_path, f"{name}.json", [], [])
    assert find_annotation_files(tmp_path) == {split: path}


@pytest.mark.parametrize("name", ["constraints", "latest", "contest", "trained", "interval", "train_and_test", "all"])
def test_letters_within_a_word_are_no_split(tmp_path, name):
    make(tmp_path, f"{name}.json", [], [])
    assert find_annotation_files(tmp_path) == {}


def test_files_that_are_left_out_are_named(tmp_path):
    images = [{"id": 1, "file_name": "car_a/images_jpg/1.jpg"}]
    for name in ("captions_train.json", "person_keypoints_train.json", "train_test.json"):
        make(tmp_path, name, images, [a_car(1)])
    (tmp_path / "test.json").symlink_to("gone.json")
    issues = Issues()
    assert len(read_frames(tmp_path, issues)) == 1
    said = " ".join(issues.warnings)
    assert "captions_train.json is not used" in said
    assert "train_test.json names the splits train and test" in said
    assert "test.json is a symbolic link that leads nowhere" in said


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_of_other_encodings_is_read(tmp_path, encoding):
    path = make(tmp_path, "train.json", [{"id": 1, "file_name": "car_\u00e9/images_jpg/1.jpg"}], [a_car(1)])
    path.write_bytes(path.read_text().encode(encoding))
    assert [frame.scene for frame in read_frames(tmp_path, Issues())] == ["car_\u00e9"]


def test_latin_1_is_named(tmp_path):
    path = make(tmp_path, "train.json", [{"id": 1, "file_name": "car_a/images_jpg/1.jpg"}], [a_car(1)])
    path.write_bytes(path.read_bytes().replace(b"car_a", b"car_\xe9"))
    with pytest.raises(DataError, match=r"train\.json is not JSON: no valid UTF-8 at byte \d+; save it as UTF-8"):
        read_frames(tmp_path, Issues())


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + "9" * 5000 + "}", "[]", "nan", ""])
def test_json_that_is_none_is_one_clear_error(tmp_path, text):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(DataError, match=r"train\.json"):
        load_json_object(tmp_path / "train.json")


@pytest.mark.parametrize("value", ["nan", "1e999", -4.2e9, "1,5", None, True, [], 10**400, "x"])
def test_a_keypoint_that_is_no_place_is_missing(value):
    issues = Issues()
    keypoints = [value, *KEYPOINTS[1:]]
    car = parse_annotation(0, a_car(1, keypoints=keypoints), "here", issues)
    assert car.keypoints.validity.tolist() == [0] + [2] * 11
    assert car.keypoints.points[0].tolist() == [0, 0]
    assert [tally.count for tally in issues.skipped.values()] == [1]


def test_numbers_may_be_texts():
    texts = [str(value) for value in KEYPOINTS]
    car = parse_annotation(0, a_car(1, keypoints=texts, bbox=["40", "30.0", 60.0, 4e1]), "here", Issues())
    assert car.box == Box(40, 30, 60, 40)
    assert car.keypoints.points[0].tolist() == [45, 40]


@pytest.mark.parametrize(
    "box", [None, [1, 2, 3], [1, 2, None, 4], [1, 2, 1e300, 4], [1, 2, 0, 4], [1e9, 2, 3, 4], "1234"]
)
def test_a_box_that_is_none_is_counted_or_taken_from_the_keypoints(box):
    issues = Issues()
    assert parse_annotation(0, a_car(1, bbox=box), "here", issues) is None
    assert [tally.count for tally in issues.skipped.values()] == [1]
    car = parse_annotation(0, a_car(1, bbox=box), "here", Issues(), are_boxes_hulls=True)
    assert car.box == Box(45, 40, 36, 12)


def test_a_picture_is_found_by_a_name_that_is_spelled_otherwise(tmp_path):
    path = make(tmp_path, "train.json", [{"id": 1, "file_name": "car_a/images_jpg/cafe\u0301.JPG"}], [a_car(1)])
    path.write_text(path.read_text().replace("cafe\\u0301.JPG", "caf\\u00e9.jpg"))
    issues = Issues()
    (frame,) = read_frames(tmp_path, issues)
    assert frame.image.name == "cafe\u0301.JPG"
    assert [tally.count for tally in issues.corrected.values()] == [1]


@pytest.mark.parametrize(
    "name", ["car_\ud800/images_jpg/1.jpg", "car_a/\u0000.jpg", "a" * 5000, "/", "../../../../etc"]
)
def test_names_that_no_file_can_have_are_counted(tmp_path, name):
    path = make(tmp_path, "train.json", [{"id": 2, "file_name": "car_a/images_jpg/1.jpg"}], [a_car(1), a_car(2)])
    content = json.loads(path.read_text())
    content["images"].append({"id": 1, "file_name": name})
    path.write_text(json.dumps(content))
    issues = Issues()
    assert [frame.scene for frame in read_frames(tmp_path, issues)] == ["car_a"]
    assert [tally.count for tally in issues.skipped.values()] == [1]
    issues.describe_skipped().encode()


def test_crowds_are_no_cars(coco_source):
    def add_crowd(content):
        content["annotations"].append({**content["annotations"][0], "id": 2, "iscrowd": 1, "bbox": [0, 0, 160, 90]})

    edit(coco_source, add_crowd)
    issues = Issues()
    (frame,) = read_frames(coco_source, issues)
    assert [car.box for car in frame.instances] == [Box(40, 30, 60, 40)]
    assert [reason for reason in issues.skipped if "iscrowd" in reason]


def test_a_keypoint_at_the_origin_is_missing(coco_source):
    edit(coco_source, lambda content: content["annotations"][0]["keypoints"].__setitem__(slice(0, 3), [0, 0, 2]))
    issues = Issues()
    (frame,) = read_frames(coco_source, issues)
    assert frame.instances[0].keypoints.validity.tolist()[:2] == [0, 1]
    assert [reason for reason in issues.skipped if "(0, 0)" in reason]


def test_lists_that_stand_twice_are_refused(coco_source):
    path = coco_source / "annotations/car_keypoints_train.json"
    path.write_text(path.read_text().rstrip().removesuffix("}") + ', "annotations": []}')
    with pytest.raises(DataError, match="annotations occur twice"):
        read_frames(coco_source, Issues())


def test_a_directory_with_the_name_of_a_json_file_is_called_so(coco_source):
    (coco_source / "annotations/car_keypoints_test.json").mkdir()
    issues = Issues()
    read_frames(coco_source, issues)
    assert [warning for warning in issues.warnings if "is a directory, a pipe or a device" in warning]


@pytest.mark.parametrize("place", ["images/train", "images/train2017", "images"])
def test_pictures_are_found_in_a_directory_of_images(coco_source, place):
    (coco_source / "train").rename(coco_source / "pictures")
    (coco_source / place).parent.mkdir(exist_ok=True)
    (coco_source / "pictures").rename(coco_source / place)
    (frame,) = read_frames(coco_source, Issues())
    assert frame.image == coco_source / place / "car_a/images_jpg/1_00001.jpg"
    assert frame.scene == "car_a"


def test_pictures_are_found_in_images_beside_the_file(coco_source):
    path = coco_source / "annotations/car_keypoints_train.json"
    path.rename(coco_source / path.name)
    (coco_source / "train").rename(coco_source / "images")
    (frame,) = read_frames(coco_source, Issues())
    assert frame.image == coco_source / "images/car_a/images_jpg/1_00001.jpg"


def test_traits_of_a_car_are_read(coco_source):
    path = edit(
        coco_source, lambda content: content["annotations"][0].update(kind="van", heading="rear", truncated=True)
    )
    (frame,) = read_frames(coco_source, Issues())
    assert frame.instances[0].traits == Traits("van", "rear", truncated=True)
    edit(coco_source, lambda content: content["annotations"][0].update(heading="above"))
    issues = Issues()
    (frame,) = read_frames(path, issues)
    assert frame.instances[0].traits.heading == "unknown"
    assert [reason for reason in issues.skipped if reason.startswith("heading is not one of ")]


def test_a_file_of_any_name_can_be_read(coco_source):
    path = coco_source / "annotations/car_keypoints_train.json"
    other = path.rename(path.with_name("street.json"))
    (frame,) = read_annotation_file(other, "train", Issues())
    assert (frame.split, frame.scene, len(frame.instances)) == ("train", "car_a", 1)
