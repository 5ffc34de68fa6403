"""A project of its own."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, without a tracking server of somebody else."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "project"
    root.mkdir()
    (root / "MLproject").write_text("name: carkp\n")
    monkeypatch.chdir(root)
    mlflow.set_tracking_uri(None)
    yield root
    mlflow.set_tracking_uri(None)
