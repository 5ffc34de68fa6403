"""Entry point ``check``: which layers the target's hardware supports, and what to change; fails on impossible ones."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from carkp.config.schema import ExperimentConfig
from carkp.deploy.check import judge_program, summarise
from carkp.deploy.hardware import ASSUMED, Hardware
from carkp.quant.target import Target
from carkp.tracking.runs import DATA_TAG
from carkp.tracking.tracker import Tracker
from carkp.workflow.checking import CheckResult, describe_counts, describe_verdict, log_check, require_possible
from carkp.workflow.cli import Arguments, execute, guarded, parse_stage
from carkp.workflow.programs import FoundProgram, find_program
from carkp.workflow.quantising import build_hardware, build_target
from carkp.workflow.reuse import hardware_digest, log_inputs, stage_inputs, target_digest

MAX_NAMED = 4
STYLES = {"int8": "green", "fallback": "yellow", "impossible": "bold red"}


@dataclass(frozen=True)
class CheckInputs:
    """A program, and the target to check it against."""

    model: FoundProgram
    target: Target
    hardware: Hardware


def run(config: ExperimentConfig, inputs: CheckInputs, out_dir: Path, tracker: Tracker) -> CheckResult:
    """Judge every layer; log table, counts and verdict."""
    program = inputs.model.program
    verdicts = judge_program(program, inputs.hardware)
    result = CheckResult(verdicts, summarise(verdicts, inputs.hardware))
    log_check(result, out_dir, tracker)
    tracker.set_tags(
        {
            "carkp.target": inputs.target.name,
            "carkp.arithmetic": program.target.name,
            "carkp.source_run": inputs.model.run_id,
            "carkp.verdict": describe_verdict(result.summary),
        }
    )
    if data_digest := program.origin.get("data_digest"):
        tracker.set_tags({DATA_TAG: data_digest})
    if model_digest := program.origin.get("model_digest"):
        upstream = {
            "model": model_digest,
            "target": target_digest(inputs.target),
            "hardware": hardware_digest(inputs.hardware),
        }
        tracker.set_tags({"carkp.model_digest": model_digest})
        log_inputs(tracker, stage_inputs("check", config, upstream))
    what = f"Compared `{inputs.model.describe(inputs.target)}` with {inputs.hardware.device}."
    found = f"{describe_verdict(result.summary)}: {describe_counts(result.summary)}"
    tracker.describe(f"{found}\n\n{what}", inputs.target.name)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    def work() -> int:
        _execute(parse_stage("check", argv))
        return 0

    return guarded(work)


def _execute(arguments: Arguments) -> None:
    config = arguments.config
    name = arguments.values["target"]
    target, hardware = build_target(config, name), build_hardware(config, name)
    inputs = CheckInputs(find_program(config, arguments.values["model"], target), target, hardware)

    def work(tracker: Tracker, out_dir: Path) -> None:
        result = run(config, inputs, out_dir, tracker)
        show(inputs, result)
        require_possible(result.verdicts, target.name)

    execute("check", config, work)


def show(inputs: CheckInputs, result: CheckResult) -> None:
    """Print the table and the counts."""
    console = Console()
    table = Table("layer", "operator", "verdict", "limit that it breaks", title=inputs.hardware.device)
    table.columns[0].overflow = "fold"
    changes: defaultdict[str, list[str]] = defaultdict(list)
    for item in result.verdicts:
        limit = ""
        if (breach := item.breach) is not None:
            guess = " (assumed)" if breach.origin == ASSUMED else ""
            limit = f"{breach.limit}: {breach.found}, {breach.allowed}{guess}"
            changes[breach.advice].append(item.layer)
        table.add_row(item.layer, item.operator, item.verdict, limit, style=STYLES[item.verdict])
    console.print(table)
    for change, layers in changes.items():
        more = f" and {len(layers) - MAX_NAMED} more" if len(layers) > MAX_NAMED else ""
        console.print(f"change: {change} - in {', '.join(layers[:MAX_NAMED])}{more}", markup=False)
    console.print(f"model: {inputs.model.describe(inputs.target)}", markup=False)
    console.print(describe_counts(result.summary))
    console.print(f"verdict: {describe_verdict(result.summary)}")


if __name__ == "__main__":
    sys.exit(main())
