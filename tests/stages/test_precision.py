"""The search for 16-bit tensors as a user runs it, on the tiny configuration, up to files and alignment."""

import csv
from pathlib import Path

import pytest

from carkp.deploy.int8_onnx import load_program
from carkp.predictor import Predictor
from tests.stages.conftest import Outcome, Project

HARD = ("--set", "quant.loss_alpha=0.3", "--set", "quant.sweep=[]", "--set", "quant.num_images=16")
"""An untrained network has next to nothing right at a small threshold, and so nothing to lose."""


def search(project: Project, max_loss: float, *words: str) -> Outcome:
    return project.stage("precision", *HARD, "--set", f"quant.max_loss={max_loss}", *words)


def rows_of(project: Project, name: str) -> list[dict[str, str]]:
    run_id = project.runs("precision")[0].info.run_id
    path = project.client.download_artifacts(run_id, f"precision/{name}.csv")
    return list(csv.DictReader(Path(path).read_text().splitlines()))


@pytest.fixture(scope="module")
def searched(trained: Project) -> Project:
    done = search(trained, 0.05)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "quant.int16=[" in done.stdout
    return trained


def test_the_search_leaves_its_tables_and_picture(searched: Project) -> None:
    run = searched.runs("precision")[0]
    assert {"figures/precision.png"} <= searched.artifacts(run, "figures")
    trials = rows_of(searched, "trials")
    (chosen,) = [row for row in trials if row["chosen"]]
    assert float(trials[0]["loss"]) > 0.05 >= float(chosen["loss"])
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
    done = searched.stage("export", "--model", f"runs:/{run.info.run_id}")
    assert done.returncode == 0, done.stderr
    assert "of them touch 16-bit tensors, which ONNX Runtime runs in float, " in done.stdout
    export = searched.finished("export")[0]
    path = Path(searched.client.download_artifacts(export.info.run_id, "onnx/int8_bpu.onnx"))
    program = load_program(path)
    assert set(run.data.tags["carkp.int16"].split(",")) <= set(program.wide_tensors)
    assert Predictor.load(path).input_size == (64, 64)
    done = searched.stage("align", "--model", f"runs:/{export.info.run_id}")
    assert done.returncode == 0, done.stdout + done.stderr
    aligned = searched.runs("align")[0]
    table = Path(searched.client.download_artifacts(aligned.info.run_id, "tables/comparisons.csv"))
    rows = {(row["first"], row["second"]): row for row in csv.DictReader(table.read_text().splitlines())}
    assert rows["simulated", "reference"]["max_lsb"] == "0"
    assert ("simulated_float32", "onnxruntime") not in rows
    done = searched.stage("check", "--model", f"runs:/{export.info.run_id}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_calibration_repeats_what_was_found(searched: Project) -> None:
    run = searched.runs("precision")[0]
    words = ("--set", f"quant.int16=[{run.data.tags['carkp.int16']}]")
    done = searched.stage("calibration", *HARD, *words)
    assert done.returncode == 0, done.stderr
    again = searched.finished("calibration")[0]
    assert again.data.tags["carkp.model_digest"] == run.data.tags["carkp.model_digest"]


def test_what_is_impossible_is_said(trained: Project) -> None:
    done = search(trained, 0)
    assert done.returncode == 1
    assert "with 16 bits in all 61 tensors the loss is" in done.stderr
    assert len(rows_of(trained, "trials")) == 2
    done = search(trained, 0.05, "--target", "onnxruntime_cpu")
    assert done.returncode == 1
    assert "onnxruntime_cpu takes no tensors of 16 bits" in done.stderr
    done = trained.stage("calibration", *HARD, "--target", "onnxruntime_cpu", "--set", "quant.int16=[head/*]")
    assert done.returncode == 1
    assert "quant.int16: tensors of 16 bits are defined for targets with requantisation fixed_point" in done.stderr
    done = trained.stage("calibration", *HARD, "--set", "quant.int16=[nowhere/*]")
    assert done.returncode == 1
    assert "quant.int16: 'nowhere/*' matches no tensor; there are backbone/" in done.stderr
