"""Entry point ``compile``: the file for the target, and a page that says how fast it will be there and why."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from carkp.config.schema import ExperimentConfig
from carkp.deploy.check import LayerVerdict, judge_program, summarise
from carkp.deploy.compiled import compile_for_onnxruntime, file_digest, require_same_outputs
from carkp.deploy.cpu import cpu_features
from carkp.deploy.hardware import Hardware, flat_numbers
from carkp.deploy.int8_onnx import load_program
from carkp.deploy.latency import Ratio, interleaved_times, paired_ratio
from carkp.deploy.layer_profile import measure_program
from carkp.deploy.perf import Comparison, LayerTime, Prediction, compare, predict
from carkp.quant.program import QProgram
from carkp.quant.target import Target
from carkp.report.page import html_page
from carkp.report.parts import Chart, Heading, PageTable, Paragraph, Part
from carkp.report.roofline import Roof, predicted_figure, roofline_figure
from carkp.stages._cli import MODEL, Arguments, execute, guarded, parse
from carkp.stages._inputs import INPUTS_TAG, hardware_digest, host_digest, inputs_digest, target_digest
from carkp.stages._models import FLOAT_ONNX, ModelFile
from carkp.stages._programs import find_export
from carkp.stages._quant import TARGET, build_hardware, build_target, check_target
from carkp.stages._tables import write_table
from carkp.stages.check import CheckResult, log_check, require_possible
from carkp.tracking.runs import fetch_artifact, run_id_of
from carkp.tracking.store import TrackingError
from carkp.tracking.tracker import Tracker

HOST = "onnxruntime_cpu"
"""The target that this machine is."""

COMPILED_DIR = "compiled"
NUM_PROFILED = 50
NUM_ROUNDS, MAX_SECONDS = 300, 6.0
LARGE = 1000


@dataclass(frozen=True)
class CompileInputs:
    """An int8 ONNX with its program, and the target that it was made for."""

    model: ModelFile
    program: QProgram
    target: Target
    hardware: Hardware


@dataclass(frozen=True)
class HostLatency:
    """Milliseconds of an image in ONNX Runtime on this machine, one thread, whatever the target is; float / int8."""

    float_ms: float
    int8_ms: float
    ratio: Ratio


@dataclass(frozen=True)
class CompileResult:
    """The deployable file, its prediction, where the target is this machine its layers' times, and float against int8.

    ``latency`` is None where the float model cannot be had.
    """

    path: Path
    verdicts: Sequence[LayerVerdict]
    prediction: Prediction
    comparison: Comparison | None
    latency: HostLatency | None


def run(config: ExperimentConfig, inputs: CompileInputs, out_dir: Path, tracker: Tracker) -> CompileResult:
    """Check, write the file, predict, on the host measure; log file, page, tables and figures.

    Raises:
        UnsupportedModelError: the target cannot run a layer.
    """
    program, hardware = inputs.program, inputs.hardware
    tracker.set_tags(_tags(config, inputs))
    verdicts = judge_program(program, hardware)
    log_check(CheckResult(verdicts, summarise(verdicts)), out_dir, tracker)
    require_possible(verdicts, inputs.target.name)
    path = write_deployable(inputs, out_dir / COMPILED_DIR)
    tracker.log_file(path, COMPILED_DIR)
    prediction = predict(program, hardware.performance, verdicts)
    comparison = None
    if inputs.target.name == HOST:
        times = measure_program(program, NUM_PROFILED)
        comparison = compare(prediction, times.layers_us, times.run_us)
    result = CompileResult(path, verdicts, prediction, comparison, measure_latency(inputs))
    _log(inputs, result, out_dir, tracker)
    return result


def measure_latency(inputs: CompileInputs) -> HostLatency | None:
    """Float and int8 in turn; None where the float model that the int8 one was made of cannot be had."""
    path = find_float_onnx(inputs.program)
    if path is None:
        return None
    rng = np.random.default_rng(0)
    bytes_ = rng.integers(0, 256, (1, *inputs.program.tensors[inputs.program.input].shape))
    images = ((bytes_ - 128) / 128).astype(np.float32)
    paths = {"float": path, "int8": inputs.model.path}
    times = interleaved_times(paths, images, NUM_ROUNDS, rng, max_seconds=MAX_SECONDS)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    return HostLatency(medians["float"], medians["int8"], paired_ratio(times["float"], times["int8"], rng))


def find_float_onnx(program: QProgram) -> Path | None:
    """The float ONNX of the run that trained the network; None where the program names no run that has it."""
    run_id = run_id_of(program.origin.get("float_model", ""))
    try:
        return None if run_id is None else fetch_artifact(run_id, FLOAT_ONNX)
    except TrackingError:
        return None


def write_deployable(inputs: CompileInputs, folder: Path) -> Path:
    """What goes onto the target: for the host an optimised graph that gives the same, else the int8 ONNX as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{inputs.target.name}.onnx"
    if inputs.target.name != HOST:
        shutil.copyfile(inputs.model.path, path)
        return path
    compile_for_onnxruntime(inputs.model.path, path, cpu_features())
    require_same_outputs(inputs.model.path, path)
    return path


def layer_rows(prediction: Prediction, comparison: Comparison | None) -> list[dict[str, Any]]:
    """The table of the page, one row a layer."""
    measured = {} if comparison is None else {layer.name: layer.measured_us for layer in comparison.layers}
    return [
        {
            "layer": layer.name,
            "operator": layer.operator,
            "runs_as": layer.runs_as,
            "macs": layer.cost.macs,
            "weight_bytes": layer.cost.weight_bytes,
            "input_bytes": layer.cost.input_bytes,
            "output_bytes": layer.cost.output_bytes,
            "macs_per_byte": layer.cost.intensity,
            "compute_us": layer.compute_us,
            "memory_us": layer.memory_us,
            "overhead_us": layer.overhead_us,
            "predicted_us": layer.total_us,
            "share": layer.total_us / prediction.total_us,
            "bound": layer.bound,
            **({"measured_us": measured[layer.name]} if measured else {}),
        }
        for layer in prediction.layers
    ]


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


def draw_roofline(prediction: Prediction, hardware: Hardware) -> Figure:
    """Layers with products, by kind of operator, at the rate that is predicted."""
    performance = hardware.performance
    points = {
        kind: (
            [layer.cost.intensity for layer in layers],
            [layer.cost.macs / layer.total_us / 1e3 for layer in layers],
        )
        for kind, layers in _by_kind([layer for layer in prediction.layers if layer.cost.macs]).items()
    }
    roofs = [
        Roof("main memory", performance.memory_gb_per_s.value),
        Roof("on the chip", performance.onchip_gb_per_s.value),
    ]
    title = f"Roofline of {hardware.device}"
    return roofline_figure(points, performance.peak_gmacs_per_s.value, roofs, title)


def draw_comparison(prediction: Prediction, comparison: Comparison) -> Figure:
    measured = {layer.name: layer.measured_us for layer in comparison.layers}
    points = {
        kind: ([measured[layer.name] for layer in layers], [layer.total_us for layer in layers])
        for kind, layers in _by_kind(prediction.layers).items()
    }
    return predicted_figure(points, "Predicted and measured time of every layer")


def build_page(inputs: CompileInputs, result: CompileResult) -> str:
    """The performance page as HTML."""
    prediction, comparison = result.prediction, result.comparison
    rows = layer_rows(prediction, comparison)
    numeric = frozenset(index for index, name in enumerate(rows[0]) if not isinstance(rows[0][name], str))
    layers = PageTable(
        [name.replace("_", " ") for name in rows[0]],
        [[_cell(name, value) for name, value in row.items()] for row in rows],
        numeric,
    )
    parts: list[Part] = [
        Paragraph(
            f"{inputs.model.reference} on {inputs.hardware.device}. One image at a time; a layer takes "
            "max(compute, memory) + overhead. What is assumed below is not known: read the total accordingly."
        ),
        PageTable(["quantity", "value"], facts(result), frozenset({1})),
        Heading("Roofline"),
        Chart(
            draw_roofline(prediction, inputs.hardware),
            "roofline",
            "Layers under the lines are held up by what the line stands for; those far below both by their overhead.",
            "Rate of every layer over its multiply-accumulates a byte",
        ),
    ]
    if comparison is not None:
        parts += [
            Heading("Predicted and measured on this machine"),
            Chart(
                draw_comparison(prediction, comparison),
                "measured",
                "Layers on the diagonal take as long as predicted.",
                "Predicted over measured time of every layer",
            ),
        ]
    parts += [
        Heading("Layers"),
        layers,
        Heading("Numbers of the hardware, and where they are from"),
        PageTable(["number", "value", "source"], _hardware_rows(inputs.hardware), frozenset({1})),
    ]
    return html_page(f"Performance on {inputs.target.name}", parts)


def facts(result: CompileResult) -> list[list[str]]:
    """Totals in words."""
    prediction, summary = result.prediction, summarise(result.verdicts)
    rows = [
        ["predicted time", f"{prediction.total_us / 1e3:.3f} ms"],
        ["predicted frames per second", f"{prediction.frames_per_s:,.1f}"],
        ["multiply-accumulates", f"{prediction.macs / 1e6:,.1f} M"],
        ["of these in int8", f"{summary.int8_mac_share:.2%}"],
        ["layers that fall back", str(summary.num_fallback)],
        ["weights", f"{prediction.weight_bytes / 1024:,.0f} KiB"],
        ["peak of activations", f"{prediction.peak_activation_bytes / 1024:,.0f} KiB, in {prediction.peak_layer}"],
    ]
    if (comparison := result.comparison) is not None:
        rows += [
            ["measured, whole run", f"{comparison.run_us / 1e3:.3f} ms"],
            ["measured, sum of the layers", f"{comparison.profiled_us / 1e3:.3f} ms"],
            ["predicted / whole run", f"{comparison.total_ratio:.2f}"],
            ["rank correlation over the layers", f"{comparison.rank_correlation:.2f}"],
        ]
    cpu = cpu_features()
    return [
        *rows,
        *latency_facts(result.latency),
        ["measured with", f"onnxruntime {onnxruntime.__version__}, one thread, {cpu.model}"],
        ["int8 instructions", " ".join(cpu.int8_flags) or "none"],
    ]


def latency_facts(latency: HostLatency | None) -> list[list[str]]:
    """Float against int8 on this machine, in words."""
    if latency is None:
        return [["float against int8 on this machine", "not measured: the float run and its ONNX cannot be had"]]
    return [
        ["float on this machine", f"{latency.float_ms:.2f} ms"],
        ["int8 on this machine", f"{latency.int8_ms:.2f} ms"],
        ["float / int8", str(latency.ratio)],
    ]


def main(argv: Sequence[str] | None = None) -> int:
    def work() -> int:
        summary = "Write the file for a target and predict its speed there."
        _execute(parse("compile", summary, [MODEL, TARGET], argv))
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
    for what, value in facts(result):
        console.print(f"{what}: {value}", markup=False)
    assumed = sum(number.assumed for number in flat_numbers(inputs.hardware).values())
    console.print(f"{assumed} of the hardware's numbers are assumed; the run's performance.html lists them")


def _log(inputs: CompileInputs, result: CompileResult, out_dir: Path, tracker: Tracker) -> None:
    prediction, comparison = result.prediction, result.comparison
    names = ("number", "value", "source")
    tables = {
        "performance.csv": layer_rows(prediction, comparison),
        "hardware.csv": [dict(zip(names, row, strict=True)) for row in _hardware_rows(inputs.hardware)],
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
    """The description of the run, in Markdown."""
    rows = [f"| {what} | {value} |" for what, value in facts(result)]
    head = [
        f"Compiled `{inputs.model.reference}` for {inputs.hardware.device}.",
        "",
        "| quantity | value |",
        "|---|---|",
    ]
    return "\n".join([*head, *rows])


def _tags(config: ExperimentConfig, inputs: CompileInputs) -> dict[str, str]:
    tags = {"carkp.target": inputs.target.name, "carkp.source_run": inputs.model.run_id}
    model_digest = inputs.program.origin.get("model_digest", "")
    upstream = {
        "model": model_digest,
        "target": target_digest(inputs.target),
        "hardware": hardware_digest(inputs.hardware),
        "host": host_digest(),
    }
    return tags | {"carkp.model_digest": model_digest, INPUTS_TAG: inputs_digest("compile", config, upstream)}


def _hardware_rows(hardware: Hardware) -> list[list[str]]:
    return [[name, _plain(number.value), number.origin] for name, number in flat_numbers(hardware).items()]


def _plain(value: float) -> str:
    return f"{value:.4g}" if value < LARGE else f"{value:.0f}"


def _by_kind(layers: Sequence[LayerTime]) -> Mapping[str, list[LayerTime]]:
    """Layers by the first word of their operator."""
    kinds = dict.fromkeys(layer.operator.split()[0] for layer in layers)
    return {kind: [layer for layer in layers if layer.operator.split()[0] == kind] for kind in kinds}


def _cell(name: str, value: object) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.1%}" if name == "share" else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(main())
