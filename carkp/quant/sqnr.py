"""The signal-to-quantisation-noise ratio (SQNR) of every layer: it shows where precision is lost.

SQNR = 10 log10(sum x^2 / sum (x - x')^2) in decibels, x in float and x' quantised.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.graph import IMAGE, MOVING, ConvLayer, LayerGraph

FLOOR = 1e-30
"""Smallest noise energy and signal energy that are used, so that the ratio stays finite."""


@dataclass(frozen=True)
class LayerSqnr:
    """The ratios of one layer, in decibels.

    Attributes:
        threshold: largest real value of its tensor.
        activations_db: ratio with only the layer's own result rounded and clipped.
        weights_db: ratio with only the layer's own weights rounded; NaN without weights.
        total_db: ratio with everything quantised up to and including this layer.
    """

    name: str
    kind: str
    threshold: float
    activations_db: float
    weights_db: float
    total_db: float


@dataclass
class _Power:
    signal: float = 0.0
    activations: float = 0.0
    weights: float = 0.0
    total: float = 0.0


def layer_sqnr(net: FakeQuantNet, batches: Iterable[Tensor]) -> list[LayerSqnr]:
    """Return one row for the image and for each layer, in order of execution, without layers that only move numbers."""
    names = [IMAGE, *(step.name for step, layer in net.graph.items() if not isinstance(layer, MOVING))]
    powers = {name: _Power() for name in names}
    with torch.inference_mode():
        for images in batches:
            _accumulate(net, images, powers)
    return [_row(net, name, power) for name, power in powers.items()]


def _accumulate(net: FakeQuantNet, images: Tensor, powers: dict[str, _Power]) -> None:
    exact: dict[str, Tensor] = {}
    net.graph(images, on_tensor=exact.__setitem__)

    def compare(name: str, values: Tensor) -> None:
        if name in powers:
            power, signal = powers[name], exact[name]
            power.signal += _energy(signal)
            power.total += _energy(values - signal)
            power.activations += _energy(net.quantiser(name)(signal) - signal)

    net(images, on_tensor=compare)
    for step, layer in net.graph.items():
        if isinstance(layer, ConvLayer):
            rounded = layer.convolve(exact[step.inputs[0]], *net.quantised_weights(step, layer))
            powers[step.name].weights += _energy(rounded - exact[step.name])


def _energy(values: Tensor) -> float:
    return float(values.double().square().sum())


def _row(net: FakeQuantNet, name: str, power: _Power) -> LayerSqnr:
    quantiser = net.quantiser(name)
    kind = _kind(net.graph, name)
    return LayerSqnr(
        name=name,
        kind=kind,
        threshold=float(quantiser.scale) * quantiser.grid.num_levels,
        activations_db=decibels(power.signal, power.activations),
        weights_db=decibels(power.signal, power.weights) if kind.startswith("conv") else float("nan"),
        total_db=decibels(power.signal, power.total),
    )


def _kind(graph: LayerGraph, name: str) -> str:
    if name == IMAGE:
        return "input"
    layer = graph.layers[name]
    if isinstance(layer, ConvLayer):
        return "conv depthwise" if layer.groups > 1 else "conv"
    return type(layer).__name__.removesuffix("Layer").lower()


def decibels(signal: float, noise: float) -> float:
    """Return the ratio of two energies in decibels; each counts as at least ``FLOOR``."""
    return float(10 * torch.log10(torch.tensor(max(signal, FLOOR) / max(noise, FLOOR), dtype=torch.float64)))
