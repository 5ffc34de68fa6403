"""Rounding of weights, up or down, that keeps the output of the layer close to the float one.

Rounding every weight to the nearest value is best for the weights, but not for the sums that a layer computes. If each
of the nine weights of a depthwise filter is a little too large, the filter's output is too large on every image with a
mean far from zero.

Legend: O output channels, I input channels per group, kh kw kernel height and width, d = I kh kw.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.graph import ConvLayer, Step
from carkp.quant.target import MAX_WEIGHT

DAMPING = 0.01
"""This share of the mean diagonal of the second moments is added to their diagonal, so that they can be inverted."""

MAX_POSITIONS = 4096
"""Largest number of pixels of a batch for a layer's second moments; more pixels make no visible difference."""


def round_by_sums(net: FakeQuantNet) -> None:
    """Round depthwise filters so that each keeps its sum; weights of other layers stay rounded to nearest."""
    for step, layer in net.graph.items():
        if isinstance(layer, ConvLayer) and layer.groups > 1:
            net.set_rounding(step.name, preserve_sums(net.scaled_weights(step, layer)))


def round_by_second_moments(net: FakeQuantNet, batches: Iterable[Tensor]) -> None:
    """Choose every layer's rounding by the second moments of its inputs in the float network.

    ``batches``: normalised images (B, 3, H, W).
    """
    moments = second_moments(net, batches)
    for step, layer in net.graph.items():
        if isinstance(layer, ConvLayer):
            net.set_rounding(step.name, compensate(net.scaled_weights(step, layer), moments[step.name]))


def preserve_sums(scaled: Tensor) -> Tensor:
    """Round ``scaled`` (O, I, kh, kw) to integers so that the sum over each kernel is the nearest possible.

    As few weights as possible go to their second nearest integer: those that are closest to it.
    """
    flat = scaled.flatten(2).double()
    nearest = flat.round()
    errors = nearest - flat
    surplus = errors.sum(dim=2).round()  # number of units by which the sum is too large
    # largest error first if the sum is too large, smallest error first if it is too small
    order = torch.argsort(errors * surplus.sign().unsqueeze(2), dim=2, descending=True)
    rank = torch.empty_like(order).scatter_(2, order, torch.arange(flat.shape[2]).expand_as(order))
    is_moved = rank < surplus.abs().unsqueeze(2)
    moved = nearest - torch.where(is_moved, surplus.sign().unsqueeze(2), 0)
    return moved.clamp(-MAX_WEIGHT, MAX_WEIGHT).reshape(scaled.shape)


def compensate(scaled: Tensor, moments: Tensor) -> Tensor:
    """Round ``scaled`` (O, I, kh, kw) to integers that keep the layer's output close to the float one.

    Weights are rounded to the nearest integer one by one. After each one, the weights that are not rounded yet
    compensate its error, according to the second moments. Source: Frantar and Alistarh 2022, Optimal Brain Compression
    (https://arxiv.org/abs/2208.11580), in the order of GPTQ (https://arxiv.org/abs/2210.17323, section 3).

    Args:
        scaled: weights in units of their scales.
        moments: second moments (G, d, d) of the inputs of each of G groups; G divides O.
    """
    num_groups, size = moments.shape[:2]
    weights = scaled.flatten(1).double().reshape(num_groups, -1, size).clone()
    diagonal = torch.diagonal(moments, dim1=1, dim2=2)
    damping = (DAMPING * diagonal.mean(dim=1)).clamp(min=1e-12)
    damped = moments.double() + damping[:, None, None] * torch.eye(size, dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse, upper=True)
    result = torch.empty_like(weights)
    for column in range(size):
        value = weights[:, :, column]
        result[:, :, column] = value.round().clamp(-MAX_WEIGHT, MAX_WEIGHT)
        error = (value - result[:, :, column]) / upper[:, column, column, None]
        weights[:, :, column + 1 :] -= error[:, :, None] * upper[:, column, None, column + 1 :]
    return result.reshape(scaled.shape)


def second_moments(net: FakeQuantNet, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return for each convolution the sum of x x^T over patches x of its inputs, by group: (G, d, d) float64.

    The inputs are those of the float network.
    """
    totals: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)

    def apply(step: Step, layer: nn.Module, inputs: list[Tensor]) -> Tensor:
        if isinstance(layer, ConvLayer):
            patches = _patches(layer, inputs[0], generator)
            totals[step.name] = totals.get(step.name, torch.zeros(())) + patches @ patches.transpose(1, 2)
        result: Tensor = layer(*inputs)
        return result

    with torch.inference_mode():
        for images in batches:
            net.graph.execute(images, apply)
    return totals


def _patches(layer: ConvLayer, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the inputs (G, d, N) of N output pixels in float64; the pixels are random if there are many."""
    top, left, bottom, right = layer.pads
    unfolded = F.unfold(
        F.pad(x, (left, right, top, bottom)), layer.weight.shape[2:], layer.dilation, stride=layer.stride
    )
    num_positions = unfolded.shape[0] * unfolded.shape[2]
    columns = unfolded.permute(1, 0, 2).reshape(unfolded.shape[1], num_positions)
    if num_positions > MAX_POSITIONS:
        columns = columns[:, torch.randperm(num_positions, generator=generator)[:MAX_POSITIONS]]
    return columns.reshape(layer.groups, -1, columns.shape[1]).double()
