"""Every kind of source becomes three stores and an honest summary; what cannot become one says why."""

import json
import os
import shutil
from pathlib import Path

import pytest

from carkp.data import prepare as prepare_module
from carkp.data.issues import DataError
from carkp.data.prepare import prepare
from carkp.data.source import SourceKind, detect_source_kind
from carkp.data.store import open_stores
from carkp.data.summary import DataSummary, SceneCounts, read_summary

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
    with pytest.raises(DataError, match="no CarFusion data"):
        run(tmp_path / "file.txt", tmp_path / "out")
    raw.add_car()
    with pytest.raises(DataError, match=f"Did you mean {raw.root}"):
        run(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="name it train and give its parent"):
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
