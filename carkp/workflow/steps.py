"""The steps of the pipeline as data: their inputs, and the artifacts that a run must still have to be reused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from carkp.config.schema import ExperimentConfig
from carkp.tracking.runs import (
    LATEST,
    STAGE_TAG,
    FoundRun,
    fetch_artifact,
    find_latest_run,
    find_run_or_none,
    find_runs,
    has_artifact,
)
from carkp.tracking.store import TrackingError
from carkp.training.checkpoint import CheckpointError, load_checkpoint
from carkp.workflow.preparation import data_key, source_identity, stale_reason
from carkp.workflow.quantising import build_hardware, build_target
from carkp.workflow.references import BEST, CALIBRATED, LAST, find_data
from carkp.workflow.reuse import (
    DECIDING,
    INPUTS_TAG,
    TEACHER,
    Inputs,
    hardware_digest,
    host_digest,
    stage_inputs,
    target_digest,
)
from carkp.workflow.teachers import teacher_digest

PIPELINE = "main"
STEP_PREFIX = "carkp.pipeline."
"""Prefix of the pipeline's tags that name the runs of its steps."""


@dataclass(frozen=True)
class Link:
    """How a stage refers to another stage's run, and which identity of that run decides the result."""

    reference: Callable[[FoundRun], str]
    identity: Callable[[FoundRun], str]


LINKS: Mapping[str, Link] = {
    "data": Link(lambda run: f"runs:/{run.run_id}", lambda run: run.tags["carkp.data_digest"]),
    "model": Link(lambda run: f"runs:/{run.run_id}", lambda run: run.tags["carkp.model_digest"]),
    "runs": Link(lambda run: run.run_id, lambda run: run.run_id),
}
"""Links by parameter of a stage."""

FACTS: Mapping[str, Callable[[ExperimentConfig], str]] = {
    "source": source_identity,
    "nproc": lambda config: str(config.train.nproc * config.train.nnodes),
    TEACHER: teacher_digest,
    "target": lambda config: target_digest(build_target(config, "")),
    "hardware": lambda config: hardware_digest(build_hardware(config, "")),
    "host": lambda config: host_digest(),
}
"""Inputs of a result beside settings and other stages' runs."""


def find_finished(step: "Step", config: ExperimentConfig, digest: str) -> FoundRun | None:
    """Return the newest finished run with the same inputs that still has its artifact."""
    artifact = step.artifact_of(config)
    found = find_runs({STAGE_TAG: step.stage, INPUTS_TAG: digest})
    return next((run for run in found if has_artifact(run.run_id, artifact)), None)


@dataclass(frozen=True)
class Step:
    """A stage of the pipeline.

    Attributes:
        stage: name of the stage and of its module.
        artifact: artifact that a finished run must still have; ``{target}`` stands for the target's name.
        needs: parameter -> the steps whose runs it names.
        metrics: metrics that the pipeline's run also shows, the most important one first.
        find: function that finds a run to reuse, given the digest of the inputs.
        checkpoint: artifact from which an unfinished run can be continued; "": the step starts again.
        finds: steps whose runs it finds by itself; their ids are part of the inputs' digest.
        needed: metrics that must not be 0, because later steps would have nothing to work on.
        logs_inputs: whether its runs store their inputs; the pipeline's own run stores those of every step.
    """

    stage: str
    artifact: str
    needs: Mapping[str, tuple[str, ...]]
    metrics: tuple[str, ...] = ()
    find: Callable[["Step", ExperimentConfig, str], FoundRun | None] = find_finished
    checkpoint: str = ""
    finds: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    logs_inputs: bool = True

    @property
    def upstream(self) -> tuple[str, ...]:
        """Steps that decide its result."""
        return tuple(dict.fromkeys([*(stage for stages in self.needs.values() for stage in stages), *self.finds]))

    def artifact_of(self, config: ExperimentConfig) -> str:
        return self.artifact.format(target=build_target(config, "").name)

    def reference(self, parameter: str, runs: Mapping[str, FoundRun]) -> str:
        """Return the value of a parameter: references to the runs of the needed steps."""
        return ",".join(LINKS[parameter].reference(runs[stage]) for stage in self.needs[parameter])

    def inputs(self, config: ExperimentConfig, runs: Mapping[str, FoundRun]) -> Inputs:
        """Return the inputs that decide the result, as the stage itself declares them."""
        upstream = {
            parameter: ",".join(LINKS[parameter].identity(runs[stage]) for stage in stages)
            for parameter, stages in self.needs.items()
        }
        found = {stage: runs[stage].run_id for stage in self.finds}
        facts = {name: FACTS[name](config) for name in DECIDING[self.stage].given if name in FACTS}
        return stage_inputs(self.stage, config, facts | upstream | found)

    def key_number(self, run: FoundRun) -> str:
        """Return the first metric that the run has, for a person."""
        shown = [f"{name} {run.metrics[name]:.4g}" for name in self.metrics if name in run.metrics]
        return shown[0] if shown else ""

    def lacking(self, run: FoundRun) -> list[str]:
        """Return the needed metrics that are 0."""
        return [name for name in self.needed if run.metrics.get(name) == 0]

    def pipeline_metrics(self, run: FoundRun) -> dict[str, float]:
        """Return the run's metrics for the pipeline's run, each with the stage's name as prefix."""
        return {
            f"{self.stage}/{name.removeprefix(f'{self.stage}/')}": run.metrics[name]
            for name in self.metrics
            if name in run.metrics
        }


def find_prepared(step: Step, config: ExperimentConfig, digest: str) -> FoundRun | None:
    """Return the run that prepared the data, if the data still exist and still match the source."""
    del digest  # a source that no longer exists has no digest, and its stores are still valid
    prepared = find_data(config, LATEST)
    if prepared is None or stale_reason(config, prepared):
        return None
    return find_latest_run(step.stage, {"carkp.data_key": data_key(config)})


def find_reported(step: Step, config: ExperimentConfig, digest: str) -> FoundRun | None:
    """Return the report of an earlier pipeline with the same runs; run alone, the stage would include other runs."""
    pipelines = find_runs({STAGE_TAG: PIPELINE, INPUTS_TAG: digest})
    reports = [find_run_or_none(found.tags[f"{STEP_PREFIX}{step.stage}"]) for found in pipelines]
    artifact = step.artifact_of(config)
    return next((run for run in reports if run is not None and has_artifact(run.run_id, artifact)), None)


def find_checkpoint(step: Step, digest: str) -> FoundRun | None:
    """Return the newest unfinished run of the step with the same inputs that can be continued."""
    if not step.checkpoint:
        return None
    unfinished = find_runs({STAGE_TAG: step.stage, INPUTS_TAG: digest}, is_finished=False, max_results=NUM_UNFINISHED)
    return next((run for run in unfinished if has_checkpoints(run.run_id, step.checkpoint)), None)


def has_checkpoints(run_id: str, last: str) -> bool:
    """Return whether ``last`` and the best checkpoint beside it are complete: a kill can leave half a file."""
    if not has_artifact(run_id, last):
        return False
    try:
        folder = fetch_artifact(run_id, str(Path(last).parent))
        for name in (Path(BEST).name, Path(last).name):
            load_checkpoint(folder / name)
    except (CheckpointError, TrackingError):
        return False
    return True


NUM_UNFINISHED = 20
NUM_SAMPLES = ("data/num_train", "data/num_val", "data/num_test")
SCORES = ("test/pck", "test/pck_hat", "test/mean_dist")

STEPS: Sequence[Step] = (
    Step(
        stage="data",
        artifact="data/summary.json",
        needs={},
        metrics=NUM_SAMPLES,
        needed=NUM_SAMPLES,
        find=find_prepared,
    ),
    Step(
        stage="float",
        artifact=BEST,
        needs={"data": ("data",)},
        metrics=SCORES,
        checkpoint=LAST,
    ),
    Step(
        stage="calibration",
        artifact=CALIBRATED,
        needs={"data": ("data",), "model": ("float",)},
        metrics=(*SCORES, "test/retention", "test/retention_low", "test/retention_high"),
    ),
    Step(
        stage="export",
        artifact="onnx/int8_{target}.onnx",
        needs={"model": ("calibration",)},
        metrics=("int8/num_convs", "int8/onnx_bytes"),
    ),
    Step(
        stage="align",
        artifact="predictions/simulated/test.npz",
        needs={"data": ("data",), "model": ("export",)},
        metrics=(
            "align/simulated/pck",
            "align/simulated/retention",
            "align/onnxruntime/pck",
            "align/simulated_float32_to_onnxruntime/max_lsb",
        ),
    ),
    Step(
        stage="check",
        artifact="tables/check.csv",
        needs={"model": ("export",)},
        metrics=("check/int8_mac_share", "check/num_fallback"),
    ),
    Step(
        stage="compile",
        artifact="compiled/{target}.onnx",
        needs={"model": ("export",)},
        metrics=(
            "host/latency_ratio",
            "host/latency_ratio_low",
            "host/latency_ratio_high",
            "host/float_ms",
            "host/int8_ms",
            "perf/predicted_us",
        ),
    ),
    Step(
        stage="report",
        artifact="report/index.html",
        needs={"runs": ("align",)},  # one run stands for a family; one per step might give two
        finds=("check", "compile"),
        find=find_reported,
        logs_inputs=False,
    ),
)
