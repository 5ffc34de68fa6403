"""Experiment tracking with MLflow, which is imported here and in ``carkp.serving`` alone."""

import os

os.environ.setdefault(
    "MLFLOW_DISABLE_TELEMETRY", "true"
)  # MLflow reads it as it is imported, and else tells its makers
