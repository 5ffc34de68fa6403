"""Decisions of the pipeline: whether to do a step or to reuse an earlier run, and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from carkp.config.schema import ExperimentConfig
from carkp.tracking.runs import EXPERIMENT_TAG, LATEST, STAGE_TAG, FoundRun, fetch_artifact, find_runs, has_artifact
from carkp.tracking.store import TrackingError
from carkp.workflow.preparation import stale_reason
from carkp.workflow.references import find_data
from carkp.workflow.reuse import INPUTS_FILE, INPUTS_TAG, Inputs, differences, name_some
from carkp.workflow.steps import PIPELINE, Step

SAME = "same settings, inputs, code and versions"
NUM_COMPARED = 5
"""Number of newest runs that are compared to find the one with the fewest differences."""


@dataclass(frozen=True)
class Decision:
    """The inputs of a step, the run to reuse, if any, and the reason in words."""

    inputs: Inputs
    found: FoundRun | None
    reason: str


@dataclass(frozen=True)
class Planned:
    """A planned step; ``run`` is the run to reuse, None: the step will be done."""

    step: Step
    run: FoundRun | None
    reason: str


def decide(step: Step, config: ExperimentConfig, runs: Mapping[str, FoundRun], is_forced: bool) -> Decision:
    """Look for a run to reuse; ``runs`` are the runs of the earlier steps."""
    inputs = step.inputs(config, runs)
    if is_forced:
        return Decision(inputs, None, "force=true")
    found = step.find(step, config, inputs.digest)
    return Decision(inputs, found, SAME if found is not None else why_again(step, config, inputs))


def plan(steps: Iterable[Step], config: ExperimentConfig, is_forced: bool) -> list[Planned]:
    """Return what the pipeline would do now. Steps after one that will be done are undecided."""
    planned: list[Planned] = []
    runs: dict[str, FoundRun] = {}
    for step in steps:
        awaited = [name for name in step.upstream if name not in runs]
        if awaited:
            planned.append(Planned(step, None, f"if {' or '.join(awaited)} give another result"))
            continue
        decision = decide(step, config, runs, is_forced)
        planned.append(Planned(step, decision.found, decision.reason))
        if decision.found is not None:
            runs[step.stage] = decision.found
    return planned


def why_again(step: Step, config: ExperimentConfig, inputs: Inputs) -> str:
    """Return why the step cannot reuse an earlier run: the differences to the most similar run."""
    stale = _stale_reason(step, config)
    is_own = step.logs_inputs
    tags = {STAGE_TAG: step.stage if is_own else PIPELINE, EXPERIMENT_TAG: config.name}
    earlier = find_runs(tags, max_results=NUM_COMPARED)
    if not earlier:
        return stale or f"not done before in the experiment {config.name}"
    name = INPUTS_FILE if is_own else pipeline_file(step.stage)
    compared = [(differences(before, inputs), run) for run in earlier if (before := _read(run, name)) is not None]
    if not compared:
        return stale or f"run {earlier[0].run_id} has no record of its inputs"
    least, run = min(compared, key=lambda item: len(item[0]))
    if stale:
        return f"{stale}: {name_some(least)}" if least else stale
    if least:
        return f"differs from run {run.run_id} in {name_some(least)}"
    artifact = step.artifact_of(config)
    if not is_own or has_artifact(run.run_id, artifact):
        return f"run {run.run_id} cannot be reused: its result is gone"
    return f"run {run.run_id} no longer has {artifact}"


def _stale_reason(step: Step, config: ExperimentConfig) -> str:
    """Return why the data prepared here are not reused; "" if they are."""
    prepared = find_data(config, LATEST) if step.stage == "data" else None
    return "" if prepared is None else stale_reason(config, prepared)


def other_inputs(step: Step, inputs: Inputs, run: FoundRun) -> str:
    """Return how the inputs of a finished step differ from the inputs of the decision; "" if they do not.

    They differ if somebody edits code or data while the pipeline runs, or if a hub answers but does not deliver.
    """
    if not step.logs_inputs or run.tags.get(INPUTS_TAG) == inputs.digest:
        return ""
    made_of = _read(run, INPUTS_FILE)
    return name_some(differences(inputs, made_of)) if made_of is not None else f"it has no {INPUTS_FILE}"


def pipeline_file(stage: str) -> str:
    """Return the artifact of the pipeline's run that holds the inputs of a step."""
    return f"inputs/{stage}.json"


def _read(run: FoundRun, name: str) -> Inputs | None:
    try:
        return Inputs.from_json(fetch_artifact(run.run_id, name).read_text(encoding="utf-8"))
    except (TrackingError, OSError, ValueError):
        return None


def describe_decision(found: FoundRun | None, reason: str) -> str:
    if found is None:
        return f"to be done ({reason})"
    return f"reused, run {found.run_id} of {found.started:%Y-%m-%d %H:%M} UTC ({reason})"
