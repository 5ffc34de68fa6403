"""Experiment tracking with MLflow. Only this package, ``carkp.serving`` and ``carkp.cluster`` import MLflow."""

import os

os.environ.setdefault(
    "MLFLOW_DISABLE_TELEMETRY", "true"
)  # MLflow reads this when it is imported; without it, MLflow sends usage data to its makers
