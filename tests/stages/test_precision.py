"""The search for 16-bit tensors as a user runs it, on the tiny configuration, up to files and alignment."""

import csv

import pytest

from carkp.deploy.int8_onnx import load_program
from carkp.keypoints.displacement import mean_shift_px
from carkp.keypoints.paired import Interval
from carkp.keypoints.predictions import Predictions
from carkp.predictor import Predictor
from carkp.stages import precision
from tests.stages.conftest import Outcome, Project

CARS = ("--set", "name=cars", "--set", "model.pretrained=carkp-car12", "--set", "model.head_channels=128")
QUANT = ("--set", "quant.sweep=[]", "--set", "quant.num_images=16", "--set", "quant.num_sqnr_images=8")


def shift_as_loss(reference: Predictions, other: Predictions, _alpha: float) -> Interval:
    """Six cars lose or win a little by chance; what their keypoints move by falls with every tensor of 16 bits."""
    shift = mean_shift_px(reference, other) / 100
    return Interval(shift, shift, shift)


def search(project: Project, max_loss: float, *words: str) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "expected_loss", shift_as_loss)
        return project.stage("precision", *CARS, *QUANT, "--set", f"quant.max_loss={max_loss}", *words)


def rows_of(project: Project, name: str) -> list[dict[str, str]]:
    path = project.artifact(project.runs("precision")[0], f"precision/{name}.csv")
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def cars(trained: Project) -> Project:
    """The shipped model, hardly moved, as the float training: its keypoints mean something on every machine."""
    changes = ("train.epochs=1", "train.lr=1e-6", "train.freeze_batch_norm=true")
    done = trained.stage("float", *CARS, *(word for change in changes for word in ("--set", change)))
    assert done.returncode == 0, done.stdout + done.stderr
    return trained


@pytest.fixture(scope="module")
def max_loss(cars: Project) -> float:
    """Two thirds of what 8 bits alone cost, as a search says for which they are enough."""
    done = search(cars, 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "quant.int16=[]" in done.stdout
    (only,) = rows_of(cars, "trials")
    return float(only["loss"]) * 2 / 3


@pytest.fixture(scope="module")
def searched(cars: Project, max_loss: float) -> Project:
    done = search(cars, max_loss)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "quant.int16=[" in done.stdout
    return cars


def test_the_search_leaves_its_tables_and_picture(searched: Project, max_loss: float) -> None:
    run = searched.runs("precision")[0]
    assert {"figures/precision.png"} <= searched.artifacts(run, "figures")
    trials = rows_of(searched, "trials")
    (chosen,) = [row for row in trials if row["chosen"]]
    assert float(trials[0]["loss"]) > max_loss >= float(chosen["loss"])
    assert 1 <= int(chosen["num_wide"]) < int(trials[-1]["num_wide"])
    assert float(trials[0]["predicted_us"]) < float(chosen["predicted_us"]) < float(trials[-1]["predicted_us"])
    assert chosen["wide"].split() == run.data.tags["carkp.int16"].split(",")
    assert run.data.metrics["precision/num_wide"] == int(chosen["num_wide"])
    ranked = rows_of(searched, "sensitivity")
    shifts = [float(row["shift_px"]) for row in ranked]
    assert shifts == sorted(shifts, reverse=True)
    assert {row["tensor"] for row in ranked} == set(trials[-1]["wide"].split())


def test_its_model_is_exported_and_aligned(searched: Project) -> None:
    run = searched.runs("precision")[0]
    done = searched.stage("export", *CARS, "--model", f"runs:/{run.info.run_id}")
    assert done.returncode == 0, done.stderr
    assert "of them touch 16-bit tensors, which ONNX Runtime runs in float, " in done.stdout
    export = searched.finished("export")[0]
    path = searched.artifact(export, "onnx/int8_bpu.onnx")
    program = load_program(path)
    assert set(run.data.tags["carkp.int16"].split(",")) <= set(program.wide_tensors)
    assert Predictor.load(path).input_size == (64, 64)
    done = searched.stage("align", *CARS, "--model", f"runs:/{export.info.run_id}")
    assert done.returncode == 0, done.stdout + done.stderr
    aligned = searched.runs("align")[0]
    table = searched.artifact(aligned, "tables/comparisons.csv")
    rows = {(row["first"], row["second"]): row for row in csv.DictReader(table.read_text().splitlines())}
    assert rows["simulated", "reference"]["max_lsb"] == "0"
    assert ("simulated_float32", "onnxruntime") not in rows
    done = searched.stage("check", *CARS, "--model", f"runs:/{export.info.run_id}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_calibration_repeats_what_was_found(searched: Project) -> None:
    run = searched.runs("precision")[0]
    words = ("--set", f"quant.int16=[{run.data.tags['carkp.int16']}]")
    done = searched.stage("calibration", *CARS, *QUANT, *words)
    assert done.returncode == 0, done.stderr
    again = searched.finished("calibration")[0]
    assert again.data.tags["carkp.model_digest"] == run.data.tags["carkp.model_digest"]


def test_what_is_impossible_is_said(cars: Project) -> None:
    done = search(cars, 0)
    assert done.returncode == 1
    assert "with 16 bits in all 61 tensors the loss is" in done.stderr
    assert "Set quant.rounding=second_moments and quant.bias_correction=true, or raise quant.max_loss" in done.stderr
    assert len(rows_of(cars, "trials")) == 2
    done = search(cars, 0, "--set", "quant.rounding=second_moments", "--set", "quant.bias_correction=true")
    assert done.returncode == 1
    assert "Train the weights for int8 (stage qat), or raise quant.max_loss" in done.stderr
    done = search(cars, 0.05, "--target", "onnxruntime_cpu")
    assert done.returncode == 1
    assert "onnxruntime_cpu takes no 16-bit tensors" in done.stderr
    done = cars.stage("calibration", *CARS, *QUANT, "--target", "onnxruntime_cpu", "--set", "quant.int16=[head/*]")
    assert done.returncode == 1
    assert "quant.int16: 16-bit tensors need a target with requantisation fixed_point" in done.stderr
    done = cars.stage("calibration", *CARS, *QUANT, "--set", "quant.int16=[nowhere/*]")
    assert done.returncode == 1
    assert "quant.int16: 'nowhere/*' matches no tensor; there are " in done.stderr
