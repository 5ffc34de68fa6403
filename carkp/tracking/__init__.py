"""Experiment tracking with MLflow, which is imported here and in ``carkp.serving`` alone."""
