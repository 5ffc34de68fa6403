"""Measurement of accuracy and latency of all runtimes, and the table of results."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from carkp.config.schema import BenchmarkConfig
from carkp.data.store import Store
from carkp.deploy.cpu import cpu_features
from carkp.deploy.latency import Milliseconds, interleaved_times, paired_ratio
from carkp.deploy.runtime import Float32Array
from carkp.keypoints.displacement import expected_loss, mean_shift_px
from carkp.keypoints.paired import Interval, paired_test, score_intervals
from carkp.keypoints.predictions import Predictions
from carkp.measurements.record import Cell, Column
from carkp.measurements.record import Table as RecordTable
from carkp.report.runtime_data import FASTEST, SETTINGS, RuntimeContent, RuntimeLatency, RuntimeRow
from carkp.tracking.runs import STAGE_TAG, FoundRun, fetch_artifact, find_runs, has_artifact, run_id_of
from carkp.workflow.executions import array_forward
from carkp.workflow.recording import Findings, interval_cell
from carkp.workflow.runtimes import Contestant, Field
from carkp.workflow.scoring import Scorer

STAGE, TABLE = "benchmark", "runtimes.csv"
FLOAT_TAG, MACHINE_TAG, LEFT_OUT_TAG = "carkp.float_model", "carkp.benchmarked_on", "carkp.left_out"
ALPHA_METRIC, LOSS_ALPHA_METRIC = "benchmark/alpha", "benchmark/loss_alpha"
ENDS = ("", "_low", "_high")


@dataclass(frozen=True)
class Scored:
    """Predictions of every contestant on the same cars, and the thresholds of PCK and of the expected loss."""

    predictions: Mapping[str, Predictions]
    alpha: float
    loss_alpha: float


def score_field(field: Field, scorer: Scorer, store: Store, loss_alpha: float) -> Scored:
    """Run every contestant on a split."""
    num_threads = torch.get_num_threads()
    predictions = {
        item.name: scorer.predict(array_forward(item.open(num_threads)), store, f"score {item.label}")
        for item in field.contestants
    }
    return Scored(predictions, scorer.alpha, loss_alpha)


def time_field(
    contestants: Sequence[Contestant], images: Float32Array, limits: BenchmarkConfig, seed: int
) -> dict[str, dict[str, Milliseconds]]:
    """Return setting -> contestant -> milliseconds per run, round by round.

    Settings with more threads than cores are left out.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, Milliseconds]] = {}
    for setting, (batch, num_threads) in SETTINGS.items():
        if num_threads > (os.cpu_count() or 1):
            continue
        runs = {item.name: item.open(num_threads) for item in contestants}
        repeated = images[np.arange(max(len(images), batch)) % len(images)]
        with tqdm(desc=f"time {setting}", unit="round") as bar:
            found[setting] = interleaved_times(
                runs,
                repeated,
                limits.num_rounds,
                rng,
                batch,
                num_threads,
                limits.max_seconds,
                partial(_advance, bar),
            )
    return found


def _advance(bar: "tqdm[Any]") -> None:
    bar.update()


def runtime_rows(
    field: Field, scored: Scored, times: Mapping[str, Mapping[str, Milliseconds]], seed: int
) -> list[RuntimeRow]:
    """Return a row of results for every contestant."""
    rng = np.random.default_rng(seed)
    baseline = field.contestants[0].name
    reference = scored.predictions[baseline]
    return [
        RuntimeRow(
            name=item.name,
            runtime=item.runtime,
            numbers=item.numbers,
            made_by=item.made_by,
            size_bytes=item.size_bytes,
            pck=score_intervals(scored.predictions[item.name], scored.alpha).pck,
            difference=paired_test(reference, scored.predictions[item.name], scored.alpha).difference,
            loss=expected_loss(reference, scored.predictions[item.name], scored.loss_alpha),
            shift_px=mean_shift_px(reference, scored.predictions[item.name]),
            latencies={setting: _latency(found[baseline], found[item.name], rng) for setting, found in times.items()},
        )
        for item in field.contestants
    ]


def _latency(baseline: Milliseconds, own: Milliseconds, rng: np.random.Generator) -> RuntimeLatency:
    ratio = paired_ratio(baseline, own, rng)
    return RuntimeLatency(float(np.median(own)), Interval(ratio.median, ratio.low, ratio.high))


def machine_name() -> str:
    """Return the CPU's name and its int8 instructions."""
    cpu = cpu_features()
    return f"{cpu.model} ({' '.join(cpu.int8_flags) or 'no int8 instructions'})"


def table_row(row: RuntimeRow) -> dict[str, Any]:
    """Return a line of ``runtimes.csv``; see :func:`parse_rows`."""
    plain = {name: getattr(row, name) for name in ("name", "runtime", "numbers", "made_by", "size_bytes", "shift_px")}
    intervals = {"pck": row.pck, "difference": row.difference, "loss": row.loss}
    intervals |= {f"{setting}_speedup": latency.speedup for setting, latency in row.latencies.items()}
    return {
        **plain,
        **{f"{setting}_ms": latency.median_ms for setting, latency in row.latencies.items()},
        **{
            f"{name}{end}": value
            for name, found in intervals.items()
            for end, value in zip(ENDS, (found.value, found.low, found.high), strict=True)
        },
    }


def findings(content: RuntimeContent) -> Findings:
    """Return the findings for ``--record``: accuracy and size of each runtime, and its speed in every setting."""
    baseline, *_ = content.rows
    settings = [name for name in SETTINGS if all(name in row.latencies for row in content.rows)]
    label = Column(name="runtime", heading="runtime")
    columns = [
        label,
        Column(name="size_mib", heading="size (MiB)", format=".2f"),
        Column(name="pck", heading=f"PCK at {content.alpha:g}", format=".2%"),
        Column(name="loss", heading=f"loss at {content.loss_alpha:g} (points)", format=".2f"),
        Column(name="shift_px", heading="shift (px)", format=".3f"),
    ]
    tables = [
        RecordTable(
            name="runtimes",
            columns=[*columns, *_latency_columns(FASTEST, baseline)],
            rows=[_worth(row, row is baseline) | _latency_cells(row, row is baseline, FASTEST) for row in content.rows],
        )
    ]
    for name in settings:
        rows = [{"runtime": row.label, **_latency_cells(row, row is baseline, name)} for row in content.rows]
        tables.append(RecordTable(name=name, columns=[label, *_latency_columns(name, baseline)], rows=rows))
    note = f"Left out: {'; '.join(content.left_out)}." if content.left_out else ""
    packages = ("ai-edge-litert", "openvino", "nncf")
    return Findings(tables=tables, packages=packages, note=note)


def _worth(row: RuntimeRow, is_baseline: bool) -> dict[str, Cell]:
    cells: dict[str, Cell] = {"runtime": row.label, "size_mib": row.size_bytes / 2**20, "pck": row.pck.value}
    if not is_baseline:
        in_points = Interval(*(100 * value for value in (row.loss.value, row.loss.low, row.loss.high)))
        cells |= {"loss": interval_cell(in_points), "shift_px": row.shift_px}
    return cells


def _latency_columns(setting: str, baseline: RuntimeRow) -> list[Column]:
    images, threads = SETTINGS[setting]
    run = f"{images} image{'s' * (images > 1)}, {threads} thread{'s' * (threads > 1)}"
    return [
        Column(name="ms", heading=f"{run} (ms)", format=".2f"),
        Column(name="speedup", heading=f"times as fast as {baseline.label}", format=".2f"),
    ]


def _latency_cells(row: RuntimeRow, is_baseline: bool, setting: str) -> dict[str, Cell]:
    latency = row.latencies[setting]
    return {"ms": latency.median_ms, "speedup": 1.0 if is_baseline else interval_cell(latency.speedup)}


def parse_rows(lines: Sequence[Mapping[str, str]]) -> list[RuntimeRow]:
    """Parse the lines of ``runtimes.csv``.

    Raises:
        KeyError, ValueError: the lines are of another version.
    """
    return [
        RuntimeRow(
            **{name: line[name] for name in ("name", "runtime", "numbers", "made_by")},
            size_bytes=int(line["size_bytes"]),
            pck=_interval(line, "pck"),
            difference=_interval(line, "difference"),
            loss=_interval(line, "loss"),
            shift_px=float(line["shift_px"]),
            latencies={
                setting: RuntimeLatency(float(line[f"{setting}_ms"]), _interval(line, f"{setting}_speedup"))
                for setting in SETTINGS
                if f"{setting}_ms" in line
            },
        )
        for line in lines
    ]


def _interval(line: Mapping[str, str], name: str) -> Interval:
    value, low, high = (float(line[f"{name}{end}"]) for end in ENDS)
    return Interval(value, low, high)


def find_benchmark(float_run_id: str) -> FoundRun | None:
    """Return the newest benchmark of the float model of a run, or None."""
    found = find_runs({STAGE_TAG: STAGE})
    return next((run for run in found if run_id_of(run.tags.get(FLOAT_TAG, "")) == float_run_id), None)


def read_benchmark(run: FoundRun) -> RuntimeContent | None:
    """Read the results of a benchmark run; None if they are of another version or the table is gone."""
    path = f"tables/{TABLE}"
    if not has_artifact(run.run_id, path):
        return None
    try:
        rows = parse_rows(
            list(csv.DictReader(fetch_artifact(run.run_id, path).read_text(encoding="utf-8").splitlines()))
        )
    except (KeyError, ValueError):
        return None
    left_out = [line for line in run.tags.get(LEFT_OUT_TAG, "").split("\n") if line]
    machine = run.tags.get(MACHINE_TAG, "an unknown machine")
    alpha, loss_alpha = (run.metrics.get(name, float("nan")) for name in (ALPHA_METRIC, LOSS_ALPHA_METRIC))
    return RuntimeContent(rows, left_out, machine, alpha, loss_alpha)


def command_that_measures(reference: str) -> str:
    """Return a sentence with the command that makes the missing benchmark."""
    return f"Runtimes not compared: `mlflow run . -e {STAGE} -P model={reference}`."
