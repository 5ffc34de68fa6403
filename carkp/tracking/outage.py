"""A tracking server that cannot be reached, told apart from one that refuses; and how long it is waited for."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE, ErrorCode
from sqlalchemy.exc import DBAPIError

T = TypeVar("T")

_LOCKED_S = 120.0
"""MLflow itself waits 20 s at each try."""

_NO_ANSWER = ("failed with exception", "failed with timeout exception")
_UNAVAILABLE = ErrorCode.Name(TEMPORARILY_UNAVAILABLE)
_FIRST_SERVER_ERROR = 500
_NUM_TRIES, _TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
_VARIABLES = threading.RLock()


def is_outage(error: BaseException) -> bool:
    """Whether the same request may succeed later: nobody answers, the server fails (5xx), or a database is busy.

    What a server or a database refuses is no outage, nor is a full disk.
    """
    if isinstance(error, MlflowException):
        return _is_without_answer(error) or _is_busy_database(error)
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or _is_locked(str(error))
    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code >= _FIRST_SERVER_ERROR
    return isinstance(error, requests.RequestException | ConnectionError | TimeoutError)


def while_locked(change: Callable[[], T]) -> T:
    """Do ``change``, again where other processes have locked an SQLite file for longer than MLflow waits.

    What it changes must be one transaction.
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
    """Within, MLflow gives up a request after so long and so many retries, unless the environment says how long.

    Left alone it retries for some minutes. Its settings are variables of the process, so threads wait for each other.
    """
    wanted = {_NUM_TRIES: str(num_retries), _TIMEOUT: str(max(1, round(timeout_s)))}
    with _VARIABLES:
        ours = {name: value for name, value in wanted.items() if name not in os.environ}
        os.environ.update(ours)
        try:
            yield
        finally:
            for name in ours:
                os.environ.pop(name, None)


def _is_without_answer(error: MlflowException) -> bool:
    text = str(error)
    return text.startswith("API request to ") and any(words in text for words in _NO_ANSWER)


def _is_busy_database(error: MlflowException) -> bool:
    """Locked for too long by others, or a connection that broke."""
    cause = error.__cause__
    if isinstance(cause, DBAPIError) and cause.connection_invalidated:
        return True
    if error.error_code != _UNAVAILABLE:
        return False
    return "sqlite3." not in str(error) or _is_locked(str(error))


def _is_locked(text: str) -> bool:
    return "sqlite3." in text and "is locked" in text
