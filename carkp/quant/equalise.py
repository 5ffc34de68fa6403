"""Equalisation: the channels of a tensor get ranges of similar size, so that one scale fits them all.

A ReLU commutes with positive factors. So one convolution can multiply its output channels by factors, and the next
convolution divides its weights by them. The bound of a ReLU6 is multiplied by the factor, too. Nagel et al. 2019,
Data-Free Quantization Through Weight Equalization and Bias Correction (https://arxiv.org/abs/1906.04721), section 4.1,
balances the weights of both layers in this way. If the weights have a scale per output channel, the activations benefit
instead. So here the ranges of the activations are measured.

Legend: B batch, C channels, O output channels.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from carkp.quant.graph import ConvLayer, LayerGraph, Step

MAX_FACTOR = 4.0
"""Largest factor. A channel that is almost zero on the calibration images may be larger on other images, where a larger
factor would make it clip."""

DENSE_EXPONENT = 0.3
"""Exponent of the factor if the next convolution mixes channels, because the factors make its weights uneven. Before a
depthwise convolution the exponent is 1."""


def equalise(graph: LayerGraph, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Scale the channels between convolutions in place; the network's output changes only by float rounding.

    Between two convolutions there is a ReLU or ReLU6, and only the second convolution reads the tensor.

    Args:
        graph: the folded network, in float.
        batches: normalised images (B, 3, H, W).

    Returns:
        For each scaled tensor its factors (C,), which are at least 1.
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
    """Yield each convolution with an activation and the one convolution that reads its result, if nothing else does."""
    for step, first in graph.items():
        readers = [other for other, _ in graph.items() if step.name in other.inputs]
        if len(readers) != 1 or not isinstance(first, ConvLayer) or first.activation == "none":
            continue
        second = graph.layers[readers[0].name]
        if isinstance(second, ConvLayer) and second.groups in (1, second.weight.shape[0]):
            yield step, first, second


def _largest(graph: LayerGraph, batches: Iterable[Tensor], names: set[str]) -> dict[str, Tensor]:
    """Return for each of ``names`` the largest value of every channel (C,), at least 0."""
    found: dict[str, Tensor] = {}

    def record_ranges(name: str, values: Tensor) -> None:
        if name in names:
            largest = values.amax(dim=(0, 2, 3)).clamp(min=0)
            found[name] = torch.maximum(found[name], largest) if name in found else largest

    with torch.inference_mode():
        for images in batches:
            graph(images, on_tensor=record_ranges)
    return {name: values.clone() for name, values in found.items()}
