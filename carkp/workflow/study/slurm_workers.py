"""Workers of a study as jobs of a Slurm cluster."""

from collections.abc import Callable
from dataclasses import dataclass

from carkp.cluster.following import follow
from carkp.cluster.slurm import JOB_TAG, ClusterError, Job, submit
from carkp.config.cluster import SlurmConfig
from carkp.project import project_root
from carkp.tracking.runs import end_lost_run, find_runs
from carkp.workflow.study.workers import StudySpec, run_cluster_worker, with_threads

_STUDY_TAG = "carkp.study"


@dataclass(frozen=True)
class SlurmWorkers:
    """Works on a study in ``num_jobs`` jobs."""

    config: SlurmConfig
    num_jobs: int

    def __call__(self, spec: StudySpec) -> None:
        """Submit the workers and follow them until all have ended; a run whose job is lost is marked FAILED.

        Raises:
            ClusterError: Slurm takes no jobs, or trainings of the study are left.
        """
        study = spec.open()
        if study.num_left() == 0:
            return
        shared = with_threads(spec, self.config.cpus)
        folder = project_root() / "runs" / "slurm" / spec.settings.name
        jobs = submit(self.config, folder, "carkp-tune", run_cluster_worker, [shared] * self.num_jobs)
        print(f"study {spec.settings.name}: jobs {', '.join(job.id for job in jobs)}", flush=True)  # noqa: T201
        states = follow(
            jobs,
            self.config.poll_s,
            self.config.patience_min * 60,
            fail_runs_of(spec),
            lambda: study.num_left() == 0,
        )
        study.add_alternatives()
        if num_left := study.num_left():
            shown = ", ".join(f"{job} {state}" for job, state in states.items())
            raise ClusterError(
                f"study {spec.settings.name}: the jobs have ended ({shown}) and {num_left} trainings are left: start "
                "the same command again to continue. If jobs reached their time limit, increase time_min"
            )


def fail_runs_of(spec: StudySpec) -> Callable[[Job, str], None]:
    """Mark the runs that a lost job had under way."""

    def fail(job: Job, state: str) -> None:
        tags = {_STUDY_TAG: spec.settings.name, JOB_TAG: job.id}
        for run in find_runs(tags, is_finished=False):
            if end_lost_run(run.run_id, "FAILED", f"the Slurm job {job.id} is {state}"):
                print(f"[{job.id}] run {run.run_id} was active and is marked FAILED", flush=True)  # noqa: T201

    return fail
