"""A model is made ready to ship from a tiny pipeline, end to end, and every stage takes it by its name."""

import io
import json
import re
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import onnx
import pytest
import torch

from carkp import shipped
from carkp.predictor import Predictor
from carkp.report.model_card import Card, card_from_yaml
from carkp.training.checkpoint import load_checkpoint
from carkp.workflow import shipping
from tests.stages.conftest import ROOT, TINY, Outcome, Project

MAIN = runpy.run_path(str(ROOT / "experiments" / "ship_model.py"), run_name="ship_model")["main"]
QUANTISED = ("--target", "onnxruntime_cpu")


def ship(project: Project, output: Path, *arguments: str) -> Outcome:
    """The command, in this process."""
    out, error = io.StringIO(), io.StringIO()
    words = ["ship_model.py", "--config", TINY, "--output", str(output), *arguments]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.chdir(project.path)
        patch.setenv("MLFLOW_TRACKING_URI", project.uri)
        patch.setattr(sys, "argv", words)
        mlflow.set_tracking_uri(project.uri)
        from carkp.workflow.cli import guarded

        status = guarded(MAIN)
    return Outcome(status, out.getvalue(), error.getvalue())


@pytest.fixture(scope="module")
def exported(trained: Project) -> Project:
    """A project with an export for ONNX Runtime."""
    for stage, *words in (("calibration", "--set", "quant.sweep=[]"), ("export",)):
        done = trained.stage(stage, *QUANTISED, *words)
        assert done.returncode == 0, done.stderr
    return trained


@pytest.fixture(scope="module")
def folder(exported: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the model, in an installation of their own."""
    output = tmp_path_factory.mktemp("installation") / "models" / "car12"
    done = ship(exported, output)
    assert done.returncode == 0, done.stderr
    assert "carkp-car12: " in done.stdout
    return output


@pytest.fixture
def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shipped, "ROOT", folder.parent)
    return folder


def card_in(folder: Path) -> Card:
    return card_from_yaml((folder / "card.yaml").read_text())


def figures_of(folder: Path, **changes: Any) -> dict[str, Any]:
    """What the yardstick says of the files, made up."""
    card = card_in(folder)

    def figure(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.05, "high": value + 0.05}

    def group(value: float, num_cars: int) -> dict[str, Any]:
        pck = {alpha: figure(value) for alpha in ("0.05", "0.1", "0.2")}
        return {"num_cars": num_cars, "num_points": 8 * num_cars, "num_clusters": num_cars, "pck": pck}

    def model(file: str, value: float) -> dict[str, Any]:
        groups = {"all": {"all": group(value, 20)}, "kind": {"car": group(0.95, 16), "bus": group(0.41, 4)}}
        sha256 = card.files[file].sha256
        return {"reference": file, "sha256": sha256, "turned": figure(0.02), "mirrored": figure(0.01), "groups": groups}

    models = {"float": model("weights.safetensors", 0.9), "int8": model("int8.onnx", 0.89)}
    pck = {alpha: {**figure(-0.01), "p_value": 0.3, "num_lost": 2} for alpha in ("0.05", "0.1", "0.2")}
    comparison = {"reference": "float", "other": "int8", "pck": pck, "turned": figure(0.0)}
    cars = {"sha256": "ab" * 32, "num_cars": 20, "num_photographs": 17, "num_cameras": 0}
    return {"cars": cars, "models": models, "comparisons": [comparison], **changes}


def test_the_files_are_those_of_the_runs(exported: Project, folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == set(shipped.FILES)
    export = exported.finished("export")[0]
    path = exported.artifact(export, "onnx/int8_onnxruntime_cpu.onnx")
    own, made = Predictor.load(path), Predictor.load(folder / "int8.onnx")
    assert own.codec == made.codec
    images = np.random.default_rng(0).uniform(-1, 1, (3, 3, 64, 64)).astype(np.float32)
    np.testing.assert_array_equal(made.heatmaps(images), own.heatmaps(images))
    best = load_checkpoint(exported.artifact(exported.runs("float")[-1], "checkpoints/best.pt"))
    half = load_checkpoint(folder / "weights.safetensors")
    assert half.architecture == best.architecture
    for name, value in best.weights.items():
        torch.testing.assert_close(half.weights[name], value, rtol=2**-11, atol=1e-7)


def test_no_path_of_this_machine_is_in_the_files(exported: Project, folder: Path) -> None:
    model = onnx.load(str(folder / "int8.onnx"))
    notes = json.dumps({item.key: item.value for item in model.metadata_props})
    texts = [notes, str(load_checkpoint(folder / "weights.safetensors").config)]
    texts += [(folder / name).read_text() for name in ("card.md", "card.yaml")]
    for text in texts:
        assert str(exported.path) not in text
        assert str(ROOT) not in text


def test_the_card_says_what_was_measured(exported: Project, folder: Path) -> None:
    card, run = card_in(folder), exported.runs("float")[-1]
    float_ = load_checkpoint(exported.artifact(run, "checkpoints/best.pt"))
    assert card.rounding.float32 == pytest.approx(run.data.metrics["val/pck"], abs=1e-6)
    assert abs(card.rounding.float16 - card.rounding.float32) <= shipping.MAX_ROUNDING
    test = card.generated["test"]
    assert test.float_.total.pck["0.1"].value == pytest.approx(run.data.metrics["test/pck"], abs=0.02)
    assert test.int8.total.num_cars == card.data[0].num_cars["test"] > 0
    assert (card.data[0].name, card.data[0].seed, card.data[0].share) == ("synthetic", 0, 1.0)
    assert card.data[0].sha256 == test.sha256 == run.data.tags["carkp.data_digest"]
    assert card.making.best_epoch == float_.epoch
    assert card.making.commit == run.data.tags["carkp.git_commit"]
    assert card.making.first_weights == "drawn at random"
    assert card.making.config["train"]["epochs"] == 2
    assert {name: (folder / name).stat().st_size for name in card.files} == {
        name: file.num_bytes for name, file in card.files.items()
    }


def test_the_page_shows_the_figures_of_the_card(folder: Path) -> None:
    card, page = card_in(folder), (folder / "card.md").read_text()
    for heading in ("Figures", "Data and licences", "How it was made", "Intended use", "What it cannot do", "Files"):
        assert f"\n## {heading}\n" in page
    for found in card.generated.values():
        for model in (found.float_, found.int8):
            assert f"{model.total.pck['0.1'].value:.3f}" in page
    assert card.making.commit in page
    assert "It has not been scored on photographs." in page
    assert all(file.sha256 in page for file in card.files.values())
    assert "procedural cars and streets, no photograph, no mesh" in page
    assert not re.search(r"\bNone\b|\bnan\b|Undefined", page)
    assert "\n\n\n" not in page


def test_the_page_is_made_anew_of_the_card_alone(exported: Project, folder: Path, tmp_path: Path) -> None:
    page = (folder / "card.md").read_bytes()
    (folder / "card.md").write_text("old")
    done = ship(exported, folder, "--render")
    assert done.returncode == 0, done.stderr
    assert (folder / "card.md").read_bytes() == page
    assert "has no card.yaml that this version of carkp reads" in ship(exported, tmp_path, "--render").stderr


def test_again_with_real_cars_nothing_is_scored_twice(
    exported: Project, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (folder / name).read_bytes() for name in shipped.FILES}
    first = card_in(folder)
    (tmp_path / "figures.json").write_text(json.dumps(figures_of(folder)))

    def fail(*arguments: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(shipping, "score_generated", fail)
    done = ship(exported, folder, "--real", f"Seventeen photographs={tmp_path / 'figures.json'}")
    assert done.returncode == 0, done.stderr
    second, page = card_in(folder), (folder / "card.md").read_text()
    assert (second.generated, second.rounding, second.files) == (first.generated, first.rounding, first.files)
    for name in ("int8.onnx", "weights.safetensors"):
        assert (folder / name).read_bytes() == before[name]
    assert "### Seventeen photographs\n\nIntervals over 17 photographs" in page
    assert "| Seventeen photographs: 20 cars, 160 keypoints | float |" in page
    assert "-1.00 (-6.00 to +4.00)" in page
    assert "kind of vehicle: bus has PCK@0.1 0.410 (0.360 to 0.460) over 4 cars, below 0.8." in page
    assert "car has PCK" not in page
    assert "Cars turned front to back: a share of 0.020 (-0.030 to 0.070) on Seventeen photographs" in page


@pytest.mark.parametrize("part", ["models", "comparisons"])
def test_figures_of_other_files_are_refused(exported: Project, folder: Path, tmp_path: Path, part: str) -> None:
    content = figures_of(folder)
    if part == "models":
        content["models"]["int8"]["sha256"] = "0" * 64
    else:
        content["comparisons"][0] |= {"reference": "int8", "other": "float"}
    (tmp_path / "figures.json").write_text(json.dumps(content))
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    done = ship(exported, folder, "--real", str(tmp_path / "figures.json"))
    assert done.returncode == 1
    assert "does not compare the files that are shipped, first float and then int8, as they are now" in done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_what_cannot_be_shipped_is_refused(
    exported: Project, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"")
    run = exported.runs("float")[-1]
    file = exported.artifact(run, "checkpoints/best.pt")
    cases: list[tuple[Path, list[str], str]] = [
        (tmp_path / "mine", [], "holds other files (photo.jpg); give another folder"),
        (tmp_path / "new", ["--model", str(file)], "name a float run (latest or runs:/<id>)"),
        (tmp_path / "new", ["--real", "none.json"], "real=none.json: no such file"),
        (tmp_path / "new", ["--export", f"runs:/{run.info.run_id}/onnx/float.onnx"], "float.onnx"),
        (tmp_path / "new", ["--set", "name=other"], "no finished float run (experiment other)"),
    ]
    for output, words, message in cases:
        done = ship(exported, output, *words)
        assert (done.returncode, "Traceback" in done.stderr) == (1, False), words
        assert message in done.stderr
    monkeypatch.setattr(shipping, "MAX_BYTES", 1000)
    assert "MiB, more than 0 MiB" in ship(exported, tmp_path / "new").stderr
    monkeypatch.setattr(shipping, "MAX_ROUNDING", -1.0)
    assert "float16 changes PCK@0.1 on generated validation cars from" in ship(exported, tmp_path / "new").stderr
    assert [path.name for path in tmp_path.iterdir() if "new" in path.name and path.is_dir()] == []
    assert (tmp_path / "mine" / "photo.jpg").is_file()


def test_an_export_of_another_training_is_refused(exported: Project, tmp_path: Path) -> None:
    done = exported.stage("float", "--set", "seed=5")
    assert done.returncode == 0, done.stderr
    newest, *_, oldest = exported.runs("float")
    done = ship(exported, tmp_path / "out", "--model", f"runs:/{newest.info.run_id}")
    assert "no export of runs:/" in done.stderr
    assert f"mlflow run . -e calibration -P model=runs:/{newest.info.run_id} -P target=onnxruntime_cpu" in done.stderr
    export = exported.finished("export")[0].info.run_id
    done = ship(exported, tmp_path / "out", "--model", f"runs:/{newest.info.run_id}", "--export", f"runs:/{export}")
    assert "was made of another float model; give the export of this one" in done.stderr
    done = ship(exported, tmp_path / "out", "--model", f"runs:/{oldest.info.run_id}")
    assert done.returncode == 0, done.stderr


def test_every_stage_takes_it_by_name(exported: Project, installed: Path, tmp_path: Path) -> None:
    card = card_in(installed)
    for stage, figures in (("float", card.generated["test"].float_), ("onnxruntime", card.generated["test"].int8)):
        done = exported.stage("evaluate", "--stage", stage, "--model", "carkp-car12", *QUANTISED)
        assert done.returncode == 0, done.stderr
        run = exported.runs("evaluate")[0]
        assert run.data.tags["carkp.scored"] == "carkp-car12"
        assert run.data.metrics["test/pck"] == pytest.approx(figures.total.pck["0.1"].value, abs=1e-4)
    done = exported.stage("calibration", "--model", "carkp-car12", *QUANTISED, "--set", "quant.sweep=[]")
    assert done.returncode == 0, done.stderr
    assert exported.finished("calibration")[0].data.tags["carkp.float_model"] == "carkp-car12"
    done = exported.stage("check", "--model", "carkp-car12", *QUANTISED)
    assert done.returncode == 0, done.stderr
    done = exported.stage("export", "--model", "carkp-car12", *QUANTISED)
    assert done.returncode == 1
    assert "mlflow run . -e calibration -P model=carkp-car12" in done.stderr
    done = exported.stage("align", "--model", "carkp-car12", *QUANTISED)
    assert done.returncode == 1
    assert "align needs the calibrated network too, which does not come with carkp" in done.stderr


def test_infer_without_a_model_takes_it_and_says_so(exported: Project, installed: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 160, 3)).astype(np.uint8)
    assert cv2.imwrite(str(tmp_path / "a.png"), image)
    words = ("--image", str(tmp_path / "a.png"), "--output", str(tmp_path / "out"))
    done = exported.stage("infer", *words)
    assert done.returncode == 0, done.stderr
    assert f"model: carkp-car12, which comes with carkp; {installed / 'card.md'} states its accuracy" in done.stderr
    assert "note: the experiment tiny has its own model, exported 20" in done.stderr
    assert "-P model=latest uses it" in done.stderr
    assert "int8 ONNX carkp-car12: 1 cars in 1 images" in done.stdout
    assert exported.runs("infer")[0].data.tags["carkp.infer_model"] == "carkp-car12"
    found = json.loads((tmp_path / "out" / "keypoints.json").read_text())
    assert found["model"] == "carkp-car12"
    expected = Predictor.load()(np.ascontiguousarray(image[..., ::-1]))
    np.testing.assert_allclose(found["images"]["a.png"]["cars"][0]["points"], expected.points[0], atol=1e-3)
    untracked = exported.stage("infer", "--no-track", *words)
    assert "note: the experiment" not in untracked.stderr


def test_infer_says_what_to_do_where_it_is_missing(
    exported: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "ROOT", tmp_path)
    assert cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    done = exported.stage("infer", "--no-track", "--image", str(tmp_path / "a.png"), "--output", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "carkp-car12: this installation of carkp does not have the model" in done.stderr
    assert "or name another model: latest, a file, or runs:/<id>" in done.stderr


def test_a_training_that_starts_from_it_says_so(exported: Project, installed: Path) -> None:
    done = exported.stage("float", "--set", "model.pretrained=carkp-car12", "--set", "train.epochs=1")
    assert done.returncode == 0, done.stderr
    run = exported.finished("float")[0]
    assert run.data.params["config.model.pretrained"] == "carkp-car12"
    assert run.data.tags["carkp.pretrained"].startswith("shipped: carkp-car12 (whole network, trained at commit ")
    decided = load_checkpoint(exported.artifact(run, "checkpoints/last.pt")).training_state["decided"]
    assert decided["model.pretrained"].startswith("file ")
