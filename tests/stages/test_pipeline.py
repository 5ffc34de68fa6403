"""The stages as a user runs them, on the tiny configuration."""

import csv
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from carkp.keypoints.predictions import load_predictions
from carkp.keypoints.schema import KEYPOINT_NAMES
from tests.stages.conftest import Project, copy_project

HEADLINE = [f"{split}/{name}" for split in ("val", "test") for name in ("pck", "pck_hat", "mean_dist")]


def test_float_on_a_fresh_clone_prepares_its_data_in_a_child_run(trained: Project) -> None:
    data, model = trained.runs("data")[-1], trained.runs("float")[-1]
    assert data.data.tags["mlflow.parentRunId"] == model.info.run_id
    assert data.info.experiment_id == model.info.experiment_id
    assert data.data.tags["carkp.data_digest"] == model.data.tags["carkp.data_digest"]
    assert trained.artifacts(data, "data") == {"data/summary.json", "data/contact_sheet.jpg"}


def test_float_run_says_what_tools_rely_on(trained: Project) -> None:
    run = trained.runs("float")[-1]
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "float tiny"
    metrics = run.data.metrics
    assert {*HEADLINE, "train/loss", "train/lr", "val/oracle_error_px"} <= set(metrics)
    assert len([name for name in metrics if name.startswith("test/pck/")]) <= len(KEYPOINT_NAMES)
    assert any(name.startswith("system/") for name in metrics)
    assert run.data.params["config.train.epochs"] == "2"
    assert run.data.tags["carkp.model"] == "float"
    assert run.data.tags["carkp.experiment"] == "tiny"
    assert run.data.tags["carkp.pretrained"].startswith("none")
    assert [item.dataset.name for item in run.inputs.dataset_inputs] == ["tiny"]
    assert len(trained.client.get_metric_history(run.info.run_id, "val/pck")) == 3  # two epochs and the best one


def test_float_run_keeps_what_is_worth_keeping(trained: Project) -> None:
    run = trained.runs("float")[-1]
    assert trained.artifacts(run, "checkpoints") == {"checkpoints/best.pt", "checkpoints/last.pt"}
    assert trained.artifacts(run, "onnx") == {"onnx/float.onnx"}
    assert {"figures/pck_curve.png", "figures/pck_per_keypoint.png"} <= trained.artifacts(run, "figures")
    assert trained.artifacts(run, "pictures") == {"pictures/val_predictions.jpg"}
    assert not (trained.path / "runs" / run.info.run_id).exists()


def test_predictions_file_gives_the_logged_score(trained: Project) -> None:
    run = trained.runs("float")[-1]
    path = trained.artifact(run, "predictions/test.npz")
    predictions = load_predictions(path)
    scores = predictions.score(0.1)
    assert scores.pck == pytest.approx(run.data.metrics["test/pck"])
    assert scores.pck_hat == pytest.approx(run.data.metrics["test/pck_hat"])
    assert (predictions.lengths_hat >= 0).all()
    assert len(set(predictions.sample_ids.tolist())) == len(predictions)


def test_kept_crops_are_the_worst_and_the_median_inputs(trained: Project) -> None:
    run = trained.runs("float")[-1]
    path = trained.artifact(run, "predictions/crops.zip")
    predictions = load_predictions(trained.artifact(run, "predictions/test.npz"))
    worst = predictions.sample_ids[np.nanargmax(predictions.mean_distances())]
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert names[0] == f"worst/000__{str(worst).replace('/', '__')}.jpg"
        assert {name.split("/")[0] for name in names} == {"worst", "median"}
        assert archive.read(names[0])[:2] == b"\xff\xd8"


def test_the_mlflow_model_loads_and_predicts(trained: Project) -> None:
    import mlflow

    run = trained.runs("float")[-1]
    mlflow.set_tracking_uri(trained.uri)
    model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    images = np.zeros((2, 3, 64, 64), np.float32)
    (heatmaps,) = model.predict(images).values()
    assert heatmaps.shape == (2, 12, 16, 16)


def test_evaluate_repeats_the_float_score_exactly(trained: Project) -> None:
    done = trained.stage("evaluate", "--stage", "float")
    assert done.returncode == 0, done.stderr
    trained_run, evaluated = trained.training(), trained.runs("evaluate")[0]
    for name in HEADLINE:
        assert evaluated.data.metrics[name] == trained_run.data.metrics[name], name
    assert trained.artifacts(evaluated, "predictions") >= {"predictions/test.npz", "predictions/crops.zip"}


def test_evaluate_takes_a_run_and_a_file(trained: Project) -> None:
    run = trained.runs("float")[-1]
    checkpoint = trained.artifact(run, "checkpoints/best.pt")
    for model in (f"runs:/{run.info.run_id}", str(checkpoint)):
        done = trained.stage("evaluate", "--model", model)
        assert done.returncode == 0, done.stderr


def test_same_seed_gives_bit_identical_metrics(trained: Project) -> None:
    done = trained.stage("float", "--set", "name=again")
    assert done.returncode == 0, done.stderr
    again, first = trained.finished("float")[0], trained.runs("float")[-1]
    assert again.data.tags["carkp.experiment"] == "again"
    for name in [*HEADLINE, "train/loss"]:
        assert again.data.metrics[name] == first.data.metrics[name], name


def test_a_training_that_ended_before_it_was_scored_is_scored_by_resume(trained: Project) -> None:
    first = trained.training()
    longer = ["--set", "name=longer", "--set", "train.epochs=3"]
    assert trained.stage("float", *longer).returncode == 0
    whole = trained.finished("float")[0]
    trained.client.set_terminated(whole.info.run_id, "FAILED")
    done = trained.stage("float", *longer, "--resume", "latest")
    assert done.returncode == 0, done.stderr
    resumed = trained.finished("float")[0]
    assert resumed.info.run_id not in (first.info.run_id, whole.info.run_id)
    assert resumed.data.tags["carkp.resumed_from"]
    assert trained.artifacts(resumed, "checkpoints") == {"checkpoints/best.pt", "checkpoints/last.pt"}
    assert resumed.data.metrics["test/pck"] == whole.data.metrics["test/pck"]
    assert len(trained.client.get_metric_history(resumed.info.run_id, "train/loss")) == 3


def test_calops_logs_the_table(trained: Project) -> None:
    done = trained.stage("calops", "--set", "model.input_size=[128,128]", "--set", "model.head_channels=128")
    assert done.returncode == 0, done.stderr
    run = trained.runs("calops")[0]
    assert run.data.metrics["model/parameters"] / 1e6 == pytest.approx(4.153, abs=0.0005)
    assert run.data.metrics["model/macs"] / 1e9 == pytest.approx(0.2273, abs=0.00005)
    text = trained.artifact(run, "tables/calops.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert sum(int(row["macs"]) for row in rows) == run.data.metrics["model/macs"]


def test_summary_counts_what_the_stores_hold(trained: Project) -> None:
    data = trained.runs("data")[-1]
    path = trained.artifact(data, "data/summary.json")
    scenes = json.loads(path.read_text())["scenes"]
    assert set(scenes["val"]) == {"car_craig2"}
    assert "car_craig2" not in scenes["train"]
    assert sum(scene["num_cars"] for scene in scenes["test"].values()) == data.data.metrics["data/num_test"]


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        ("float", ["--set", "train.lr=fast"], "train.lr"),
        ("float", ["--config", "configs/none.yaml"], "no such configuration file"),
        ("float", ["--data", "nowhere"], "nowhere"),
        ("float", ["--resume", "latest"], "to resume from"),
        ("float", ["--resume", "nowhere/last.pt"], "nowhere/last.pt: no such file; give a last.pt, a run id"),
        ("float", ["--resume", "nowhere.pt"], "nowhere.pt: no such file"),
        ("float", ["--resume", "configs"], "configs: a directory; name the last.pt in it"),
        ("float", ["--resume", "configs/tiny.yaml"], "configs/tiny.yaml: not a readable checkpoint"),
        ("float", ["--resume", "0" * 32], "the run has no artifact checkpoints"),
        ("float", ["--set", "model.pretrained=weights.pt"], "weights.pt"),
        ("float", ["--nproc", "two"], "nproc='two'"),
        ("data", ["--source", "nowhere"], "nowhere: no such file or directory"),
        ("evaluate", ["--stage", "int4"], "int4"),
        ("evaluate", ["--model", "runs:/00000000000000000000000000000000"], "0000"),
        ("evaluate", ["--model", "nowhere.pt"], "nowhere.pt"),
        ("evaluate", ["--set", "name=other"], "mlflow run . -e float"),
    ],
)
def test_mistakes_end_in_one_line_without_a_traceback(
    trained: Project, stage: str, arguments: list[str], message: str
) -> None:
    done = trained.stage(stage, *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert message in done.stderr[done.stderr.index(last) :]


def test_evaluate_without_data_names_the_command(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "fresh")
    done = project.stage("evaluate")
    assert done.returncode == 1
    assert "mlflow run . -e data" in done.stderr


@pytest.mark.slow
def test_two_processes_train_through_the_stage(trained: Project) -> None:
    command = [sys.executable, "-m", "carkp.stages.float", "--config", "configs/tiny.yaml", "--nproc", "2"]
    done = trained.call(*command, "--set", "name=two", "--set", "train.batch_size=4")
    assert done.returncode == 0, done.stderr
    run = trained.finished("float")[0]
    assert run.data.tags["carkp.experiment"] == "two"
    assert "batch norm keeps separate statistics" in done.stdout + done.stderr
    checkpoint = trained.artifact(run, "checkpoints/best.pt")
    one = trained.stage("evaluate", "--model", str(checkpoint))
    assert one.returncode == 0, one.stderr
    evaluated = trained.runs("evaluate")[0]
    for name in HEADLINE:
        assert evaluated.data.metrics[name] == pytest.approx(run.data.metrics[name], rel=1e-5), name


@pytest.mark.slow
def test_mlflow_run_keeps_its_own_run_and_experiment(trained: Project) -> None:
    command = ["mlflow", "run", ".", "-e", "float", "--env-manager", "local", "--experiment-name", "mine"]
    done = trained.call(*command, "-P", "config=configs/tiny.yaml", "-P", "overrides=train.epochs=1 seed=5")
    assert done.returncode == 0, done.stderr
    run = trained.finished("float")[0]
    assert trained.client.get_experiment(run.info.experiment_id).name == "mine"
    assert (run.data.params["config.seed"], run.data.params["config.train.epochs"]) == ("5", "1")
    assert run.info.run_name == "float tiny"
    assert run.info.status == "FINISHED"
