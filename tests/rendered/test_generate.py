"""Rendered sets on disk: complete, the same however they are drawn, and gone on with after a kill."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carkp.rendered import generate as module
from carkp.rendered.catalog import CatalogError
from carkp.rendered.generate import RenderedSpec, generate, picture_set
from carkp.synthetic.blocks import Drawn, PictureSet, Shard
from tests.rendered.painted_car import write_folder


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> RenderedSpec:
    meshes = write_folder(tmp_path_factory.mktemp("meshes"), "sedan_one", "van_two")
    return RenderedSpec(meshes, num_train_cars=16, num_val_cars=2, num_test_cars=2, seed=4)


@pytest.fixture(scope="module")
def drawn(spec: RenderedSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("drawn") / "set"
    generate(out_dir, spec, num_workers=1, show_progress=False)
    return out_dir


def is_complete(out_dir: Path, spec: RenderedSpec) -> bool:
    return picture_set(spec).is_complete(out_dir)


def digest(folder: Path) -> str:
    parts = [
        f"{p.relative_to(folder)} {hashlib.sha256(p.read_bytes()).hexdigest()}"
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def test_a_set_is_whole(drawn: Path, spec: RenderedSpec):
    assert is_complete(drawn, spec)
    assert len(list(drawn.glob("train/*/images_jpg/*.jpg"))) == 18
    assert len(list(drawn.glob("train/car_craig2/images_jpg/*.jpg"))) == 2
    assert len(list(drawn.glob("test/*/images_jpg/*.jpg"))) == 2
    truth = [json.loads(line) for file in drawn.glob("*/*/truth.jsonl") for line in file.read_text().splitlines()]
    assert {line["mesh"] for line in truth} == {"sedan_one", "van_two"}
    assert len(truth) == 20


def test_a_whole_set_is_kept(drawn: Path, spec: RenderedSpec, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PictureSet, "_begin", lambda *_: pytest.fail("drawn again"))
    generate(drawn, spec, num_workers=1, show_progress=False)


def test_a_set_of_another_seed_is_not_overwritten(drawn: Path, spec: RenderedSpec):
    with pytest.raises(FileExistsError, match="choose another directory"):
        generate(drawn, replace(spec, seed=5), num_workers=1, show_progress=False)


def test_what_was_drawn_before_a_kill_is_kept(
    drawn: Path, spec: RenderedSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real, begun = module.draw_block, []

    def killed(root: Path, block: module._Block) -> Drawn:
        if len(begun) == 4:
            raise KeyboardInterrupt
        begun.append(block)
        return real(root, block)

    with monkeypatch.context() as patched:
        patched.setattr(module, "draw_block", killed)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "set", spec, num_workers=1, show_progress=False)
    assert not (tmp_path / "set").exists()
    half = tmp_path / ".set.unfinished"
    (half / "train" / begun[0].scene / "images_jpg" / "stray.part").touch()
    again: list[module._Block] = []
    monkeypatch.setattr(module, "draw_block", lambda root, block: again.append(block) or real(root, block))
    (half / "train" / begun[0].scene / "images_jpg" / "stray.part").unlink()
    generate(tmp_path / "set", spec, num_workers=1, show_progress=False)
    assert not {b.name for b in begun} & {b.name for b in again}
    assert digest(tmp_path / "set") == digest(drawn)


def test_the_number_of_workers_changes_nothing(drawn: Path, spec: RenderedSpec, tmp_path: Path):
    generate(tmp_path / "set", spec, num_workers=2, show_progress=False)
    assert digest(tmp_path / "set") == digest(drawn)


def test_shards_are_the_whole_set(drawn: Path, spec: RenderedSpec, tmp_path: Path):
    pictures = picture_set(spec)
    for number in (2, 1):
        pictures.generate_shard(tmp_path / "set", Shard(number, 2), 1, show_progress=False)
    pictures.merge_shards(tmp_path / "set", 2)
    assert digest(tmp_path / "set") == digest(drawn)


def test_labels_of_points_that_the_mesh_lacks_are_left_out(spec: RenderedSpec, tmp_path: Path):
    meshes = write_folder(tmp_path / "meshes", "sedan_one")
    entries = json.loads((meshes / "meshes.json").read_text())
    entries["sedan_one"]["points"][10] = entries["sedan_one"]["points"][11] = None
    (meshes / "meshes.json").write_text(json.dumps(entries))
    generate(tmp_path / "set", replace(spec, meshes=meshes, num_train_cars=7), 1, show_progress=False)
    ids = {
        int(line.split(",")[2]) for f in (tmp_path / "set").glob("*/*/gt/*.txt") for line in f.read_text().splitlines()
    }
    assert ids <= {1, 2, 3, 4, 5, 6, 7, 8, 10, 11}


def test_a_folder_without_meshes_is_refused_by_name(spec: RenderedSpec, tmp_path: Path):
    with pytest.raises(CatalogError, match="nowhere"):
        generate(tmp_path / "set", replace(spec, meshes=tmp_path / "nowhere"), 1, show_progress=False)


@pytest.mark.parametrize("name", ["num_train_cars", "num_val_cars", "num_test_cars", "seed"])
def test_negative_numbers_are_refused(spec: RenderedSpec, tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=name):
        generate(tmp_path / "set", replace(spec, **{name: -1}), 1, show_progress=False)


def test_other_points_make_another_set(drawn: Path, spec: RenderedSpec, tmp_path: Path):
    meshes = write_folder(tmp_path / "meshes", "sedan_one", "van_two")
    assert is_complete(drawn, replace(spec, meshes=meshes))
    entries = json.loads((meshes / "meshes.json").read_text())
    entries["van_two"]["points"] = (np.array(entries["van_two"]["points"]) + 0.1).tolist()
    (meshes / "meshes.json").write_text(json.dumps(entries))
    assert not is_complete(drawn, replace(spec, meshes=meshes))
