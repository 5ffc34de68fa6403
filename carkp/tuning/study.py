"""A study as a queue of trainings in a database: workers take them one by one, on one machine or many.

All trainings are queued when the study is created. So after a process was killed, the database shows what is left to
do. A trial may also score parameter values that need no other training; these are added as finished trials, marked
``trained: false``.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState, create_trial

from carkp.processes import is_alive, process_name
from carkp.tuning.objective import Job, Objective, Pruned
from carkp.tuning.quiet import without_warnings
from carkp.tuning.record import (
    ALTERNATIVES,
    ERROR,
    INTERRUPTED,
    RETRY_OF,
    SEEN,
    SLOT,
    SOURCE,
    TRAINED,
    WORKER,
    TrialRecord,
    is_killed,
    record_of,
)
from carkp.tuning.settings import Axis, StudySettings
from carkp.tuning.storage import open_storage

MIN_TRAININGS_TO_EXPLAIN = 6
"""With fewer trainings, the importance of parameters cannot be estimated."""

MAX_KILLS = 1
"""Limit of kills: a job with more killed trials is given up."""

_NOT_HANDED_ON = frozenset({SEEN, WORKER, INTERRUPTED, ALTERNATIVES})
_MAX_ERROR_LENGTH = 1000

_CREATION_TIMEOUT_S = 30
_POLL_S = 2.0


class _OptunaTrial:
    """A ``Trial`` that wraps an Optuna trial."""

    def __init__(self, trial: optuna.Trial, axes: Mapping[str, Axis]) -> None:
        self._trial = trial
        self.params = {
            name: trial.suggest_float(name, axis.low, axis.high, log=axis.is_log) for name, axis in axes.items()
        }

    @property
    def number(self) -> int:
        return self._trial.number

    @property
    def notes(self) -> Mapping[str, Any]:
        return self._trial.user_attrs

    def note(self, name: str, value: Any) -> None:
        self._trial.set_user_attr(name, value)

    def report(self, value: float, epoch: int) -> None:
        """Store the value of an epoch.

        Raises:
            Pruned: the training need not continue.
        """
        self._trial.report(value, epoch)
        if self._trial.should_prune():
            raise Pruned(f"{value:.4f} after epoch {epoch} is too low compared with the earlier trainings")


class TuningStudy:
    """A study in a database, created if it does not exist. Higher values are better."""

    def __init__(self, storage: str, settings: StudySettings, seed: int) -> None:
        """Open the study of ``settings`` in the database at the URL ``storage``.

        Raises:
            StorageError: the database cannot be used.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.settings = settings
        self._storage = open_storage(storage, settings.heartbeat)
        self._seed = seed
        pruner = optuna.pruners.PercentilePruner(
            settings.kept_percent,
            n_startup_trials=settings.num_trainings_before_pruning,
            n_min_trials=settings.num_trainings_before_pruning,
        )
        arguments: dict[str, Any] = {
            "storage": self._storage,
            "study_name": settings.name,
            "pruner": pruner,
            "direction": "maximize",
        }
        try:
            self.study = optuna.create_study(**arguments)
            self.is_new = True
        except DuplicatedStudyError:
            self.study = optuna.create_study(**arguments, load_if_exists=True)
            self.is_new = False

    def queue(self, jobs: Sequence[Job]) -> None:
        """Queue the jobs that were never queued before; a job is identified by its index.

        If another process created the study a moment ago, it gets time to fill the queue. A job that two processes
        queue is still trained only once: see ``_jobs``.
        """
        if not self.is_new and not self._jobs():
            _wait_until(lambda: len(self._jobs()) >= len(jobs), _CREATION_TIMEOUT_S)
        known = self._jobs()
        for slot, job in enumerate(jobs):
            if slot not in known:
                self._enqueue(job.params, {**job.notes, SLOT: slot})

    def run(self, objective: Objective, on_end: Callable[[TrialRecord], None] = lambda record: None) -> None:
        """Work until the queue is empty and no worker runs a trial.

        A trial that raises an error is stored as failed, and the next one is taken. A trial whose worker was killed is
        queued again, once. An interrupted trial is queued again by the next call; the interruption itself is raised.
        """
        while True:
            self._fail_silent()
            self._requeue()
            states = [trial.state for trial in self.study.get_trials(deepcopy=False)]
            if TrialState.WAITING in states:
                with suppress(UpdateFinishedTrialError, _EndedByAnotherWorkerError):
                    self._run_one(objective, on_end)
            elif TrialState.RUNNING in states:
                time.sleep(_POLL_S)
            else:
                break
        self.add_alternatives()

    def add_alternatives(self) -> None:
        """Add the extra scores of finished trainings, if a process was killed before it added them."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            self._add_alternatives(trial)

    def records(self) -> list[TrialRecord]:
        """Return all trials by number, without duplicates of jobs."""
        return [record_of(trial) for trial in self._trials()]

    def num_left(self) -> int:
        """Return the number of trainings that wait, run, or will be queued again."""
        unfinished = (TrialState.WAITING, TrialState.RUNNING)
        return sum(tries[-1].state in unfinished or _is_to_retry(tries) for tries in self._jobs().values())

    def note(self, name: str, value: Any) -> None:
        """Store a note with the study."""
        self.study.set_user_attr(name, value)

    def notes(self) -> Mapping[str, Any]:
        return self.study.user_attrs

    def importances(self, seed: int) -> dict[str, float]:
        """Return the share of variance over finished trials by parameter (fANOVA, Hutter et al. 2014).

        Empty if too few trainings are complete to tell parameters apart, or if all values are equal.
        """
        complete = [trial for trial in self._trials() if trial.state == TrialState.COMPLETE]
        num_trainings = sum(bool(trial.user_attrs.get(TRAINED)) for trial in complete)
        if num_trainings < MIN_TRAININGS_TO_EXPLAIN or len({trial.value for trial in complete}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
        counted_once = optuna.create_study(direction="maximize")
        counted_once.add_trials(complete)
        return optuna.importance.get_param_importances(counted_once, evaluator=evaluator)

    def _sampler(self, slot: int) -> optuna.samplers.BaseSampler:
        """Return a sampler seeded for the job: different jobs get different numbers, a repeated job gets the same."""
        seed = int(np.random.SeedSequence((self._seed, slot)).generate_state(1)[0])
        ended = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        num_trainings = sum(bool(trial.user_attrs.get(TRAINED)) for trial in ended)
        has_begun = num_trainings >= self.settings.num_startup_trainings
        # Optuna would also count trials that were not trained
        return optuna.samplers.TPESampler(n_startup_trials=0 if has_begun else sys.maxsize, seed=seed)

    def _jobs(self) -> dict[int, list[FrozenTrial]]:
        """Return slot -> its trials by number: the first one and its retries.

        If two processes have queued the same job, the later trial is left out.
        """
        found: dict[int, dict[int | None, FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.user_attrs.get(TRAINED) and SLOT in trial.user_attrs:
                tries = found.setdefault(trial.user_attrs[SLOT], {})
                tries.setdefault(trial.user_attrs.get(RETRY_OF), trial)
        return {slot: list(tries.values()) for slot, tries in found.items()}

    def _trials(self) -> list[FrozenTrial]:
        """Return trials by number; each training and each of its alternatives once."""
        found: dict[tuple[Any, ...], FrozenTrial] = {}
        for tries in self._jobs().values():
            found |= {(trial.number,): trial for trial in tries}
        for trial in self.study.get_trials(deepcopy=False):
            if SOURCE in trial.user_attrs:
                found.setdefault((trial.user_attrs[SOURCE], *sorted(trial.params.items())), trial)
        return sorted(found.values(), key=lambda trial: trial.number)

    def _is_surplus(self, number: int) -> bool:
        """Return whether the trial duplicates another one for its job, or was not trained at all."""
        return all(number != trial.number for tries in self._jobs().values() for trial in tries)

    def _enqueue(self, params: Mapping[str, float], notes: Mapping[str, Any]) -> None:
        self.study.enqueue_trial(dict(params), user_attrs={TRAINED: True, **notes})

    def _run_one(self, objective: Objective, on_end: Callable[[TrialRecord], None]) -> None:
        def evaluate(trial: optuna.Trial) -> float:
            if self._is_surplus(trial.number):
                raise RuntimeError("another worker took this job")
            try:
                return self._evaluate(trial, objective)
            except KeyboardInterrupt:
                trial.set_user_attr(INTERRUPTED, True)
                raise
            except optuna.TrialPruned:
                raise
            except Exception as error:
                trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}"[:_MAX_ERROR_LENGTH])
                raise

        def finish(study: optuna.Study, trial: FrozenTrial) -> None:
            if trial.state == TrialState.COMPLETE:
                self._add_alternatives(trial)
            if not self._is_surplus(trial.number):
                on_end(record_of(trial))

        with without_warnings():
            try:
                self.study.optimize(evaluate, n_trials=1, catch=(Exception,), callbacks=[finish])
            except ValueError as error:  # after a long silence, a worker's trial was given to another one
                if "Cannot tell" not in str(error):
                    raise
                raise _EndedByAnotherWorkerError from error

    def _evaluate(self, trial: optuna.Trial, objective: Objective) -> float:
        self._storage.record_heartbeat(trial._trial_id)  # from here on, silence shows that a worker was killed
        trial.set_user_attr(WORKER, process_name(os.getpid()))
        trial.set_user_attr(SEEN, trial.number)
        self.study.sampler = self._sampler(trial.user_attrs.get(SLOT, trial.number))
        try:
            outcome = objective(_OptunaTrial(trial, self.settings.axes))
        except Pruned as reason:
            raise optuna.TrialPruned(str(reason)) from reason
        if not np.isfinite(outcome.value):
            raise FloatingPointError(f"the training gave {outcome.value}")
        trial.set_user_attr(ALTERNATIVES, [[dict(item.params), item.value] for item in outcome.alternatives])
        return outcome.value

    def _add_alternatives(self, trial: FrozenTrial) -> None:
        """Add the alternatives of a trial that do not exist yet."""
        distributions: dict[str, BaseDistribution] = {
            name: axis.distribution for name, axis in self.settings.axes.items()
        }
        others = self.study.get_trials(deepcopy=False)
        there = [other.params for other in others if other.user_attrs.get(SOURCE) == trial.number]
        for params, value in trial.user_attrs.get(ALTERNATIVES, []):
            if params in there:
                continue
            attributes = {TRAINED: False, SOURCE: trial.number}
            self.study.add_trial(
                create_trial(params=params, distributions=distributions, value=value, user_attrs=attributes)
            )

    def _fail_silent(self) -> None:
        """End the trials of killed workers, also of workers killed before their first heartbeat.

        A worker on this machine is looked up among the processes. A worker on another machine is known by its silence.
        """
        with without_warnings():
            fail_stale_trials(self.study)
        limit = datetime.now() - timedelta(seconds=self.settings.heartbeat.grace_s)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if _is_abandoned(trial, limit):
                with suppress(ValueError, UpdateFinishedTrialError):  # another worker may also end it
                    self.study.tell(trial.number, state=TrialState.FAIL)

    def _requeue(self) -> None:
        """Queue jobs again whose last trial was killed or interrupted, with the parameters chosen for it."""
        for tries in self._jobs().values():
            if _is_to_retry(tries):
                last = tries[-1]
                notes = {name: value for name, value in last.user_attrs.items() if name not in _NOT_HANDED_ON}
                chosen = last.params if last.params.keys() == self.settings.axes.keys() else {}
                params = {**last.system_attrs.get("fixed_params", {}), **chosen}
                self._enqueue(params, {**notes, RETRY_OF: last.number})


def _is_abandoned(trial: FrozenTrial, limit: datetime) -> bool:
    """Return whether nobody works on a running trial. A trial without heartbeat must have begun before ``limit``."""
    if trial.user_attrs.get(SEEN) == trial.number:
        return WORKER in trial.user_attrs and not is_alive(trial.user_attrs[WORKER])
    return trial.datetime_start is not None and trial.datetime_start < limit


def _is_to_retry(tries: Sequence[FrozenTrial]) -> bool:
    """Return whether a job's last trial was interrupted, or killed but not too often."""
    is_silent = tries[-1].state == TrialState.FAIL and ERROR not in tries[-1].user_attrs
    return is_silent and sum(map(is_killed, tries)) <= MAX_KILLS


class _EndedByAnotherWorkerError(Exception):
    """Another worker considered this trial killed and has ended it."""


def _wait_until(is_done: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not is_done() and time.monotonic() < end:
        time.sleep(_POLL_S / 4)
