"""Suppression of Optuna's warnings about features that it calls experimental."""

from collections.abc import Iterator
from contextlib import contextmanager
from warnings import catch_warnings, simplefilter

from optuna.exceptions import ExperimentalWarning


@contextmanager
def without_warnings() -> Iterator[None]:
    with catch_warnings():
        simplefilter("ignore", ExperimentalWarning)
        yield
