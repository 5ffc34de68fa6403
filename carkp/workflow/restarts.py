"""Restart of a stage's processes by torchrun or a scheduler: the stage continues in the same run."""

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from carkp.project import project_root
from carkp.tracking.runs import STAGE_TAG, find_runs, has_artifact
from carkp.tracking.tracker import Tracker
from carkp.training.distributed import is_under_torchrun
from carkp.training.fit import LAST_NAME
from carkp.workflow.references import LAST, last_checkpoint

_LAUNCH_TAG = "carkp.torchrun"
_LAUNCH = "TORCHELASTIC_RUN_ID"
_REQUEUES = "SLURM_RESTART_COUNT"
_RUN = "MLFLOW_RUN_ID"
_CLOCK_TOLERANCE = timedelta(seconds=5)


def may_be_restarted() -> bool:
    """Return whether this process may replace one that died.

    Torchrun's own count of restarts is not enough: it only counts on the machine of the dead process.
    """
    return is_under_torchrun() or os.environ.get(_REQUEUES, "0") != "0"


def name_launch(tracker: Tracker) -> None:
    """Tag the run with the launch of torchrun that created it."""
    if is_under_torchrun():
        tracker.set_tags({_LAUNCH_TAG: os.environ[_LAUNCH]})


def rejoin_run(stage: str) -> None:
    """Continue in the run that this launch of torchrun created before one of its processes died, if there is one."""
    if not is_under_torchrun() or os.environ.get(_RUN):
        return
    launched = datetime.fromtimestamp(psutil.Process(os.getppid()).create_time(), UTC)
    found = find_runs({STAGE_TAG: stage, _LAUNCH_TAG: os.environ[_LAUNCH]}, is_finished=False, max_results=1)
    if found and found[0].started > launched - _CLOCK_TOLERANCE:  # launches can have the same name again
        os.environ[_RUN] = found[0].run_id


def own_checkpoint(run_id: str) -> Path | None:
    """Return the ``last.pt`` that the run wrote before its processes died; None for a new run."""
    if not may_be_restarted():
        return None
    is_here = (project_root() / "runs" / run_id / LAST).is_file()
    return last_checkpoint(run_id) if is_here or has_artifact(run_id, LAST) else None


def clear_unfinished(folder: Path) -> None:
    """Remove checkpoints of an unfinished first epoch: a best.pt alone is not enough to continue."""
    if may_be_restarted() and not (folder / LAST_NAME).is_file():
        shutil.rmtree(folder, ignore_errors=True)
