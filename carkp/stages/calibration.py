"""Entry point ``calibration``: quantise the float model after training, and score it with fake quantisation."""

import sys
from collections.abc import Sequence
from pathlib import Path

from carkp.tracking.tracker import Tracker
from carkp.training.distributed import ProcessContext, cpu_context
from carkp.workflow.calibration_run import CalibrationInputs, calibrate_and_score, describe
from carkp.workflow.cli import Arguments, execute, guarded, parse_stage
from carkp.workflow.quantising import build_target
from carkp.workflow.references import FLOAT, require_data, resolve_model


def main(argv: Sequence[str] | None = None) -> int:
    def work() -> int:
        _execute(parse_stage("calibration", argv), cpu_context())
        return 0

    return guarded(work)


def _execute(arguments: Arguments, context: ProcessContext) -> None:
    config = arguments.config
    target = build_target(config, arguments.values["target"])
    data = require_data(config, arguments.values["data"])
    tags = {"carkp.experiment": config.name, "carkp.data_digest": data.digest}
    inputs = CalibrationInputs(data, resolve_model(arguments.values["model"], FLOAT, tags), target)

    def work(tracker: Tracker, out_dir: Path) -> None:
        print(describe(calibrate_and_score(config, inputs, out_dir, tracker, context)))  # noqa: T201

    execute("calibration", config, work)


if __name__ == "__main__":
    sys.exit(main())
