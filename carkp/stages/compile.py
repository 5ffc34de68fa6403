"""Entry point ``compile``: the file for the target, and a page that says how fast it will be there and why."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from carkp.config.schema import ExperimentConfig
from carkp.deploy.check import judge_program, summarise
from carkp.deploy.compiled import compile_for_onnxruntime, require_same_outputs
from carkp.deploy.cpu import cpu_features
from carkp.deploy.int8_onnx import load_program
from carkp.deploy.latency import interleaved_times, paired_ratio
from carkp.deploy.layer_profile import measure_program
from carkp.deploy.perf import Comparison, compare, predict
from carkp.deploy.runtime import OnnxRunner
from carkp.disk import copy_atomic, file_digest
from carkp.quant.program import QProgram
from carkp.report.runtime_data import RuntimeContent
from carkp.tracking.runs import DATA_TAG, fetch_artifact, run_id_of
from carkp.tracking.store import TrackingError
from carkp.tracking.tracker import Tracker
from carkp.workflow.benchmark import find_benchmark, read_benchmark
from carkp.workflow.checking import CheckResult, log_check, require_possible
from carkp.workflow.cli import Arguments, execute, guarded, parse_stage
from carkp.workflow.performance import (
    CompileInputs,
    CompileResult,
    HostLatency,
    assumption_note,
    build_page,
    draw_comparison,
    draw_roofline,
    facts,
    hardware_rows,
    layer_rows,
    num_assumed,
)
from carkp.workflow.quantising import build_hardware, build_target, check_target
from carkp.workflow.references import FLOAT_ONNX, find_export
from carkp.workflow.reuse import Inputs, hardware_digest, host_digest, log_inputs, stage_inputs, target_digest
from carkp.workflow.tables import write_table

HOST = "onnxruntime_cpu"
"""The target that stands for this machine."""

COMPILED_DIR = "compiled"
NUM_PROFILED = 50
NUM_ROUNDS, MAX_SECONDS = 300, 6.0


def run(config: ExperimentConfig, inputs: CompileInputs, out_dir: Path, tracker: Tracker) -> CompileResult:
    """Check the program, write the file, predict its speed, measure on the host; log file, page, tables and figures.

    Raises:
        UnsupportedModelError: the target cannot run a layer.
    """
    program, hardware = inputs.program, inputs.hardware
    tracker.set_tags(_tags(inputs))
    log_inputs(tracker, _deciding(config, inputs))
    verdicts = judge_program(program, hardware)
    log_check(CheckResult(verdicts, summarise(verdicts, hardware)), out_dir, tracker)
    require_possible(verdicts, inputs.target.name)
    path = write_deployable(inputs, out_dir / COMPILED_DIR)
    tracker.log_file(path, COMPILED_DIR)
    prediction = predict(program, hardware.performance, verdicts)
    comparison = None
    if inputs.target.name == HOST:
        times = measure_program(program, NUM_PROFILED)
        comparison = compare(prediction, times.layers_us, times.run_us)
    runtimes = find_runtimes(program)
    result = CompileResult(path, verdicts, prediction, comparison, measure_latency(inputs), runtimes)
    _log(inputs, result, out_dir, tracker)
    return result


def measure_latency(inputs: CompileInputs) -> HostLatency | None:
    """Time float and int8 in turn; None if the float model behind the int8 model is not available."""
    path = find_float_onnx(inputs.program)
    if path is None:
        return None
    rng = np.random.default_rng(0)
    bytes_ = rng.integers(0, 256, (1, *inputs.program.tensors[inputs.program.input].shape))
    images = ((bytes_ - 128) / 128).astype(np.float32)
    runs = {"float": OnnxRunner(path).run, "int8": OnnxRunner(inputs.model.path).run}
    times = interleaved_times(runs, images, NUM_ROUNDS, rng, max_seconds=MAX_SECONDS)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    return HostLatency(medians["float"], medians["int8"], paired_ratio(times["float"], times["int8"], rng))


def find_float_onnx(program: QProgram) -> Path | None:
    """Return the float ONNX of the run that trained the network; None if the program names no run that has it."""
    run_id = run_id_of(program.origin.get("float_model", ""))
    try:
        return None if run_id is None else fetch_artifact(run_id, FLOAT_ONNX)
    except TrackingError:
        return None


def find_runtimes(program: QProgram) -> RuntimeContent | None:
    """Return the results of ``benchmark`` for the float model, if there are any."""
    run_id = run_id_of(program.origin.get("float_model", ""))
    benchmark = None if run_id is None else find_benchmark(run_id)
    return None if benchmark is None else read_benchmark(benchmark)


def write_deployable(inputs: CompileInputs, folder: Path) -> Path:
    """Write the target's file: for the host an optimised graph of the same outputs, else a copy of the int8 ONNX."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{inputs.target.name}.onnx"
    if inputs.target.name != HOST:
        copy_atomic(inputs.model.path, path)
        return path
    compile_for_onnxruntime(inputs.model.path, path, cpu_features())
    require_same_outputs(inputs.model.path, path)
    return path


def comparison_metrics(comparison: Comparison) -> dict[str, float]:
    return {
        "host/predicted_us": comparison.predicted_us,
        "host/profiled_us": comparison.profiled_us,
        "host/run_us": comparison.run_us,
        "host/total_ratio": comparison.total_ratio,
        "host/rank_correlation": comparison.rank_correlation,
    }


def latency_metrics(latency: HostLatency) -> dict[str, float]:
    return {
        "host/float_ms": latency.float_ms,
        "host/int8_ms": latency.int8_ms,
        "host/latency_ratio": latency.ratio.median,
        "host/latency_ratio_low": latency.ratio.low,
        "host/latency_ratio_high": latency.ratio.high,
    }


def main(argv: Sequence[str] | None = None) -> int:
    def work() -> int:
        _execute(parse_stage("compile", argv))
        return 0

    return guarded(work)


def _execute(arguments: Arguments) -> None:
    config = arguments.config
    name = arguments.values["target"]
    target, hardware = build_target(config, name), build_hardware(config, name)
    model = find_export(config, arguments.values["model"], target)
    program = load_program(model.path)
    check_target(program.target, target, model.path)
    inputs = CompileInputs(model, program, target, hardware)
    execute("compile", config, lambda tracker, out_dir: show(inputs, run(config, inputs, out_dir, tracker)))


def show(inputs: CompileInputs, result: CompileResult) -> None:
    """Print the totals and the ten layers that take longest."""
    console = Console()
    table = Table("layer", "operator", "predicted us", "share", "bound", title="The ten longest layers")
    prediction = result.prediction
    for layer in sorted(prediction.layers, key=lambda layer: -layer.total_us)[:10]:
        share = f"{layer.total_us / prediction.total_us:.1%}"
        table.add_row(layer.name, layer.operator, f"{layer.total_us:.1f}", share, layer.bound)
    console.print(table)
    for what, value in facts(inputs, result):
        console.print(f"{what}: {value}", markup=False)
    console.print(f"{assumption_note(inputs.hardware)} The run's performance.html lists them.")


def _log(inputs: CompileInputs, result: CompileResult, out_dir: Path, tracker: Tracker) -> None:
    prediction, comparison = result.prediction, result.comparison
    names = ("number", "value", "source")
    tables = {
        "performance.csv": layer_rows(prediction, comparison),
        "hardware.csv": [dict(zip(names, row, strict=True)) for row in hardware_rows(inputs.hardware)],
    }
    for name, rows in tables.items():
        write_table(rows, out_dir / name)
        tracker.log_file(out_dir / name, "tables")
    tracker.log_text(build_page(inputs, result), "performance.html")
    tracker.log_figure(draw_roofline(prediction, inputs.hardware), "figures/roofline.png")
    tracker.log_metrics(
        {
            "perf/predicted_us": prediction.total_us,
            "perf/frames_per_s": prediction.frames_per_s,
            "perf/peak_activation_bytes": prediction.peak_activation_bytes,
            "perf/weight_bytes": prediction.weight_bytes,
            "perf/num_assumed": num_assumed(inputs.hardware),
            "perf/file_bytes": result.path.stat().st_size,
        }
    )
    tracker.set_tags({"carkp.compiled_sha256": file_digest(result.path)})
    if result.latency is not None:
        tracker.log_metrics(latency_metrics(result.latency))
    if comparison is not None:
        tracker.log_metrics(comparison_metrics(comparison))
        tracker.log_figure(draw_comparison(prediction, comparison), "figures/predicted_measured.png")
    tracker.describe(_note(inputs, result), inputs.target.name)


def _note(inputs: CompileInputs, result: CompileResult) -> str:
    """Return the description of the run, in Markdown."""
    rows = [f"| {what} | {value} |" for what, value in facts(inputs, result)]
    latency = result.latency
    measured = f" On this machine {latency.ratio.median:.2f} times as fast as float." if latency is not None else ""
    head = [
        f"{result.prediction.total_us / 1e3:.3f} ms predicted.{measured} Compiled `{inputs.model.reference}` for "
        f"{inputs.hardware.device}.",
        "",
        "| quantity | value |",
        "|---|---|",
    ]
    return "\n".join([*head, *rows])


def _tags(inputs: CompileInputs) -> dict[str, str]:
    origin = inputs.program.origin
    return {
        "carkp.target": inputs.target.name,
        "carkp.source_run": inputs.model.run_id,
        "carkp.model_digest": origin.get("model_digest", ""),
        **({DATA_TAG: origin["data_digest"]} if "data_digest" in origin else {}),
    }


def _deciding(config: ExperimentConfig, inputs: CompileInputs) -> Inputs:
    given = {
        "model": inputs.program.origin.get("model_digest", ""),
        "target": target_digest(inputs.target),
        "hardware": hardware_digest(inputs.hardware),
        "host": host_digest(),
    }
    return stage_inputs("compile", config, given)


if __name__ == "__main__":
    sys.exit(main())
