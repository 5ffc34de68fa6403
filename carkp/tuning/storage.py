"""Databases of studies."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import optuna
from optuna.storages import RDBStorage

from carkp.tuning.errors import StorageError
from carkp.tuning.quiet import without_warnings
from carkp.tuning.settings import Heartbeat

_SQLITE_TIMEOUT_S = 60


def open_storage(url: str, heartbeat: Heartbeat) -> RDBStorage:
    """Open the database at a URL, with heartbeats that show which workers are alive.

    Raises:
        StorageError: it cannot be used.
    """
    arguments = {"connect_args": {"timeout": _SQLITE_TIMEOUT_S}} if url.startswith("sqlite") else {}
    with without_warnings():
        try:
            return RDBStorage(
                url,
                engine_kwargs=arguments,
                heartbeat_interval=heartbeat.interval_s,
                grace_period=heartbeat.grace_s,
            )
        except Exception as error:  # from SQLAlchemy, from the driver, or because a driver is missing
            reason = str(error).splitlines()[0]
            raise StorageError(
                f"{url.rpartition('@')[2]}: cannot be used as a database of studies ({reason}); expected "
                "sqlite:///file.db, or postgresql+psycopg://user:password@host/database with carkp[postgres]"
            ) from error


def find_notes(storage: str, name: str) -> Mapping[str, Any]:
    """Return the notes of a study; empty if the study does not exist. No study is created.

    Raises:
        StorageError: the database cannot be used.
    """
    opened = open_storage(storage, Heartbeat())
    with without_warnings(), suppress(KeyError):
        return optuna.load_study(study_name=name, storage=opened).user_attrs
    return {}
