"""Trials as a study's database has them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

TRAINED, SOURCE, ALTERNATIVES, RETRY_OF = "trained", "source", "alternatives", "retry_of"
SLOT, SEEN, WORKER = "slot", "seen", "worker"
"""Notes: the job that a trial is for; the number of the trial whose worker has shown a sign of life; its process."""

ERROR, INTERRUPTED = "error", "interrupted"
"""Notes on what ended a failed trial; neither is there where its process was killed."""


@dataclass(frozen=True)
class TrialRecord:
    """A trial.

    Attributes:
        number: in the study.
        state: waiting, running, complete, pruned or fail.
        params: all of them once the sampler has chosen.
        value: of a complete trial.
        notes: of the job and of the objective.
        is_trained: False for one that another trial has scored beside its own.
        training: number of the trial whose training it belongs to: its own, or that of the other.
        is_retry: repeats a trial that was killed or interrupted.
        seconds: that it took; NaN where it has not ended.
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
        """Neither failed nor still to do."""
        return self.state in ("complete", "pruned")


def is_killed(trial: FrozenTrial) -> bool:
    """Whether the trial failed without a word."""
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
    """The job that the trial's training was for: the same whether it was done at once or again, after a kill."""
    return int(record.notes.get(SLOT, record.training))


def slots_of(records: Sequence[TrialRecord]) -> dict[int, int]:
    """Trial number -> job, also of trials that a training scored beside its own."""
    of_trainings = {record.number: slot_of(record) for record in records if record.is_trained}
    return {record.number: of_trainings.get(record.training, record.training) for record in records}


def best_of(records: Sequence[TrialRecord]) -> TrialRecord:
    """The trial of the largest value; among equals that of the first job, so that a kill does not change it.

    Raises:
        ValueError: no trial is complete.
    """
    slots = slots_of(records)

    def rank(record: TrialRecord) -> tuple[float, int, bool, int]:
        return -(record.value or 0.0), slots[record.number], not record.is_trained, record.number

    return min((record for record in records if record.value is not None), key=rank)
