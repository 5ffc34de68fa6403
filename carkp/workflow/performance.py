"""Performance of a compiled program: tables, charts and the page of the stage ``compile``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from matplotlib.figure import Figure

from carkp.deploy.check import LayerVerdict, summarise
from carkp.deploy.cpu import cpu_features
from carkp.deploy.hardware import Hardware, flat_numbers
from carkp.deploy.latency import Ratio
from carkp.deploy.perf import Comparison, LayerTime, Prediction
from carkp.quant.program import QProgram
from carkp.quant.target import Target
from carkp.report.page import html_page
from carkp.report.parts import Chart, Heading, PageTable, Paragraph, Part
from carkp.report.roofline import Roof, predicted_figure, roofline_figure
from carkp.report.runtime_data import RuntimeContent
from carkp.report.runtimes import runtime_parts
from carkp.workflow.benchmark import command_that_measures
from carkp.workflow.checking import describe_verdict
from carkp.workflow.references import ModelFile

LARGE = 1000
NEAR_FACTOR = 1.5


@dataclass(frozen=True)
class CompileInputs:
    """An int8 ONNX with its program, and its target."""

    model: ModelFile
    program: QProgram
    target: Target
    hardware: Hardware


@dataclass(frozen=True)
class HostLatency:
    """Milliseconds per image in ONNX Runtime on this machine (any target), one thread; ``ratio``: float / int8."""

    float_ms: float
    int8_ms: float
    ratio: Ratio


@dataclass(frozen=True)
class CompileResult:
    """The deployable file, its predicted performance, and measurements.

    ``comparison`` has measured times of the layers; None if the target is not this machine. ``latency`` is None if the
    float model is not available, ``runtimes`` if ``benchmark`` has not compared any.
    """

    path: Path
    verdicts: Sequence[LayerVerdict]
    prediction: Prediction
    comparison: Comparison | None
    latency: HostLatency | None
    runtimes: RuntimeContent | None = None


def layer_rows(prediction: Prediction, comparison: Comparison | None) -> list[dict[str, Any]]:
    """Return the table of the page, one row per layer."""
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


def draw_roofline(prediction: Prediction, hardware: Hardware) -> Figure:
    """Draw the layers with multiply-accumulates at their predicted rates, by kind of operator."""
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
    return predicted_figure(points, "Predicted and measured time of every layer", NEAR_FACTOR)


def build_page(inputs: CompileInputs, result: CompileResult) -> str:
    """Build the performance page as HTML."""
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
            f"max(compute, memory) + overhead. {assumption_note(inputs.hardware)}"
        ),
        PageTable(["quantity", "value"], facts(inputs, result), frozenset({1})),
        Heading("Roofline"),
        Chart(
            draw_roofline(prediction, inputs.hardware),
            "roofline",
            roofline_reading(prediction),
            "Rate of every layer over its multiply-accumulates a byte",
        ),
    ]
    if comparison is not None:
        parts += [
            Heading("Predicted and measured on this machine"),
            Chart(
                draw_comparison(prediction, comparison),
                "measured",
                comparison_reading(comparison),
                "Predicted over measured time of every layer",
            ),
        ]
    parts.append(Heading("Runtimes side by side"))
    if result.runtimes is not None:
        parts += runtime_parts(result.runtimes)
    else:
        parts.append(Paragraph(command_that_measures(inputs.program.origin.get("float_model", "latest")), "note"))
    parts += [
        Heading("Layers"),
        layers,
        Heading("Numbers of the hardware, and their sources"),
        PageTable(["number", "value", "source"], hardware_rows(inputs.hardware), frozenset({1})),
    ]
    return html_page(f"Performance on {inputs.target.name}", parts)


def assumption_note(hardware: Hardware) -> str:
    """Describe how many of the hardware's numbers are assumed, neither published nor measured."""
    num, total = num_assumed(hardware), len(flat_numbers(hardware))
    if not num:
        return f"All {total} numbers of the hardware have a source."
    return f"{num} of the {total} numbers of the hardware are assumed: read the predicted times accordingly."


def roofline_reading(prediction: Prediction) -> str:
    """Describe what limits the layers with multiply-accumulates, which are the layers in the chart."""
    bounds = Counter(layer.bound for layer in prediction.layers if layer.cost.macs)
    shares = ", ".join(f"{count} by {bound}" for bound, count in bounds.most_common())
    return f"Of the {bounds.total()} layers with multiplications, most of the predicted time is limited by: {shares}."


def comparison_reading(comparison: Comparison) -> str:
    """Describe how many layers take about as long as predicted."""
    ratios = [layer.predicted_us / layer.measured_us for layer in comparison.layers]
    num_near = sum(1 / NEAR_FACTOR <= ratio <= NEAR_FACTOR for ratio in ratios)
    return (
        f"Layers on the diagonal take as long as predicted; {num_near} of {len(ratios)} are within a factor "
        f"{NEAR_FACTOR:g}."
    )


def facts(inputs: CompileInputs, result: CompileResult) -> list[list[str]]:
    """Return totals in words."""
    prediction, summary = result.prediction, summarise(result.verdicts, inputs.hardware)
    rows = [
        ["predicted time", f"{prediction.total_us / 1e3:.3f} ms"],
        ["predicted frames per second", f"{prediction.frames_per_s:,.1f}"],
        ["multiply-accumulates", f"{prediction.macs / 1e6:,.1f} M"],
        ["of these in int8", f"{summary.int8_mac_share:.2%}"],
        ["layers that the target takes", describe_verdict(summary)],
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
    rows += latency_facts(result.latency)
    is_measured = result.comparison is not None or result.latency is not None
    return [*rows, *(measurement_conditions() if is_measured else [])]


def measurement_conditions() -> list[list[str]]:
    """Return the runtime and the CPU of the measurement."""
    cpu = cpu_features()
    return [
        ["measured with", f"onnxruntime {onnxruntime.__version__}, one thread, {cpu.model}"],
        ["int8 instructions", " ".join(cpu.int8_flags) or "none"],
    ]


def latency_facts(latency: HostLatency | None) -> list[list[str]]:
    """Describe float against int8 on this machine."""
    if latency is None:
        return [["float against int8 on this machine", "not measured: the float run or its ONNX is not available"]]
    return [
        ["float on this machine", f"{latency.float_ms:.2f} ms"],
        ["int8 on this machine", f"{latency.int8_ms:.2f} ms"],
        ["float / int8", str(latency.ratio)],
    ]


def num_assumed(hardware: Hardware) -> int:
    """Return how many of the hardware's numbers are assumed, neither published nor measured."""
    return sum(number.assumed for number in flat_numbers(hardware).values())


def hardware_rows(hardware: Hardware) -> list[list[str]]:
    return [[name, _plain(number.value), number.origin] for name, number in flat_numbers(hardware).items()]


def _plain(value: float) -> str:
    return f"{value:.4g}" if value < LARGE else f"{value:.0f}"


def _by_kind(layers: Sequence[LayerTime]) -> Mapping[str, list[LayerTime]]:
    """Group layers by the first word of their operator."""
    kinds = dict.fromkeys(layer.operator.split()[0] for layer in layers)
    return {kind: [layer for layer in layers if layer.operator.split()[0] == kind] for kind in kinds}


def _cell(name: str, value: object) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.1%}" if name == "share" else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
