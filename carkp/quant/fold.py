"""Folding of a network: batch norms, activations and pads become part of convolutions; transposed ones are rewritten.

A batch norm after a convolution is folded as ``w' = w g / sqrt(var + eps)`` and
``b' = (b - mean) g / sqrt(var + eps) + beta`` (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.2), along
the output channels. These are axis 0 of a convolution's weight and axis 1 of a transposed convolution's weight.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval

from carkp.quant.float_layers import float_layer
from carkp.quant.graph import (
    IMAGE,
    Activation,
    AddLayer,
    ConcatLayer,
    ConvLayer,
    DepthToSpaceLayer,
    LayerGraph,
    Size,
    Step,
)
from carkp.quant.subpixel import Pads, subpixel_phases

EXACTNESS = 1e-4
"""Largest relative difference between the network and its folded form."""

ADDITIONS = ("add", "iadd")
CONCATENATIONS = ("cat", "concat")
PASSING_FUNCTIONS = ("stochastic_depth", "dropout")
PASSING_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d)


class FoldError(ValueError):
    """A network that cannot be folded."""


def fold(net: nn.Module, input_size: Size, in_channels: int = 3, keep_transposed: bool = False) -> LayerGraph:
    """Return the folded form of ``net`` in evaluation mode, on the CPU in float32; ``net`` itself is not changed.

    Layers other than convolutions, additions, concatenations and pads stay in float, as ``FloatLayer``.

    Args:
        net: network of plain torch modules, (B, in_channels, H, W) -> one tensor.
        input_size: (height, width) in pixels.
        in_channels: channels of the image.
        keep_transposed: whether to keep transposed convolutions as ``FloatLayer``, with their batch norms folded in.

    Raises:
        FoldError: the network cannot be traced or folded, or its folded form computes something else.
    """
    was_training = net.training
    try:
        return _fold(net.eval(), input_size, in_channels, keep_transposed)
    finally:
        net.train(was_training)


def _fold(net: nn.Module, input_size: Size, in_channels: int, keep_transposed: bool) -> LayerGraph:
    traced = _trace(net)
    if keep_transposed:
        _fuse_transposed(traced)
    images = torch.rand(1, in_channels, *input_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = ShapeProp(traced).propagate(images)
        graph = _Folder(traced, keep_transposed).run().eval()
        got = graph(images)
    error = float((expected - got).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not error <= EXACTNESS:
        raise FoldError(
            f"folding changed the output of the network by {error:.2g} of its largest value: "
            "a module does not behave as its type says (because of a hook, a parametrisation or another forward); "
            "remove that"
        )
    return graph


def _trace(net: nn.Module) -> fx.GraphModule:
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    if device.type != "cpu":
        raise FoldError(f"the network is on {device}; move it to the CPU")
    try:
        return fx.symbolic_trace(net)
    except Exception as error:  # the network's own code runs on proxies of tensors and may raise anything
        raise FoldError(
            f"the network cannot be traced by torch.fx: {error}. Its forward must not depend on values of tensors: "
            "write it without `if` or loops over them"
        ) from error


def _fuse_transposed(traced: fx.GraphModule) -> None:
    """Fold batch norms into copies of the transposed convolutions before them, except for grouped convolutions."""
    modules = dict(traced.named_modules())

    def module_of(node: fx.Node) -> nn.Module | None:
        return modules.get(str(node.target)) if node.op == "call_module" else None

    for node in list(traced.graph.nodes):
        conv = module_of(node)
        if not isinstance(conv, nn.ConvTranspose2d) or conv.groups != 1 or len(node.users) != 1:
            continue
        (follower,) = node.users
        norm = module_of(follower)
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            name = f"{str(node.target).replace('.', '_')}_fused"
            traced.add_submodule(name, fuse_conv_bn_eval(conv, norm, transpose=True))
            node.target = name
            follower.replace_all_uses_with(node)
            traced.graph.erase_node(follower)
    traced.recompile()


@dataclass(frozen=True)
class _Tail:
    """The batch norm and the activation to fold into the layer before them; ``last`` is the chain's last node."""

    last: fx.Node
    norm: nn.BatchNorm2d | None
    activation: Activation


class _Folder:
    """Folds the nodes in order; ``names`` maps each node to the name of its tensor in the folded network."""

    def __init__(self, traced: fx.GraphModule, keep_transposed: bool) -> None:
        self.traced, self.keep_transposed = traced, keep_transposed
        self.modules = dict(traced.named_modules())
        self.names: dict[fx.Node, str] = {}
        self.pads: dict[fx.Node, Pads] = {}
        self.absorbed: set[fx.Node] = set()
        self.layers: list[tuple[Step, nn.Module]] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run(self) -> LayerGraph:
        output: fx.Node | None = None
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self._name(node, IMAGE)
            elif node.op == "output":
                output = node.args[0]
            elif node not in self.absorbed and _is_tensor(node):
                _require_float(node)
                self._handler(node)(node)
        if output is None or self.names.get(output) != self.layers[-1][0].name:
            raise FoldError(
                "the network's output is not the result of its last layer: return one tensor, the output of the last "
                "layer"
            )
        made = {IMAGE, *(step.name for step, _ in self.layers)}
        return LayerGraph(self.layers, {name: shape for name, shape in self.shapes.items() if name in made})

    def _handler(self, node: fx.Node) -> Callable[[fx.Node], None]:
        module = self._module(node)
        match module:
            case nn.Conv2d() if module.padding_mode == "zeros":
                return self._conv
            case nn.ConvTranspose2d() if not self.keep_transposed and _is_rewritable(module, _shape(node)):
                return self._transposed
            case nn.ZeroPad2d() if self._feeds_convs_alone(node):
                return self._pad
        if self._does_nothing(node):
            return self._pass
        if _function_name(node) in ADDITIONS and _adds_tensors(node):
            return self._add
        if _function_name(node) in CONCATENATIONS and self._joins_channels(node):
            return self._concat
        return self._float

    def _conv(self, node: fx.Node) -> None:
        conv = self._module(node)
        assert isinstance(conv, nn.Conv2d)
        tail = self._tail(node)
        source = node.all_input_nodes[0]
        weight, bias = _folded(conv.weight, conv.bias, tail.norm, axis=0)
        own, outer = _own_pads(conv), self.pads.get(source, (0, 0, 0, 0))
        layer = ConvLayer(
            weight,
            bias,
            stride=_pair(conv.stride),
            pads=(own[0] + outer[0], own[1] + outer[1], own[2] + outer[2], own[3] + outer[3]),
            dilation=_pair(conv.dilation),
            groups=conv.groups,
            activation=tail.activation,
        )
        self._emit(str(node.target), [source], layer, tail.last)

    def _transposed(self, node: fx.Node) -> None:
        conv = self._module(node)
        assert isinstance(conv, nn.ConvTranspose2d)
        tail = self._tail(node)
        source = node.all_input_nodes[0]
        weight, bias = _folded(conv.weight, conv.bias, tail.norm, axis=1, groups=conv.groups)
        block = conv.stride[0]
        (height, width), (out_height, out_width) = _shape(source)[1:], _shape(node)[1:]
        padding = _pair(conv.padding)
        phases = subpixel_phases(weight, conv.groups, block, padding, (height, width), (out_height, out_width))
        base = self._unique(str(node.target).replace(".", "/"))
        self.shapes[base] = _shape(node)  # reserves the name
        names = [f"{base}/phase_{index // block}{index % block}" for index in range(len(phases))]
        shape = (len(bias), out_height // block, out_width // block)
        for name, phase in zip(names, phases, strict=True):
            layer = ConvLayer(
                phase.weight, bias.clone(), pads=phase.pads, groups=conv.groups, activation=tail.activation
            )
            self._add_layer(name, (self.names[source],), layer, shape)
        if block == 1:
            self._name(tail.last, names[0])
            return
        concat, result = f"{base}/concat", f"{base}/depth_to_space"
        self._add_layer(concat, tuple(names), ConcatLayer(), (shape[0] * block * block, *shape[1:]))
        self._add_layer(result, (concat,), DepthToSpaceLayer(block), (shape[0], out_height, out_width))
        self._name(tail.last, result)

    def _pad(self, node: fx.Node) -> None:
        module, source = self._module(node), node.all_input_nodes[0]
        assert isinstance(module, nn.ZeroPad2d)
        left, right, top, bottom = module.padding
        self.pads[node] = (top, left, bottom, right)
        self.names[node] = self.names[source]

    def _pass(self, node: fx.Node) -> None:
        self.names[node] = self.names[node.all_input_nodes[0]]

    def _add(self, node: fx.Node) -> None:
        tail = self._tail(node, with_norm=False)
        self._emit(_scope(node, "add"), list(node.args[:2]), AddLayer(tail.activation), tail.last)  # type: ignore[arg-type]

    def _concat(self, node: fx.Node) -> None:
        parts = node.kwargs.get("tensors", node.args[0] if node.args else ())
        self._emit(_scope(node, "concat"), list(parts), ConcatLayer(), node)  # type: ignore[arg-type]

    def _float(self, node: fx.Node) -> None:
        layer, sources = float_layer(self.traced, node)
        name = str(node.target) if node.op == "call_module" else _scope(node, layer.kind)
        self._emit(name, sources, layer, node)

    def _tail(self, node: fx.Node, with_norm: bool = True) -> _Tail:
        norm: nn.BatchNorm2d | None = None
        if with_norm:
            chain = self._following(node)
            if chain and isinstance(found := self._module(chain[-1]), nn.BatchNorm2d):
                node, norm = chain[-1], found
                self.absorbed.update(chain)
        chain = self._following(node)
        activation = self._activation(chain[-1]) if chain else None
        if activation is None:
            return _Tail(node, norm, "none")
        self.absorbed.update(chain)
        return _Tail(chain[-1], norm, activation)

    def _following(self, node: fx.Node) -> list[fx.Node]:
        """Return the nodes up to the next one that changes values; empty if another node reads a value in between."""
        chain: list[fx.Node] = []
        while len(node.users) == 1:
            (node,) = node.users
            chain.append(node)
            if not self._does_nothing(node):
                return chain
        return []

    def _does_nothing(self, node: fx.Node) -> bool:
        return isinstance(self._module(node), PASSING_MODULES) or _function_name(node) in PASSING_FUNCTIONS

    def _activation(self, node: fx.Node) -> Activation | None:
        match self._module(node):
            case nn.ReLU6():
                return "relu6"
            case nn.ReLU():
                return "relu"
        name = _function_name(node)
        return "relu" if name == "relu" else "relu6" if name == "relu6" else None

    def _emit(self, target: str, sources: list[fx.Node], layer: nn.Module, last: fx.Node) -> None:
        name = self._unique(target.replace(".", "/"))
        self._add_layer(name, tuple(self.names[source] for source in sources), layer, _shape(last))
        self._name(last, name)

    def _add_layer(self, name: str, inputs: tuple[str, ...], layer: nn.Module, shape: tuple[int, ...]) -> None:
        self.layers.append((Step(name, inputs), layer))
        self.shapes[name] = shape

    def _name(self, node: fx.Node, name: str) -> None:
        self.names[node] = name
        self.shapes[name] = _shape(node)

    def _unique(self, name: str) -> str:
        taken = self.shapes
        return name if name not in taken else next(f"{name}_{i}" for i in range(1, 10**6) if f"{name}_{i}" not in taken)

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def _feeds_convs_alone(self, node: fx.Node) -> bool:
        users = [self._module(user) for user in node.users]
        return all(isinstance(user, nn.Conv2d) and user.padding_mode == "zeros" for user in users)

    def _joins_channels(self, node: fx.Node) -> bool:
        axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        rank = len(_shape(node)) + 1
        return isinstance(axis, int) and rank == 4 and axis % rank == 1


def _folded(
    weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d | None, axis: int, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Fold the batch norm into weight and bias, in float64. ``axis``: axis of the weight's output channels."""
    num_outputs = weight.shape[axis] * (groups if axis == 1 else 1)
    weight64 = weight.detach().double()
    bias64 = bias.detach().double() if bias is not None else torch.zeros(num_outputs, dtype=torch.float64)
    if norm is None:
        return weight64.float(), bias64.float()
    if norm.running_mean is None or norm.running_var is None:
        raise FoldError(
            "a batch norm without running statistics cannot be folded: build it with track_running_stats=True"
        )
    gain = torch.rsqrt(norm.running_var.double() + norm.eps)
    shift = torch.zeros_like(gain)
    if norm.affine:
        gain, shift = gain * norm.weight.detach().double(), norm.bias.detach().double()
    bias64 = (bias64 - norm.running_mean.double()) * gain + shift
    if axis == 0:
        return (weight64 * gain[:, None, None, None]).float(), bias64.float()
    parts = zip(weight64.chunk(groups), gain.chunk(groups), strict=True)
    return torch.cat([part * part_gain[None, :, None, None] for part, part_gain in parts]).float(), bias64.float()


def _own_pads(conv: nn.Conv2d) -> Pads:
    if conv.padding == "valid":
        return 0, 0, 0, 0
    if conv.padding == "same":
        totals = [spread * (extent - 1) for spread, extent in zip(conv.dilation, conv.kernel_size, strict=True)]
        (top, bottom), (left, right) = [(total // 2, total - total // 2) for total in totals]
        return top, left, bottom, right
    height, width = _pair(conv.padding)
    return height, width, height, width


def _is_rewritable(conv: nn.ConvTranspose2d, output_shape: tuple[int, ...]) -> bool:
    block = conv.stride[0]
    is_regular = conv.stride[1] == block and _pair(conv.dilation) == (1, 1)
    return is_regular and all(length % block == 0 for length in output_shape[1:])


def _require_float(node: fx.Node) -> None:
    dtype = node.meta["tensor_meta"].dtype
    if not dtype.is_floating_point:
        raise FoldError(
            f"{node.name} ({node.target}) is a tensor of {dtype}: only float ones can be quantised; "
            "compute it outside the network's forward"
        )


def _is_tensor(node: fx.Node) -> bool:
    return hasattr(node.meta.get("tensor_meta"), "shape")


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's tensor, without the batch axis."""
    return tuple(node.meta["tensor_meta"].shape[1:])


def _pair(value: object) -> Size:
    first, second = value if isinstance(value, tuple | list) else (value, value)
    return int(first), int(second)


def _function_name(node: fx.Node) -> str:
    """Return the name of the node's function or tensor method, or an empty string."""
    if node.op == "call_method":
        return str(node.target).rstrip("_")
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""


def _adds_tensors(node: fx.Node) -> bool:
    parts = node.args[:2]
    return (
        len(parts) == 2
        and not node.kwargs
        and all(isinstance(part, fx.Node) and _is_tensor(part) for part in parts)
        and len({_shape(part) for part in parts if isinstance(part, fx.Node)}) == 1
    )


def _scope(node: fx.Node, kind: str) -> str:
    """Return a name for a function's result: the module that calls it, then the kind."""
    stack = list((node.meta.get("nn_module_stack") or {}).keys())
    return ".".join([part for part in (stack[-1] if stack else "", kind.lower()) if part])
