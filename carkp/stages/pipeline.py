"""Entry point ``main``: data -> float -> calibration -> export -> align -> check -> compile -> report.

Every step is a child run. Results of finished runs with the same inputs are reused. After a failure, the same command
continues where the last one stopped.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.processes import PROCESS_TAG, is_alive, process_name
from carkp.tracking.delivery import spool_root
from carkp.tracking.runs import (
    PARENT_TAG,
    STAGE_TAG,
    FoundRun,
    create_child_run,
    describe_place,
    end_run,
    find_run,
    find_runs,
)
from carkp.tracking.sync import send_left_over
from carkp.tracking.tracker import NullTracker, Tracker
from carkp.workflow.cli import Arguments, PipelineError, execute, guarded, parse_stage
from carkp.workflow.decisions import decide, describe_decision, other_inputs, pipeline_file, plan
from carkp.workflow.killed import end_killed_run
from carkp.workflow.process import launch, stages_served
from carkp.workflow.quantising import build_hardware
from carkp.workflow.reuse import INPUTS_TAG, name_some, setting_differences
from carkp.workflow.steps import PIPELINE, STEP_PREFIX, STEPS, Step, find_checkpoint
from carkp.workflow.teachers import load_teacher

STEP_PROCESS_TAG = "carkp.step_process"
NUM_EARLIER = 20
STARTING_S = 60
MIN_WIDTH = 110
"""Smallest width of the table, so that run ids can be copied."""

FLAGS = {"": False, "false": False, "true": True}


@dataclass(frozen=True)
class PipelineInputs:
    """The words that give every stage the same configuration, and whether all stages run again."""

    config_words: Sequence[str]
    is_forced: bool


@dataclass(frozen=True)
class Done:
    """A step, its run, how long it took here, the reason, and whether the run was reused."""

    step: Step
    run: FoundRun
    seconds: float
    reason: str
    is_reused: bool


def run(config: ExperimentConfig, inputs: PipelineInputs, tracker: Tracker) -> list[Done]:
    """Run the steps in order; log each as soon as it is done.

    Raises:
        PipelineError: a step failed or gave nothing to continue with, or a step of another pipeline still runs.
    """
    tracker.set_tags({PROCESS_TAG: process_name(os.getpid())})
    end_killed_runs(tracker.run_id)
    done: list[Done] = []
    for step in STEPS:
        try:
            done.append(complete(step, config, inputs, done, tracker))
            require_all(step, done[-1].run)
        except PipelineError as error:
            tracker.describe(f"{note(done)}\n\n**{error}**")
            raise
    tracker.describe(note(done))
    return done


def complete(
    step: Step, config: ExperimentConfig, inputs: PipelineInputs, done: Sequence[Done], tracker: Tracker
) -> Done:
    """Reuse the result of a finished run, else run the stage.

    Raises:
        PipelineError: it failed.
    """
    runs = {item.step.stage: item.run for item in done}
    start = time.perf_counter()
    decision = decide(step, config, runs, inputs.is_forced)
    found, digest = decision.found, decision.inputs.digest
    echo(f"{step.stage}: {describe_decision(found, decision.reason)}")
    run = found or run_stage(step, config, inputs, digest, runs, tracker)
    if found is None and (unexpected := other_inputs(step, decision.inputs, run)):
        echo(f"warning: {step.stage}: run {run.run_id} used other inputs than expected ({unexpected})")
    # at the end, the pipeline's own digest is that of its last step
    tracker.set_tags({f"{STEP_PREFIX}{step.stage}": run.run_id, INPUTS_TAG: digest})
    tracker.log_text(decision.inputs.to_json(), pipeline_file(step.stage))
    tracker.log_metrics(step.pipeline_metrics(run))
    return Done(step, run, time.perf_counter() - start, decision.reason, is_reused=found is not None)


def run_stage(
    step: Step,
    config: ExperimentConfig,
    inputs: PipelineInputs,
    digest: str,
    runs: Mapping[str, FoundRun],
    tracker: Tracker,
) -> FoundRun:
    """Run the stage as a child process in a child run.

    Raises:
        PipelineError: it failed.
    """
    require_unedited(config, inputs)
    words = [word for name in step.needs for word in (f"--{name}", step.reference(name, runs))]
    if not inputs.is_forced and (unfinished := find_checkpoint(step, digest)) is not None:
        echo(f"{step.stage}: continues from run {unfinished.run_id} of {unfinished.started:%Y-%m-%d %H:%M} UTC")
        words += ["--resume", f"runs:/{unfinished.run_id}"]
    run_id = create_child_run(tracker.run_id, f"{step.stage} {config.name}")
    echo(f"{step.stage}: run {run_id}")
    command = [sys.executable, "-m", f"carkp.stages.{step.stage}", *inputs.config_words, *words]
    status = -1
    try:
        status = launch(command, run_id, lambda pid: tracker.set_tags({STEP_PROCESS_TAG: process_name(pid)}))
    finally:
        send_left_over(spool_root())  # the step may have ended in an outage
        if find_run(run_id).status == "RUNNING":  # it ended before it joined its run, or it was killed
            end_run(run_id, "KILLED" if status < 0 else "FAILED")
    if status != 0:
        raise PipelineError(
            f"{step.stage} failed (run {run_id}, exit status {status}; its output is above). Fix the cause, then give "
            f"the same command again: it continues with {step.stage}, and finished steps are kept"
        )
    return find_run(run_id)


def require_unedited(config: ExperimentConfig, inputs: PipelineInputs) -> None:
    """Refuse to continue if a file of the configuration was edited: stages read these files themselves.

    Raises:
        PipelineError: the configuration differs; the message names the differences.
    """
    now = parse_stage(PIPELINE, inputs.config_words).config
    if now != config:
        raise PipelineError(
            f"the configuration was edited while the pipeline ran ({name_some(setting_differences(config, now))}), so "
            "its steps would use two configurations. Give the command again to use the new one, or restore the file to "
            "continue with the old one; finished steps are kept. To edit at any time, start the pipeline with a copy "
            "of the file"
        )


def require_all(step: Step, run: FoundRun) -> None:
    """Stop at once if a later step, perhaps hours from now, would have nothing to work on.

    Raises:
        PipelineError: a needed metric is 0.
    """
    if lacking := step.lacking(run):
        raise PipelineError(
            f"{step.stage} (run {run.run_id}) gave {' = '.join(lacking)} = 0, but later steps need some: the run's "
            "summary lists what was skipped, and data.val_scenes sets the scenes for validation"
        )


def end_killed_runs(own_run_id: str) -> None:
    """Mark runs of earlier pipelines as killed if they are still marked as running but their processes are gone.

    Raises:
        PipelineError: a pipeline's process is gone, but one of its steps still runs.
    """
    earlier = find_runs({STAGE_TAG: PIPELINE}, is_finished=False, max_results=NUM_EARLIER)
    for parent in earlier:
        if parent.run_id == own_run_id or is_alive_in(parent, PROCESS_TAG) or is_starting(parent):
            continue
        running = [child for child in find_runs({PARENT_TAG: parent.run_id}, is_finished=False) if is_running(child)]
        if running and is_alive_in(parent, STEP_PROCESS_TAG):
            raise PipelineError(
                f"{running[0].name} of an earlier pipeline still runs ({parent.tags[STEP_PROCESS_TAG]}: host, process, "
                "start): wait for it or end it, then give the same command again"
            )
        for found in (*running, *([parent] if is_running(parent) else [])):
            end_killed_run(found.run_id)


def is_running(run: FoundRun) -> bool:
    return run.status == "RUNNING"


def is_starting(parent: FoundRun) -> bool:
    """Return whether the run is so young that its process may not be stored yet."""
    age = datetime.now(UTC) - parent.started
    return PROCESS_TAG not in parent.tags and age.total_seconds() < STARTING_S


def is_alive_in(parent: FoundRun, tag: str) -> bool:
    """Return whether the process named in the tag exists; False without this tag."""
    return tag in parent.tags and is_alive(parent.tags[tag])


def parse_flag(name: str, arguments: Arguments) -> bool:
    """Return the value of a parameter that is true or false.

    Raises:
        ConfigError: it is neither true nor false.
    """
    text = arguments.values[name]
    if text not in FLAGS:
        raise ConfigError(f"{name}={text!r}: expected true or false")
    return FLAGS[text]


def main(argv: Sequence[str] | None = None) -> int:
    def work() -> int:
        _execute(parse_stage(PIPELINE, argv))
        return 0

    return guarded(work)


def _execute(arguments: Arguments) -> None:
    config = arguments.config
    inputs = PipelineInputs(arguments.config_words, parse_flag("force", arguments))
    build_hardware(config, "")  # refuses a target that later steps could not use
    load_teacher(config)  # refuses a teacher that training could not use
    if parse_flag("dry_run", arguments):
        _print_plan(config, inputs.is_forced)
        return

    def work(tracker: Tracker, out_dir: Path) -> None:
        del out_dir
        done = run(config, inputs, tracker)
        show(done)
        last = done[-1]
        echo(f"{last.step.stage}: {describe_place(last.run.run_id, last.step.artifact_of(config))}")

    execute(PIPELINE, config, work)


def _print_plan(config: ExperimentConfig, is_forced: bool) -> None:
    """Print what would be done; if `mlflow run` has created a run for this, describe it there."""

    def work(tracker: Tracker, out_dir: Path) -> None:
        del out_dir
        planned = plan(STEPS, config, is_forced)
        lines = [f"{item.step.stage}: {describe_decision(item.run, item.reason)}" for item in planned]
        echo("\n".join(lines))
        tracker.describe("\n".join(["Dry run: nothing was done.", "", *(f"- {line}" for line in lines)]))

    if "MLFLOW_RUN_ID" in os.environ:
        execute("dry_run", config, work)
    else:
        work(NullTracker(), Path())


def note(done: Sequence[Done]) -> str:
    """Return key numbers, then the steps as a Markdown table."""
    numbers = [f"{item.step.stage}: {found}" for item in done if (found := item.step.key_number(item.run))]
    head = ["| step | | why | seconds | run | |", "|---|---|---|---|---|---|"]
    rows = [f"| {' | '.join(row)} |" for row in map(_row, done)]
    return "\n".join([f"{', '.join(numbers)}.", "", *head, *rows])


def show(done: Sequence[Done]) -> None:
    """Print the steps."""
    table = Table("step", "", "seconds", "run", "")
    for item in done:
        step, how, _, *others = _row(item)  # reasons were printed step by step
        table.add_row(step, how, *others)
    Console(width=max(Console().width, MIN_WIDTH)).print(table)


def echo(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _row(item: Done) -> tuple[str, ...]:
    how = "reused" if item.is_reused else "done"
    return item.step.stage, how, item.reason, f"{item.seconds:.1f}", item.run.run_id, item.step.key_number(item.run)


def program(argv: Sequence[str] | None = None) -> int:
    """Run ``main`` as a program of its own; its stages need not import everything again."""
    with stages_served([f"carkp.stages.{step.stage}" for step in STEPS]):
        return main(argv)


if __name__ == "__main__":
    sys.exit(program())
