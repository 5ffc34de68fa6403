"""Entry point ``data``: CarFusion, its COCO JSON, a directory of crops, generated cars, or several -> three stores."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.tracking.tracker import Tracker
from carkp.workflow.cli import execute, guarded, parse_stage
from carkp.workflow.preparation import describe, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of the entry point."""

    def work() -> int:
        arguments = parse_stage("data", argv)
        configured = arguments.config.data
        source = arguments.values["source"] or configured.source
        config = _with_source(arguments.config, arguments.values["source"])

        def prepare(tracker: Tracker, out_dir: Path) -> None:
            print(describe(run(config, out_dir, tracker)))  # noqa: T201
            if source != configured.source:
                print(_advice(configured.source, source, tracker.run_id))  # noqa: T201

        execute("data", config, prepare)
        return 0

    return guarded(work)


def _with_source(config: ExperimentConfig, source: str) -> ExperimentConfig:
    """Replace the configuration's source by ``source``; "" keeps the configuration.

    Raises:
        ConfigError: the configuration names several sources.
    """
    if not source:
        return config
    if config.data.sources:
        raise ConfigError(
            f"source={source}: the configuration names several in data.sources ({config.data.title}): leave source "
            "empty to prepare them all, or give --set 'data.sources=[]' too (-P overrides=… to `mlflow run`)"
        )
    return config.model_copy(update={"data": config.data.model_copy(update={"source": source})})


def _advice(configured: str, source: str, run_id: str) -> str:
    """Return advice for other stages, which only know the configuration's source."""
    setting = shlex.quote(f"data.source={source}")
    return (
        f"note: the configuration's data.source is {configured}: give --set {setting} to other stages (-P "
        f"overrides=… to `mlflow run`), or data=runs:/{run_id}, otherwise they use {configured}"
    )


if __name__ == "__main__":
    sys.exit(main())
