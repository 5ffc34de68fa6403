"""Finding runs and their artifacts: what is not there is told apart from what cannot be asked."""

from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, RESOURCE_DOES_NOT_EXIST
from mlflow.tracking import MlflowClient

from carkp.tracking import runs
from carkp.tracking.store import TrackingError


def test_a_deleted_run_is_not_found(client: MlflowClient) -> None:
    run_id = client.create_run("0").info.run_id
    assert runs.find_run(run_id).run_id == run_id
    client.delete_run(run_id)
    with pytest.raises(TrackingError, match="deleted"):
        runs.find_run(run_id)
    assert runs.find_run_or_none(run_id) is None
    with pytest.raises(TrackingError, match="no such run"):
        runs.find_run("0123456789abcdef")
    assert runs.find_run_or_none("") is None


def test_artifacts_that_are_not_there_are_an_empty_list(client: MlflowClient) -> None:
    run_id = client.create_run("0").info.run_id
    client.log_text(run_id, "content", "tables/check.csv")
    assert runs.list_artifacts(run_id) == ["tables"]
    assert runs.list_artifacts(run_id, "tables") == ["tables/check.csv"]
    assert runs.list_artifacts(run_id, "figures") == []
    assert runs.list_artifacts(run_id, "tables/check.csv") == []
    assert runs.list_artifacts("0123456789abcdef") == []


@pytest.mark.parametrize(
    ("error", "is_raised"),
    [
        (MlflowException("gone", RESOURCE_DOES_NOT_EXIST), False),
        (FileNotFoundError("gone"), False),
        (NotADirectoryError("a file"), False),
        (MlflowException("the server is down", INTERNAL_ERROR), True),
        (PermissionError("not yours"), True),
    ],
)
def test_only_what_does_not_exist_is_an_empty_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, is_raised: bool
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setattr(runs, "MlflowClient", lambda: type("Client", (), {"list_artifacts": fail})())
    if is_raised:
        with pytest.raises(type(error)):
            runs.list_artifacts("0123456789abcdef", "tables")
    else:
        assert runs.list_artifacts("0123456789abcdef", "tables") == []


def test_a_server_that_fails_is_not_a_run_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, client: MlflowClient
) -> None:
    def fail(*_: object) -> None:
        raise MlflowException("the server is down", INTERNAL_ERROR)

    del client
    monkeypatch.setattr(runs, "MlflowClient", lambda: type("Client", (), {"get_run": fail})())
    with pytest.raises(MlflowException, match="the server is down"):
        runs.find_run_or_none("0123456789abcdef")
