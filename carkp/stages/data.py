"""Entry point ``data``: CarFusion, its COCO JSON, a directory of crops, or generated cars -> three stores."""

import sys
from collections.abc import Sequence

from carkp.workflow.cli import Parameter, execute, guarded, parse
from carkp.workflow.preparation import DataInputs, describe, run


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the entry point."""

    def work() -> int:
        parameters = [Parameter("source", "", "'synthetic' or a path; empty: data.source of the configuration")]
        arguments = parse("data", "Prepare the data of an experiment.", parameters, argv)
        config = arguments.config
        source = arguments.values["source"] or config.data.source
        config = config.model_copy(update={"data": config.data.model_copy(update={"source": source})})
        inputs = DataInputs(source)
        execute("data", config, lambda tracker, out_dir: print(describe(run(config, inputs, out_dir, tracker))))  # noqa: T201
        return 0

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
