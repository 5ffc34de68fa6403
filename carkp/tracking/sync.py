"""Sends what ended runs could not send: for ``carkp sync``, and for every stage at its start."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from carkp.tracking.outage import is_outage
from carkp.tracking.reports import send
from carkp.tracking.spool import REFUSED, Address, Spool, spools
from carkp.tracking.store import (
    FIRST_WAIT_S,
    SERVER_ERRORS,
    TrackingError,
    explain_server_error,
    is_refused_user,
    require_answer,
    without_password,
)


@dataclass(frozen=True)
class Sent:
    """The result of sending a spool.

    Attributes:
        folder: folder of the spool; it may be gone.
        address: run that the spool belongs to.
        num_sent: number of reports that arrived.
        num_refused: number of reports that the server will never accept; they stay in the folder.
    """

    folder: Path
    address: Address
    num_sent: int
    num_refused: int


def sync(root: Path, uri: str = "") -> Iterator[Sent]:
    """Send the spools at or below ``root``, oldest first, each to its own server or all to ``uri``.

    Spools of running processes are skipped. An interrupted transfer continues at the next call.

    Raises:
        TrackingError: a server does not answer, its password is unknown, or a spool cannot be read.
    """
    in_use = mlflow.get_tracking_uri()
    for folder in spools(root):
        spool = Spool.open(folder)
        if spool is None:
            continue
        try:
            target = uri or _with_password(spool.address.uri, in_use)
            require_answer(target, FIRST_WAIT_S)
            mlflow.set_tracking_uri(target)  # models are logged to the URI in use only
            yield _send_all(spool, target)
        finally:
            spool.close()


def send_left_over(root: Path) -> None:
    """Send what earlier runs of this project could not send to the server in use; a failure is only printed."""
    here = mlflow.get_tracking_uri()
    for folder in spools(root):
        try:
            spool = Spool.open(folder)
            if spool is None:
                continue
            try:
                if spool.address.uri == without_password(here) and spool.next() is not None:
                    _say(describe(_send_all(spool, here)))
            finally:
                spool.close()
        except (TrackingError, OSError) as error:
            _say(f"warning: {error}")


def describe(sent: Sent) -> str:
    """Return one line about the result for a person."""
    address = sent.address
    refused = f", {sent.num_refused} were refused: see {sent.folder / REFUSED}" if sent.num_refused else ""
    return f"{address.title} ({address.run_id}): {sent.num_sent} kept reports were sent to {address.uri}{refused}"


def _send_all(spool: Spool, uri: str) -> Sent:
    """Send what is left, oldest first.

    Raises:
        TrackingError: the server does not answer any more. Reports that it received before are marked as sent.
    """
    client, run_id = MlflowClient(tracking_uri=uri), spool.address.run_id
    num_sent = 0
    while (report := spool.next()) is not None:
        try:
            send(client, run_id, report)
        except (*SERVER_ERRORS, OSError) as error:
            if is_outage(error) or is_refused_user(error) or not isinstance(error, MlflowException):
                raise TrackingError(
                    f"{explain_server_error(error, uri)}. {spool.num_unsent()} reports are still in {spool.folder}"
                ) from error
            spool.refuse(str(error))
        else:
            spool.mark_sent()
            num_sent += 1
    return Sent(spool.folder, spool.address, num_sent, spool.num_refused())


def _with_password(uri: str, in_use: str) -> str:
    """Return the URI of a spool, with the password of the URI in use if both are the same.

    Raises:
        TrackingError: the spool's URI is another one and had a password.
    """
    if without_password(in_use) == uri:
        return in_use
    if ":***@" in uri:
        raise TrackingError(
            f"{uri}: the password of this tracking server is not kept with the reports: set MLFLOW_TRACKING_URI to the "
            "whole address, or give it with --uri"
        )
    return uri


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
