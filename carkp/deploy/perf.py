"""Prediction of the time of a program on a target's hardware, layer by layer, with the roofline model.

A layer takes ``max(compute, memory) + overhead`` (Williams et al. 2009, https://doi.org/10.1145/1498765.1498785, plus
the start of a kernel). The compute time is the number of products divided by the rate of their kind, plus the number of
output elements divided by the rate of requantisation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from carkp.deploy.check import LayerVerdict, operator_name
from carkp.deploy.hardware import CONV_KINDS, Performance
from carkp.deploy.layer_cost import LayerCost, layer_cost, live_bytes, num_elements, operator_kind, tensor_bytes
from carkp.quant.program import Layer, QConv, QDepthToSpace, QProgram

Bound = Literal["compute", "memory", "overhead"]

FLOAT_BYTES = 4
INPUT_ROW, OUTPUT_ROW = "quantise image", "dequantise heatmaps"
"""Rows other than layers of the program; they exist only if the interface is float."""


@dataclass(frozen=True)
class LayerTime:
    """The predicted time of a layer for one image.

    Attributes:
        cost: products and bytes.
        compute_us, memory_us, overhead_us: parts of the time.
        runs_as: int8 or fallback; float for conversions.
    """

    name: str
    operator: str
    runs_as: str
    cost: LayerCost
    compute_us: float
    memory_us: float
    overhead_us: float

    @property
    def total_us(self) -> float:
        return max(self.compute_us, self.memory_us) + self.overhead_us

    @property
    def bound(self) -> Bound:
        """The largest part of the time."""
        parts: dict[Bound, float] = {
            "compute": self.compute_us,
            "memory": self.memory_us,
            "overhead": self.overhead_us,
        }
        return max(parts, key=lambda name: parts[name])


@dataclass(frozen=True)
class Prediction:
    """Times of all layers, and the memory that a program needs.

    Attributes:
        peak_activation_bytes: largest size of all tensors alive at one time, reached while ``peak_layer`` runs.
        weight_bytes: size of all weights of the program.
    """

    layers: Sequence[LayerTime]
    peak_activation_bytes: int
    peak_layer: str
    weight_bytes: int

    @property
    def total_us(self) -> float:
        return sum(layer.total_us for layer in self.layers)

    @property
    def frames_per_s(self) -> float:
        return 1e6 / self.total_us

    @property
    def macs(self) -> int:
        return sum(layer.cost.macs for layer in self.layers)


def predict(program: QProgram, performance: Performance, verdicts: Sequence[LayerVerdict]) -> Prediction:
    """Predict the times of ``program`` with the ``verdicts`` of :func:`carkp.deploy.check.judge_program`.

    Raises:
        ValueError: a layer is impossible, or the verdicts are for other layers.
    """
    if [item.layer for item in verdicts] != [layer.name for layer in program.layers]:
        raise ValueError("the verdicts do not belong to the layers of this program")
    impossible = [item.layer for item in verdicts if item.verdict == "impossible"]
    if impossible:
        raise ValueError(f"no time can be given for impossible layers: {', '.join(impossible)}")
    layers = [
        layer_time(program, layer, performance)
        if item.verdict == "int8"
        else _fallback_time(program, layer, performance)
        for layer, item in zip(program.layers, verdicts, strict=True)
    ]
    alive = live_bytes(program)
    peak_layer = max(alive, key=lambda name: alive[name])
    return Prediction(
        _with_interface(program, performance, layers),
        alive[peak_layer],
        peak_layer,
        sum(layer.cost.weight_bytes for layer in layers),
    )


@dataclass(frozen=True)
class LayerComparison:
    """Predicted and measured microseconds of a layer."""

    name: str
    operator: str
    predicted_us: float
    measured_us: float


@dataclass(frozen=True)
class Comparison:
    """Comparison of predicted with measured times.

    Attributes:
        layers: comparison by layer, in order of execution; measured times do not include the profiler's own time.
        run_us: measured time of a whole run without a profiler.
    """

    layers: Sequence[LayerComparison]
    run_us: float

    @property
    def predicted_us(self) -> float:
        return sum(layer.predicted_us for layer in self.layers)

    @property
    def profiled_us(self) -> float:
        return sum(layer.measured_us for layer in self.layers)

    @property
    def total_ratio(self) -> float:
        """Predicted time divided by the measured time of a whole run."""
        return self.predicted_us / self.run_us

    @property
    def rank_correlation(self) -> float:
        """Spearman's rank correlation over the layers."""
        predicted = [layer.predicted_us for layer in self.layers]
        return rank_correlation(predicted, [layer.measured_us for layer in self.layers])


def compare(prediction: Prediction, measured_us: Mapping[str, float], run_us: float) -> Comparison:
    """Compare a prediction with measured times of the same rows.

    Raises:
        ValueError: a row is only in one of them.
    """
    names = [layer.name for layer in prediction.layers]
    if set(names) != set(measured_us):
        raise ValueError(f"predicted and measured differ in {sorted(set(names) ^ set(measured_us))}")
    rows = [
        LayerComparison(layer.name, layer.operator, layer.total_us, measured_us[layer.name])
        for layer in prediction.layers
    ]
    return Comparison(rows, run_us)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation, with mean ranks for ties.

    NaN if one of the sequences has less than two different values.

    Raises:
        ValueError: the lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values and {len(second)} values: the numbers must be equal")
    if len(set(first)) < 2 or len(set(second)) < 2:
        return float("nan")
    return float(stats.spearmanr(first, second).statistic)


def layer_time(program: QProgram, layer: Layer, performance: Performance) -> LayerTime:
    """Return the time of a layer that runs in int8."""
    cost = layer_cost(program, layer)
    num_kernels = performance.depth_to_space_kernels.value if isinstance(layer, QDepthToSpace) else 1
    outputs = num_elements(program.tensors[layer.output])
    compute_us = _products_us(program, layer, cost, performance) + outputs / _element_rate(layer, performance) / 1e3
    return LayerTime(
        name=layer.name,
        operator=operator_name(layer),
        runs_as="int8",
        cost=cost,
        compute_us=compute_us * num_kernels,
        memory_us=_memory_us(cost, performance) * num_kernels,
        overhead_us=performance.layer_overhead_us.value * num_kernels,
    )


def _fallback_time(program: QProgram, layer: Layer, performance: Performance) -> LayerTime:
    """Return the time on the fallback CPU: int8 to float, the operator, and back, all counted in elements."""
    cost = layer_cost(program, layer)
    sources = (program.tensors[name] for name in dict.fromkeys(layer.inputs))
    elements = sum(map(num_elements, sources)) + 2 * num_elements(program.tensors[layer.output])
    compute_us = cost.macs / performance.fallback_gmacs_per_s.value / 1e3
    return LayerTime(
        name=layer.name,
        operator=operator_name(layer),
        runs_as="fallback",
        cost=cost,
        compute_us=compute_us + elements / performance.fallback_gelements_per_s.value / 1e3,
        memory_us=cost.bytes / performance.memory_gb_per_s.value / 1e3,
        overhead_us=3 * performance.layer_overhead_us.value,
    )


def _element_rate(layer: Layer, performance: Performance) -> float:
    is_conv = isinstance(layer, QConv)
    return (performance.requantise_gelements_per_s if is_conv else performance.elementwise_gelements_per_s).value


def _products_us(program: QProgram, layer: Layer, cost: LayerCost, performance: Performance) -> float:
    if not isinstance(layer, QConv):
        return 0.0
    kind = operator_kind(layer)
    assert kind in CONV_KINDS
    share: float = getattr(performance.efficiency, kind).value
    rate = performance.peak_gmacs_per_s.value * share
    wide = performance.wide_products if program.tensors[layer.inputs[0]].is_wide else None
    num_products = 1.0 if wide is None else wide.value
    return cost.macs * num_products * _padding_factor(layer, performance) / rate / 1e3


def _padding_factor(conv: QConv, performance: Performance) -> float:
    """Return the factor by which rounding up channels to full vectors increases the number of products."""
    if conv.groups > 1:
        return 1.0
    num_outputs, num_inputs = (int(length) for length in conv.weight.shape[:2])
    return (
        _rounded_up(num_outputs, performance.output_multiple.value)
        * _rounded_up(num_inputs, performance.input_multiple.value)
        / (num_outputs * num_inputs)
    )


def _rounded_up(length: int, multiple: float) -> int:
    step = max(1, int(multiple))
    return -(-length // step) * step


def _memory_us(cost: LayerCost, performance: Performance) -> float:
    """Return the memory time: weights come from main memory, activations only if they do not fit on the chip."""
    activations = cost.input_bytes + cost.output_bytes
    fits = activations <= performance.onchip_bytes.value
    near, far = (activations, 0) if fits else (0, activations)
    far_us = (cost.weight_bytes + far) / performance.memory_gb_per_s.value / 1e3
    return far_us + near / performance.onchip_gb_per_s.value / 1e3


def _with_interface(program: QProgram, performance: Performance, layers: Sequence[LayerTime]) -> list[LayerTime]:
    if not performance.float_interface:
        return list(layers)
    tensors = [program.tensors[name] for name in (program.input, program.output)]
    image, heatmaps = map(num_elements, tensors)
    first = LayerCost(0, 0, FLOAT_BYTES * image, tensor_bytes(tensors[0]))
    last = LayerCost(0, 0, tensor_bytes(tensors[1]), FLOAT_BYTES * heatmaps)
    return [
        _interface_time(INPUT_ROW, first, image, performance),
        *layers,
        _interface_time(OUTPUT_ROW, last, heatmaps, performance),
    ]


def _interface_time(name: str, cost: LayerCost, num_elements: int, performance: Performance) -> LayerTime:
    return LayerTime(
        name=name,
        operator="conversion",
        runs_as="float",
        cost=cost,
        compute_us=num_elements / performance.elementwise_gelements_per_s.value / 1e3,
        memory_us=_memory_us(cost, performance),
        overhead_us=performance.layer_overhead_us.value,
    )
