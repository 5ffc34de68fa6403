"""Every quirk of the raw layout is read or counted; none raises."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carkp.data.carfusion import choose_box, list_frames, parse_box, parse_keypoints, read_frame
from carkp.data.frames import Box, Keypoints, no_keypoints
from carkp.data.issues import DataError, Issues
from carkp.keypoints.schema import CARFUSION_IDS, MISSING, OCCLUDED, VISIBLE

numbers = st.floats(-2000, 4000, allow_nan=False).map(lambda v: round(v, 3))
extents = st.floats(1, 2000).map(lambda v: round(v, 3))


def read_cars(text: str, tmp_path: Path) -> tuple[dict[int, Keypoints], Issues]:
    path, issues = tmp_path / "1_1.txt", Issues()
    path.write_bytes(text.encode())
    return parse_keypoints(path, issues), issues


def read_only_frame(root: Path, issues: Issues):
    (files,) = list_frames(root, issues)
    return read_frame(files, issues)


@given(numbers, numbers, extents, extents, st.sampled_from(["", " ", "  "]), st.sampled_from(["car", "bus,1", ""]))
def test_both_spellings_mean_the_same_box(x, y, w, h, space, category):
    by_space = parse_box(f"{space}[{x} {y}  {w} {h}{space}],{category}\n")
    by_comma = parse_box(f"[{x},{space}{y}, {h}, {w}]{space},{category}")
    assert by_space.spelled == by_comma.spelled == Box(x, y, w, h)
    assert by_space.exchanged == by_comma.exchanged == Box(x, y, h, w)


@given(st.text())
def test_no_text_makes_the_box_parser_raise(text):
    parse_box(text)


@given(st.text(alphabet="0123456789.,-e naif\n\r\t[]_", max_size=60))
def test_no_text_makes_the_keypoint_parser_raise(tmp_path_factory, text):
    read_cars(text, tmp_path_factory.mktemp("gt"))


@given(numbers, numbers, st.sampled_from(CARFUSION_IDS), st.integers(0, 40), st.sampled_from([1, 2, 3]), st.booleans())
def test_a_keypoint_line_is_read_back(tmp_path_factory, x, y, raw_id, instance, visibility, as_floats):
    fields = [x, y, *(map(float, (raw_id, instance, visibility)) if as_floats else (raw_id, instance, visibility))]
    cars, issues = read_cars(",".join(map(str, fields)), tmp_path_factory.mktemp("gt"))
    if x == 0 and y == 0:
        assert issues.skipped
        return
    index = CARFUSION_IDS.index(raw_id)
    assert cars[instance].points[index] == pytest.approx((x, y))
    assert cars[instance].validity[index] == {1: VISIBLE, 2: OCCLUDED, 3: VISIBLE}[visibility]
    assert cars[instance].validity.sum() == cars[instance].validity[index]


@pytest.mark.parametrize(
    "line", ["[1 2 3],car", "[1 2 3 4 5],car", "[1 2 x 4],car", "[1 2 nan 4],car", "1 2 3 4", "[]"]
)
def test_a_malformed_box_is_none(line):
    assert parse_box(line) is None


def test_keypoints_decide_between_the_readings():
    car = no_keypoints()
    car.points[:2], car.validity[:2] = [[190, 15], [110, 25]], VISIBLE
    comma_but_width_first = parse_box("[100, 10, 100, 20],car")
    assert choose_box(comma_but_width_first, car) == Box(100, 10, 100, 20)
    assert choose_box(comma_but_width_first, no_keypoints()) == Box(100, 10, 20, 100)
    space_but_height_first = parse_box("[100 10 20 100],car")
    assert choose_box(space_but_height_first, car) == Box(100, 10, 100, 20)


def test_an_exchanged_box_is_counted(raw, lines_of: Callable[..., str]):
    raw.add(gt=lines_of((40, 30, 60, 20)), bb="[40, 30, 60, 20],car\n")
    issues = Issues()
    frame = read_only_frame(raw.root, issues)
    assert frame.instances[0].box == Box(40, 30, 60, 20)
    ((reason, tally),) = issues.corrected.items()
    assert "exchanged" in reason
    assert tally.first.endswith("1_00001.txt:1")


def test_gaps_blank_lines_and_unpaired_cars(raw, lines_of):
    gt = lines_of((40, 30, 60, 40), instance=2) + lines_of((5, 5, 20, 20), instance=7)
    raw.add(gt=gt, bb="[5 5 20 20],car\n\n[40 30 60 40],car\n[5 5 0 20],car\n[bad],car\n")
    issues = Issues()
    frame = read_only_frame(raw.root, issues)
    assert [car.instance_id for car in frame.instances] == [0, 2]
    assert (frame.instances[0].keypoints.validity == MISSING).all()
    assert (frame.instances[1].keypoints.validity == VISIBLE).all()
    assert {reason: tally.count for reason, tally in issues.skipped.items()} == {
        "blank line in a box file": 1,
        "box is empty": 1,
        "box line does not hold four numbers in brackets": 1,
        "car has keypoints but no box": 1,
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "blank line"),
        ("1,2,3", "five numbers"),
        ("1,2,3,4,x", "five numbers"),
        ("nan,2,3,0,1", "five numbers"),
        ("1,2,0,0,1", "from 1 to 14"),
        ("1,2,15,0,1", "from 1 to 14"),
        ("1,2,1.5,0,1", "from 1 to 14"),
        ("1,2,9,0,1", "exhaust"),
        ("1,2,14,0,1", "exhaust"),
        ("1,2,1,-1,1", "instance id"),
        ("1,2,1,0.5,1", "instance id"),
        ("1,2,1,0,0", "visibility"),
        ("0,0,1,0,1", "never labelled"),
    ],
)
def test_a_bad_keypoint_line_is_counted_with_its_place(tmp_path, line, reason):
    cars, issues = read_cars(f"5,6,2,0,1\n{line}\n7,8,3,0,2\n", tmp_path)
    assert cars[0].validity.tolist() == [0, VISIBLE, OCCLUDED] + [0] * 9
    ((found, tally),) = issues.skipped.items()
    assert reason in found
    assert tally.first.endswith("1_1.txt:2")


def test_a_second_label_of_a_keypoint_wins_and_is_counted(tmp_path):
    cars, issues = read_cars("5,6,2,0,1\n7,8,2,0,2\n", tmp_path)
    assert cars[0].points[1].tolist() == [7, 8]
    assert cars[0].validity[1] == OCCLUDED
    assert [tally.count for tally in issues.corrected.values()] == [1]


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    cars, issues = read_cars("\ufeff5,6,2,0,1\r\n7,8,3,0,2,\r\n", tmp_path)
    assert cars[0].points[1:3].tolist() == [[5, 6], [7, 8]]
    assert not issues.skipped


def test_missing_files_are_counted(raw, lines_of):
    box = (40, 30, 60, 40)
    raw.add(frame="1_1", gt=lines_of(box), bb="[40 30 60 40],car", image_dir="images")
    raw.add(frame="1_2", gt=lines_of(box), bb=None)
    raw.add(frame="1_3", gt=None, bb="[40 30 60 40],car")
    raw.add(frame="1_4", gt=None, bb=None)
    raw.add(frame="1_5", gt=lines_of(box), bb="[40 30 60 40],car", image=None)
    (raw.root / "train/notes").mkdir()
    issues = Issues()
    frames = [read_frame(files, issues) for files in list_frames(raw.root, issues)]
    assert [(frame.frame_id, len(frame.instances)) for frame in frames] == [("1_1", 1), ("1_2", 0), ("1_3", 1)]
    assert frames[0].image.parent.name == "images"
    assert {reason.split(" of ")[0]: tally.count for reason, tally in issues.skipped.items()} == {
        "directory has none": 1,
        "frame has an image but no labels": 1,
        "frame has labels but no image": 1,
        "car has keypoints but no box": 1,
    }
    assert any("no test/" in warning for warning in issues.warnings)


def test_absent_known_scenes_are_warnings_for_carfusion_alone(raw):
    raw.add_car("train", "car_craig1")
    raw.add_car("test", "car_penn1")
    issues = Issues()
    list_frames(raw.root, issues)
    assert len(issues.warnings) == 2
    assert "car_butler1" in issues.warnings[0]
    assert "car_penn2" in issues.warnings[1]


def test_a_root_without_splits_is_an_error(tmp_path):
    with pytest.raises(DataError, match="neither train/ nor test/"):
        list_frames(tmp_path, Issues())


def test_no_keypoints_are_not_shared():
    no_keypoints().points[:] = 1
    assert not np.any(no_keypoints().points)


@pytest.mark.parametrize("line", ["4200000000.5,120,1,0,1", "1e30,5,1,0,1", "5,-1e308,1,0,1"])
def test_a_keypoint_far_away_is_missing_and_the_others_stay(tmp_path, line):
    cars, issues = read_cars(f"{line}\n7,8,3,0,2\n", tmp_path)
    assert cars[0].validity.tolist() == [0, 0, OCCLUDED] + [0] * 9
    assert cars[0].points[0].tolist() == [0, 0]
    assert [tally.count for tally in issues.skipped.values()] == [1]


@pytest.mark.parametrize("line", ["1,5,2,5,3,0,1", "1,5,2,3,0,1", "0x10,2,1,0,1", "1;2;1;0;1", "1,2,1,1e300,1"])
def test_lines_that_could_be_misread_are_counted(tmp_path, line):
    cars, issues = read_cars(f"{line}\n", tmp_path)
    assert not cars
    assert [tally.count for tally in issues.skipped.values()] == [1]


@pytest.mark.parametrize("box", ["[1e7 5 20 20],car", "[5 5 1e300 20],car", "[-1e9 5 20 20],car"])
def test_a_box_beyond_every_picture_is_counted(raw, lines_of, box):
    raw.add(gt=lines_of((40, 30, 60, 40), instance=1), bb=f"{box}\n[40 30 60 40],car\n")
    issues = Issues()
    assert [car.instance_id for car in read_only_frame(raw.root, issues).instances] == [1]
    assert [tally.count for tally in issues.skipped.values()] == [1]


def test_a_carriage_return_too_many_shifts_no_car(raw, lines_of):
    gt = lines_of((40, 30, 60, 40), instance=1).replace("\n", "\r\r\n")
    raw.add(gt=gt, bb="[5 5 20 20],car\r\r\n[40 30 60 40],car\r\r\n")
    frame = read_only_frame(raw.root, Issues())
    assert [(car.instance_id, int(car.keypoints.validity.sum())) for car in frame.instances] == [(0, 0), (1, 24)]


def test_utf_16_labels_are_read(raw, lines_of):
    raw.add(gt=lines_of((40, 30, 60, 40)).encode("utf-16"), bb="[40 30 60 40],car\r\n".encode("utf-16"))
    issues = Issues()
    (car,) = read_only_frame(raw.root, issues).instances
    assert (car.keypoints.validity == VISIBLE).all()
    assert not issues.skipped


def test_hulls_are_boxes_on_request(raw, lines_of):
    raw.add(gt=lines_of((40, 30, 60, 40), instance=3) + "7,8,3,5,2\n", bb=None)
    issues = Issues()
    (files,) = list_frames(raw.root, issues, boxes="hull")
    (car,) = read_frame(files, issues).instances
    assert (car.instance_id, car.box) == (3, Box(46, 34, 48, 32))
    assert [tally.count for tally in issues.skipped.values()] == [1], "one keypoint spans no box"
    assert not any("box files" in warning for warning in issues.warnings)


def test_scenes_without_box_files_are_told_with_the_way_out(raw, lines_of):
    raw.add(scene="car_x", gt=lines_of((40, 30, 60, 40)), bb=None)
    raw.add_car(scene="car_a")
    issues = Issues()
    list_frames(raw.root, issues)
    (warning,) = [warning for warning in issues.warnings if "bb/" in warning]
    assert "train/car_x" in warning
    assert "car_a" not in warning
    assert "data.boxes=hull" in warning


def test_clutter_and_links_that_lead_nowhere(raw):
    raw.add_car()
    scene = raw.root / "train/car_a"
    (scene / "images_jpg/._1_00001.jpg").touch()
    (scene / "images_jpg/Thumbs.db").touch()
    (scene / "gt/@eaDir").mkdir()
    for folder in (".Trash", "@eaDir", "__MACOSX"):
        (raw.root / "train" / folder / "gt").mkdir(parents=True)
    (scene / "images_jpg/1_00002.jpg").symlink_to("gone.jpg")
    (raw.root / "train/car_gone").symlink_to("gone")
    (raw.root / "train/car_loop").symlink_to("car_loop")
    issues = Issues()
    assert [frame.frame_id for frame in list_frames(raw.root, issues)] == ["1_00001"]
    assert {reason: tally.count for reason, tally in issues.skipped.items()} == {"symbolic link leads nowhere": 3}


def test_labels_whose_names_are_composed_otherwise_belong_to_the_picture(raw, lines_of):
    box = (40, 30, 60, 40)
    raw.add(frame="caf\u00e9", gt=lines_of(box), bb=None, image=None)
    raw.add(frame="cafe\u0301", gt=None, bb="[40 30 60 40],car\n")
    issues = Issues()
    frame = read_only_frame(raw.root, issues)
    assert frame.frame_id == "cafe\u0301"
    assert (frame.instances[0].keypoints.validity == VISIBLE).all()
    assert not issues.skipped


def test_names_that_differ_in_case_alone_get_ids_of_their_own(raw):
    raw.add_car(frame="A_1")
    raw.add_car(frame="a_1")
    issues = Issues()
    frames = list_frames(raw.root, issues)
    if len(frames) < 2:
        pytest.skip("this file system takes them for one")
    assert [frame.frame_id for frame in frames] == ["A_1", "a_1~2"]
    assert [tally.count for tally in issues.corrected.values()] == [1]


def test_of_two_pictures_of_a_frame_one_counts_and_it_is_said(raw):
    raw.add_car()
    (raw.root / "train/car_a/images_jpg/1_00001.png").touch()
    issues = Issues()
    (frame,) = list_frames(raw.root, issues)
    assert frame.image.suffix == ".jpg"
    assert [tally.count for tally in issues.skipped.values()] == [1]


def test_a_validation_directory_is_a_split(raw):
    for split in ("train", "valid", "test"):
        raw.add_car(split, f"car_{split}")
    assert [frame.split for frame in list_frames(raw.root, Issues())] == ["train", "val", "test"]
    (raw.root / "val").mkdir()
    with pytest.raises(DataError, match=r"several directories for the val split \(val, valid\)"):
        list_frames(raw.root, Issues())


@pytest.fixture
def closed(monkeypatch) -> list[Path]:
    """Paths that may not be read. Permission cannot be taken from an administrator, so it is played."""
    paths: list[Path] = []

    def deny(function, is_itself_denied):
        def call(path=".", *arguments, **options):
            denied = [Path(path), *Path(path).parents] if is_itself_denied else Path(path).parents
            if any(path in denied for path in paths):
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *arguments, **options)

        return call

    for owner, name in ((os, "scandir"), (os, "listdir"), (Path, "read_bytes"), (Path, "iterdir")):
        monkeypatch.setattr(owner, name, deny(getattr(owner, name), is_itself_denied=True))
    monkeypatch.setattr(Path, "is_dir", deny(Path.is_dir, is_itself_denied=False))
    return paths


@pytest.mark.parametrize("what", ["train/car_a", "train/car_a/images_jpg", "train/car_a/gt/1_00001.txt"])
def test_what_may_not_be_read_is_counted(raw, closed, what):
    raw.add_car()
    raw.add_car("test", "car_t")
    closed.append(raw.root / what)
    issues = Issues()
    frames = [read_frame(files, issues) for files in list_frames(raw.root, issues)]
    assert "car_t" in [frame.scene for frame in frames if frame.instances]
    assert any("Permission denied" in reason for reason in issues.skipped)
