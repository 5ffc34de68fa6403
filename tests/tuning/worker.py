"""A worker for the tests of studies: ``python worker.py <storage> <study> <trials> <what to do>``."""

import os
import signal
import sys
import time

from carkp.tuning.objective import Alternative, Job, Outcome, Trial
from carkp.tuning.settings import Axis, Heartbeat, StudySettings
from carkp.tuning.study import TuningStudy

AXES = {"x": Axis(0.0, 1.0), "q": Axis(2.0, 5.0)}
DEFAULT = {"x": 0.5, "q": 3.0}


def settings(name: str = "test") -> StudySettings:
    return StudySettings(name, AXES, num_startup_trainings=40, heartbeat=Heartbeat(interval_s=1, grace_s=2))


def jobs(num: int) -> list[Job]:
    return [Job(DEFAULT), *[Job()] * (num - 1)]


def objective(trial: Trial) -> Outcome:
    """Best at x = 0.7, q = 4."""
    own = trial.params

    def value(q: float) -> float:
        return 1 - (own["x"] - 0.7) ** 2 - 0.01 * (q - 4) ** 2

    others = [Alternative({**own, "q": q}, value(q)) for q in (2.0, 4.0)]
    return Outcome(value(own["q"]), others)


def killing(number: int, num_times: int) -> object:
    """An objective that kills its process at trial ``number`` and at its first retries, ``num_times`` in all."""

    def evaluate(trial: Trial) -> Outcome:
        num_killed = int(trial.notes.get("num_killed", 0))
        is_chosen = trial.number == number or num_killed > 0
        if is_chosen and num_killed < num_times:
            trial.note("num_killed", num_killed + 1)
            os.kill(os.getpid(), signal.SIGKILL)
        return objective(trial)

    return evaluate


def slow(trial: Trial) -> Outcome:
    time.sleep(0.3)
    return objective(trial)


def main() -> None:
    storage, name, num, what = sys.argv[1:]
    study = TuningStudy(storage, settings(name), seed=0)
    study.queue(jobs(int(num)))
    kinds = {"plain": objective, "slow": slow, "killed_once": killing(2, 1), "killed_twice": killing(2, 2)}
    study.run(kinds[what])  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
