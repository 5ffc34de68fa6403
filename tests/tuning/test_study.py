import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from carkp.tuning.errors import StorageError
from carkp.tuning.objective import Outcome, Trial
from carkp.tuning.record import slot_of
from carkp.tuning.storage import find_notes
from carkp.tuning.study import TuningStudy
from tests.tuning.worker import DEFAULT, jobs, objective, settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'studies.db'}"


def open_study(storage: str, num_trials: int = 4) -> TuningStudy:
    study = TuningStudy(storage, settings(), seed=0)
    study.queue(jobs(num_trials))
    return study


def start_worker(storage: str, what: str, num_trials: int = 4) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.tuning.worker", storage, "test", str(num_trials), what]
    return subprocess.Popen(command, cwd=ROOT)


def parameters_by_job(study: TuningStudy) -> list[tuple[int, dict[str, float]]]:
    """Of what was trained to its end."""
    records = [record for record in study.records() if record.is_trained and record.has_ended_by_itself]
    return sorted((slot_of(record), dict(record.params)) for record in records)


def trained_states(study: TuningStudy) -> Counter[str]:
    return Counter(record.state for record in study.records() if record.is_trained)


def test_the_default_is_trial_0_and_every_training_brings_its_alternatives(storage: str) -> None:
    study = open_study(storage)
    study.run(objective)
    records = study.records()
    trained = [record for record in records if record.is_trained]
    assert records[0].params == DEFAULT
    assert len(trained) == 4
    assert len(records) == 12
    for record in trained:
        others = [other for other in records if other.training == record.number and not other.is_trained]
        assert [other.params["q"] for other in others] == [2.0, 4.0]
        assert {other.params["x"] for other in others} == {record.params["x"]}
        assert all(other.notes["trained"] is False for other in others)


def test_the_sampler_and_the_importances_see_the_alternatives(storage: str) -> None:
    study = open_study(storage, 6)
    study.run(objective)
    importances = study.importances(seed=0)
    assert set(importances) == {"x", "q"}
    assert sum(importances.values()) == pytest.approx(1.0)
    assert importances["q"] > 0.01  # six trainings alone say little of q


def test_the_sampler_learns_once_the_startup_trainings_have_ended(storage: str) -> None:
    def mean_error(num_startup_trainings: int) -> float:
        name = f"after {num_startup_trainings}"
        chosen = replace(settings(name), num_startup_trainings=num_startup_trainings)
        study = TuningStudy(storage, chosen, seed=0)
        study.queue(jobs(16))
        study.run(objective)
        last = [record.params["x"] for record in study.records() if record.is_trained][8:]
        return float(np.mean(np.abs(np.array(last) - 0.7)))

    assert mean_error(4) < 0.6 * mean_error(16)


def test_what_two_processes_queue_both_is_trained_once(storage: str) -> None:
    study = open_study(storage, 3)
    late = TuningStudy(storage, settings(), seed=0)
    late._enqueue({}, {"slot": 1})
    late._enqueue({}, {"slot": 3})
    study.run(objective)
    assert trained_states(study) == {"complete": 4}
    assert len(study.records()) == 12


def test_alternatives_of_which_some_were_added_are_completed(storage: str) -> None:
    study = open_study(storage, 1)
    study.run(objective)
    database = sqlite3.connect(storage.removeprefix("sqlite:///"))
    database.execute("update trials set state = 'FAIL' where number = 2")
    database.execute("update trial_user_attributes set value_json = '99' where key = 'source' and trial_id = 3")
    database.commit()
    again = open_study(storage, 1)
    again.run(objective)
    assert sorted(r.params["q"] for r in again.records() if r.training == 0 and not r.is_trained) == [2.0, 4.0]


def test_a_study_that_is_complete_trains_nothing_more(storage: str) -> None:
    open_study(storage).run(objective)
    again = open_study(storage)
    again.run(lambda trial: pytest.fail("trained again"))
    assert len(again.records()) == 12


def test_more_trials_than_before_go_on(storage: str) -> None:
    open_study(storage, 2).run(objective)
    more = open_study(storage, 5)
    numbers: list[int] = []
    more.run(objective, lambda record: numbers.append(record.number))
    assert len(numbers) == 3
    assert trained_states(more) == {"complete": 5}


def test_going_on_proposes_what_an_uninterrupted_study_does(storage: str, tmp_path: Path) -> None:
    def interrupted_at_2(trial: Trial) -> Outcome:
        if trial.number == 2:
            raise KeyboardInterrupt
        return objective(trial)

    with pytest.raises(KeyboardInterrupt):
        open_study(storage).run(interrupted_at_2)
    resumed = open_study(storage)
    resumed.run(objective)
    whole = open_study(f"sqlite:///{tmp_path / 'whole.db'}")
    whole.run(objective)
    proposed = [
        {record.params["x"] for record in study.records() if record.state == "complete"} for study in (resumed, whole)
    ]
    assert proposed[0] == proposed[1]
    assert len(proposed[0]) == 4


@pytest.mark.parametrize("moment", ["before the sampler has chosen", "between two parameters", "in the training"])
def test_a_job_that_is_done_again_has_the_parameters_of_an_undisturbed_study(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    suggest = optuna.Trial.suggest_float

    def killed(trial: optuna.Trial, name: str, *arguments: Any, **options: Any) -> float:
        if trial.number == 2 and (name == "x") == (moment == "before the sampler has chosen"):
            raise KeyboardInterrupt
        return suggest(trial, name, *arguments, **options)

    def killed_while_training(trial: Trial) -> Outcome:
        if trial.number == 2:
            raise KeyboardInterrupt
        return objective(trial)

    with monkeypatch.context() as patch:
        if moment != "in the training":
            patch.setattr(optuna.Trial, "suggest_float", killed)
        study = open_study(storage)
        with pytest.raises(KeyboardInterrupt):
            study.run(killed_while_training)
    resumed = open_study(storage)
    resumed.run(objective)
    whole = open_study(f"sqlite:///{tmp_path / 'whole.db'}")
    whole.run(objective)
    assert parameters_by_job(resumed) == parameters_by_job(whole)


def test_a_trial_of_a_killed_process_of_this_machine_is_done_again_at_once(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start_worker(storage, "killed_once").wait() == -9
    monkeypatch.setattr("carkp.tuning.study.fail_stale_trials", lambda study: None)  # the heartbeat says nothing
    open_study(storage)._fail_silent()
    assert trained_states(open_study(storage))["fail"] == 1


def test_a_trial_of_a_process_that_is_alive_is_left_to_it(storage: str) -> None:
    def look(trial: Trial) -> Outcome:
        other = open_study(storage, 1)
        other._fail_silent()
        assert trained_states(other) == {"running": 1}
        return objective(trial)

    study = open_study(storage, 1)
    study.run(look)
    assert trained_states(study) == {"complete": 1}


def test_a_failed_trial_is_kept_and_the_study_goes_on(storage: str) -> None:
    def failing(trial: Trial) -> Outcome:
        if trial.number == 0:
            raise FloatingPointError("the loss became nan")
        return objective(trial)

    study = open_study(storage)
    study.run(failing)
    assert study.records()[0].state == "fail"
    assert trained_states(study) == {"fail": 1, "complete": 3}


def test_bad_trainings_are_pruned_and_have_no_value(storage: str) -> None:
    def reporting(trial: Trial) -> Outcome:
        is_bad = sum(record.is_trained and record.state == "complete" for record in study.records()) >= 4
        for epoch in (1, 2):
            trial.report(0.1 if is_bad else 0.9, epoch)
        return objective(trial)

    study = open_study(storage, 6)
    study.run(reporting)
    assert trained_states(study) == {"complete": 4, "pruned": 2}
    assert all(record.value is None for record in study.records() if record.state == "pruned")


def test_an_interrupted_trial_is_queued_again(storage: str) -> None:
    def interrupted(trial: Trial) -> Outcome:
        raise KeyboardInterrupt

    study = open_study(storage)
    with pytest.raises(KeyboardInterrupt):
        study.run(interrupted)
    again = open_study(storage)
    again.run(objective)
    assert trained_states(again) == {"fail": 1, "complete": 4}
    retried = [record for record in again.records() if record.is_retry]
    assert [record.params for record in retried] == [DEFAULT]


@pytest.mark.parametrize("place", ["_sampler", "_is_surplus"])
def test_an_interruption_at_any_moment_loses_no_job(storage: str, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TuningStudy, place, interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_study(storage).run(objective)
    study = open_study(storage)
    study.run(objective)
    assert trained_states(study) == {"fail": 1, "complete": 4}
    assert [record.params for record in study.records() if record.is_retry] == [DEFAULT]


def test_a_training_without_a_number_has_failed_and_is_not_repeated(storage: str) -> None:
    study = open_study(storage, 1)
    study.run(lambda trial: Outcome(float("nan")))
    study.run(objective)
    assert [record.state for record in study.records()] == ["fail"]
    assert "nan" in study.records()[0].notes["error"]


def test_what_two_processes_queue_again_is_trained_once(storage: str) -> None:
    def interrupted(trial: Trial) -> Outcome:
        raise KeyboardInterrupt

    study = open_study(storage, 1)
    with pytest.raises(KeyboardInterrupt):
        study.run(interrupted)
    for _ in range(2):
        study._enqueue(DEFAULT, {"slot": 0, "retry_of": 0})
    study.run(objective)
    assert trained_states(study) == {"fail": 1, "complete": 1}


def test_a_worker_that_was_silent_for_too_long_leaves_its_trial_to_others(storage: str) -> None:
    def overtaken(trial: Trial) -> Outcome:
        if trial.number == 0:
            TuningStudy(storage, settings(), seed=0).study.tell(0, state=TrialState.FAIL)
        return objective(trial)

    study = open_study(storage, 1)
    ended: list[int] = []
    study.run(overtaken, lambda record: ended.append(record.number))
    assert trained_states(study) == {"fail": 1, "complete": 1}
    assert ended == [1]


def test_looking_a_study_up_makes_none(storage: str) -> None:
    assert find_notes(storage, "test") == {}
    study = open_study(storage)
    assert study.is_new
    study.note("run_id", "1")
    assert find_notes(storage, "test") == {"run_id": "1"}


def test_alternatives_that_two_processes_add_count_once(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(storage, 6)
    study.run(objective)
    once = study.importances(seed=0)
    first = study.study.get_trials()[0]
    with monkeypatch.context() as patch:
        patch.setattr(study.study, "get_trials", lambda **arguments: [])
        study._add_alternatives(first)
    assert len(study.study.get_trials()) == 6 + 12 + 2
    assert study.importances(seed=0) == once


def test_alternatives_lost_to_a_kill_are_added_once(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(TuningStudy, "_add_alternatives", lambda self, trial: None)
        open_study(storage).run(objective)
    study = open_study(storage)
    assert len(study.records()) == 4
    study.run(objective)
    study.run(objective)
    assert len(study.records()) == 12


def test_a_killed_trial_is_tried_once_more_and_nothing_finished_is_repeated(storage: str) -> None:
    assert start_worker(storage, "killed_once").wait() == -9
    before = {record.number for record in open_study(storage).records() if record.state == "complete"}
    assert before
    study = open_study(storage)
    ended: list[int] = []
    study.run(objective, lambda record: ended.append(record.number))
    assert not before & set(ended)
    assert trained_states(study) == {"complete": 4, "fail": 1}
    assert len([record for record in study.records() if record.is_retry]) == 1


def test_a_trial_that_kills_twice_is_given_up(storage: str) -> None:
    assert start_worker(storage, "killed_twice").wait() == -9
    assert start_worker(storage, "killed_twice").wait() == -9
    study = open_study(storage)
    study.run(objective)
    assert trained_states(study) == {"complete": 3, "fail": 2}


def test_two_workers_share_the_queue(storage: str) -> None:
    open_study(storage, 6)
    workers = [start_worker(storage, "slow", 6) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    study = open_study(storage, 6)
    assert trained_states(study) == {"complete": 6}
    assert len(study.records()) == 18


def test_a_database_that_cannot_be_used_is_named() -> None:
    with pytest.raises(StorageError, match="cannot be used as a database"):
        TuningStudy("nodatabase://somewhere", settings(), seed=0)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(StorageError) as error:
        TuningStudy("postgresql+nodriver://me:secret@nowhere/db", settings(), seed=0)
    assert "secret" not in str(error.value)
