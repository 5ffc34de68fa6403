"""Channels of one tensor get ranges of like size, so that the tensor's one scale fits them all.

A ReLU commutes with positive factors: what a convolution makes larger, channel by channel, the one behind it takes
back in its weights. The bound of a ReLU6 moves with the factor. Nagel et al. 2019, Data-Free Quantization Through
Weight Equalization and Bias Correction (https://arxiv.org/abs/1906.04721), section 4.1, balances the weights of both
layers so. Where weights have a scale for every output channel it is the activations that gain, and their ranges are
measured.

Legend: B batch, C channels, O output channels.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from carkp.quant.graph import ConvLayer, LayerGraph, Step

MAX_FACTOR = 4.0
"""Channels that are next to nothing on the calibration images may not be so on others, where they would be clipped."""

DENSE_EXPONENT = 0.3
"""Of the factor before a convolution that mixes channels: its weights become uneven by it. Depthwise ones take all."""


def equalise(graph: LayerGraph, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Scale the channels between convolutions in place; the network computes what it did, but for float rounding.

    Between two convolutions there may be a ReLU or ReLU6, and nothing else reads the tensor.

    Args:
        graph: the folded network, in float.
        batches: normalised images (B, 3, H, W).

    Returns:
        Tensor -> (C,) the factors, at least 1, of those that were scaled.
    """
    pairs = list(_pairs(graph))
    largest = _largest(graph, batches, {step.name for step, _, _ in pairs})
    factors: dict[str, Tensor] = {}
    for step, first, second in pairs:
        ratios = largest[step.name].max() / largest[step.name].clamp(min=torch.finfo(torch.float32).tiny)
        found = ratios.clamp(max=MAX_FACTOR) ** (1.0 if second.groups > 1 else DENSE_EXPONENT)
        first.scale_outputs(found)
        second.scale_inputs(1 / found)
        factors[step.name] = found
    return factors


def _pairs(graph: LayerGraph) -> Iterable[tuple[Step, ConvLayer, ConvLayer]]:
    """Convolutions with an activation whose result one other convolution reads, and nothing else."""
    for step, first in graph.items():
        readers = [other for other, _ in graph.items() if step.name in other.inputs]
        if len(readers) != 1 or not isinstance(first, ConvLayer) or first.activation == "none":
            continue
        second = graph.layers[readers[0].name]
        if isinstance(second, ConvLayer) and second.groups in (1, second.weight.shape[0]):
            yield step, first, second


def _largest(graph: LayerGraph, batches: Iterable[Tensor], names: set[str]) -> dict[str, Tensor]:
    """(C,) for each of ``names``: the largest value of every channel; 0 at least."""
    found: dict[str, Tensor] = {}

    def record_ranges(name: str, values: Tensor) -> None:
        if name in names:
            largest = values.amax(dim=(0, 2, 3)).clamp(min=0)
            found[name] = torch.maximum(found[name], largest) if name in found else largest

    with torch.inference_mode():
        for images in batches:
            graph(images, on_tensor=record_ranges)
    return {name: values.clone() for name, values in found.items()}
