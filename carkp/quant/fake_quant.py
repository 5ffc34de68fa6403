"""Fake quantisation: a folded network in float, with tensors and weights on the 8-bit grid of a target.

Gradients pass straight through the rounding, but are zero where a value is clipped (Jacob et al. 2018,
https://arxiv.org/abs/1712.05877). So the same network can be calibrated, evaluated and fine-tuned.

Legend: O output channels, I input channels, kh kw kernel height and width.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from carkp.quant.graph import IMAGE, MOVING, ConvLayer, LayerGraph, OnTensor, Step, is_non_negative, scale_groups
from carkp.quant.target import INPUT_SCALE, MAX_WEIGHT, RANGES, WIDE, Dtype, Target

MAX_BIAS, MAX_WIDE_BIAS = 2**22, 2**28
"""Largest quantised bias for inputs of 8 and of 16 bits. A channel with almost zero weights gets a coarser weight
scale. Otherwise its bias could overflow the accumulator or, with 8 bits, exceed what float32 represents exactly."""

SMALLEST_SCALE = 1e-30
"""Smallest weight scale: keeps the scale of a channel with zero weights above 0."""


@dataclass(frozen=True)
class Grid:
    """The quantised values of a tensor; ``num_levels``: number of steps between 0 and the largest real value."""

    dtype: Dtype
    zero_point: int
    num_levels: int


def activation_grid(dtype: Dtype, can_be_negative: bool) -> Grid:
    """Return the grid of a tensor on a target with this activation dtype."""
    if dtype == "int8":
        return Grid("int8", 0, 127)
    return Grid("uint8", 128, 127) if can_be_negative else Grid("uint8", 0, 255)


WIDE_GRID = Grid(WIDE, 0, RANGES[WIDE][1])


class ActivationQuantiser(nn.Module):
    """Rounds a tensor to its grid; ``scale`` is a buffer that calibration sets."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.tensor(grid.zero_point, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        lowest, highest = RANGES[self.grid.dtype]
        if torch.is_grad_enabled():
            return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, lowest, highest)
        # the same numbers, without the mask for the backward pass; the mask costs more time than the rounding
        zero_point = self.grid.zero_point
        return x.mul(1.0 / self.scale).round_().clamp_(lowest - zero_point, highest - zero_point).mul_(self.scale)


def scaled(weight: Tensor, scales: Tensor) -> Tensor:
    """Return ``weight`` (O, I / groups, kh, kw) times the inverse of ``scales`` (O,), as torch computes it."""
    return weight * (1.0 / scales)[:, None, None, None]


class WeightQuantiser(nn.Module):
    """Rounds the weights of a convolution.

    ``bias_shift`` (O,): the values that bias correction adds to the bias. ``steps`` (O, I / groups, kh, kw): the
    distance of each rounded weight from its nearest grid value; 0 unless a rounding was set.
    """

    bias_shift: Tensor
    steps: Tensor

    def __init__(self, shape: torch.Size, per_channel: bool) -> None:
        super().__init__()
        self.per_channel = per_channel
        self.register_buffer("bias_shift", torch.zeros(shape[0]))
        self.register_buffer("steps", torch.zeros(shape, dtype=torch.int8))

    def scales(self, layer: ConvLayer, input_scale: Tensor, max_bias: int = MAX_BIAS) -> Tensor:
        """Return the scales (O,): symmetric min-max of the weights, larger where the bias would not fit."""
        weight, bias = layer.weight.detach(), layer.bias.detach() + self.bias_shift
        largest = weight.abs().amax(dim=(1, 2, 3))
        scales = torch.maximum(largest / MAX_WEIGHT, bias.abs() / (input_scale * max_bias)).clamp(min=SMALLEST_SCALE)
        return scales if self.per_channel else scales.max().expand_as(scales).contiguous()

    def forward(self, weight: Tensor, scales: Tensor) -> Tensor:
        """Return ``weight`` (O, I / groups, kh, kw) rounded to the grid of ``scales`` (O,)."""
        if self.steps.any():
            return self.integers(weight, scales) * scales[:, None, None, None]
        zero_points = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zero_points, 0, -MAX_WEIGHT, MAX_WEIGHT)

    def integers(self, weight: Tensor, scales: Tensor) -> Tensor:
        """Return the int8 program's weights as floats: rounded like torch's fake quantisation, plus ``steps``."""
        nearest = torch.round(scaled(weight, scales)).clamp(-MAX_WEIGHT, MAX_WEIGHT)
        return (nearest + self.steps).clamp(-MAX_WEIGHT, MAX_WEIGHT)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load the state; files of earlier versions have no ``steps``, because they only round to nearest."""
        state_dict.setdefault(f"{prefix}steps", torch.zeros_like(self.steps))
        super()._load_from_state_dict(state_dict, prefix, *args)


class FakeQuantNet(nn.Module):
    """A folded network with fake quantisation: images (B, 3, H, W) -> heatmaps (B, K, h, w).

    ``graph`` alone is the same network in float. ``quantised_layers`` limits the quantisation to the named layers
    (``image`` is the input), to measure the effect of each; None means all. ``wide``: tensors that get 16 bits,
    together with those that share their scale.

    Raises:
        ValueError: ``wide`` contains an unknown tensor, the image, or a tensor that shares the scale of the image.
    """

    def __init__(
        self, graph: LayerGraph, target: Target, per_channel_weights: bool, wide: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.graph, self.target = graph, target
        self.groups = scale_groups(graph)
        if unknown := sorted(set(wide) - set(self.groups)):
            raise ValueError(f"{', '.join(unknown)}: the network has no such tensors, only {', '.join(self.groups)}")
        self.wide = frozenset(self.groups[name] for name in wide)
        if self.groups[IMAGE] in self.wide:
            raise ValueError(f"{IMAGE}: the image, and every tensor that shares its scale, has 8 bits")
        self.quantised_layers: frozenset[str] | None = None
        signs = dict.fromkeys(self.groups.values(), False)
        for name, leader in self.groups.items():
            signs[leader] |= not is_non_negative(graph, name)
        self.activations = nn.ModuleDict(
            {
                leader: ActivationQuantiser(
                    WIDE_GRID if leader in self.wide else activation_grid(target.activation_dtype, can_be_negative)
                )
                for leader, can_be_negative in signs.items()
            }
        )
        self.weights = nn.ModuleDict(
            {
                step.name: WeightQuantiser(layer.weight.shape, per_channel_weights)
                for step, layer in graph.items()
                if isinstance(layer, ConvLayer)
            }
        )
        self.quantiser(IMAGE).scale.fill_(INPUT_SCALE)

    def quantiser(self, tensor: str) -> ActivationQuantiser:
        """Return the quantiser of a tensor; all tensors of a group share one."""
        found = self.activations[self.groups[tensor]]
        assert isinstance(found, ActivationQuantiser)
        return found

    def weight_quantiser(self, layer: str) -> WeightQuantiser:
        found = self.weights[layer]
        assert isinstance(found, WeightQuantiser)
        return found

    @property
    def num_levels(self) -> dict[str, int]:
        """Number of steps between 0 and the threshold, for every calibrated tensor that leads a group."""
        leaders = dict.fromkeys(self.groups.values())
        return {leader: self.quantiser(leader).grid.num_levels for leader in leaders if leader != self.groups[IMAGE]}

    def set_thresholds(self, thresholds: Mapping[str, float]) -> None:
        """Set the thresholds at which tensors are clipped, in real units, one for each tensor that leads a group.

        Raises:
            ValueError: tensors are missing or unknown, or a threshold is not positive and finite.
        """
        if set(thresholds) != set(self.num_levels):
            raise ValueError(f"thresholds for {sorted(thresholds)}, expected {sorted(self.num_levels)}")
        for name, num_levels in self.num_levels.items():
            scale = torch.tensor(thresholds[name] / num_levels, dtype=torch.float32)
            if not (torch.isfinite(scale) and scale > 0):
                raise ValueError(f"{name}: the threshold must be positive and finite, got {thresholds[name]}")
            self.quantiser(name).scale.copy_(scale)

    def weight_scales(self, step: Step, layer: ConvLayer) -> Tensor:
        """Return the weight scales (O,) of a convolution, computed from its current weights."""
        source = self.quantiser(step.inputs[0])
        max_bias = MAX_WIDE_BIAS if source.grid.dtype == WIDE else MAX_BIAS
        return self.weight_quantiser(step.name).scales(layer, source.scale, max_bias)

    def scaled_weights(self, step: Step, layer: ConvLayer) -> Tensor:
        """Return a convolution's weights (O, I / groups, kh, kw) divided by their scales."""
        return scaled(layer.weight.detach(), self.weight_scales(step, layer))

    def set_rounding(self, name: str, integers: Tensor) -> None:
        """Round a convolution's weights to ``integers`` (O, I / groups, kh, kw), valid until the weights change."""
        (step,) = [step for step in self.graph.steps if step.name == name]
        layer = self.graph.layers[name]
        assert isinstance(layer, ConvLayer)
        nearest = torch.round(self.scaled_weights(step, layer)).clamp(-MAX_WEIGHT, MAX_WEIGHT)
        self.weight_quantiser(name).steps.copy_(integers - nearest)

    def round_to_nearest(self) -> None:
        """Reset all roundings to nearest, for example before the weights change."""
        for step, layer in self.graph.items():
            if isinstance(layer, ConvLayer):
                self.weight_quantiser(step.name).steps.zero_()

    def forward(self, images: Tensor, on_tensor: OnTensor | None = None) -> Tensor:
        if self._is_quantised(IMAGE):
            images = self.quantiser(IMAGE)(images)
        return self.graph.execute(images, self._run_layer, on_tensor)

    def quantised_weights(self, step: Step, layer: ConvLayer) -> tuple[Tensor, Tensor]:
        """Return the quantised weight and the corrected bias, in real units."""
        quantiser = self.weight_quantiser(step.name)
        return quantiser(layer.weight, self.weight_scales(step, layer)), layer.bias + quantiser.bias_shift

    def _run_layer(self, step: Step, layer: nn.Module, inputs: list[Tensor]) -> Tensor:
        if not self._is_quantised(step.name):
            result: Tensor = layer(*inputs)
            return result
        if isinstance(layer, ConvLayer):
            result = layer.convolve(inputs[0], *self.quantised_weights(step, layer))
        else:
            result = layer(*inputs)
        return result if isinstance(layer, MOVING) else self.quantiser(step.name)(result)

    def _is_quantised(self, name: str) -> bool:
        return self.quantised_layers is None or name in self.quantised_layers
