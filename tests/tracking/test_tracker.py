"""A tracker reports to the run that it was made for, whatever other tools left behind."""

import os
from pathlib import Path

import mlflow
import numpy as np
import pytest
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient

from carkp.tracking.store import TrackingError
from carkp.tracking.tracker import MlflowTracker, nested_run, tracked_run
from carkp.workflow.process import Terminated
from tests.tracking.relu import write_relu


def report_everything(tracker: MlflowTracker, folder: Path) -> None:
    (folder / "a.txt").write_text("a")
    write_relu(folder / "relu.onnx")
    tracker.log_params({"p": 1})
    tracker.log_metrics({"m": 0.5, "nothing": float("nan")}, step=3)
    tracker.set_tags({"t": "x"})
    tracker.log_file(folder / "a.txt", "files")
    tracker.log_text("b", "texts/b.txt")
    tracker.log_figure(Figure(), "figures/f.png")
    tracker.log_dataset("cars", "0123", "here", "training")
    tracker.log_onnx_model(folder / "relu.onnx", "relu", np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
    tracker.describe("A note.")


def test_whatever_run_is_active_the_tracker_reports_to_its_own(project: Path, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    client = MlflowClient()
    mine = client.create_run(client.create_experiment("mine", artifact_location=str(tmp_path / "mine"))).info.run_id
    mlflow.set_experiment("theirs")
    with mlflow.start_run() as theirs:
        report_everything(MlflowTracker(mine, "float", "mine"), tmp_path)
        assert mlflow.active_run().info.run_id == theirs.info.run_id
    own, other = client.get_run(mine), client.get_run(theirs.info.run_id)
    assert (own.data.params, own.data.metrics) == ({"p": "1"}, {"m": 0.5})
    assert [(point.step, point.value) for point in client.get_metric_history(mine, "m")] == [(3, 0.5)]
    assert (own.data.tags["t"], own.data.tags["mlflow.note.content"]) == ("x", "A note.")
    assert {item.path for item in client.list_artifacts(mine)} >= {"files", "texts", "figures"}
    (logged,) = own.inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest, logged.tags[0].value) == ("cars", "0123", "training")
    (model,) = client.search_logged_models([own.info.experiment_id])
    assert (model.name, model.source_run_id, str(model.status)) == ("relu", mine, "READY")
    assert model.params == {"p": "1"}
    assert float(mlflow.pyfunc.load_model(model.model_uri).predict(np.ones((1, 2), np.float32))["y"][0, 0]) == 1.0
    assert (other.data.params, other.data.metrics, other.inputs.dataset_inputs) == ({}, {}, [])
    assert client.list_artifacts(other.info.run_id) == []
    assert client.search_logged_models([other.info.experiment_id]) == []


def test_a_stage_beside_a_run_of_somebody_else(project: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    mlflow.set_experiment("theirs")
    with (
        mlflow.start_run() as theirs,
        tracked_run("calops", "mine", 10.0) as tracker,
        tracker.child("data", "mine") as child,
    ):
        child.log_metrics({"m": 1.0})
    client = MlflowClient()
    own, below = client.get_run(tracker.run_id), client.get_run(child.run_id)
    assert client.get_experiment(own.info.experiment_id).name == "mine"
    assert below.info.experiment_id == own.info.experiment_id
    assert below.data.tags["mlflow.parentRunId"] == tracker.run_id
    assert "mlflow.parentRunId" not in own.data.tags
    assert (own.info.status, below.info.status) == ("FINISHED", "FINISHED")
    assert own.info.run_name == "calops mine"
    assert client.get_run(theirs.info.run_id).data.metrics == {}


def test_variables_of_other_experiments_change_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "left over")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77")
    with tracked_run("calops", "mine", 10.0) as tracker:
        pass
    client = MlflowClient()
    assert client.get_experiment(client.get_run(tracker.run_id).info.experiment_id).name == "mine"
    assert client.get_experiment_by_name("left over") is None


def test_the_run_of_mlflow_run_is_joined_and_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    client = MlflowClient()
    given = client.create_run("0", run_name="bold-fish-12").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with tracked_run("calops", "mine", 10.0) as tracker:
        assert "MLFLOW_RUN_ID" not in os.environ
    found = client.get_run(given)
    assert (tracker.run_id, found.info.status, found.info.run_name) == (given, "FINISHED", "calops mine")
    assert client.get_experiment_by_name("mine") is None


def test_a_run_id_that_is_left_over_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    client.set_terminated(run_id)
    for value, reason in ((run_id, "is finished"), ("0" * 32, "no such run"), ("not an id", "no such run")):
        monkeypatch.setenv("MLFLOW_RUN_ID", value)
        with (
            pytest.raises(TrackingError, match=f"MLFLOW_RUN_ID={value}: .*{reason}.*unset it"),
            tracked_run("calops", "mine", 10.0),
        ):
            pass
    assert client.get_run(run_id).data.tags.get("carkp.stage") is None


def test_a_failed_run_goes_on_and_forgets_its_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError), tracked_run("calops", "mine", 10.0) as tracker:
        raise KeyError("gone")
    client = MlflowClient()
    failed = client.get_run(tracker.run_id)
    assert (failed.info.status, failed.data.tags["carkp.error"]) == ("FAILED", "KeyError: 'gone'")
    monkeypatch.setenv("MLFLOW_RUN_ID", tracker.run_id)
    with tracked_run("calops", "mine", 10.0):
        pass
    found = client.get_run(tracker.run_id)
    assert found.info.status == "FINISHED"
    assert "carkp.error" not in found.data.tags


@pytest.mark.parametrize("reason", [KeyboardInterrupt, Terminated])
def test_an_interrupted_run_is_killed_and_not_failed(project: Path, reason: type[KeyboardInterrupt]) -> None:
    with (
        pytest.raises(reason),
        tracked_run("calops", "mine", 10.0) as tracker,
        nested_run(tracker.run_id, "trial", "mine") as child,
    ):
        raise reason
    client = MlflowClient()
    assert {client.get_run(found.run_id).info.status for found in (tracker, child)} == {"KILLED"}


def test_a_child_that_fails_does_not_take_its_parent_along(project: Path) -> None:
    with tracked_run("tune", "mine", 10.0) as tracker:
        with pytest.raises(ValueError, match="odd"), nested_run(tracker.run_id, "trial", "mine") as child:
            raise ValueError("odd")
        assert MlflowClient().get_run(tracker.run_id).info.status == "RUNNING"
    client = MlflowClient()
    assert client.get_run(child.run_id).info.status == "FAILED"
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
