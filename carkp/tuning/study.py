"""A study as a queue of trainings in a database: workers take them one by one, on one machine or many.

Every training is put into the queue when the study is made, so that what is left to do after a process was killed is
what is left in the database. A trial may score several values of parameters that need no training of their own; the
others than its own are added as finished trials, marked ``trained: false``.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from warnings import catch_warnings, simplefilter

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState, create_trial

from carkp.tuning.errors import StorageError

TRAINED, SOURCE, ALTERNATIVES, RETRY_OF, SEEN = "trained", "source", "alternatives", "retry_of", "seen"

_SQLITE_TIMEOUT_S = 60
_CREATION_TIMEOUT_S = 30
_POLL_S = 2.0


class Pruned(Exception):  # noqa: N818 - it is no error
    """The training is worse than the others at the same epoch and need not go on."""


@dataclass(frozen=True)
class Axis:
    """Values that one parameter may take."""

    low: float
    high: float
    is_log: bool = False

    @property
    def distribution(self) -> FloatDistribution:
        return FloatDistribution(self.low, self.high, log=self.is_log)


@dataclass(frozen=True)
class Heartbeat:
    """How often a worker says that it is alive, and after how long a silence its trial counts as killed."""

    interval_s: int = 10
    grace_s: int = 60


@dataclass(frozen=True)
class StudySettings:
    """What is searched, and how.

    Attributes:
        name: of the study in the database.
        axes: parameter -> values.
        num_startup_trials: trials that are drawn at random; those that were not trained count.
        num_trainings_before_pruning: trainings that must have reached an epoch before another is pruned at it.
        num_epochs_before_pruning: epochs that every training gets.
    """

    name: str
    axes: Mapping[str, Axis]
    num_startup_trials: int = 10
    num_trainings_before_pruning: int = 4
    num_epochs_before_pruning: int = 1
    heartbeat: Heartbeat = field(default_factory=Heartbeat)


@dataclass(frozen=True)
class Alternative:
    """Other parameters that a trial has scored without training again, and what they gave."""

    params: Mapping[str, float]
    value: float


@dataclass(frozen=True)
class Outcome:
    """What a training gave with its own parameters, and with others."""

    value: float
    alternatives: Sequence[Alternative] = ()


class Trial(Protocol):
    """What an objective sees of its trial."""

    @property
    def number(self) -> int: ...
    @property
    def params(self) -> Mapping[str, float]: ...
    @property
    def notes(self) -> Mapping[str, Any]: ...
    def note(self, name: str, value: Any) -> None: ...
    def report(self, value: float, epoch: int) -> None: ...


Objective = Callable[[Trial], Outcome]


@dataclass(frozen=True)
class Job:
    """A training to queue: parameters that are fixed, the sampler chooses the others; and notes for the objective."""

    params: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the database has it.

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


class _OptunaTrial:
    """``Trial`` on an Optuna trial."""

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
        """Keep the value of an epoch.

        Raises:
            Pruned: the training need not go on.
        """
        self._trial.report(value, epoch)
        if self._trial.should_prune():
            raise Pruned(f"{value:.4f} after epoch {epoch} is below the median of the trainings before")


class TuningStudy:
    """A study in a database, made where it is not there yet. Higher values are better."""

    def __init__(self, storage: str, settings: StudySettings, seed: int) -> None:
        """Open the study of ``settings`` in the database at the URL ``storage``.

        Raises:
            StorageError: the database cannot be used.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.settings = settings
        self._storage = _open_storage(storage, settings.heartbeat)
        self._seed = seed
        pruner = optuna.pruners.MedianPruner(
            n_startup_trials=settings.num_trainings_before_pruning,
            n_warmup_steps=settings.num_epochs_before_pruning - 1,
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
        """Put the jobs beyond those that were ever queued into the queue: the first n jobs are taken to be those.

        Where another process made the study a moment ago, that one is given time to fill the queue.
        """
        if not self.is_new:
            _wait_until(lambda: bool(self._slots()), _CREATION_TIMEOUT_S)
        for job in jobs[len(self._slots()) :]:
            self._enqueue(job.params, job.notes)

    def run(self, objective: Objective, on_end: Callable[[TrialRecord], None] = lambda record: None) -> None:
        """Work until the queue is empty and no trial of any worker is under way.

        A trial that raises is kept as failed, and the next one is taken. A trial whose worker was killed is queued
        again, once; one that was interrupted from the keyboard is queued again, and the interruption goes on.
        """
        while True:
            self._release_stale()
            states = [trial.state for trial in self.study.get_trials(deepcopy=False)]
            if TrialState.WAITING in states:
                self._run_one(objective, on_end)
            elif TrialState.RUNNING in states:
                time.sleep(_POLL_S)
            else:
                break
        self.add_alternatives()

    def add_alternatives(self) -> None:
        """Add what finished trainings scored beside their own parameters, where a process was killed before it did."""
        trials = self.study.get_trials(deepcopy=False)
        added = {trial.user_attrs[SOURCE] for trial in trials if SOURCE in trial.user_attrs}
        for trial in trials:
            if trial.state == TrialState.COMPLETE and trial.number not in added:
                self._add_alternatives(trial)

    def records(self) -> list[TrialRecord]:
        """All trials, by number; what two processes added twice, once."""
        found: dict[tuple[Any, ...], TrialRecord] = {}
        for trial in self.study.get_trials(deepcopy=False):
            record = _record(trial)
            alternative = (record.training, *sorted(record.params.items()))
            found.setdefault((record.number,) if record.is_trained else alternative, record)
        return list(found.values())

    def note(self, name: str, value: Any) -> None:
        """Keep something with the study."""
        self.study.set_user_attr(name, value)

    def notes(self) -> Mapping[str, Any]:
        return self.study.user_attrs

    def importances(self, seed: int) -> dict[str, float]:
        """Share of the variance of finished trials that each parameter explains (fANOVA, Hutter et al. 2014).

        Empty where there are too few trials or nothing varies.
        """
        finished = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(finished) < 4 or len({trial.value for trial in finished}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
        return optuna.importance.get_param_importances(self.study, evaluator=evaluator)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """Seeded for each trial: workers draw other numbers than each other, and than before an interruption."""
        seed = int(np.random.SeedSequence((self._seed, number)).generate_state(1)[0])
        return optuna.samplers.TPESampler(n_startup_trials=self.settings.num_startup_trials, seed=seed)

    def _slots(self) -> list[FrozenTrial]:
        """Trials that stand for a queued job each; a retry belongs to the job of the one before."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.user_attrs.get(TRAINED) and not _is_retry(trial)]

    def _enqueue(self, params: Mapping[str, float], notes: Mapping[str, Any]) -> None:
        self.study.enqueue_trial(dict(params), user_attrs={TRAINED: True, **notes})

    def _run_one(self, objective: Objective, on_end: Callable[[TrialRecord], None]) -> None:
        def evaluate(trial: optuna.Trial) -> float:
            if TRAINED not in trial.user_attrs:
                raise RuntimeError("another worker took the last job of the queue")
            trial.set_user_attr(SEEN, True)
            self.study.sampler = self._sampler(trial.number)
            taken = _OptunaTrial(trial, self.settings.axes)
            try:
                outcome = objective(taken)
            except Pruned as reason:
                raise optuna.TrialPruned(str(reason)) from reason
            except KeyboardInterrupt:
                self._enqueue(taken.params, {**trial.user_attrs, RETRY_OF: trial.number})
                raise
            trial.set_user_attr(ALTERNATIVES, [[dict(item.params), item.value] for item in outcome.alternatives])
            return outcome.value

        def finish(study: optuna.Study, trial: FrozenTrial) -> None:
            if trial.state == TrialState.COMPLETE:
                self._add_alternatives(trial)
            on_end(_record(trial))

        with _without_warnings():
            self.study.optimize(evaluate, n_trials=1, catch=(Exception,), callbacks=[finish])

    def _add_alternatives(self, trial: FrozenTrial) -> None:
        distributions: dict[str, BaseDistribution] = {
            name: axis.distribution for name, axis in self.settings.axes.items()
        }
        for params, value in trial.user_attrs.get(ALTERNATIVES, []):
            attributes = {TRAINED: False, SOURCE: trial.number}
            self.study.add_trial(
                create_trial(params=params, distributions=distributions, value=value, user_attrs=attributes)
            )

    def _release_stale(self) -> None:
        """Queue trials of killed workers again; also those that were killed before their first sign of life."""
        with _without_warnings():
            fail_stale_trials(self.study)
        limit = datetime.now() - timedelta(seconds=self.settings.heartbeat.grace_s)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            is_silent = TRAINED in trial.user_attrs and SEEN not in trial.user_attrs
            if is_silent and trial.datetime_start is not None and trial.datetime_start < limit:
                self.study.tell(trial.number, state=TrialState.FAIL)
                self._enqueue(trial.params, {**trial.user_attrs, RETRY_OF: trial.number})


def _is_retry(trial: FrozenTrial) -> bool:
    with _without_warnings():
        return RETRY_OF in trial.user_attrs or RetryHeartbeatStaleTrialCallback.retried_trial_number(trial) is not None


def _record(trial: FrozenTrial) -> TrialRecord:
    duration = trial.duration
    return TrialRecord(
        number=trial.number,
        state=trial.state.name.lower(),
        params=dict(trial.params),
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        notes=dict(trial.user_attrs),
        is_trained=SOURCE not in trial.user_attrs,
        training=trial.user_attrs.get(SOURCE, trial.number),
        is_retry=_is_retry(trial),
        seconds=duration.total_seconds() if duration is not None else math.nan,
    )


def _open_storage(url: str, heartbeat: Heartbeat) -> RDBStorage:
    arguments = {"connect_args": {"timeout": _SQLITE_TIMEOUT_S}} if url.startswith("sqlite") else {}
    with _without_warnings():
        try:
            return RDBStorage(
                url,
                engine_kwargs=arguments,
                heartbeat_interval=heartbeat.interval_s,
                grace_period=heartbeat.grace_s,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=1),
            )
        except Exception as error:  # of SQLAlchemy, of the driver, or a missing driver
            reason = str(error).splitlines()[0]
            raise StorageError(
                f"{url.rpartition('@')[2]}: cannot be used as a database of studies ({reason}); expected "
                "sqlite:///file.db, or postgresql://user:password@host/database with the package psycopg[binary]"
            ) from error


def _wait_until(is_done: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not is_done() and time.monotonic() < end:
        time.sleep(_POLL_S / 4)


@contextmanager
def _without_warnings() -> Iterator[None]:
    with catch_warnings():
        simplefilter("ignore", ExperimentalWarning)
        yield
