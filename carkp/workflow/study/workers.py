"""A study's trials as MLflow runs, worked on by one process or several."""

import multiprocessing
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from tqdm import tqdm

from carkp.cluster.slurm import JOB_TAG, current_job_id
from carkp.config.schema import ExperimentConfig
from carkp.cores import num_usable_cores
from carkp.project import project_root
from carkp.tracking.runs import end_lost_run, end_run, find_run
from carkp.tracking.store import TrackingError
from carkp.tracking.tracker import Tracker, command_line, nested_run
from carkp.training.fit import EpochResult
from carkp.tuning.objective import Alternative, Job, Outcome, Pruned, Trial
from carkp.tuning.record import TrialRecord
from carkp.tuning.settings import Axis, StudySettings
from carkp.tuning.study import TuningStudy
from carkp.workflow.killed import end_killed_runs
from carkp.workflow.process import Terminated, end_with_parent, orderly_interrupts
from carkp.workflow.study.trial import LR, SIGMA, Q, TrialInputs, percentile_of, run_trial

RUN_ID, ROLE, SEED, TEST_PCK = "run_id", "role", "seed", "test_int8_pck"
FLOAT_PCK, ORACLE, SCORING_SHARE = "val_float_pck", "oracle_error_px", "scoring_share"

_STAGE = "trial"


@dataclass(frozen=True)
class StudySpec:
    """What a worker needs: the database, the study, and what each trial works on.

    Attributes:
        is_pruned: whether trials report their epochs to be stopped early.
        command: that started the study.
    """

    storage: str
    settings: StudySettings
    seed: int
    inputs: TrialInputs
    is_pruned: bool = True
    command: str = field(default_factory=command_line)

    def open(self) -> TuningStudy:
        return TuningStudy(self.storage, self.settings, self.seed)


def run_workers(spec: StudySpec, num_workers: int) -> None:
    """Work on the study in ``num_workers`` processes of this machine until nothing is left.

    What a worker that was killed leaves behind is done here in the end.
    """
    if num_workers > 1:
        shared = with_threads(spec, max(1, num_usable_cores() // num_workers))
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=_run_worker, args=(shared,), name=f"worker {i}") for i in range(num_workers)]
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                worker.join()
        except KeyboardInterrupt as reason:
            for worker in workers:
                if isinstance(reason, Terminated):  # a terminal interrupts them all, this signal came to one process
                    worker.terminate()
            for worker in workers:
                worker.join()
            raise
    work(spec)


def work(spec: StudySpec) -> None:
    """Take trials of the study until nothing is left."""
    study = spec.open()
    study.run(lambda trial: run_tracked(spec, study, trial), lambda record: _record_result(study, record))


def _run_worker(spec: StudySpec) -> None:
    """``work`` in a process of its own, which ends without a word where it is interrupted or left alone."""
    with suppress(KeyboardInterrupt), orderly_interrupts():
        end_with_parent()
        work(spec)


def run_cluster_worker(spec: StudySpec) -> None:
    """``work`` in a job of a cluster, which also ends in good order where its time limit is near (SIGUSR2)."""
    with suppress(KeyboardInterrupt), orderly_interrupts():
        signal.signal(signal.SIGUSR2, signal.getsignal(signal.SIGTERM))
        work(spec)


def run_tracked(spec: StudySpec, study: TuningStudy, trial: Trial) -> Outcome:
    """A trial as a run below the study's.

    Raises:
        Pruned: it need not go on.
    """
    _end_killed(trial.notes.get(RUN_ID))
    if not current_job_id():  # the command that follows Slurm's jobs marks their runs
        end_killed_runs(_STAGE, "")  # of workers that were killed before they noted their run
    pruned: Pruned | None = None
    config = _seeded(spec.inputs.config, trial.notes)
    with nested_run(study.notes()[RUN_ID], _STAGE, config.name, config.tracking.wait_s) as tracker:
        trial.note(RUN_ID, tracker.run_id)
        _describe_run(spec, trial, tracker)
        try:
            outcome = _run(replace(spec.inputs, config=config), spec.is_pruned, trial, tracker)
        except Pruned as reason:
            pruned = reason
            tracker.set_tags({"carkp.trial_state": "pruned"})
            tracker.describe(f"Pruned: {reason}.")
    if pruned is not None:
        raise pruned
    return outcome


def _run(inputs: TrialInputs, is_pruned: bool, trial: Trial, tracker: Tracker) -> Outcome:
    def report(result: EpochResult) -> None:
        if is_pruned and result.epoch < inputs.budget.epochs:  # after the last epoch there is nothing to save
            trial.report(result.scores.pck, result.epoch)

    result = run_trial(inputs, trial.params, tracker, report)
    split = next(iter(inputs.num_scored))
    own_q = trial.params[Q]
    own = result.int8_pck[own_q]
    trial.note(FLOAT_PCK, result.float_pck)
    trial.note(ORACLE, result.oracle_error_px)
    trial.note(SCORING_SHARE, result.scoring_share)
    if "test" in own:
        trial.note(TEST_PCK, own["test"])
    tracker.set_tags({"carkp.trial_state": "complete"})
    tracker.describe(
        f"PCK of the simulated int8 model on validation {own[split]:.4f} (float, best epoch: "
        f"{result.float_pck:.4f}). The codec alone is {result.oracle_error_px:.3f} px off on the labels."
    )
    others = [Alternative({**trial.params, Q: q}, by[split]) for q, by in result.int8_pck.items() if q != own_q]
    return Outcome(own[split], others)


def _describe_run(spec: StudySpec, trial: Trial, tracker: Tracker) -> None:
    params = trial.params
    words = f"sigma {params[SIGMA]:.2f}, lr {params[LR]:.1e}, percentile {percentile_of(params[Q]):g}"
    role = f"{trial.notes[ROLE]}, seed {trial.notes[SEED]}" if ROLE in trial.notes else ""
    tracker.set_tags(
        {
            "carkp.role": role or "search",
            "carkp.command": spec.command,
            "carkp.study": spec.settings.name,
            "carkp.trial": str(trial.number),
            "carkp.trained": "true",
            "carkp.data_digest": spec.inputs.data.digest,
            "carkp.target": spec.inputs.target.name,
            **({JOB_TAG: job_id} if (job_id := current_job_id()) else {}),
        }
    )
    tracker.describe(f"Running with {words}.", role or f"{trial.number}: {words}")


def _record_result(study: TuningStudy, record: TrialRecord) -> None:
    """One line on a trial that has ended."""
    trained = [other for other in study.records() if other.is_trained]
    num_left = sum(other.state in ("waiting", "running") for other in trained)
    complete = [other.value for other in study.records() if other.value is not None]
    best = f", best so far {max(complete):.4f}" if complete else ""
    value = f" {record.value:.4f}" if record.value is not None else ""
    tqdm.write(
        f"trial {record.number}: {record.state}{value} in {record.seconds:.0f} s{best}; "
        f"{len(trained) - num_left} trainings ended, {num_left} left"
    )


def _end_killed(run_id: str | None) -> None:
    """The run of an earlier attempt whose process was killed still says that it is running."""
    if run_id is None:
        return
    try:
        run = find_run(run_id)
    except TrackingError:
        return
    if run.status == "RUNNING":
        if JOB_TAG in run.tags:
            end_lost_run(run_id, "FAILED", f"the Slurm job {run.tags[JOB_TAG]} has lost the process of the trial")
        else:
            end_run(run_id, "KILLED")
    shutil.rmtree(project_root() / "runs" / run_id, ignore_errors=True)


def _seeded(config: ExperimentConfig, notes: Mapping[str, Any]) -> ExperimentConfig:
    return config.model_copy(update={"seed": notes[SEED]}) if SEED in notes else config


def with_threads(spec: StudySpec, num_threads: int) -> StudySpec:
    """Each of several workers keeps to its share of the cores."""
    config = spec.inputs.config
    changes = {"num_threads": num_threads, "num_workers": min(config.train.num_workers, num_threads)}
    config = config.model_copy(update={"train": config.train.model_copy(update=changes)})
    return replace(spec, inputs=replace(spec.inputs, config=config))


def axes_of(space: Mapping[str, tuple[float, float]], log: str) -> dict[str, Axis]:
    """Axes of ranges; the one called ``log`` is logarithmic."""
    return {name: Axis(low, high, is_log=name == log) for name, (low, high) in space.items()}


def queue_jobs(spec: StudySpec, jobs: list[Job]) -> TuningStudy:
    """Open the study and put into its queue what was never there."""
    study = spec.open()
    study.queue(jobs)
    return study
