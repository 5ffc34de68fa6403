"""Every kind of source becomes three stores and an honest summary; what cannot become one says why."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from carkp.data import prepare as prepare_module
from carkp.data import store as store_module
from carkp.data.issues import DataError
from carkp.data.prepare import prepare
from carkp.data.source import SourceKind, detect_source_kind, fingerprint
from carkp.data.store import open_stores
from carkp.data.summary import DataSummary, SceneCounts, check_digests, read_summary

SAMPLE = Path(__file__).parents[2].parent / "shared" / "carfusion_sample"


def run(source: Path, out: Path, val_scenes: tuple[str, ...] = ("car_v",), quality: int = 95) -> DataSummary:
    return prepare(source, out, val_scenes, num_workers=1, jpeg_quality=quality, show_progress=False)


@pytest.fixture
def source(raw, lines_of) -> Path:
    """Two cars (one of them unlabelled) in one train frame, one car in each of three others."""
    raw.add(gt=lines_of((40, 30, 60, 40)), bb="[40 30 60 40],car\n[100 30 20 20],car\n")
    raw.add_car("train", "car_a", "1_00002", visibility=2)
    raw.add_car("train", "car_v", visibility=2)
    raw.add_car("test", "car_t")
    return raw.root


def test_raw_becomes_three_stores(source, tmp_path):
    summary = run(source, tmp_path / "out")
    stores = open_stores(tmp_path / "out")
    assert [len(store) for store in (stores.train, stores.val, stores.test)] == [2, 1, 1]
    assert [stores.train.sample_id(i) for i in range(2)] == ["train/car_a/1_00001_0", "train/car_a/1_00002_0"]
    assert stores.val[0].sample_id == "train/car_v/1_00001_0"
    assert summary.kind == "raw"
    assert summary.scenes == {
        "train": {"car_a": SceneCounts(2, 2, 1, 12, 12, 0)},
        "val": {"car_v": SceneCounts(1, 1, 0, 0, 12, 0)},
        "test": {"car_t": SceneCounts(1, 1, 0, 12, 0, 0)},
    }
    assert summary.totals("train").num_cars == 2
    assert (summary.skipped, summary.corrected, summary.warnings) == ({}, {}, ())
    assert summary.digests["val"] == stores.val.info.digest


def test_the_summary_survives_json(source, tmp_path):
    summary = run(source, tmp_path / "out")
    assert read_summary(tmp_path / "out") == summary
    assert DataSummary.from_json(summary.to_json()) == summary
    assert json.loads(summary.to_json())["scenes"]["train"]["car_a"]["num_unlabelled_cars"] == 1


def test_a_finished_data_set_is_recognised(source, tmp_path, monkeypatch):
    first = run(source, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "write_crops", lambda *args: pytest.fail("prepared again"))
        assert run(source, tmp_path / "out") == first
    assert run(source, tmp_path / "out", quality=60).digests["data"] != first.digests["data"]
    os.utime(source / "train/car_a/gt/1_00001.txt", (1, 1))
    monkeypatch.setattr(prepare_module, "write_crops", lambda *args: pytest.fail("prepared again"))
    with pytest.raises(pytest.fail.Exception, match="prepared again"):
        run(source, tmp_path / "out", quality=60)
    assert read_summary(tmp_path / "out") is None


def test_the_same_data_have_the_same_digest_wherever_they_lie(source, tmp_path):
    first = run(source, tmp_path / "one")
    shutil.move(source, tmp_path / "moved")
    second = prepare(tmp_path / "moved", tmp_path / "two", ("car_v",), 2, 95, show_progress=False)
    assert first.digests == second.digests


def test_crops_become_the_same_stores(source, tmp_path):
    from_raw = run(source, tmp_path / "one")
    crops = tmp_path / "crops"
    for part in ("train", "test", "simple_anno"):
        shutil.copytree(tmp_path / "one" / part, crops / part)
    assert detect_source_kind(crops) is SourceKind.CROPS
    from_crops = run(crops, tmp_path / "two")
    assert from_crops.digests == from_raw.digests
    for path in (crops / "simple_anno").glob("meta_*"):
        path.unlink()
    run(crops, tmp_path / "three")
    assert open_stores(tmp_path / "three").train[0].truncated == -1


def test_a_crop_that_is_no_jpeg_is_counted(source, tmp_path):
    run(source, tmp_path / "one")
    (tmp_path / "one/train/car_a/crop_imgs/1_00001_0.jpg").write_bytes(b"broken")
    summary = run(tmp_path / "one", tmp_path / "two")
    assert [tally.count for tally in summary.skipped.values()] == [1]
    assert summary.totals("train").num_cars == 1


def test_coco_becomes_stores(coco_source, tmp_path):
    assert detect_source_kind(coco_source) is SourceKind.COCO
    summary = run(coco_source, tmp_path / "out", ())
    assert summary.scenes["train"] == {"car_a": SceneCounts(1, 1, 0, 6, 6, 0)}
    assert len(open_stores(tmp_path / "out").test) == 0
    assert "the test store is empty" in summary.warnings


def test_a_source_that_is_several_kinds(raw, coco_source, tmp_path):
    raw.root = coco_source
    raw.add("train", "car_b", bb=None)
    assert detect_source_kind(coco_source) is SourceKind.COCO, "without boxes the JSON is of more use"
    raw.add_car("train", "car_b")
    assert detect_source_kind(coco_source) is SourceKind.RAW


def test_an_interrupted_preparation_is_not_finished(source, tmp_path, monkeypatch):
    run(source, tmp_path / "out")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module.StoreWriter, "_finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", quality=50)
    assert read_summary(tmp_path / "out") is None
    assert not list((tmp_path / "out").rglob("*.partial"))
    monkeypatch.undo()
    assert run(source, tmp_path / "out", quality=50).totals("train").num_cars == 2


def test_a_summary_of_another_version_counts_as_none(source, tmp_path):
    run(source, tmp_path / "out")
    path = tmp_path / "out/summary.json"
    path.write_text(path.read_text().replace('"kind"', '"sort"'))
    assert read_summary(tmp_path / "out") is None
    path.write_text("{")
    assert read_summary(tmp_path / "out") is None


def test_sources_that_cannot_be_used_say_why(raw, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        run(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected a directory with train/<scene>/"):
        run(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "file.txt").write_text("hello")
    with pytest.raises(DataError, match="not CarFusion data"):
        run(tmp_path / "file.txt", tmp_path / "out")
    raw.add_car()
    with pytest.raises(DataError, match=f"Did you mean {raw.root}"):
        run(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="rename it to train and give its parent"):
        run(raw.root / "train", tmp_path / "out")


def test_a_source_without_a_usable_car_says_what_was_skipped(raw, tmp_path):
    raw.add(gt="1,2,3\n", bb="[40 30 60 40],car")
    with pytest.raises(DataError, match=r"no car with a labelled keypoint.*1 x keypoint line does not hold five"):
        run(raw.root, tmp_path / "out")


def test_an_absent_held_out_scene_is_a_warning(source, tmp_path):
    summary = run(source, tmp_path / "out", ("car_v", "car_x"))
    assert summary.warnings == ("the held-out scene car_x has no crop in train",)


def test_a_wrong_jpeg_quality_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match=r"jpeg_quality must be in 1\.\.100, got 0"):
        run(source, tmp_path / "out", quality=0)


def test_labels_behind_links_are_prepared_anew(raw, lines_of, tmp_path):
    """Scenes on another disk, as directories and as single files."""
    raw.root = tmp_path / "disk"
    for split, scene in (("train", "car_a"), ("train", "car_v"), ("test", "car_t")):
        raw.add_car(split, scene)
        (tmp_path / "source" / split).mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / split / scene).symlink_to(raw.root / split / scene, target_is_directory=True)
    first = run(tmp_path / "source", tmp_path / "out")
    label = raw.root / "train/car_a/gt/1_00001.txt"
    label.rename(tmp_path / "label.txt")
    label.symlink_to(tmp_path / "label.txt")
    (tmp_path / "label.txt").write_text(lines_of((45, 32, 50, 36)))
    second = run(tmp_path / "source", tmp_path / "out")
    assert first.digests["train"] != second.digests["train"]
    assert first.digests["test"] == second.digests["test"]


def test_pictures_of_a_lone_json_file_are_part_of_the_source(coco_source):
    path = coco_source / "annotations/car_keypoints_train.json"
    picture = coco_source / "train/car_a/images_jpg/1_00001.jpg"
    first = fingerprint(path)
    assert fingerprint(path) == first
    os.utime(picture, (5, 5))
    second = fingerprint(path)
    shutil.copy(picture, coco_source / "unrelated.jpg")
    assert fingerprint(path) == second
    picture.unlink()
    assert len({first, second, fingerprint(path)}) == 3


def test_pictures_that_a_json_file_names_elsewhere_are_part_of_the_source(coco_source):
    (coco_source / "train").rename(coco_source / "train2017")
    first = fingerprint(coco_source)
    os.utime(coco_source / "train2017/car_a/images_jpg/1_00001.jpg", (5, 5))
    assert fingerprint(coco_source) != first
    assert run(coco_source, coco_source.parent / "out", ()).totals("train").num_cars == 1


def test_clutter_is_no_part_of_the_source(source):
    first = fingerprint(source)
    for name in ("train/.DS_Store", "train/car_a/images_jpg/Thumbs.db", "train/car_a/images_jpg/._1_00001.jpg"):
        (source / name).touch()
    assert fingerprint(source) == first


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_split_of_the_source_is_the_validation_store(raw, tmp_path, name):
    for split, scene in (("train", "car_a"), ("train", "car_v"), (name, "car_w"), (name, "car_a"), ("test", "car_t")):
        raw.add_car(split, scene)
    summary = run(raw.root, tmp_path / "out")
    assert {store: list(scenes) for store, scenes in summary.scenes.items()} == {
        "train": ["car_a", "car_v"],
        "val": ["car_a", "car_w"],
        "test": ["car_t"],
    }
    assert any("data.val_scenes is not used, car_v stays in train" in warning for warning in summary.warnings)
    assert any("scenes car_a are in train and in val" in warning for warning in summary.warnings)
    assert open_stores(tmp_path / "out").val[0].sample_id == "val/car_a/1_00001_0"
    crops = tmp_path / "crops"
    for part in ("train", "val", "test", "simple_anno"):
        shutil.copytree(tmp_path / "out" / part, crops / part)
    assert run(crops, tmp_path / "again").digests == summary.digests


def test_hulls_of_keypoints_are_boxes_on_request(raw, lines_of, tmp_path):
    for split, scene in (("train", "car_a"), ("train", "car_v"), ("test", "car_t")):
        raw.add(split, scene, gt=lines_of((40, 30, 60, 40)), bb=None)
    with pytest.raises(DataError, match=r"Cars lack boxes: set data\.boxes=hull .* COCO JSON"):
        run(raw.root, tmp_path / "out")
    summary = prepare(raw.root, tmp_path / "out", ("car_v",), 1, 95, show_progress=False, boxes="hull")
    assert summary.boxes == "hull"
    assert [summary.totals(store).num_cars for store in ("train", "val", "test")] == [1, 1, 1]
    crop = open_stores(tmp_path / "out").train[0]
    assert crop.size == (45, 57), "the hull is 48 x 32 at (46, 34): 27.6 to 72.4 down, 41.2 to 98.8 across"
    assert (crop.validity == 2).all()


def test_jitter_moves_the_boxes_of_training_cars_alone(raw, lines_of, tmp_path):
    """Fails where validation cars, which are held out of the training scenes, get loose boxes too."""
    for split, scene in (("train", "car_a"), ("train", "car_v"), ("test", "car_t")):
        for number in range(12):
            raw.add(split, scene, f"1_{number:05}", gt=lines_of((40, 30, 60, 40)), bb=None)
    exact = prepare(raw.root, tmp_path / "exact", ("car_v",), 1, 95, show_progress=False, boxes="hull")
    loose = prepare(raw.root, tmp_path / "loose", ("car_v",), 1, 95, False, boxes="hull", box_jitter=0.3)
    assert (exact.box_jitter, loose.box_jitter) == (0.0, 0.3)
    assert [exact.digests[split] == loose.digests[split] for split in ("train", "val", "test")] == [False, True, True]
    before, after = (open_stores(tmp_path / name).train for name in ("exact", "loose"))
    sizes = {after[index].size for index in range(len(after))}
    assert before[0].size in sizes
    assert len(sizes) > 3
    again = prepare(raw.root, tmp_path / "again", ("car_v",), 2, 95, False, boxes="hull", box_jitter=0.3)
    assert again.digests == loose.digests
    with pytest.raises(ValueError, match=r"box_jitter must be in 0\.\.0\.5, got 0\.7"):
        prepare(raw.root, tmp_path / "out", ("car_v",), 1, 95, show_progress=False, box_jitter=0.7)


def test_boxes_decide_the_stores(source, tmp_path):
    from_files = run(source, tmp_path / "out")
    from_hulls = prepare(source, tmp_path / "out", ("car_v",), 1, 95, show_progress=False, boxes="hull")
    assert from_files.digests["data"] != from_hulls.digests["data"]
    assert run(source, tmp_path / "out").digests == from_files.digests
    with pytest.raises(ValueError, match="boxes must be files or hull, got hulls"):
        prepare(source, tmp_path / "out", ("car_v",), 1, 95, show_progress=False, boxes="hulls")


def test_a_summary_of_before_boxes_could_be_chosen_still_counts(source, tmp_path):
    first = run(source, tmp_path / "out")
    path = tmp_path / "out/summary.json"
    content = json.loads(path.read_text())
    del content["boxes"]
    path.write_text(json.dumps(content))
    assert read_summary(tmp_path / "out") == first


def test_names_that_are_no_utf_8_are_counted_once_a_frame(raw, tmp_path):
    raw.add_car()
    raw.add_car("test", "car_t")
    try:
        raw.add_car(frame=os.fsdecode(b"1_caf\xe9"))
        raw.add_car(scene=os.fsdecode(b"car_\xe9"))
    except OSError:
        pytest.skip("this file system takes no such name")
    summary = run(raw.root, tmp_path / "out", ())
    assert summary.totals("train").num_cars == 1
    assert sorted(tally.count for tally in summary.skipped.values()) == [1, 1]
    for path in (tmp_path / "out").rglob("*.json"):
        path.read_bytes().decode()
        assert "\\ud" not in path.read_text().replace("\\\\ud", ""), "no half of a character, which few programs read"


PREPARE = """
import sys, time
from pathlib import Path
from carkp.data.prepare import prepare
Path(sys.argv[3]).touch()
while not Path(sys.argv[4]).exists():
    time.sleep(0.002)
prepare(Path(sys.argv[1]), Path(sys.argv[2]), ("car_v",), 1, 90, False)
"""


def test_of_two_preparations_one_waits_for_the_other(raw, tmp_path):
    picture = cv2.imencode(".jpg", np.zeros((90, 160, 3), np.uint8))[1].tobytes()
    for split, scene, num in (("train", "car_a", 200), ("train", "car_v", 20), ("test", "car_t", 20)):
        for index in range(num):
            gt = "50,40,1,0,1\n60,50,2,0,1\n"
            raw.add(split, scene, f"1_{index:05d}", gt=gt, bb="[40 30 60 40],car\n", image=picture)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ready = [tmp_path / f"ready{k}" for k in range(2)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE, raw.root, tmp_path / "out", mark, tmp_path / "go"], env=environment
        )
        for mark in ready
    ]
    while not all(mark.exists() for mark in ready):
        assert all(worker.poll() is None for worker in workers)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [worker.wait(60) for worker in workers] == [0, 0]
    stores = open_stores(tmp_path / "out")
    assert [len(getattr(stores, split)) for split in ("train", "val", "test")] == [200, 20, 20]
    stores.verify()
    check_digests(tmp_path / "out")


def test_who_waited_uses_what_the_other_made(source, tmp_path, monkeypatch):
    made, pack = [], prepare_module.pack

    def slowly(*arguments):
        made.append(arguments)
        time.sleep(0.3)
        return pack(*arguments)

    monkeypatch.setattr(prepare_module, "pack", slowly)
    with ThreadPoolExecutor(2) as pool:
        summaries = list(pool.map(lambda _: run(source, tmp_path / "out"), range(2)))
    assert summaries[0] == summaries[1]
    assert len(made) == 1


def test_a_mixture_of_two_data_sets_is_refused(source, tmp_path):
    run(source, tmp_path / "one")
    run(source, tmp_path / "two", quality=50)
    check_digests(tmp_path / "one")
    shutil.rmtree(tmp_path / "one/val_lmdb")
    shutil.copytree(tmp_path / "two/val_lmdb", tmp_path / "one/val_lmdb")
    with pytest.raises(DataError, match=r"one/val_lmdb is not the store named in .*summary\.json.*prepare"):
        check_digests(tmp_path / "one")


def test_stores_alone_are_taken_as_they_are(source, tmp_path):
    run(source, tmp_path / "out")
    (tmp_path / "out/summary.json").unlink()
    check_digests(tmp_path / "out")


def die_at_the_second_renaming(source: Path, out: Path) -> None:
    """Runs in a process of its own."""
    renamed = []
    replace = store_module.disk.replace_directory

    def replace_or_die(*paths):
        renamed.append(paths)
        if len(renamed) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths)

    store_module.disk.replace_directory = replace_or_die
    run(source, out, quality=50)


def test_killed_between_two_renamings_is_not_finished(source, tmp_path):
    run(source, tmp_path / "out")
    process = multiprocessing.get_context("fork").Process(
        target=die_at_the_second_renaming, args=(source, tmp_path / "out")
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    pid = process.pid
    with pytest.raises(
        DataError, match=rf"out is being prepared, or its preparation was interrupted: process {pid} on"
    ):
        check_digests(tmp_path / "out")
    assert read_summary(tmp_path / "out") is None
    again = run(source, tmp_path / "out", quality=50)
    assert again.digests == run(source, tmp_path / "fresh", quality=50).digests
    check_digests(tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.name != ".lock"]


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(raw, picture, tmp_path):
    data = cv2.imencode(".jpg", picture(300, 400))[1].tobytes()
    for split, scene, num in (("train", "car_a", 40), ("train", "car_v", 2), ("test", "car_t", 2)):
        for index in range(num):
            gt = "50,40,1,0,1\n60,50,2,0,1\n"
            raw.add(split, scene, f"1_{index}", gt=gt, bb="[20 20 300 200],car\n", image=data)
    script = "import resource, signal\n" + PREPARE.replace(
        "\nprepare(",
        "\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\nprepare(",
    )
    (tmp_path / "go").touch()
    arguments = [raw.root, tmp_path / "out", tmp_path / "ready", tmp_path / "go"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert "DataError" in last
    assert "train_lmdb cannot be written" in last
    assert "MiB are free" in last
    assert not list((tmp_path / "out").rglob("*.partial"))
    assert not list((tmp_path / "out").glob("*_lmdb"))
    assert run(raw.root, tmp_path / "out").totals("train").num_cars == 40


@pytest.mark.parametrize("out", ["", "train", "train/car_a/out", "simple_anno"])
def test_an_output_within_the_source_is_refused(source, out):
    before = sorted(source.rglob("*"))
    with pytest.raises(DataError, match="lies within the data source"):
        run(source, source / out)
    assert sorted(source.rglob("*")) == before


def test_an_output_that_cannot_be_written_is_named(source, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file/out cannot be written"):
        run(source, tmp_path / "file/out")


def test_a_finished_data_set_needs_no_lock(source, tmp_path, monkeypatch):
    first = run(source, tmp_path / "out")
    monkeypatch.setattr(prepare_module.disk, "exclusive", lambda *_: pytest.fail("a read-only directory has no lock"))
    assert run(source, tmp_path / "out") == first


def test_a_source_that_leads_nowhere_says_so(tmp_path):
    (tmp_path / "cars").symlink_to("gone")
    with pytest.raises(DataError, match="cars is a symbolic link that leads nowhere: gone"):
        run(tmp_path / "cars", tmp_path / "out")


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the two real frames are not here")
def test_real_frames(tmp_path):
    summary = run(SAMPLE, tmp_path / "out", ("car_fifth2",))
    assert summary.totals("train") == SceneCounts(1, 1, 0, 12, 0, 0)
    assert summary.totals("val") == SceneCounts(1, 2, 0, 24, 0, 0)
    assert (summary.skipped, summary.corrected) == ({}, {})
    stores = open_stores(tmp_path / "out")
    assert stores.train[0].size == (108, 156)
    assert [stores.val[i].truncated for i in range(2)] == [1, 0]
    assert stores.train[0].points[0].tolist() == [558 - 512, 697 - 612]


def test_a_crop_that_is_listed_twice_with_other_labels_is_left_out(tmp_path):
    (tmp_path / "source/simple_anno").mkdir(parents=True)
    entries = []
    for number, labels in ((0, [5, 5, 2]), (0, [9, 9, 2]), (1, [5, 5, 2]), (1, [5, 5, 2])):
        name = f"train/car_a/crop_imgs/1_1_{number}.jpg"
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "source" / name), np.zeros((20, 20, 3), np.uint8))
        entries.append(f"{json.dumps(name)}: {json.dumps([labels] * 12)}")
    (tmp_path / "source/simple_anno/keypoints_train.json").write_text("{" + ", ".join(entries) + "}")
    summary = prepare(tmp_path / "source", tmp_path / "out", (), 1, 90, False)
    assert summary.totals("train").num_cars == 1
    assert summary.skipped["crop is listed twice, with different labels"].count == 1


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".tiff"])
def test_frames_of_other_picture_formats_are_cropped(raw, lines_of, tmp_path, suffix):
    image = np.full((90, 160, 3), (10, 60, 200), np.uint8)
    scene = raw.add(gt=lines_of((40, 30, 60, 40)), bb="[40 30 60 40],car\n", image=None)
    (scene / "images_jpg").mkdir()
    (scene / f"images_jpg/1_00001{suffix}").write_bytes(cv2.imencode(suffix, image)[1].tobytes())
    summary = prepare(raw.root, tmp_path / "out", (), 1, 95, False)
    assert summary.totals("train").num_cars == 1
    crop = cv2.imread(str(tmp_path / "out/train/car_a/crop_imgs/1_00001_0.jpg"))
    assert np.abs(crop.astype(int) - (10, 60, 200)).max() <= 6


def test_a_turned_tiff_is_cropped_as_it_is_stored(raw, lines_of, tmp_path):
    scene = raw.add(gt=lines_of((40, 30, 60, 40)), bb="[40 30 60 40],car\n", image=None)
    (scene / "images_jpg").mkdir()
    turned = PIL.Image.fromarray(np.zeros((90, 160, 3), np.uint8))
    turned.save(scene / "images_jpg/1_00001.tif", tiffinfo={274: 6})
    prepare(raw.root, tmp_path / "out", (), 1, 95, False)
    meta = json.loads((tmp_path / "out/simple_anno/meta_train.json").read_text())
    assert [entry["frame_size"] for entry in meta.values()] == [[90, 160]]


@pytest.mark.parametrize("where", ["source", "output"])
def test_a_path_that_is_too_long_is_one_clear_error(raw, lines_of, tmp_path, where):
    raw.add(gt=lines_of((40, 30, 60, 40)), bb="[40 30 60 40],car\n")
    paths = {"source": raw.root, "output": tmp_path / "out"} | {where: tmp_path / ("x" * 300)}
    with pytest.raises(DataError, match="name too long"):
        prepare(paths["source"], paths["output"], (), 1, 90, False)


@pytest.mark.parametrize("damage", ["cut", "emptied"])
def test_preparing_again_mends_a_store_that_cannot_be_opened(raw, lines_of, tmp_path, damage):
    raw.add(gt=lines_of((40, 30, 60, 40)), bb="[40 30 60 40],car\n")
    first = prepare(raw.root, tmp_path / "out", (), 1, 90, False)
    file = tmp_path / "out/train_lmdb/data.mdb"
    os.truncate(file, file.stat().st_size // 2) if damage == "cut" else file.unlink()
    second = prepare(raw.root, tmp_path / "out", (), 1, 90, False)
    assert second.digests == first.digests
    stores = open_stores(tmp_path / "out")
    stores.verify()
    assert len(stores.train) == 1


def test_a_held_out_scene_may_be_composed_otherwise_on_disk(raw, lines_of, tmp_path):
    for scene in ("car_a", "cafe\u0301"):
        raw.add(scene=scene, gt=lines_of((40, 30, 60, 40)), bb="[40 30 60 40],car\n")
    summary = prepare(raw.root, tmp_path / "out", ("caf\u00e9",), 1, 90, False)
    assert (summary.totals("train").num_cars, summary.totals("val").num_cars) == (1, 1)
    assert not [warning for warning in summary.warnings if "held-out" in warning]
