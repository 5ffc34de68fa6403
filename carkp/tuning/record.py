"""Trials as stored in a study's database."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

TRAINED, SOURCE, ALTERNATIVES, RETRY_OF = "trained", "source", "alternatives", "retry_of"
SLOT, SEEN, WORKER = "slot", "seen", "worker"
"""Notes: the job of a trial; the number of the trial whose worker has recorded a heartbeat; that worker's process."""

ERROR, INTERRUPTED = "error", "interrupted"
"""Notes with the cause of a failed trial; if its process was killed, neither exists."""


@dataclass(frozen=True)
class TrialRecord:
    """A trial of a study.

    Attributes:
        number: number in the study.
        state: waiting, running, complete, pruned or fail.
        params: all parameters, once the sampler has chosen them.
        value: value of a complete trial.
        notes: notes of the job and of the objective.
        is_trained: whether it was trained; False if another trial has scored it in addition to its own.
        training: number of the trial whose training it belongs to: its own, or that of the other trial.
        is_retry: whether it repeats a trial that was killed or interrupted.
        seconds: duration; NaN if it has not ended.
    """

    number: int
    state: str
    params: Mapping[str, float]
    value: float | None
    notes: Mapping[str, Any]
    is_trained: bool
    training: int
    is_retry: bool
    seconds: float

    @property
    def has_ended_by_itself(self) -> bool:
        """Whether it has ended without failing."""
        return self.state in ("complete", "pruned")


def is_killed(trial: FrozenTrial) -> bool:
    """Return whether the trial failed without a note about the cause."""
    return trial.state == TrialState.FAIL and not {ERROR, INTERRUPTED} & trial.user_attrs.keys()


def record_of(trial: FrozenTrial) -> TrialRecord:
    duration = trial.duration
    return TrialRecord(
        number=trial.number,
        state=trial.state.name.lower(),
        params=dict(trial.params),
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        notes=dict(trial.user_attrs),
        is_trained=bool(trial.user_attrs.get(TRAINED)),
        training=trial.user_attrs.get(SOURCE, trial.number),
        is_retry=RETRY_OF in trial.user_attrs,
        seconds=duration.total_seconds() if duration is not None else math.nan,
    )


def slot_of(record: TrialRecord) -> int:
    """Return the job of the trial's training. It is the same for a first try and for a retry after a kill."""
    return int(record.notes.get(SLOT, record.training))


def slots_of(records: Sequence[TrialRecord]) -> dict[int, int]:
    """Return trial number -> job, also for the further trials that a training scored."""
    of_trainings = {record.number: slot_of(record) for record in records if record.is_trained}
    return {record.number: of_trainings.get(record.training, record.training) for record in records}


def best_of(records: Sequence[TrialRecord]) -> TrialRecord:
    """Return the trial of the largest value; of equal ones that of the first job, so that a kill changes nothing.

    Raises:
        ValueError: no trial is complete.
    """
    slots = slots_of(records)

    def rank(record: TrialRecord) -> tuple[float, int, bool, int]:
        return -(record.value or 0.0), slots[record.number], not record.is_trained, record.number

    return min((record for record in records if record.value is not None), key=rank)
