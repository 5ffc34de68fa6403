import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from carkp import disk
from carkp.rendered.annotate import main
from carkp.rendered.catalog import read_catalog, read_completions
from tests.rendered.named_parts import car_parts, write_glb


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    meshes = tmp_path / "meshes"
    meshes.mkdir()
    write_glb(meshes / "sedan.glb", car_parts())
    return meshes


def written(path: Path) -> dict[str, dict[str, object]]:
    content: dict[str, dict[str, object]] = json.loads(path.read_text())
    return content


def test_a_folder_gets_its_catalogue_and_sheets(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(folder)]) == 0
    (mesh,) = read_catalog(folder)
    assert mesh.is_known.all()
    np.testing.assert_allclose(mesh.points[0], (1.3, -0.9, 0.3), atol=0.001)
    said = capsys.readouterr()
    assert "sedan: name 0,1,2,3,4,5,6,7,8,9,10,11" in said.out
    assert "fill in author, license and source of: sedan" in said.err
    sheet = cv2.imread(str(folder / "sheets" / "sedan.png"))
    assert sheet is not None
    paint = 255 * (np.array([120, 90, 60]) / 255) ** (1 / 2.2)  # the material's colour is linear
    assert (np.abs(sheet - paint).max(2) < 30).mean() > 0.1
    reds, blues = ((np.abs(sheet.astype(int) - colour).max(2) < 40).sum() for colour in ((28, 25, 215), (255, 83, 26)))
    assert reds > 50  # and points of both sides on it
    assert blues > 50


def test_points_that_are_known_stay_unless_placed_anew(folder: Path):
    assert main([str(folder), "--no-sheets"]) == 0
    catalogue = folder / "meshes.json"
    content = written(catalogue)
    content["sedan"] |= {"author": "A. Person", "license": "CC0-1.0", "source": "own", "kind": "suv"}
    content["sedan"]["points"][4] = [0.5, 2.0, 0.5]  # type: ignore[index]
    catalogue.write_text(json.dumps(content))
    assert main([str(folder), "--no-sheets"]) == 0
    again = written(catalogue)["sedan"]
    assert again == content["sedan"]
    assert main([str(folder), "--no-sheets", "--anew", "4"]) == 0
    anew = written(catalogue)["sedan"]
    np.testing.assert_allclose(anew["points"][4], [0.65, 2.05, 0.7], atol=0.011)  # type: ignore[index]
    assert anew["points"][5:] == content["sedan"]["points"][5:]  # type: ignore[index]
    assert anew["author"] == "A. Person"
    assert anew["kind"] == "suv"


def test_points_are_set_by_hand(folder: Path, capsys: pytest.CaptureFixture[str]):
    edits = ["sedan:4=0.4,front,0.5", "sedan:5=mirror", "sedan:8=0.5,0.6,1.41", "sedan:10=none"]
    assert main([str(folder), "--no-sheets", *(word for edit in edits for word in ("--set", edit))]) == 0
    entry = written(folder / "meshes.json")["sedan"]
    points = entry["points"]
    assert isinstance(points, list)
    np.testing.assert_allclose(points[4], [0.4, 2.0, 0.5], atol=1e-3)  # on the body's front
    np.testing.assert_allclose(points[5], [-0.4, 2.0, 0.5], atol=1e-3)
    assert points[8] == [0.5, 0.6, 1.41]
    assert points[10] is None
    assert entry["missing"] == [10]
    assert "hand 4,5,8; missing 10" in capsys.readouterr().out


def test_completions_hold_what_a_folder_lacks_or_has_wrong(folder: Path, tmp_path: Path):
    assert main([str(folder), "--no-sheets", "--set", "sedan:10=none"]) == 0
    before = (folder / "meshes.json").read_bytes()
    path = tmp_path / "points.json"
    change = ["--set", "sedan:0=0.85,1.3,0.3", "--set", "sedan:2=none"]
    assert main([str(folder), "--no-sheets", "--completions", str(path), *change]) == 0
    assert (folder / "meshes.json").read_bytes() == before
    completion = read_completions(path)["sedan"]
    assert completion.sha256 == disk.file_digest(folder / "sedan.glb")
    assert sorted(completion.points) == [0, 2, 10]
    assert completion.points[0] == (0.85, 1.3, 0.3)
    assert completion.points[2] is None
    # a second run starts from what the first one wrote
    assert main([str(folder), "--no-sheets", "--completions", str(path), "--set", "sedan:4=0.6,2.0,0.7"]) == 0
    again = read_completions(path)["sedan"].points
    assert {k: again[k] for k in (0, 10)} == {k: completion.points[k] for k in (0, 10)}
    assert again[4] == (0.6, 2.0, 0.7)
    assert 2 not in again  # a point that is not known is placed, as the folder has it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such folder"),
        (["{folder}", "lorry"], r"'lorry': no such file: .*lorry\.glb"),
        (["{folder}", "--set", "sedan:4"], "expected NAME:INDEX=x,y,z"),
        (["{folder}", "--set", "sedan:4=1,2"], "expected NAME:INDEX=x,y,z"),
        (["{folder}", "--set", "sedan:4=1,2,inf"], "expected NAME:INDEX=x,y,z"),
        (["{folder}", "--set", "sedan:4=front,2,1"], "expected NAME:INDEX=x,y,z"),
        (["{folder}", "--set", "sedan:12=mirror"], "index of 0 to 11"),
        (["{folder}", "--set", "lorry:1=mirror"], "'lorry'"),
        (["{folder}", "--set", "sedan:4=0.4,front,9"], "there is no surface there, seen from the front"),
        (["{folder}", "--anew", "lights"], "--anew 'lights': expected indices"),
    ],
)
def test_mistakes_are_named(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str):
    assert main([word.format(folder=folder) for word in arguments] + ["--no-sheets"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert re.search(message, said), said
    assert not (folder / "meshes.json").exists()


def test_an_empty_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path)]) == 1
    assert "no GLB file in it" in capsys.readouterr().err
