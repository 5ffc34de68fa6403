"""Hyperparameter search with Optuna. Only this package imports Optuna, and the caller passes in what to search."""
