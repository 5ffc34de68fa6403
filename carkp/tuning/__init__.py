"""Hyperparameter search with Optuna, which is imported here alone; what is searched is passed in."""
