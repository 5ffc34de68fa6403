"""The generator: layout, counts, determinism, atomic writing."""

import errno
import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from carkp.keypoints.schema import CARFUSION_IDS
from carkp.synthetic import generate as module
from carkp.synthetic.blocks import PictureSet, Shard
from carkp.synthetic.car_styles import PLAIN_SHARES
from carkp.synthetic.frame import CarTruth
from carkp.synthetic.generate import SyntheticSpec, generate, is_labelled, picture_set
from carkp.synthetic.ingredients import INGREDIENTS
from carkp.synthetic.layout import TEST_SCENES, TRAIN_SCENES, VAL_SCENE, split_of
from carkp.synthetic.lighting import PLAIN_CONDITION_SHARES
from carkp.synthetic.scene import Box

SPEC = SyntheticSpec(14, 2, 6, seed=5, image_size=(216, 384), ingredients=INGREDIENTS)
BOX_PATTERN = re.compile(r"\[(\d+)( |, )(\d+)\2(\d+)\2(\d+)\],\w+")


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    out_dir = tmp_path_factory.mktemp("synthetic") / "set"
    generate(out_dir, SPEC, num_workers=1, show_progress=False)
    return out_dir


def is_complete(out_dir: Path, spec: SyntheticSpec) -> bool:
    return picture_set(spec).is_complete(out_dir)


def scene_dir(root: Path, scene: str) -> Path:
    return root / split_of(scene) / scene


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read_boxes(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Separator and numbers of every line."""
    matches = [BOX_PATTERN.fullmatch(line) for line in path.read_text().splitlines()]
    assert all(matches), path
    return [(m[2], tuple(int(m[k]) for k in (1, 3, 4, 5))) for m in matches]


def test_same_files_whatever_the_number_of_workers(generated, tmp_path):
    generate(tmp_path / "again", SPEC, num_workers=2, show_progress=False)
    assert contents(tmp_path / "again") == contents(generated)


def test_another_seed_draws_other_pictures(generated, tmp_path):
    other = SyntheticSpec(0, 2, 0, seed=6, image_size=SPEC.image_size, ingredients=INGREDIENTS)
    generate(tmp_path / "other", other, num_workers=1, show_progress=False)
    ours = contents(scene_dir(generated, VAL_SCENE) / "images_jpg")
    assert contents(scene_dir(tmp_path / "other", VAL_SCENE) / "images_jpg") != ours


def test_counts_are_reached_and_spread_over_scenes(generated):
    cars = {scene: len((scene_dir(generated, scene) / "truth.jsonl").read_text().splitlines())
            for scene in (*TRAIN_SCENES, *TEST_SCENES)}  # fmt: skip
    assert cars[VAL_SCENE] >= 2
    assert all(cars[scene] >= 2 for scene in TRAIN_SCENES)
    assert all(cars[scene] >= 3 for scene in TEST_SCENES)
    recorded = json.loads((generated / "synthetic.json").read_text())["counts"]
    assert {scene: recorded[scene]["cars"] for scene in cars} == cars


@pytest.mark.parametrize("scene", [*TRAIN_SCENES, *TEST_SCENES])
def test_every_frame_has_picture_keypoints_boxes_and_truth(generated, scene):
    folder = scene_dir(generated, scene)
    truth = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    frames = {path.stem for path in (folder / "images_jpg").iterdir()}
    assert frames == {path.stem for path in (folder / "gt").iterdir()}
    assert frames == {path.stem for path in (folder / "bb").iterdir()}
    assert frames == {line["frame"] for line in truth}
    for frame in frames:
        assert cv2.imread(str(folder / "images_jpg" / f"{frame}.jpg")).shape[:2] == SPEC.image_size
        instances = [line["instance"] for line in truth if line["frame"] == frame]
        assert instances == list(range(len((folder / "bb" / f"{frame}.txt").read_text().splitlines())))


@pytest.mark.parametrize("scene", [*TRAIN_SCENES, *TEST_SCENES])
def test_keypoints_lie_in_the_frame_and_enough_are_visible(generated, scene):
    height, width = SPEC.image_size
    for path in (scene_dir(generated, scene) / "gt").iterdir():
        visible: dict[int, int] = {}
        for line in path.read_text().splitlines():
            x, y, keypoint, instance, visibility = line.split(",")
            assert -0.5 <= float(x) <= width - 0.5  # a pixel's centre has whole coordinates
            assert -0.5 <= float(y) <= height - 0.5
            assert int(keypoint) in CARFUSION_IDS
            assert visibility in ("1", "2")
            visible[int(instance)] = visible.get(int(instance), 0) + (visibility == "1")
        assert min(visible.values()) >= 2


def test_both_box_spellings_hold_their_keypoints(generated):
    separators = set()
    for scene in (*TRAIN_SCENES, *TEST_SCENES):
        folder = scene_dir(generated, scene)
        for path in (folder / "bb").iterdir():
            boxes = read_boxes(path)
            for line in (folder / "gt" / path.name).read_text().splitlines():
                x, y, _, instance, _ = line.split(",")
                separator, (left, top, third, fourth) = boxes[int(instance)]
                box_width, box_height = (fourth, third) if separator == ", " else (third, fourth)
                assert left - 1 <= float(x) <= left + box_width + 1
                assert top - 1 <= float(y) <= top + box_height + 1
                separators.add(separator)
    assert separators == {" ", ", "}


def test_complete_only_for_its_own_spec(generated):
    assert is_complete(generated, SPEC)
    assert not is_complete(
        generated, SyntheticSpec(14, 2, 6, seed=6, image_size=SPEC.image_size, ingredients=INGREDIENTS)
    )
    assert not is_complete(generated.parent / "missing", SPEC)


def test_other_versions_set_is_not_complete(generated, monkeypatch):
    monkeypatch.setattr(module, "GENERATOR_VERSION", module.GENERATOR_VERSION + 1)
    assert not is_complete(generated, SPEC)


def test_torn_marker_is_not_complete(tmp_path):
    (tmp_path / "synthetic.json").write_text('{"generator_version": 2, "sp')
    assert not is_complete(tmp_path, SPEC)


def test_a_killed_generation_is_not_complete_and_the_next_one_goes_on(generated, tmp_path, monkeypatch):
    drawn, real = [], module.draw_camera

    def killed(root, camera):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(camera.name)
        return real(root, camera)

    with monkeypatch.context() as patch:
        patch.setattr(module, "draw_camera", killed)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "set", SPEC, num_workers=1, show_progress=False)
    assert not (tmp_path / "set").exists()
    again = []
    monkeypatch.setattr(module, "draw_camera", lambda root, camera: again.append(camera.name) or real(root, camera))
    generate(tmp_path / "set", SPEC, num_workers=1, show_progress=False)
    assert again
    assert not set(again) & set(drawn)
    assert contents(tmp_path / "set") == contents(generated)


def test_what_a_killed_generation_of_another_spec_left_is_not_used(generated, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    other = replace(SPEC, seed=6)
    with monkeypatch.context() as patch:
        patch.setattr(PictureSet, "_finish", stop)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "set", other, num_workers=1, show_progress=False)
    generate(tmp_path / "set", SPEC, num_workers=1, show_progress=False)
    assert contents(tmp_path / "set") == contents(generated)


def test_four_shards_are_the_whole_set(generated, tmp_path):
    pictures = picture_set(SPEC)
    for number in (3, 1, 4, 2):
        directory = pictures.generate_shard(tmp_path / "set", Shard(number, 4), 1, show_progress=False)
        assert directory == pictures.generate_shard(tmp_path / "set", Shard(number, 4), 1, show_progress=False)
        assert not is_complete(directory, SPEC)
    pictures.merge_shards(tmp_path / "set", 4)
    assert contents(tmp_path / "set") == contents(generated)
    assert is_complete(tmp_path / "set", SPEC)


def test_shards_that_are_missing_or_of_another_set_are_named(tmp_path):
    pictures = picture_set(replace(SPEC, num_train_cars=2, num_val_cars=1, num_test_cars=1))
    pictures.generate_shard(tmp_path / "set", Shard(1, 2), 1, show_progress=False)
    with pytest.raises(FileNotFoundError, match=r"shard-2-of-2 is missing or incomplete: draw shard 2/2"):
        pictures.merge_shards(tmp_path / "set", 2)
    with pytest.raises(FileNotFoundError, match=r"shard-1-of-2 belongs to another set"):
        picture_set(SPEC).merge_shards(tmp_path / "set", 2)
    with pytest.raises(FileExistsError, match="other settings"):
        picture_set(SPEC).generate_shard(tmp_path / "set", Shard(1, 2), 1, show_progress=False)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(("number", "num_shards"), [(0, 2), (3, 2), (1, 0)])
def test_a_shard_that_cannot_be_is_refused(number, num_shards):
    with pytest.raises(ValueError, match="K from 1 to N"):
        Shard(number, num_shards)


def test_leftovers_of_a_killed_process_are_removed_and_do_no_harm(tmp_path):
    spec = SyntheticSpec(0, 1, 0, seed=1, image_size=(96, 160), ingredients=INGREDIENTS)
    leftover = tmp_path / f".set.{socket.gethostname()}.999999999.0a1b2c3d.partial"
    (leftover / "train" / VAL_SCENE / "gt").mkdir(parents=True)
    generate(tmp_path / "set", spec, num_workers=1, show_progress=False)
    assert is_complete(tmp_path / "set", spec)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".set.lock", "set"]


def test_a_finished_set_of_another_spec_is_kept(generated):
    before = contents(generated)
    other = SyntheticSpec(0, 1, 0, seed=1, image_size=(96, 160), ingredients=INGREDIENTS)
    with pytest.raises(FileExistsError, match=r"other settings.*choose another directory"):
        generate(generated, other, num_workers=1, show_progress=False)
    assert contents(generated) == before


def test_the_second_of_two_waits_and_draws_nothing(tmp_path, monkeypatch):
    spec = SyntheticSpec(0, 1, 0, seed=1, image_size=(96, 160), ingredients=INGREDIENTS)
    drawn, real = [], module.draw_camera

    def draw(*arguments):
        drawn.append(arguments)
        time.sleep(0.3)
        return real(*arguments)

    monkeypatch.setattr(module, "draw_camera", draw)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(generate, tmp_path / "set", spec, 1, False) for _ in range(2)]
        assert [future.result() for future in both] == [None, None]
    assert len(drawn) == 1
    assert is_complete(tmp_path / "set", spec)


def test_a_full_disk_says_what_to_do_and_the_next_run_goes_on(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    spec = SyntheticSpec(0, 1, 0, seed=1, image_size=(96, 160), ingredients=INGREDIENTS)
    with monkeypatch.context() as patch:
        patch.setattr(PictureSet, "_finish", full)
        with pytest.raises(OSError, match=r"set cannot be written: No space left.*MiB are free.*free some space"):
            generate(tmp_path / "set", spec, num_workers=1, show_progress=False)
    assert not (tmp_path / "set").exists()
    monkeypatch.setattr(module, "draw_camera", lambda *_: pytest.fail("drawn again"))
    generate(tmp_path / "set", spec, num_workers=1, show_progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".set.lock", "set"]


def test_a_folder_of_other_things_is_not_overwritten(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="no generated set"):
        generate(tmp_path, SPEC, num_workers=1, show_progress=False)
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize("field", ["num_train_cars", "num_val_cars", "num_test_cars"])
def test_negative_counts_are_refused(tmp_path, field):
    fields = {"num_train_cars": 1, "num_val_cars": 1, "num_test_cars": 1, field: -1}
    with pytest.raises(ValueError, match=field):
        generate(
            tmp_path / "set",
            SyntheticSpec(**fields, seed=0, image_size=(96, 160), ingredients=INGREDIENTS),
            1,
            show_progress=False,
        )


def test_a_set_without_ingredients_has_plain_cars_by_daylight(tmp_path):
    spec = SyntheticSpec(14, 0, 0, seed=3, image_size=(96, 160), ingredients=())
    generate(tmp_path / "plain", spec, num_workers=1, show_progress=False)
    files = tmp_path.glob("plain/train/*/truth.jsonl")
    truth = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert {line["style"] for line in truth} <= set(PLAIN_SHARES)
    assert {line["light"] for line in truth} <= set(PLAIN_CONDITION_SHARES)
    assert is_complete(tmp_path / "plain", spec)
    assert not is_complete(tmp_path / "plain", replace(spec, ingredients=("light",)))


def test_unknown_ingredients_are_refused(tmp_path):
    spec = SyntheticSpec(1, 0, 0, seed=3, image_size=(96, 160), ingredients=("snow",))
    with pytest.raises(ValueError, match="snow"):
        generate(tmp_path / "set", spec, num_workers=1, show_progress=False)


def truth(width, num_visible, truncated, style="sedan"):
    visible = np.arange(12) < num_visible
    box = Box(0.0, 10.0, width, 10.0 + width / 2)
    return CarTruth(style, "red", np.zeros((12, 2)), visible, visible, box, 0, 0.0, truncated, 0.0, 5.0, width**2 / 3)


@pytest.mark.parametrize(
    ("width", "num_visible", "truncated", "expected"),
    [(300, 2, 0.8, True), (300, 1, 0.8, False), (100, 2, 0.2, False), (100, 3, 0.7, False), (100, 3, 0.2, True)],
)
def test_two_points_label_a_close_up_and_three_any_other_car(width, num_visible, truncated, expected):
    assert is_labelled(truth(width, num_visible, truncated), (720, 1280)) == expected
    far_rules = num_visible >= 3 and truncated <= 0.6
    assert is_labelled(truth(width, num_visible, truncated), (720, 1280), has_close_ups=False) == far_rules


def test_city_buses_are_labelled():
    assert is_labelled(truth(200, 5, 0.0, style="city_bus"), (720, 1280))
