"""Cleanup after killed processes, which could neither end their run nor remove their unfinished files."""

from pathlib import Path

from carkp import disk
from carkp.processes import PROCESS_TAG, is_alive
from carkp.project import project_root
from carkp.tracking.runs import STAGE_TAG, FoundRun, end_run, find_runs, local_artifacts

NUM_EARLIER = 20
UNFINISHED = (".*.partial", ".artifact.uploading.*")
"""Names of files that carkp and MLflow have not finished."""


def end_killed_runs(stage: str, own_run_id: str) -> None:
    """Mark earlier runs of ``stage`` as killed if their process is gone, and remove their unfinished files.

    Finished files stay, because a run may be continued from a checkpoint. Runs of other machines are not touched.
    """
    for run in find_runs({STAGE_TAG: stage}, is_finished=False, max_results=NUM_EARLIER):
        if run.run_id != own_run_id and _is_abandoned(run):
            end_killed_run(run.run_id)


def end_killed_run(run_id: str) -> None:
    """Mark a run without a process as killed, and remove its unfinished files."""
    for folder in (local_artifacts(run_id), project_root() / "runs" / run_id):
        _remove_unfinished(folder)
    end_run(run_id, "KILLED")


def _is_abandoned(run: FoundRun) -> bool:
    return run.status == "RUNNING" and PROCESS_TAG in run.tags and not is_alive(run.tags[PROCESS_TAG])


def _remove_unfinished(folder: Path | None) -> None:
    if folder is None:
        return
    for pattern in UNFINISHED:
        for path in list(folder.rglob(pattern)):
            disk.remove(path)
