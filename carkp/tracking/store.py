"""Where runs are kept, and the project that they belong to."""

import os
from pathlib import Path

import mlflow

PROJECT_FILE = "MLproject"


class TrackingError(Exception):
    """A run or artifact that cannot be found; the message says what was looked for and what to do."""


def use_default_store() -> None:
    """Track to mlflow.db in the project unless MLFLOW_TRACKING_URI says otherwise."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(f"sqlite:///{project_root() / 'mlflow.db'}")


def project_root() -> Path:
    """The working directory where it holds the MLproject file, else the checkout that this module lies in, if any."""
    checkout = Path(__file__).resolve().parents[2]
    is_elsewhere = not (Path.cwd() / PROJECT_FILE).is_file()
    return checkout if is_elsewhere and (checkout / PROJECT_FILE).is_file() else Path.cwd()
