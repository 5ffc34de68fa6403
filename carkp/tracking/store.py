"""The tracking store: where runs are kept, and their experiments."""

import os
import re
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import mlflow
import sqlalchemy
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from carkp import disk
from carkp.project import DATABASE, project_root
from carkp.tracking.outage import is_outage, patience

ARTIFACT_DIR = "mlruns"

SERVER_ERRORS = (MlflowException, SQLAlchemyError)
"""Errors that the tracking server or the connection can raise at any time; see ``explain_server_error``."""

FIRST_WAIT_S = 10.0
"""Seconds to wait for the first answer where no configuration sets the time."""

_FIRST_TIMEOUT_S, _FIRST_PAUSE_S = 10.0, 1.0

_ANSWERED: set[str] = set()
"""URIs of servers that have answered this process."""

_DATABASE_TIMEOUT_S = 10
_REFUSALS = ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED")
_REFUSED = re.compile(r"error code (401|403|407)\b|too many 40[13] error responses")
_SCHEMA = re.compile(r"out-of-date database schema \(found version (\w+), but expected (\w+)\)")
_NO_REVISION = re.compile(r"Can't locate revision identified by '(\w+)'")
_CAUSE = re.compile(r"Caused by (\w+)\((.*)\)\)", re.DOTALL)
_MAX_REASON = 300


class TrackingError(Exception):
    """Runs cannot be stored or found; the message says what was looked for and what to do."""


def use_default_store(wait_s: float = FIRST_WAIT_S) -> None:
    """Track to mlflow.db in the project unless MLFLOW_TRACKING_URI is set; at first, check that the store answers.

    Raises:
        TrackingError: it does not answer within ``wait_s``, or it refuses.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        mlflow.set_tracking_uri(default_uri())
    require_answer(mlflow.get_tracking_uri(), wait_s)


def default_uri() -> str:
    """Return the URI of the project's own database."""
    return sqlite_uri(project_root() / DATABASE)


def sqlite_uri(path: Path) -> str:
    """Return the URI of a database file; its path may hold any characters."""
    return f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"


def open_experiment(name: str) -> str:
    """Return the id of the experiment ``name``; create it if it does not exist.

    With the project's own database, artifacts go to the project too, whatever the working directory is.

    Raises:
        TrackingError: the experiment was deleted.
    """
    client = MlflowClient()
    experiment = client.get_experiment_by_name(name) or _create_experiment(client, name)
    if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        shown = without_password(mlflow.get_tracking_uri())
        raise TrackingError(
            f"the experiment {name!r} was deleted in {shown}: bring it back with `MLFLOW_TRACKING_URI={shown} mlflow "
            f"experiments restore --experiment-id {experiment.experiment_id}`, or use another name (--set name=…)"
        )
    return str(experiment.experiment_id)


def is_refused_user(error: Exception) -> bool:
    """Return whether the server does not know the user, or does not permit the request."""
    return getattr(error, "error_code", "") in _REFUSALS or bool(_REFUSED.search(str(error)))


def explain_server_error(error: Exception, uri: str = "", waited: str = "") -> str:
    """Describe a server's error: what, where, and what to do. ``waited``: words for the time waited, or ""."""
    uri = uri or mlflow.get_tracking_uri()
    shown, text = without_password(uri), without_password(str(error))
    if (match := _SCHEMA.search(text)) or (match := _NO_REVISION.search(text)):
        return _explain_schema(shown, match.group(1))
    if is_refused_user(error):
        return (
            f"{shown}: the tracking server refuses this user ({_shorten(text)}); set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, or ask its owner for permission"
        )
    if "API request to" in text:
        return f"{shown}: the tracking server does not answer: {_reason(text)}{waited}. {_server_remedy(uri)}"
    return f"{shown}: the tracking server says: {_shorten(text)}"


def require_answer(uri: str, wait_s: float) -> None:
    """Check once that runs can be stored there, without a wait of minutes for a server that is gone.

    Raises:
        TrackingError: there is no answer within ``wait_s``, or the server refuses.
    """
    if uri in _ANSWERED:
        return
    end = time.monotonic() + wait_s
    while True:
        left = end - time.monotonic()
        try:
            with patience(min(_FIRST_TIMEOUT_S, left)):
                _ask(uri)
            _ANSWERED.add(uri)
            return
        except SERVER_ERRORS as error:
            if not is_outage(error) or time.monotonic() + _FIRST_PAUSE_S >= end:
                waited = f"; carkp waited {wait_s:g} s (tracking.wait_s)" if is_outage(error) else ""
                raise TrackingError(explain_server_error(error, uri, waited)) from error
        time.sleep(_FIRST_PAUSE_S)


def _ask(uri: str) -> None:
    if urlsplit(uri).scheme not in ("", "file", "http", "https", "databricks"):
        _require_database(uri)
    if uri == default_uri():
        _set_up_database(uri)
    MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def _require_database(uri: str) -> None:
    """Open the database without MLflow's retries, which take two minutes."""
    try:
        url = sqlalchemy.make_url(uri)
        kind = url.get_backend_name()
        if kind == "sqlite" and not _is_usable_file(url.database):
            return
        limits = {"connect_timeout": _DATABASE_TIMEOUT_S} if kind in ("postgresql", "mysql") else {}
        engine = sqlalchemy.create_engine(url, connect_args=limits)
        with engine.connect() as connection:
            sqlalchemy.inspect(connection).get_table_names()
        engine.dispose()
    except ArgumentError:
        return  # a store of an MLflow plugin, or MLflow will report the error itself
    except (SQLAlchemyError, ImportError) as error:
        reason = _shorten(without_password(str(error).splitlines()[0]))
        raise TrackingError(
            f"{without_password(uri)}: the tracking database cannot be opened: {reason}. Check that it runs, that the "
            "address and the user are right, and that its driver is installed (such as psycopg[binary] or pymysql), or "
            "unset MLFLOW_TRACKING_URI to track to mlflow.db in the project"
        ) from error


def _is_usable_file(database: str | None) -> bool:
    """Return whether the database is an existing file; False: it is in memory, or does not exist yet.

    Raises:
        TrackingError: it cannot be written.
    """
    if database in (None, "", ":memory:"):
        return False
    path = Path(str(database)).absolute()
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    problem = ""
    if nearest != path and not nearest.is_dir():
        problem = f"{nearest} is not a directory"
    elif path.is_dir():
        problem = "it is a directory"
    elif not os.access(nearest, os.W_OK):
        problem = f"{nearest} is not writable"
    if problem:
        raise TrackingError(
            f"{path}: the tracking database cannot be used: {problem}. Set MLFLOW_TRACKING_URI to a place that you can "
            "write to, such as sqlite:////home/me/mlflow.db"
        )
    return path.exists()


def _set_up_database(uri: str) -> None:
    """Create the project's database with its artifacts beside it. One process creates it, others wait."""
    root = project_root()
    with disk.exclusive(root / "runs" / DATABASE, "sets up the tracking database"):
        if not (root / DATABASE).is_file():
            disk.remove_leftovers(root / DATABASE)
            _make_database(root / DATABASE)


def _make_database(path: Path) -> None:
    """Create it in a separate folder first: MLflow needs many steps, and an incomplete database is not usable."""
    folder = disk.partial_path(path)
    made = folder / path.name
    try:
        folder.mkdir()
        _own_store(sqlite_uri(made)).engine.dispose()
        disk.publish(made, path)
    finally:
        disk.remove(folder)


def _own_store(uri: str) -> SqlAlchemyStore:
    return SqlAlchemyStore(uri, (project_root() / ARTIFACT_DIR).as_uri())  # type: ignore[no-untyped-call]


def _create_experiment(client: MlflowClient, name: str) -> Experiment:
    uri = mlflow.get_tracking_uri()
    try:
        if uri == default_uri():
            _own_store(uri).create_experiment(name)  # type: ignore[no-untyped-call]
        else:
            client.create_experiment(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):  # another process was faster
            raise
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return experiment


def _explain_schema(shown: str, found: str) -> str:
    return (
        f"{shown}: the tracking database has the schema {found}, which is not that of the installed MLflow "
        f"{mlflow.__version__}. If an older MLflow made it: make a copy of it, then run `mlflow db upgrade {shown}`. "
        "If a newer one made it: install that MLflow, or set MLFLOW_TRACKING_URI to another database"
    )


def _server_remedy(uri: str) -> str:
    host = urlsplit(uri).hostname or ""
    proxies = {} if proxy_bypass(host) else getproxies()
    proxy = proxies.get(urlsplit(uri).scheme) or proxies.get("all")
    hint = f"that its proxy {without_password(proxy)} works (NO_PROXY={host} avoids it), " if proxy else ""
    return (
        f"Check that it runs and is reachable from here, {hint}that MLFLOW_TRACKING_URI is right, or unset it to "
        "track to mlflow.db in the project"
    )


def _reason(text: str) -> str:
    """Return the innermost cause of a failed request."""
    match = _CAUSE.search(text)
    return _shorten(match.group(2).rpartition(": ")[2].strip("'\")") if match else text)


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]}…"


def without_password(text: str) -> str:
    return re.sub(r"(://[^:/@\s]*):[^@/\s]+@", r"\1:***@", text)
