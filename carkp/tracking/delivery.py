"""Delivery of a run's reports to the tracking server: at once, or through a spool while it cannot be reached."""

import sys
import threading
from pathlib import Path

import mlflow
from mlflow.tracking import MlflowClient

from carkp.project import project_root
from carkp.tracking.outage import is_outage, patience
from carkp.tracking.reports import send
from carkp.tracking.spool import Address, Report, Spool
from carkp.tracking.store import TrackingError, explain_server_error, is_refused_user, without_password

_REPORT_TIMEOUT_S = 15.0
"""Longest time that sending a report may block the run; after that the next reports go to the spool."""

_FILE_TIMEOUT_S = 60.0
_PROBE_TIMEOUT_S = 5.0
_FIRST_PAUSE_S, _LAST_PAUSE_S = 1.0, 5.0


def spool_root() -> Path:
    """Return the folder in which runs of this project keep what they cannot send."""
    return project_root() / "runs" / "spool"


class Delivery:
    """Sends the reports of one run in order. In an outage it keeps them, and a thread sends them after it."""

    def __init__(self, run_id: str, title: str) -> None:
        self._address = Address(run_id, without_password(mlflow.get_tracking_uri()), title)
        self._client = MlflowClient()
        self._lock = threading.Lock()
        self._spool: Spool | None = None
        self._refusal: TrackingError | None = None
        self._num_sent = 0
        self._is_over, self._is_closed = threading.Event(), threading.Event()

    def require_accepted(self) -> None:
        """Raise TrackingError if the server has refused a report that was kept."""
        if self._refusal is not None:
            raise self._refusal

    def report(self, report: Report) -> None:
        """Send a report, or keep it during an outage.

        Raises:
            MlflowException: the server refuses the report.
            OSError: the report cannot be kept.
        """
        if self._keep_behind_others(report):
            return
        try:
            with patience(_FILE_TIMEOUT_S if report.files else _REPORT_TIMEOUT_S):
                send(self._client, self._address.run_id, report)
        except Exception as error:
            if not is_outage(error):
                raise
            self._keep_first(report, error)

    def close(self, wait_s: float) -> None:
        """At the end of the run, wait until no kept report was sent for ``wait_s``; then say where the rest lies."""
        if self._spool is not None:
            num_before = -1
            while num_before != self._num_sent and not self._is_over.is_set():
                num_before = self._num_sent
                self._is_over.wait(wait_s)
        self._is_closed.set()
        with self._lock:
            spool, self._spool = self._spool, None
            if spool is None:
                return
            num_unsent = spool.num_unsent()
            spool.close()
        _say(
            f"warning: {self._address.uri} does not answer: {num_unsent} reports of the run "
            f"{self._address.run_id} were not sent. They are kept in {spool.folder}; when the server answers, "
            f"`carkp sync {spool.folder}` sends them"
        )

    def _keep_behind_others(self, report: Report) -> bool:
        """Keep the report if earlier reports wait; return whether it was kept."""
        with self._lock:
            if self._spool is None:
                return False
            self._spool.append(report)
            return True

    def _keep_first(self, report: Report, error: Exception) -> None:
        with self._lock:
            if self._spool is not None:  # another thread was faster
                self._spool.append(report)
                return
            self._spool = Spool.create(spool_root(), self._address)
            self._spool.append(report)
            self._num_sent = 0
            self._is_over.clear()
            folder = self._spool.folder
        _say(
            f"warning: {explain_server_error(error)}. The run continues; its reports are kept in {folder} and sent "
            "when the server answers"
        )
        threading.Thread(target=self._send_kept, daemon=True, name="kept reports").start()

    def _send_kept(self) -> None:
        """Try until all is sent or the run has ended."""
        pause = _FIRST_PAUSE_S
        while not self._is_closed.wait(pause):
            if not self._is_answering():
                pause = min(2 * pause, _LAST_PAUSE_S)
                continue
            pause = _FIRST_PAUSE_S
            if self._send_all():
                return

    def _send_all(self) -> bool:
        """Send all kept reports; return whether none waits any more. The next outage starts its own thread."""
        while (report := self._next()) is not None:
            if not self._send_one(report):
                return False
        return True

    def _is_answering(self) -> bool:
        """Return whether the server answers within a short timeout. Sending files has a longer one."""
        try:
            with patience(_PROBE_TIMEOUT_S):
                self._client.get_run(self._address.run_id)
        except Exception as error:
            return not is_outage(error)  # any other error appears when a report is sent
        return True

    def _next(self) -> Report | None:
        with self._lock:
            if self._spool is None:
                return None
            report = self._spool.next()
            if report is None:
                self._spool.close()
                self._spool = None
                _say(f"{self._address.uri} answers again: {self._num_sent} kept reports were sent")
                self._is_over.set()
            return report

    def _send_one(self, report: Report) -> bool:
        """Send a kept report; return whether to go on with the next one."""
        try:
            with patience(_FILE_TIMEOUT_S if report.files else _REPORT_TIMEOUT_S):
                send(self._client, self._address.run_id, report)
        except Exception as error:
            if is_outage(error):
                return False
            if is_refused_user(error):  # kept reports can be sent after the user's access is fixed
                self._refusal = TrackingError(explain_server_error(error))
                return False
            if all(path.is_file() for path in report.files):  # else a newer one has replaced it meanwhile
                self._refuse(report, error)
            return True
        with self._lock:
            if self._spool is not None:
                self._spool.mark_sent()
                self._num_sent += 1
        return True

    def _refuse(self, report: Report, error: Exception) -> None:
        with self._lock:
            if self._spool is None:
                return
            self._spool.refuse(str(error))
            folder = self._spool.folder
        self._refusal = TrackingError(
            f"{explain_server_error(error).rstrip('.')}. It refused a report ({report.kind}) that was kept during "
            f"an outage; refused reports are in {folder}"
        )
        _say(f"error: {self._refusal}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
