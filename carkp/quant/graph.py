"""The folded network: a list of named layers, without batch norms and transposed convolutions.

Legend: B batch, O output channels, I input channels, kh kw kernel height and width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from carkp.quant.subpixel import Pads, depth_to_space

Activation = Literal["none", "relu", "relu6"]

BOUNDS: dict[Activation, tuple[float, float]] = {
    "none": (-float("inf"), float("inf")),
    "relu": (0.0, float("inf")),
    "relu6": (0.0, 6.0),
}
"""Lower and upper bound of each activation, in real units."""

IMAGE = "image"

OnTensor = Callable[[str, Tensor], None]
Size = tuple[int, int]


class ConvLayer(nn.Module):
    """A convolution with a bias, an activation, and its own amount of zero padding on each side.

    ``factors`` (O,): the factors by which equalisation multiplied the output channels. The bounds of the activation
    are multiplied by them, too.
    """

    factors: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        stride: Size = (1, 1),
        pads: Pads = (0, 0, 0, 0),
        dilation: Size = (1, 1),
        groups: int = 1,
        activation: Activation = "none",
    ) -> None:
        """``weight`` (O, I / groups, kh, kw), ``bias`` (O,), ``pads`` top, left, bottom, right."""
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.stride, self.pads, self.dilation, self.groups = stride, pads, dilation, groups
        self.activation: Activation = activation
        self.register_buffer("factors", torch.ones_like(bias))
        self._is_scaled = False

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Run the layer with another weight and bias."""
        accumulators = self.accumulate(x, weight, bias)
        if self._is_scaled and self.activation == "relu6":
            return torch.minimum(activate(accumulators, "relu"), BOUNDS["relu6"][1] * self.factors[:, None, None])
        return activate(accumulators, self.activation)

    def scale_outputs(self, factors: Tensor) -> None:
        """Multiply the output channels by ``factors`` (O,), all positive."""
        with torch.no_grad():
            self.weight.mul_(factors[:, None, None, None])
            self.bias.mul_(factors)
        self.factors.mul_(factors)
        self._note_factors()

    def scale_inputs(self, factors: Tensor) -> None:
        """Multiply the weights of each input channel by ``factors`` (I,); the layer is depthwise or has one group."""
        with torch.no_grad():
            self.weight.mul_(factors[:, None, None, None] if self.groups > 1 else factors[None, :, None, None])

    def _note_factors(self) -> None:
        self._is_scaled = bool((self.factors != 1).any())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load the state; files of earlier versions have no ``factors``."""
        state_dict.setdefault(f"{prefix}factors", torch.ones_like(self.factors))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._note_factors()

    def accumulate(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the result of the convolution before its activation."""
        top, left, bottom, right = self.pads
        padding = (top, left)
        if (top, left) != (bottom, right):
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)


class AddLayer(nn.Module):
    """The sum of two tensors, followed by an activation."""

    def __init__(self, activation: Activation = "none") -> None:
        super().__init__()
        self.activation: Activation = activation

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return activate(first + second, self.activation)


class ConcatLayer(nn.Module):
    """Concatenation along the channels."""

    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, dim=1)


class DepthToSpaceLayer(nn.Module):
    """Depth to space: moves channels to blocks of pixels."""

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return depth_to_space(x, self.block)


class FloatLayer(nn.Module):
    """Any other operator. ``kind`` is its ONNX name if it has one, ``attributes`` are its ONNX attributes.

    It stays in evaluation mode: a batch norm that could not be folded is frozen.
    """

    def __init__(self, module: fx.GraphModule, kind: str, attributes: Mapping[str, Any]) -> None:
        super().__init__()
        self.module, self.kind, self.attributes = module, kind, dict(attributes)

    def train(self, mode: bool = True) -> Self:
        del mode
        return super().train(False)

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = self.module(*inputs)
        return result


MOVING = (ConcatLayer, DepthToSpaceLayer)
"""Layers that move numbers without changing them."""


@dataclass(frozen=True)
class Step:
    """A layer's name and its input tensors; the name is also the name of the tensor that the layer makes."""

    name: str
    inputs: tuple[str, ...]


class LayerGraph(nn.Module):
    """Layers in order of execution; the last one makes the output. Images (B, 3, H, W) -> heatmaps (B, K, h, w)."""

    def __init__(self, layers: Sequence[tuple[Step, nn.Module]], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """``shapes``: shape of every tensor, including the image, without the batch axis."""
        super().__init__()
        self.steps = tuple(step for step, _ in layers)
        self.layers = nn.ModuleDict({step.name: layer for step, layer in layers})
        self.shapes = dict(shapes)
        self._dead_after = _last_uses(self.steps)

    @property
    def output(self) -> str:
        return self.steps[-1].name

    def items(self) -> Iterator[tuple[Step, nn.Module]]:
        return ((step, self.layers[step.name]) for step in self.steps)

    def forward(self, images: Tensor, on_tensor: OnTensor | None = None) -> Tensor:
        return self.execute(images, lambda step, layer, inputs: layer(*inputs), on_tensor)

    def execute(
        self,
        images: Tensor,
        apply: Callable[[Step, nn.Module, list[Tensor]], Tensor],
        on_tensor: OnTensor | None = None,
    ) -> Tensor:
        """Run each layer with ``apply``, and free each tensor after its last use.

        ``on_tensor`` is called with the image and with every result.
        """
        values = {IMAGE: images}
        if on_tensor is not None:
            on_tensor(IMAGE, images)
        for index, (step, layer) in enumerate(self.items()):
            values[step.name] = apply(step, layer, [values[name] for name in step.inputs])
            if on_tensor is not None:
                on_tensor(step.name, values[step.name])
            for name in self._dead_after[index]:
                del values[name]
        return values[self.output]


def activate(x: Tensor, activation: Activation) -> Tensor:
    """Apply the activation in place: ``x`` must be a layer's new result that nothing else uses."""
    match activation:
        case "none":
            return x
        case "relu":
            return F.relu(x, inplace=True)
        case "relu6":
            return F.relu6(x, inplace=True)


def is_non_negative(graph: LayerGraph, name: str) -> bool:
    """Return whether a tensor cannot be negative, judged by the layers that make it."""
    if name == IMAGE:
        return False
    layer = graph.layers[name]
    if isinstance(layer, ConvLayer | AddLayer):
        return BOUNDS[layer.activation][0] >= 0
    if isinstance(layer, MOVING):
        inputs = next(step.inputs for step in graph.steps if step.name == name)
        return all(is_non_negative(graph, source) for source in inputs)
    return isinstance(layer, FloatLayer) and layer.kind in ("Relu", "Sigmoid", "HardSigmoid", "Softmax")


def scale_groups(graph: LayerGraph) -> dict[str, str]:
    """Map each tensor to the tensor that leads its group; all tensors of a group share one scale.

    A layer that only moves numbers keeps the scale, so its inputs and its output are in one group.
    """
    leader = {name: name for name in (IMAGE, *(step.name for step in graph.steps))}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for step, layer in graph.items():
        if isinstance(layer, MOVING):
            for other in step.inputs:
                first, second = find(step.inputs[0]), find(other)
                leader[second] = first
            leader[find(step.name)] = find(step.inputs[0])
    return {name: find(name) for name in leader}


def _last_uses(steps: Sequence[Step]) -> list[list[str]]:
    """Return for every step the tensors that no later step reads."""
    last: dict[str, int] = {}
    for index, step in enumerate(steps):
        last.update(dict.fromkeys(step.inputs, index))
    dead: list[list[str]] = [[] for _ in steps]
    for name, index in last.items():
        dead[index].append(name)
    return dead
