"""Entry point ``adapt``: teach the float model a user's own pictures, without labels or with a handful of them."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.data.files import expand_path
from carkp.data.orientation import check_orientation
from carkp.data.pictures import list_pictures
from carkp.tracking.tracker import Tracker
from carkp.training.distributed import process_context
from carkp.workflow.adaptation import AdaptInputs, AdaptResult, run
from carkp.workflow.boxes import open_boxes
from carkp.workflow.cli import Arguments, execute, guarded, parse_stage
from carkp.workflow.preparation import run_as_child
from carkp.workflow.references import FLOAT, find_current_data, resolve_model
from carkp.workflow.target_cars import TargetSources


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of the entry point."""

    def work() -> int:
        _execute(parse_stage("adapt", argv))
        return 0

    return guarded(work)


def _execute(arguments: Arguments) -> None:
    config, target = arguments.config, read_target(arguments)
    resolve_model(arguments.values["model"], FLOAT, {"carkp.experiment": config.name})  # refused before data are made
    with process_context() as context:

        def work(tracker: Tracker, out_dir: Path) -> None:
            inputs = _find_inputs(arguments, target, tracker)
            print(describe(config, run(config, inputs, out_dir, tracker, context)))  # noqa: T201

        execute("adapt", config, work)


def read_target(arguments: Arguments) -> TargetSources:
    """Return the user's cars that the parameters name.

    Raises:
        ConfigError: the parameters name no cars, or contradict each other.
        DataError: a file does not exist.
    """
    values = arguments.values
    if values["boxes"] and not values["images"]:
        raise ConfigError("boxes are given without images: give images=… too")
    if not values["images"] and not values["labels"]:
        raise ConfigError("nothing to adapt to: give images=… (with boxes=…), labels=…, or both")
    pictures = list_pictures(expand_path(values["images"])) if values["images"] else []
    return TargetSources(
        pictures=pictures,
        boxes=open_boxes(values["boxes"], pictures),
        labels=expand_path(values["labels"]) if values["labels"] else None,
        orientation=check_orientation(values["orientation"]),
    )


def _find_inputs(arguments: Arguments, target: TargetSources, tracker: Tracker) -> AdaptInputs:
    """Find the data, or prepare them in a child run; find the model."""
    config = arguments.config
    data = find_current_data(config, arguments.values["data"]) or run_as_child(config, tracker).prepared
    tags = {"carkp.experiment": config.name, "carkp.data_digest": data.digest}
    return AdaptInputs(data, resolve_model(arguments.values["model"], FLOAT, tags), target)


def describe(config: ExperimentConfig, result: AdaptResult) -> str:
    """Describe the result in a few lines, for a person."""
    before, after = result.before, result.after
    rows = [("pck on generated validation", before.val.pck, after.val.pck)]
    if before.holdout is not None and after.holdout is not None:
        cars = f"{after.holdout.num_cars} unlabelled cars held out"
        rows += [
            (f"{cars}: agreement with itself", before.holdout.agreement, after.holdout.agreement),
            (f"{cars}: keypoints it trusts", before.holdout.trusted, after.holdout.trusted),
        ]
    if before.labelled is not None and after.labelled is not None:
        rows.append(("pck on labelled cars held out", before.labelled.pck, after.labelled.pck))
    head = f"{config.adapt.epochs} epochs at {result.samples_per_s:.1f} samples/s"
    return "\n".join([head, *(f"{name}: {_shown(first)} -> {_shown(last)}" for name, first, last in rows)])


def _shown(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(main())
