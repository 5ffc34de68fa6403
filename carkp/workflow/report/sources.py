"""Which runs a report is made of: a float model and what was made of it for one target, found by tags."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from carkp.config.schema import ExperimentConfig
from carkp.tracking.runs import (
    DATA_TAG,
    LATEST,
    STAGE_TAG,
    TARGET_TAG,
    FoundRun,
    find_latest_run,
    find_run,
    find_run_or_none,
    find_runs,
    run_id_of,
)
from carkp.tracking.store import TrackingError
from carkp.workflow.benchmark import find_benchmark
from carkp.workflow.steps import STEP_PREFIX

CHAIN = ("float", "calibration", "qat", "export", "align", "check", "compile")
"""Stages of a family, upstream first."""

STANDS_FOR = {"adapt": "float"}
"""Stages whose model takes the place of another one's in a family."""

ANCHORS = ("align", "calibration", "float")
"""What ``latest`` looks for, in this order."""

TARGETED = frozenset(CHAIN) - {"float"}
SOURCE_TAG, FLOAT_TAG, SCORED_TAG = "carkp.source_run", "carkp.float_model", "carkp.scored"
MODEL_DIGEST_TAG = "carkp.model_digest"


@dataclass(frozen=True)
class FamilyRuns:
    """The runs of one family.

    Attributes:
        anchor: the run that was asked for.
        target: of quantisation, done or wanted; "" for a run that stands alone.
        runs: stage -> run, and ``data``; without what was not run.
        evaluations: what was scored (``carkp.model``) -> the newest ``evaluate`` run of it.
        is_alone: the anchor belongs to no family (a trial, for example): it is a row of its own.
    """

    anchor: FoundRun
    target: str
    runs: Mapping[str, FoundRun]
    evaluations: Mapping[str, FoundRun]
    is_alone: bool = False

    @property
    def data_digest(self) -> str:
        """Of the data that the int8 model was scored on, else of the float model's."""
        named = (self.runs.get(stage) for stage in ("align", "calibration", "float"))
        found = (run.tags.get(DATA_TAG, "") for run in (*named, self.anchor) if run is not None)
        return next((digest for digest in found if digest), "")

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for two references to the same family."""
        alone = self.anchor.run_id if self.is_alone else ""
        return (alone, *(self.runs[stage].run_id if stage in self.runs else "" for stage in CHAIN))


def find_families(config: ExperimentConfig, references: Sequence[str], target: str) -> list[FamilyRuns]:
    """The families of run ids, of ``runs:/<id>`` or of ``latest``, each once, in their order.

    Raises:
        TrackingError: a run that is not there; the message names the command that makes it.
    """
    found = [find_family(config, reference, target) for reference in references]
    return list({family.key: family for family in found}.values())


def find_family(config: ExperimentConfig, reference: str, target: str) -> FamilyRuns:
    """The family that one run stands for."""
    anchor = _latest(config, target) if reference == LATEST else find_run(run_id_of(reference) or reference)
    runs: dict[str, FoundRun] = {}
    _climb(anchor, runs)
    if not runs:
        return FamilyRuns(anchor, anchor.tags.get(TARGET_TAG, ""), _with_data({}, anchor), {}, is_alone=True)
    named = [runs[stage].tags.get(TARGET_TAG, "") for stage in CHAIN if stage in runs and stage in TARGETED]
    target = next((name for name in named if name), target)
    _descend(anchor, runs, target)
    family = FamilyRuns(anchor, target, runs, _evaluations(runs))
    return replace(family, runs=_with_data(runs, anchor, family.data_digest))


def _latest(config: ExperimentConfig, target: str) -> FoundRun:
    for stage in ANCHORS:
        tags = {"carkp.experiment": config.name, **({TARGET_TAG: target} if stage in TARGETED else {})}
        run = find_latest_run(stage, tags)
        if run is not None:
            return run
    raise TrackingError(
        f"no finished align, calibration or float run of the experiment {config.name!r}: run `mlflow run . -e float` "
        f"first, then calibration, export and align with -P target={target}"
    )


def _climb(run: FoundRun, runs: dict[str, FoundRun]) -> None:
    """Add ``run`` and all it was made of to ``runs``."""
    stage = run.tags.get(STAGE_TAG, "")
    stage = STANDS_FOR.get(stage, stage)
    steps = [run.tags[f"{STEP_PREFIX}{name}"] for name in reversed(CHAIN) if f"{STEP_PREFIX}{name}" in run.tags]
    if stage in CHAIN:
        if stage in runs:
            return
        runs[stage] = run
        steps = [_upstream(run, stage)]
    elif stage == "evaluate":
        steps = [run_id_of(run.tags.get(SCORED_TAG, "")) or ""]
    for run_id in steps:
        found = find_run_or_none(run_id)
        if found is not None:
            _climb(found, runs)


def _upstream(run: FoundRun, stage: str) -> str:
    """Id of the run that ``run`` was made of, "" where it does not say."""
    if stage == "calibration":
        return run_id_of(run.tags.get(FLOAT_TAG, "")) or ""
    if stage == "align" and not run.tags.get(SOURCE_TAG):
        export = _export_before(run)
        return export.run_id if export else ""
    return run.tags.get(SOURCE_TAG, "")


def _export_before(align: FoundRun) -> FoundRun | None:
    """What an align run that does not name its export took: the newest one at that time."""
    exports = find_runs({STAGE_TAG: "export", TARGET_TAG: align.tags.get(TARGET_TAG, "")})
    same = [run for run in exports if _float_id(run) == _float_id(align) and run.started <= align.started]
    return same[0] if same else None


def _descend(anchor: FoundRun, runs: dict[str, FoundRun], target: str) -> None:
    """Add what was made of ``runs`` for ``target``, the newest of each stage."""
    if "float" in runs and (benchmark := find_benchmark(runs["float"].run_id)) is not None:
        runs["benchmark"] = benchmark
    if "calibration" not in runs and "float" in runs:
        float_id = runs["float"].run_id
        _add(runs, "calibration", [run for run in _runs_of("calibration", target) if _float_id(run) == float_id])
    if "calibration" in runs and "qat" not in runs:
        _add(runs, "qat", _made_of("qat", target, [runs["calibration"].run_id]))
    if "export" not in runs:
        stages = ("qat",) if anchor.tags.get(STAGE_TAG) == "qat" else ("calibration", "qat")
        _add(runs, "export", _made_of("export", target, [runs[stage].run_id for stage in stages if stage in runs]))
    if "export" in runs:
        exports = same_exports(runs["export"])
        for stage in ("align", "check", "compile"):
            if stage not in runs:
                found = [run for run in _runs_of(stage, target) if _upstream(run, stage) in exports]
                _add(runs, stage, found)


def same_exports(export: FoundRun) -> list[str]:
    """Ids of all exports of the model that ``export`` is of."""
    tags = {name: export.tags[name] for name in (TARGET_TAG, MODEL_DIGEST_TAG) if name in export.tags}
    return (
        [export.run_id, *(run.run_id for run in find_runs({STAGE_TAG: "export", **tags}))]
        if len(tags) == 2
        else [export.run_id]
    )


def _evaluations(runs: Mapping[str, FoundRun]) -> dict[str, FoundRun]:
    exports = same_exports(runs["export"]) if "export" in runs else []
    scored = {stage: [runs[stage].run_id] for stage in ("float", "calibration", "qat") if stage in runs}
    wanted = {**scored, "int_infer": exports, "onnxruntime": exports}
    found: dict[str, FoundRun] = {}
    for run in find_runs({STAGE_TAG: "evaluate"}):
        model = run.tags.get("carkp.model", "")
        if model not in found and (run_id_of(run.tags.get(SCORED_TAG, "")) or "") in wanted.get(model, []):
            found[model] = run
    return found


def _with_data(runs: Mapping[str, FoundRun], anchor: FoundRun, digest: str = "") -> dict[str, FoundRun]:
    """``runs`` and the newest run that prepared the data."""
    digest = digest or anchor.tags.get(DATA_TAG, "")
    data = find_latest_run("data", {DATA_TAG: digest}) if digest else None
    return {**({"data": data} if data else {}), **runs}


def _runs_of(stage: str, target: str) -> list[FoundRun]:
    return find_runs({STAGE_TAG: stage, TARGET_TAG: target})


def _made_of(stage: str, target: str, sources: Sequence[str]) -> list[FoundRun]:
    return [run for run in _runs_of(stage, target) if run.tags.get(SOURCE_TAG, "") in sources]


def _add(runs: dict[str, FoundRun], stage: str, found: Sequence[FoundRun]) -> None:
    if found:
        runs[stage] = found[0]


def _float_id(run: FoundRun) -> str:
    return run_id_of(run.tags.get(FLOAT_TAG, "")) or ""
