"""What a study came to: its tables, in words, and whether new seeds bear it out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from carkp.config.schema import ExperimentConfig
from carkp.config.search import SearchConfig
from carkp.tuning.confirm import MeanDifference, mean_difference
from carkp.tuning.record import TrialRecord, slots_of
from carkp.workflow.study.trial import LR, SIGMA, Q, percentile_of, q_of
from carkp.workflow.study.workers import FLOAT_PCK, ORACLE, ROLE, RUN_ID, SCORING_SHARE, SEED, TEST_PCK, StudySpec

DEFAULT_ROLE, BEST_ROLE = "default", "best"
BEST_FILE = "best.yaml"


@dataclass(frozen=True)
class TuneInputs:
    """What is searched, in which database, and who works on it until nothing is left."""

    search: SearchConfig
    spec: StudySpec
    num_trials: int
    run_workers: Callable[[StudySpec], None]


@dataclass(frozen=True)
class Confirmation:
    """Simulated int8 PCK of default and best, a value a seed, by split; and their differences."""

    pck: Mapping[str, Mapping[str, Sequence[float]]]
    differences: Mapping[str, MeanDifference]


@dataclass(frozen=True)
class TuneResult:
    """Every trial, the best of them, the configuration that it gives, and whether new seeds bear it out.

    ``confirmation`` is None where the default is the best, or no seeds were asked for.
    """

    records: Sequence[TrialRecord]
    best: TrialRecord
    config: ExperimentConfig
    importances: Mapping[str, float]
    confirmation: Confirmation | None


def default_params(config: ExperimentConfig) -> dict[str, float]:
    return {SIGMA: config.heatmap.sigma, LR: config.train.lr, Q: q_of(config.quant.percentile)}


def compare(records: Sequence[TrialRecord]) -> Confirmation | None:
    """Pairs of trainings that differ in their parameters alone; None where no seed has both."""
    values: dict[str, dict[int, dict[str, float]]] = {DEFAULT_ROLE: {}, BEST_ROLE: {}}
    for record in records:
        if record.value is not None:
            test = record.notes.get(TEST_PCK)
            scored = {"val": record.value, **({} if test is None else {"test": test})}
            values[record.notes[ROLE]][record.notes[SEED]] = scored
    seeds = sorted(set(values[DEFAULT_ROLE]) & set(values[BEST_ROLE]))
    if not seeds:
        return None
    splits = list(values[DEFAULT_ROLE][seeds[0]])
    pck = {split: {role: [values[role][seed][split] for seed in seeds] for role in values} for split in splits}
    differences = {split: mean_difference(by[DEFAULT_ROLE], by[BEST_ROLE]) for split, by in pck.items()}
    return Confirmation(pck, differences)


def show(inputs: TuneInputs, result: TuneResult) -> None:
    """Print the trainings, the best, and what new seeds say."""
    table = Table("trial", "state", "sigma", "lr", "percentile", "float pck", "int8 pck", "codec error px", "s")
    for record in result.records:
        if record.is_trained:
            table.add_row(*_cells(record))
    console = Console(width=120)
    console.print(table)
    for line in describe(inputs, result):
        console.print(line, markup=False)


def describe(inputs: TuneInputs, result: TuneResult) -> list[str]:
    """The outcome in words."""
    best = result.best
    own = "" if best.is_trained else f", scored by trial {best.training}"
    lines = [
        f"best on validation: pck {best.value:.4f} with {_words(best.params)}{own}; the configuration: {BEST_FILE} of "
        "the study's run"
    ]
    ended = [record for record in result.records if record.is_trained and record.has_ended_by_itself]
    costs = [record.notes[SCORING_SHARE] for record in ended if SCORING_SHARE in record.notes]
    minutes = sum(record.seconds for record in ended) / 60
    num_pruned = sum(record.state == "pruned" for record in ended)
    lines.append(
        f"{len(ended)} trainings ended, {num_pruned} of them pruned, in {minutes:.1f} minutes of workers"
        + (f"; scoring all percentiles took {np.mean(costs):.1%} of a complete trial" if costs else "")
    )
    if result.importances:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result.importances.items())
        lines.append(f"share of the objective's variance over {len(ended) - num_pruned} complete trainings: {shares}")
    if result.confirmation is None:
        is_default = best.params == default_params(inputs.spec.inputs.config)
        no_seeds = "no seeds were requested" if inputs.search.num_confirmation_seeds == 0 else "no pair is complete"
        reason = "the default is the best" if is_default else no_seeds
        return [*lines, f"not confirmed with new seeds: {reason}"]
    for split, difference in result.confirmation.differences.items():
        lines.append(f"best - default with new seeds, pck of the simulated int8 model on {split}: {difference}")
    return lines


def _words(params: Mapping[str, float]) -> str:
    return f"sigma {params[SIGMA]:.3f}, lr {params[LR]:.2e}, percentile {percentile_of(params[Q]):g}"


def _cells(record: TrialRecord) -> list[str]:
    params = record.params
    shown = [f"{params[SIGMA]:.2f}", f"{params[LR]:.1e}", f"{percentile_of(params[Q]):g}"] if params else ["", "", ""]
    numbers = [record.notes.get(FLOAT_PCK), record.value, record.notes.get(ORACLE)]
    scores = ["" if number is None else f"{number:.4f}" for number in numbers]
    return [str(record.number), record.state, *shown, *scores, f"{record.seconds:.0f}"]


def rows(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """The study's trials as a table. ``job``: the same for the trainings of one job and all that they scored."""
    jobs = slots_of(records)
    return [_row(record, jobs[record.number]) for record in records]


def _row(record: TrialRecord, job: int) -> dict[str, Any]:
    params = record.params
    return {
        "trial": record.number,
        "training": record.training,
        "job": job,
        "trained": record.is_trained,
        "state": record.state,
        **{name: params.get(name, "") for name in (SIGMA, LR, Q)},
        "percentile": percentile_of(params[Q]) if params else "",
        "val_int8_pck": "" if record.value is None else record.value,
        FLOAT_PCK: record.notes.get(FLOAT_PCK, "") if record.is_trained else "",
        ORACLE: record.notes.get(ORACLE, "") if record.is_trained else "",
        "seconds": record.seconds if record.is_trained else "",
        RUN_ID: record.notes.get(RUN_ID, ""),
    }
