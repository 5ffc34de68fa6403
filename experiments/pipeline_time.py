"""What do forked stages save in `carkp run`, once there is a float model?

Command:  python experiments/pipeline_time.py                     (after `carkp run`; about ten minutes on two cores)
          … --config configs/tiny.yaml --rounds 3
Asks:     seconds from calibration to report of the whole pipeline, in turn with stages forked from a process that has
          imported them, as `carkp run` does, and with each stage as a process that imports everything again. Each
          time, calibration takes other images, so that it and all later steps are done again.
Expect:   at most 90 s with the default configuration. Its data and its float model are reused; if they are
          missing, the first, untimed run makes them.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from carkp.config.loading import ConfigError
from carkp.measurements.record import Goal, Measurement
from carkp.tracking.tracker import Tracker
from carkp.workflow.cli import Parameter, execute, guarded
from carkp.workflow.recording import Findings, parse_study, write_record

STUDY = "pipeline_time"
PROGRAMS = {
    "forked": "import sys; from carkp.stages.pipeline import program; sys.exit(program(sys.argv[1:]))",
    "separate": "import sys; from carkp.stages.pipeline import main; sys.exit(main(sys.argv[1:]))",
}
QUANTITIES = {
    "forked": "calibration to report, stages forked as in `carkp run`",
    "separate": "the same, each stage a process that imports everything anew",
    "separate_to_forked": "separate / forked",
}
GOALS = {"forked": Goal(at_most=90)}
OWN_RUN = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")


def timed_pipeline(program: str, words: Sequence[str], num_images: int) -> float:
    """Return the seconds of a whole run in a separate process.

    Raises:
        ConfigError: it failed.
    """
    command = [sys.executable, "-c", program, *words, "--set", f"quant.num_images={num_images}"]
    environment = {name: value for name, value in os.environ.items() if name not in OWN_RUN}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError(
            f"the pipeline ended with status {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return time.perf_counter() - start


def measure(words: Sequence[str], num_images: int, num_rounds: int) -> dict[str, float]:
    """Return the median seconds of each way, and the median of the rounds' ratios."""
    timed_pipeline(PROGRAMS["forked"], words, num_images)
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for number in tqdm(range(num_rounds), "rounds"):
        for place, (name, program) in enumerate(PROGRAMS.items()):
            fewer = 1 + number * len(PROGRAMS) + place
            seconds[name].append(timed_pipeline(program, words, num_images - fewer))
    found = {name: float(np.median(values)) for name, values in seconds.items()}
    ratios = np.array(seconds["separate"]) / np.array(seconds["forked"])
    return found | {"separate_to_forked": float(np.median(ratios))}


def measurements(found: Mapping[str, float]) -> list[Measurement]:
    """Return the measurements for ``--record``."""
    return [
        Measurement(
            name=name,
            quantity=quantity,
            value=found[name],
            unit="s" if name in PROGRAMS else "",
            format=".0f" if name in PROGRAMS else ".2f",
            goal=GOALS.get(name),
        )
        for name, quantity in QUANTITIES.items()
    ]


def main() -> int:
    arguments = parse_study(STUDY, str(__doc__), [Parameter("rounds", "1", "runs of each kind, in turn")])
    num_rounds, num_images = int(arguments.values["rounds"]), arguments.config.quant.num_images
    if num_images <= num_rounds * len(PROGRAMS):
        raise ConfigError(
            f"quant.num_images={num_images} are too few for {num_rounds} rounds of different calibrations"
        )

    def work(tracker: Tracker, out_dir: Path) -> None:
        del out_dir
        found = measure(arguments.config_words, num_images, num_rounds)
        tracker.log_metrics(found)
        table = Table("", "", title="From calibration to report")
        for item in measurements(found):
            table.add_row(item.quantity, f"{item.value:{item.format}} {item.unit}")
        Console().print(table)
        write_record(arguments, STUDY, Findings(measurements(found)))

    execute(STUDY, arguments.config, work)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
