"""The yardstick's command line, on drawn cars and an untrained network."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from carkp.config.loading import ConfigError
from carkp.measurements.record import load_record
from tests.real_cars import DrawnCar, write_coco, write_list
from tests.tiny_models import TinyModels

SCRIPT = Path(__file__).parents[2] / "experiments" / "real_cars.py"
CARS = [DrawnCar("a.png", traits={"kind": "suv", "heading": "rear"}), DrawnCar("b.png", traits={"kind": "bus"})]


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [write_list(tmp_path / "listed", CARS), write_coco(tmp_path / "coco", CARS, "street.json")]


def call(monkeypatch: pytest.MonkeyPatch, *argv: object) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, argv)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_folders_with_commas_and_two_models(
    folders: list[Path],
    tiny_models: TinyModels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    models = tiny_models.checkpoint, tiny_models.int8_onnx
    assert call(monkeypatch, ",".join(map(str, folders)), *models, "--output", out) == 0
    text = capsys.readouterr().out
    for part in ("4 real cars, 48 keypoints", "over 4 photographs", "best.pt", "int8.onnx", "Differences from best.pt"):
        assert part in text
    found = json.loads((out / "figures.json").read_text())
    assert [(model["reference"], model["kind"]) for model in found["models"].values()] == [
        (str(models[0]), "float checkpoint"),
        (str(models[1]), "int8 ONNX"),
    ]
    assert (out / "cars_2.jpg").is_file()


def test_a_record_has_every_set_alone_and_all_cars(
    folders: list[Path], tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "MLproject").write_text("name: carkp\n")
    monkeypatch.chdir(tmp_path / "project")
    words = [*folders, "--model", tiny_models.float_onnx, "--record", "--output", tmp_path / "out"]
    assert call(monkeypatch, *words, "--config", SCRIPT.parents[1] / "configs" / "tiny.yaml") == 0
    record = load_record(tmp_path / "project" / "reports" / "measurements" / "real_cars.yaml")
    table, boxes = record.tables
    assert [row["cars"] for row in table.rows] == [2, 2, 4]
    assert [row["factor"] for row in boxes.rows] == [0.8, 0.9, 1.0, 1.1, 1.2, 1.35]
    assert boxes.rows[2]["pck_0.1"] == table.rows[2]["pck_0.1"]
    assert [item.name for item in record.measurements[:2]] == ["pck_0.1", "pck_0.05"]
    assert str(tmp_path) not in record.command


def test_models_as_options_make_every_word_a_folder(
    folders: list[Path],
    tiny_models: TinyModels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert call(monkeypatch, *folders, "--model", tiny_models.float_onnx, "--output", out) == 0
    text = capsys.readouterr().out
    assert "4 real cars" in text
    assert "Differences" not in text
    assert sorted(path.name for path in out.iterdir()) == [
        "cars.csv",
        "cars.jpg",
        "figures.json",
        "groups.csv",
        "predictions.npz",
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name a folder of real cars"),
        (["nowhere", "model.onnx"], "nowhere: no such folder of real cars"),
        (["{listed}", "nothing.onnx"], "nothing.onnx: no such model file (to give several folders of cars"),
        (["{listed}", "{coco}"], "holds none of artifacts/model.onnx"),
        (["{listed}", "model.onnx", "--box_scale", "0"], "box_scale=0: a factor of boxes must be above 0"),
        (
            ["{listed}", "model.onnx", "--box_scale", "1.2", "--record"],
            "--record measures boxes of several sizes itself",
        ),
    ],
)
def test_errors_say_what_to_do(
    argv: list[str],
    message: str,
    folders: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"listed": folders[0], "coco": folders[1]}
    assert call(monkeypatch, *(word.format(**names) for word in argv)) == 1
    assert message in capsys.readouterr().err


def test_what_is_left_out_is_said(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_list(tmp_path / "set", [*CARS, DrawnCar("a.png", missing=range(12))])
    assert call(monkeypatch, folder, tiny_models.float_onnx, "--output", tmp_path / "out") == 0
    assert "left out: 1 x car has no labelled keypoint in its box" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "models", "expected"),
    [
        (["a"], [], (["a"], ["latest"])),
        (["a,b", "x", "y"], [], (["a", "b"], ["x", "y"])),
        (["a", "b,c"], ["x", "x"], (["a", "b", "c"], ["x"])),
    ],
)
def test_words_are_folders_and_models(words: list[str], models: list[str], expected: tuple) -> None:
    assert runpy.run_path(str(SCRIPT))["folders_and_models"](words, models) == expected


def test_a_folder_may_have_a_comma_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    script = runpy.run_path(str(SCRIPT))
    assert script["split_folders"](str(tmp_path / "a,b")) == [str(tmp_path / "a,b")]
    with pytest.raises(ConfigError, match="name a folder"):
        script["folders_and_models"]([","], [])


def test_short_names_tell_models_apart() -> None:
    short_names = runpy.run_path(str(SCRIPT))["short_names"]
    assert short_names(["runs/a/best.pt", "runs/b/best.pt", "x.onnx"]) == ["a/best.pt", "b/best.pt", "x.onnx"]
    assert short_names(["latest"]) == ["latest"]
