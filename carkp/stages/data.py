"""Entry point ``data``: CarFusion, its COCO JSON, a directory of crops, or generated cars -> three stores."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from carkp.tracking.tracker import Tracker
from carkp.workflow.cli import Parameter, execute, guarded, parse
from carkp.workflow.preparation import DataInputs, describe, run


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the entry point."""

    def work() -> int:
        parameters = [Parameter("source", "", "'synthetic' or a path; empty: data.source of the configuration")]
        arguments = parse("data", "Prepare the data of an experiment.", parameters, argv)
        configured = arguments.config.data
        source = arguments.values["source"] or configured.source
        config = arguments.config.model_copy(update={"data": configured.model_copy(update={"source": source})})

        def prepare(tracker: Tracker, out_dir: Path) -> None:
            print(describe(run(config, DataInputs(source), out_dir, tracker)))  # noqa: T201
            if source != configured.source:
                print(_advice(configured.source, source, tracker.run_id))  # noqa: T201

        execute("data", config, prepare)
        return 0

    return guarded(work)


def _advice(configured: str, source: str, run_id: str) -> str:
    """Other stages know the source by the configuration alone."""
    setting = shlex.quote(f"data.source={source}")
    return (
        f"note: the configuration's data.source is {configured}: give --set {setting} to other stages (-P "
        f"overrides=… to `mlflow run`), or data=runs:/{run_id}, or they take {configured}"
    )


if __name__ == "__main__":
    sys.exit(main())
