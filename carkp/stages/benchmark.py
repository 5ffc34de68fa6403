"""Entry point ``benchmark``: accuracy, size and latency of the network in every runtime that this machine has."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Column, Table

from carkp.config.schema import ExperimentConfig
from carkp.data.dataset import normalise
from carkp.data.store import Store
from carkp.deploy.runtime import Float32Array
from carkp.report.runtime_data import FASTEST, RuntimeContent
from carkp.report.runtimes import runtime_figure, runtime_table
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import load_checkpoint
from carkp.training.distributed import ProcessContext, cpu_context
from carkp.workflow.benchmark import (
    ALPHA_METRIC,
    FLOAT_TAG,
    LEFT_OUT_TAG,
    LOSS_ALPHA_METRIC,
    MACHINE_TAG,
    STAGE,
    TABLE,
    findings,
    machine_name,
    runtime_rows,
    score_field,
    table_row,
    time_field,
)
from carkp.workflow.build import build_eval_dataset, prepare_torch
from carkp.workflow.cli import Arguments, execute, guarded, parse_stage
from carkp.workflow.preparation import PreparedData, require_samples
from carkp.workflow.recording import begin_record, write_record
from carkp.workflow.references import (
    FLOAT,
    ModelFile,
    check_codec,
    check_input_size,
    codec_of,
    require_data,
    resolve_model,
)
from carkp.workflow.runtimes import Material, build_field
from carkp.workflow.scoring import PREDICTIONS_DIR, build_scorer
from carkp.workflow.tables import write_table

MIN_COLUMNS = 180
"""Smallest width of the table in the terminal."""

NUM_IMAGES = 64
"""Number of test crops that the runtimes are timed on, one after the other."""


@dataclass(frozen=True)
class BenchmarkInputs:
    """Prepared data and the float checkpoint."""

    data: PreparedData
    model: ModelFile


def run(
    config: ExperimentConfig, inputs: BenchmarkInputs, out_dir: Path, tracker: Tracker, context: ProcessContext
) -> RuntimeContent:
    """Make every form of the network, score all, time them in turn; log table, figure, predictions and metrics."""
    prepare_torch(config)
    stores = inputs.data.open()
    require_samples(stores.train, "calibration")
    require_samples(stores.test, "the benchmark")
    checkpoint = load_checkpoint(inputs.model.path)
    check_input_size(checkpoint.architecture, config, inputs.model.path)
    check_codec(codec_of(checkpoint), config, inputs.model.path)
    scorer = build_scorer(config, context)
    field = build_field(Material(config, checkpoint, stores.train, out_dir / "models"))
    scored = score_field(field, scorer, stores.test, config.align.loss_alpha)
    times = time_field(field.contestants, load_images(config, stores.test), config.benchmark, config.seed)
    rows = runtime_rows(field, scored, times, config.seed)
    content = RuntimeContent(rows, field.left_out, machine_name(), scorer.alpha, scored.loss_alpha)
    tracker.log_dataset(config.name, inputs.data.digest, config.data.title, "evaluation")
    tracker.set_tags(
        {
            FLOAT_TAG: inputs.model.reference,
            MACHINE_TAG: content.machine,
            LEFT_OUT_TAG: "\n".join(content.left_out),
            "carkp.data_digest": inputs.data.digest,
        }
    )
    for name, predictions in scored.predictions.items():
        path = out_dir / PREDICTIONS_DIR / name / "test.npz"
        predictions.save(path)
        tracker.log_file(path, f"{PREDICTIONS_DIR}/{name}")
    _log(content, out_dir, tracker)
    return content


def load_images(config: ExperimentConfig, store: Store) -> Float32Array:
    """Return (N, 3, H, W), normalised: the first crops of a split."""
    dataset = build_eval_dataset(config, store)
    bytes_ = torch.stack([dataset[index]["image"] for index in range(min(NUM_IMAGES, len(dataset)))])
    return np.ascontiguousarray(normalise(bytes_).numpy())


def main(argv: Sequence[str] | None = None) -> int:
    def work() -> int:
        arguments = parse_stage(STAGE, argv)
        begin_record(arguments)
        _execute(arguments, cpu_context())
        return 0

    return guarded(work)


def _execute(arguments: Arguments, context: ProcessContext) -> None:
    config = arguments.config
    data = require_data(config, arguments.values["data"])
    tags = {"carkp.experiment": config.name, "carkp.data_digest": data.digest}
    inputs = BenchmarkInputs(data, resolve_model(arguments.values["model"], FLOAT, tags))

    def benchmark(tracker: Tracker, out_dir: Path) -> None:
        content = run(config, inputs, out_dir, tracker, context)
        show(content)
        write_record(arguments, STAGE, findings(content))

    execute(STAGE, config, benchmark)


def show(content: RuntimeContent) -> None:
    """Print the table, and what is missing in it."""
    page = runtime_table(content)
    table = Table(Column(page.headings[0], no_wrap=True), *page.headings[1:], title=content.machine)
    for row in page.rows:
        table.add_row(*row)
    console = Console(width=max(Console().width, MIN_COLUMNS))
    console.print(table)
    console.print(page.caption, markup=False)
    for reason in content.left_out:
        console.print(f"left out: {reason}", markup=False)


def _log(content: RuntimeContent, out_dir: Path, tracker: Tracker) -> None:
    write_table([table_row(row) for row in content.rows], out_dir / TABLE)
    tracker.log_file(out_dir / TABLE, "tables")
    tracker.log_figure(runtime_figure(content), "figures/runtimes.png")
    tracker.log_metrics({ALPHA_METRIC: content.alpha, LOSS_ALPHA_METRIC: content.loss_alpha})
    for row in content.rows:
        tracker.log_metrics({f"benchmark/{row.name}/pck": row.pck.value, f"benchmark/{row.name}/bytes": row.size_bytes})
        tracker.log_metrics(
            {f"benchmark/{row.name}/loss": row.loss.value, f"benchmark/{row.name}/shift_px": row.shift_px}
        )
        for setting, latency in row.latencies.items():
            tracker.log_metrics(
                {
                    f"benchmark/{row.name}/{setting}_ms": latency.median_ms,
                    f"benchmark/{row.name}/{setting}_speedup": latency.speedup.value,
                }
            )
    tracker.describe(_note(content))


def _note(content: RuntimeContent) -> str:
    """Return the description of the run, in Markdown."""
    lines = [
        f"| {row.label} | {row.pck.value:.4f} | {row.latencies[FASTEST].median_ms:.2f} | "
        f"{row.latencies[FASTEST].speedup.value:.2f} |"
        for row in content.rows
    ]
    head = [
        f"{len(content.rows)} runtimes on {content.machine}, one image, one thread.",
        "",
        "| runtime | test pck | ms | times as fast as float |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *lines, *(f"\nLeft out: {reason}" for reason in content.left_out)])


if __name__ == "__main__":
    sys.exit(main())
