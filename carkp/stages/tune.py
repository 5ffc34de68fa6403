"""Entry point ``tune``: search heatmap sigma, learning rate and calibration percentile; confirm what is found."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from carkp.cluster.slurm import require_slurm
from carkp.config.cluster import SlurmConfig
from carkp.config.loading import ConfigError, dump_yaml, load_yaml
from carkp.config.schema import ExperimentConfig
from carkp.config.search import SearchConfig
from carkp.disk import write_atomic
from carkp.processes import PROCESS_TAG, is_alive, process_name
from carkp.project import find_config, project_root
from carkp.report.study_figures import StudyPoint, history_figure, importance_figure
from carkp.tracking.runs import adopt_run, find_run
from carkp.tracking.store import TrackingError, sqlite_uri, use_default_store
from carkp.tracking.tracker import Tracker
from carkp.tuning.objective import Job
from carkp.tuning.record import TrialRecord, best_of, slots_of
from carkp.tuning.settings import StudySettings
from carkp.tuning.storage import find_notes
from carkp.tuning.study import TuningStudy
from carkp.workflow.cli import Arguments, execute, guarded, parse_stage
from carkp.workflow.preparation import PreparedData, require_samples, run_as_child
from carkp.workflow.quantising import build_target
from carkp.workflow.references import find_current_data
from carkp.workflow.study.outcome import (
    BEST_FILE,
    BEST_ROLE,
    DEFAULT_ROLE,
    Confirmation,
    TuneInputs,
    TuneResult,
    compare,
    default_params,
    describe,
    rows,
    show,
)
from carkp.workflow.study.slurm_workers import SlurmWorkers
from carkp.workflow.study.trial import LR, TrialInputs, tuned_config
from carkp.workflow.study.workers import ROLE, RUN_ID, SEED, StudySpec, axes_of, queue_jobs, run_workers
from carkp.workflow.tables import write_table

SHOWN_DIGITS = 8


def run(config: ExperimentConfig, inputs: TuneInputs, out_dir: Path, tracker: Tracker) -> TuneResult:
    """Work on the study until it is complete, here or elsewhere, then confirm its best configuration; log both.

    Raises:
        ConfigError: every training failed.
    """
    stores = inputs.spec.inputs.data.open()
    require_samples(stores.train, "training")
    require_samples(stores.val, "the study's objective")
    study = queue_jobs(inputs.spec, study_jobs(config, inputs))
    attach(study, tracker)
    tracker.set_tags({"carkp.study": inputs.spec.settings.name, "carkp.target": inputs.spec.inputs.target.name})
    tracker.set_tags({"carkp.data_digest": inputs.spec.inputs.data.digest})
    tracker.log_dataset(config.name, inputs.spec.inputs.data.digest, config.data.title, "tuning")
    inputs.run_workers(inputs.spec)
    records = study.records()
    complete = [record for record in records if record.value is not None]
    if not complete:
        raise ConfigError(f"study {inputs.spec.settings.name}: every training failed; the trials' runs show why")
    best = best_of(complete)
    found = tuned_config(config, best.params)
    result = TuneResult(records, best, found, study.importances(config.seed), confirm(inputs, best, tracker))
    _log(inputs, result, out_dir, tracker)
    return result


def study_jobs(config: ExperimentConfig, inputs: TuneInputs) -> list[Job]:
    """Return the jobs: the default configuration first, then trials that the sampler proposes.

    Raises:
        ConfigError: the default is outside the search space.
    """
    require_tunable(config)
    default = default_params(config)
    for name, value in default.items():
        axis = inputs.spec.settings.axes[name]
        if not axis.low <= value <= axis.high:
            raise ConfigError(
                f"{name} = {value:.6g} of the configuration is outside the search space, {axis.low:g} to "
                f"{axis.high:g}: widen the space, because the default is the first trial"
            )
    return [Job(default), *[Job()] * (inputs.num_trials - 1)]


def require_tunable(config: ExperimentConfig) -> None:
    """Refuse settings that trials would change silently: the first trial would not be the given configuration.

    Raises:
        ConfigError: there is such a setting.
    """
    quant = config.quant
    reasons = {
        f"quant.observer={quant.observer}: the study searches the percentile: set quant.observer=percentile": (
            quant.observer != "percentile"
        ),
        "quant.percentile=100 is the observer minmax and not on the scale -log10(1 - p / 100): set a lower value": (
            quant.percentile >= 100
        ),
        f"heatmap.window={config.heatmap.window}: the study sets the window from sigma: set heatmap.window=auto": (
            config.heatmap.window != "auto"
        ),
        "quant.bias_correction=true: one correction cannot fit several percentiles: set it to false": (
            quant.bias_correction
        ),
    }
    for reason, is_wrong in reasons.items():
        if is_wrong:
            raise ConfigError(reason)


def attach(study: TuningStudy, tracker: Tracker) -> None:
    """Make this run the parent of the study's trials, also of earlier ones.

    If the process of an earlier parent run is alive, that one stays the parent and this one only helps.
    """
    before = study.notes().get(RUN_ID)
    if before not in (None, tracker.run_id) and _is_alive(before):
        return
    tracker.set_tags({PROCESS_TAG: process_name(os.getpid())})
    study.note(RUN_ID, tracker.run_id)
    for record in study.records():
        run_id = record.notes.get(RUN_ID)
        if run_id is not None and _is_there(run_id):
            adopt_run(run_id, tracker.run_id)


def confirm(inputs: TuneInputs, best: TrialRecord, tracker: Tracker) -> Confirmation | None:
    """Train default and best configuration with new seeds at the study's budget, and compare them seed by seed."""
    config = inputs.spec.inputs.config
    default = default_params(config)
    num_seeds = inputs.search.num_confirmation_seeds
    if num_seeds == 0 or best.params == default:
        return None
    spec = confirmation_spec(inputs.spec, best.params)
    seeds = range(config.seed + 1, config.seed + 1 + num_seeds)
    roles = {DEFAULT_ROLE: default, BEST_ROLE: best.params}
    jobs = [Job(params, {ROLE: role, SEED: seed}) for seed in seeds for role, params in roles.items()]
    study = queue_jobs(spec, jobs)
    attach(study, tracker)
    inputs.run_workers(spec)
    return compare(study.records())


def confirmation_spec(spec: StudySpec, best: Mapping[str, float]) -> StudySpec:
    """Return the study of the confirmation: whole splits, no other percentiles, no pruning."""
    stores = spec.inputs.data.open()
    num_scored = {"val": 0, **({"test": 0} if len(stores.test) > 0 else {})}
    name = f"{spec.settings.name}-confirmation-{_digest(best)}"
    return replace(
        spec,
        settings=replace(spec.settings, name=name),
        inputs=replace(spec.inputs, num_scored=num_scored, swept_q=()),
        is_pruned=False,
    )


def main(argv: Sequence[str] | None = None, prog: str = "") -> int:
    """Run the command line of the entry point; ``prog``: the program's name in help, if it is not a stage."""

    def work() -> int:
        arguments = parse_stage("tune", argv, prog)
        _execute(arguments)
        return 0

    return guarded(work)


def _execute(arguments: Arguments) -> None:
    config = arguments.config
    search = load_yaml(find_config(arguments.values["search"]), SearchConfig, "search")
    num_trials = _positive("trials", arguments, search.num_trials)
    run_on = _launcher(arguments)
    target = build_target(config, arguments.values["target"])
    storage = arguments.values["storage"] or sqlite_uri(project_root() / "optuna.db")
    use_default_store(config.tracking.wait_s)
    found = find_current_data(config, arguments.values["data"])

    def inputs_on(data: PreparedData) -> TuneInputs:
        spec = study_spec(config, search, storage, TrialInputs(config, search.budget, data, target, {}))
        return TuneInputs(search, spec, num_trials, run_on)

    def work(tracker: Tracker, out_dir: Path) -> None:
        inputs = inputs_on(found or run_as_child(config, tracker).prepared)
        show(inputs, run(config, inputs, out_dir, tracker))

    if found is not None:
        _join_earlier_run(inputs_on(found).spec)
    execute("tune", config, work)


def _launcher(arguments: Arguments) -> Callable[[StudySpec], None]:
    """Return the function that starts the workers: as processes of this machine, or as jobs of a cluster.

    Raises:
        ConfigError: the launcher does not exist, or its settings cannot be used.
        ClusterError: this machine cannot submit jobs.
    """
    num_workers = _positive("workers", arguments, 1)
    match arguments.values["launcher"]:
        case "" | "local":
            return partial(run_workers, num_workers=num_workers)
        case "slurm":
            require_slurm()
            return SlurmWorkers(
                load_yaml(find_config(arguments.values["backend"]), SlurmConfig, "backend"), num_workers
            )
        case other:
            raise ConfigError(f"launcher={other!r}: expected local or slurm")


def study_spec(config: ExperimentConfig, search: SearchConfig, storage: str, inputs: TrialInputs) -> StudySpec:
    """Return the study of a configuration, a search, data and a target; a change in any of them makes another study."""
    identity = {
        "config": config.model_dump(mode="json"),
        "search": search.model_dump(mode="json", exclude={"num_trials", "num_confirmation_seeds"}),
        "data": inputs.data.digest,
        "target": inputs.target.model_dump(mode="json"),
    }
    space = {name: (axis.low, axis.high) for name, axis in search.space}
    settings = StudySettings(
        name=f"{config.name}-{inputs.target.name}-{_digest(identity)}",
        axes=axes_of(space, log=LR),
        num_startup_trainings=search.num_startup_trainings,
        num_trainings_before_pruning=search.num_trainings_before_pruning,
        kept_percent=search.kept_percent,
    )
    swept = np.linspace(search.space.q.low, search.space.q.high, search.num_swept_percentiles).tolist()
    inputs = replace(inputs, num_scored={"val": search.budget.num_scored_samples}, swept_q=tuple(swept))
    return StudySpec(storage, settings, config.seed, inputs)


def _join_earlier_run(spec: StudySpec) -> None:
    """Continue a study in the run that started it, if this process was started without MLFLOW_RUN_ID."""
    run_id = find_notes(spec.storage, spec.settings.name).get(RUN_ID)
    if run_id is not None and "MLFLOW_RUN_ID" not in os.environ and _is_there(run_id):
        os.environ["MLFLOW_RUN_ID"] = run_id


def _is_alive(run_id: str) -> bool:
    try:
        found = find_run(run_id)
    except TrackingError:
        return False
    return found.status == "RUNNING" and PROCESS_TAG in found.tags and is_alive(found.tags[PROCESS_TAG])


def _is_there(run_id: str) -> bool:
    try:
        find_run(run_id)
    except TrackingError:
        return False
    return True


def _positive(name: str, arguments: Arguments, default: int) -> int:
    text = arguments.values[name]
    if text and (not text.isdecimal() or int(text) < 1):
        raise ConfigError(f"{name}={text!r}: expected a number, 1 or more")
    return int(text) if text else default


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:SHOWN_DIGITS]


def _log(inputs: TuneInputs, result: TuneResult, out_dir: Path, tracker: Tracker) -> None:
    best = result.best
    out_dir.mkdir(parents=True, exist_ok=True)  # another process that ends in the same run removes it
    head = f"# The best of the study {inputs.spec.settings.name}: pck {best.value:.4f} at its budget.\n"
    write_atomic(out_dir / BEST_FILE, (head + dump_yaml(result.config)).encode())
    write_table(rows(result.records), out_dir / "trials.csv")
    for name in (BEST_FILE, "trials.csv"):
        tracker.log_file(out_dir / name, "")
    slots = slots_of(result.records)
    points = [
        StudyPoint(slots[record.number], record.value, record.is_trained)
        for record in result.records
        if record.value is not None
    ]
    tracker.log_figure(history_figure(points, "validation PCK, simulated int8"), "figures/history.png")
    if result.importances:
        tracker.log_figure(importance_figure(result.importances), "figures/importance.png")
        tracker.log_metrics({f"importance/{name}": share for name, share in result.importances.items()})
    tracker.log_metrics({"best/val_int8_pck": best.value or 0.0, **{f"best/{k}": v for k, v in best.params.items()}})
    if result.confirmation is not None:
        _log_confirmation(result.confirmation, out_dir, tracker)
    tracker.describe("\n\n".join(describe(inputs, result)))


def _log_confirmation(confirmation: Confirmation, out_dir: Path, tracker: Tracker) -> None:
    rows = [
        {"split": split, "pair": pair, **{role: by[role][pair] for role in by}}
        for split, by in confirmation.pck.items()
        for pair in range(len(by[DEFAULT_ROLE]))
    ]
    write_table(rows, out_dir / "confirmation.csv")
    tracker.log_file(out_dir / "confirmation.csv", "")
    for split, found in confirmation.differences.items():
        numbers = {"mean": found.mean, "low": found.low, "high": found.high}
        tracker.log_metrics({f"confirmation/{split}_{name}": value for name, value in numbers.items()})
        tracker.set_tags({f"carkp.confirmation.{split}": str(found)})


if __name__ == "__main__":
    sys.exit(main())
