"""CarFusion's COCO JSON gives the same frames and cars as the raw layout."""

import json
from pathlib import Path, PurePosixPath

import pytest

from carkp.data.coco import find_annotation_files, read_frames, scene_of
from carkp.data.frames import Box
from carkp.data.issues import DataError, Issues
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
        "COCO annotation is no object": 1,
        "COCO box is empty or not four numbers": 1,
        "COCO annotation does not hold 14 keypoints": 1,
        "COCO visibility is not 0, 1 or 2": 1,
        "frame has labels and no image": 1,
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
    with pytest.raises(DataError, match=f"{path.name} is no COCO"):
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
