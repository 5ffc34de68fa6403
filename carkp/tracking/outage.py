"""Tells a tracking server that cannot be reached from one that refuses, and limits the time to wait for it."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TypeVar

import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE, ErrorCode
from mlflow.utils import rest_utils
from sqlalchemy.exc import DBAPIError

T = TypeVar("T")

_LOCKED_S = 120.0
"""How long to retry on a locked database, in seconds. MLflow itself waits 20 s at each try."""

_NO_ANSWER = ("failed with exception", "failed with timeout exception")
_UNAVAILABLE = ErrorCode.Name(TEMPORARILY_UNAVAILABLE)
_FIRST_SERVER_ERROR = 500
_RETRIES, _TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
_LIMITS: ContextVar[Mapping[str, int]] = ContextVar("limits", default=MappingProxyType({}))


def is_outage(error: BaseException) -> bool:
    """Return whether the same request may succeed later: no answer, a failing server (5xx), or a busy database.

    A refusal by a server or a database is no outage, and neither is a full disk.
    """
    if isinstance(error, MlflowException):
        return _is_without_answer(error) or _is_busy_database(error)
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or _is_locked(str(error))
    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code >= _FIRST_SERVER_ERROR
    return isinstance(error, requests.RequestException | ConnectionError | TimeoutError)


def while_locked(change: Callable[[], T]) -> T:
    """Call ``change``; repeat it if other processes lock an SQLite file for longer than MLflow waits.

    ``change`` must be one transaction.
    """
    end = time.monotonic() + _LOCKED_S
    while True:
        try:
            return change()
        except (MlflowException, DBAPIError) as error:
            if not _is_locked(str(error)) or time.monotonic() > end:
                raise
        time.sleep(random.uniform(0.1, 1.0))


@contextmanager
def patience(timeout_s: float, num_retries: int = 0) -> Iterator[None]:
    """Limit MLflow's requests in this thread: give up after ``timeout_s`` and ``num_retries``.

    By default MLflow retries for some minutes. Environment variables of MLflow take precedence.
    """
    token = _LIMITS.set({_RETRIES: num_retries, _TIMEOUT: max(1, round(timeout_s))})
    try:
        yield
    finally:
        _LIMITS.reset(token)


class _Limited:
    """A setting of MLflow's requests per thread. MLflow's environment variables hold for all threads and children."""

    def __init__(self, variable: Any) -> None:
        self._variable = variable

    def get(self) -> int:
        limit = None if self._variable.is_set() else _LIMITS.get().get(self._variable.name)
        found: int = self._variable.get() if limit is None else limit
        return found

    def __str__(self) -> str:
        return str(self._variable)


for _name in (_RETRIES, _TIMEOUT):
    setattr(rest_utils, _name, _Limited(getattr(rest_utils, _name)))


def _is_without_answer(error: MlflowException) -> bool:
    text = str(error)
    return text.startswith("API request to ") and any(words in text for words in _NO_ANSWER)


def _is_busy_database(error: MlflowException) -> bool:
    """Return whether others locked the database for too long, or the connection broke."""
    cause = error.__cause__
    if isinstance(cause, DBAPIError) and cause.connection_invalidated:
        return True
    if error.error_code != _UNAVAILABLE:
        return False
    return "sqlite3." not in str(error) or _is_locked(str(error))


def _is_locked(text: str) -> bool:
    return "sqlite3." in text and "is locked" in text
