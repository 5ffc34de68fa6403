"""Which trial is the best does not depend on kills."""

import math

import pytest

from carkp.tuning.record import SLOT, TrialRecord, best_of


def record(number: int, value: float | None, slot: int | None = None, training: int | None = None) -> TrialRecord:
    return TrialRecord(
        number=number,
        state="fail" if value is None else "complete",
        params={},
        value=value,
        notes={} if slot is None else {SLOT: slot},
        is_trained=training is None,
        training=number if training is None else training,
        is_retry=False,
        seconds=math.nan,
    )


def test_the_largest_value_is_the_best() -> None:
    assert best_of([record(0, 0.1, 0), record(1, 0.3, 1), record(2, 0.2, 2)]).number == 1


def test_of_equals_the_first_job_is_the_best_also_where_it_was_done_again_later() -> None:
    undisturbed = [record(0, 0.5, 0), record(1, 0.5, 1)]
    killed = [record(0, None, 0), record(1, 0.5, 1), record(2, 0.5, 0)]
    assert best_of(undisturbed).notes[SLOT] == best_of(killed).notes[SLOT] == 0


def test_of_equals_what_was_trained_comes_before_what_was_scored_beside_it() -> None:
    killed = [record(0, None, 0), record(1, 0.5, 1), record(2, 0.5, training=3), record(3, 0.5, 0)]
    assert best_of(killed).number == 3


def test_without_a_complete_trial_there_is_no_best() -> None:
    with pytest.raises(ValueError, match="empty"):
        best_of([record(0, None, 0)])
