"""Following jobs until they end: their states and their output."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from carkp.cluster.slurm import COMPLETED, ENDED, PENDING, ClusterError, Job, NoAnswerError, cancel, find_states

_NUM_LOOKS = 2
"""Looks in a row that must see a job ended: after a failure of its node it may be queued again a moment later."""

_CANCEL_PATIENCE_S = 90.0
"""By default, Slurm gives the processes of a cancelled job 30 s."""

_SUBMITIT_LINE = "submitit "


class LogTail:
    """A file that another process appends to, read line by line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def new_lines(self, is_last: bool = False) -> Iterator[str]:
        """Yield whole lines added since the last call; with ``is_last`` also a last line without a line end.

        Of an overwritten line, such as a progress bar, only the last state is given.
        """
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._offset)
            self._rest += file.read()
            self._offset = file.tell()
        *lines, self._rest = self._rest.split(b"\n")
        if is_last and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]


class Followed:
    """Jobs and their last known states.

    Attributes:
        states: job id -> state, as last seen.
    """

    def __init__(self, jobs: Sequence[Job], on_lost: Callable[[Job, str], None]) -> None:
        """``on_lost`` is called with each job that failed or was queued again, and with its state."""
        self.jobs = jobs
        self.states: dict[str, str] = dict.fromkeys((job.id for job in jobs), PENDING)
        self._on_lost = on_lost
        self._tails = {job.id: LogTail(job.log) for job in jobs}
        self._num_looks = dict.fromkeys(self.states, 0)

    @property
    def open_jobs(self) -> list[Job]:
        return [job for job in self.jobs if self._num_looks[job.id] < _NUM_LOOKS]

    def withdraw_waiting(self) -> None:
        """Cancel jobs that have not begun."""
        cancel(job for job in self.open_jobs if self.states[job.id] == PENDING)

    def look(self) -> None:
        """Update the states, and print new output.

        Raises:
            NoAnswerError: the controller does not answer.
        """
        open_jobs = self.open_jobs
        self._print(open_jobs)
        found = find_states(open_jobs)
        for job in open_jobs:
            before, now = self.states[job.id], found[job.id]
            self._num_looks[job.id] = self._num_looks[job.id] + 1 if now in ENDED else 0
            self.states[job.id] = now
            if now != before:
                _say(job, f"is {now}")
            is_requeued = now == PENDING and before != PENDING
            is_lost = now in ENDED - {COMPLETED} and self._num_looks[job.id] == _NUM_LOOKS
            if is_requeued or is_lost:
                self._on_lost(job, "queued again" if is_requeued else now)
        self._print([job for job in open_jobs if self._num_looks[job.id] == _NUM_LOOKS], is_last=True)

    def _print(self, jobs: Sequence[Job], is_last: bool = False) -> None:
        for job in jobs:
            for line in self._tails[job.id].new_lines(is_last):
                if not line.startswith(_SUBMITIT_LINE):
                    print(f"[{job.id}] {line}", flush=True)  # noqa: T201


def follow(
    jobs: Sequence[Job],
    poll_s: float,
    patience_s: float,
    on_lost: Callable[[Job, str], None],
    is_done: Callable[[], bool] = lambda: False,
) -> Mapping[str, str]:
    """Print the jobs' output until all have ended; return job id -> state. If interrupted, cancel the jobs first.

    Once ``is_done`` returns True, jobs that have not begun are cancelled.

    Raises:
        ClusterError: the controller gave no answer for ``patience_s``. The jobs continue.
    """
    followed = Followed(jobs, on_lost)
    try:
        _follow(followed, poll_s, patience_s, is_done)
    except KeyboardInterrupt:
        print("cancelling the jobs", file=sys.stderr, flush=True)  # noqa: T201
        with suppress(NoAnswerError):
            cancel(followed.open_jobs)
        with suppress(ClusterError):
            _follow(followed, min(poll_s, 1.0), _CANCEL_PATIENCE_S, lambda: False, _CANCEL_PATIENCE_S)
        raise
    return followed.states


def _follow(
    followed: Followed, poll_s: float, patience_s: float, is_done: Callable[[], bool], max_s: float = math.inf
) -> None:
    start = last_answer = time.monotonic()
    while followed.open_jobs and time.monotonic() < start + max_s:
        try:
            followed.look()
            if is_done():
                followed.withdraw_waiting()
            last_answer = time.monotonic()
        except NoAnswerError as error:
            silence_s = time.monotonic() - last_answer
            print(f"warning: Slurm does not answer ({error}); jobs continue", file=sys.stderr, flush=True)  # noqa: T201
            if silence_s > patience_s:
                ids = ", ".join(job.id for job in followed.open_jobs)
                raise ClusterError(
                    f"Slurm's controller has not answered for {silence_s / 60:.0f} minutes ({error}); the jobs {ids} "
                    "may still run: check with `squeue` when it answers again"
                ) from error
        if followed.open_jobs:
            time.sleep(poll_s)


def _say(job: Job, what: str) -> None:
    print(f"[{job.id}] the job {what}", flush=True)  # noqa: T201
