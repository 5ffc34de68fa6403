"""Operators without an int8 form: they are cut out of a traced network, and get their ONNX names if they have one."""

import copy
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from carkp.quant.graph import FloatLayer


@dataclass(frozen=True)
class Operator:
    """An ONNX operator: name, attributes, weights."""

    kind: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)


SIX = {"min": 0.0, "max": 6.0}
HARD_SIGMOID = {"alpha": 1 / 6, "beta": 0.5}

MODULES: dict[type[nn.Module], Callable[[Any], Operator]] = {
    nn.ReLU: lambda _: Operator("Relu"),
    nn.ReLU6: lambda _: Operator("Clip", SIX),
    nn.SiLU: lambda _: Operator("Silu"),
    nn.Sigmoid: lambda _: Operator("Sigmoid"),
    nn.Hardswish: lambda _: Operator("HardSwish"),
    nn.Hardsigmoid: lambda _: Operator("HardSigmoid", HARD_SIGMOID),
    nn.GELU: lambda module: Operator("Gelu" if module.approximate == "none" else "torch.gelu_tanh"),
    nn.Tanh: lambda _: Operator("Tanh"),
    nn.LeakyReLU: lambda module: Operator("LeakyRelu", {"alpha": module.negative_slope}),
    nn.ELU: lambda module: Operator("Elu", {"alpha": module.alpha}),
    nn.AdaptiveAvgPool2d: lambda module: _adaptive_pool(module.output_size),
    nn.MaxPool2d: lambda module: Operator("MaxPool", _window(module) | {"dilations": _pair(module.dilation)}),
    nn.AvgPool2d: lambda module: _average_pool(module),
    nn.BatchNorm2d: lambda module: _batch_norm(module),
    nn.Linear: lambda module: Operator("Gemm", {}, _with_bias(module)),
    nn.Flatten: lambda module: Operator("Flatten", {"axis": module.start_dim}),
    nn.ConvTranspose2d: lambda module: Operator(
        "ConvTranspose",
        {
            "strides": list(module.stride),
            "pads": [*module.padding, *module.padding],
            "output_padding": list(module.output_padding),
            "dilations": list(module.dilation),
            "group": module.groups,
        },
        _with_bias(module),
    ),
}

UNARY: dict[Any, Operator] = {
    torch.relu: Operator("Relu"),
    F.relu: Operator("Relu"),
    "relu": Operator("Relu"),
    F.relu6: Operator("Clip", SIX),
    torch.sigmoid: Operator("Sigmoid"),
    "sigmoid": Operator("Sigmoid"),
    F.sigmoid: Operator("Sigmoid"),
    F.silu: Operator("Silu"),
    F.hardswish: Operator("HardSwish"),
    F.hardsigmoid: Operator("HardSigmoid", HARD_SIGMOID),
    F.gelu: Operator("Gelu"),
    torch.tanh: Operator("Tanh"),
    "tanh": Operator("Tanh"),
}

BINARY: dict[Any, str] = {
    operator.add: "Add",
    torch.add: "Add",
    operator.mul: "Mul",
    torch.mul: "Mul",
    operator.imul: "Mul",
    operator.sub: "Sub",
    torch.sub: "Sub",
    operator.truediv: "Div",
    torch.div: "Div",
}


IN_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


def float_layer(traced: fx.GraphModule, node: fx.Node) -> tuple[FloatLayer, list[fx.Node]]:
    """Return the operator at ``node`` as a layer, and the nodes of the tensors that it reads.

    The layer contains everything else that the operator needs.
    """
    graph, copies, sources = fx.Graph(), dict[fx.Node, fx.Node](), list[fx.Node]()

    def copied(other: fx.Node) -> fx.Node:
        if other not in copies:
            if other is not node and (other.op == "placeholder" or hasattr(other.meta.get("tensor_meta"), "shape")):
                copies[other] = graph.placeholder(f"input_{len(sources)}")
                sources.append(other)
            else:
                for needed in other.all_input_nodes:
                    copied(needed)
                copies[other] = graph.node_copy(other, lambda needed: copies[needed])
        return copies[other]

    graph.output(copied(node))
    graph.lint()
    found = describe(traced, node)
    module = _out_of_place(copy.deepcopy(fx.GraphModule(traced, graph)))
    return FloatLayer(module, found.kind, found.attributes), sources


def float_weights(layer: FloatLayer) -> dict[str, Tensor]:
    """Return the operator's current weights by their role; loading or training a network changes them."""
    (output,) = [node for node in layer.module.graph.nodes if node.op == "output"]
    return dict(describe(layer.module, output.args[0]).weights)


def _out_of_place(module: fx.GraphModule) -> fx.GraphModule:
    """Make all operators of ``module`` out of place: other layers may read the same input."""
    for child in module.modules():
        if hasattr(child, "inplace"):
            setattr(child, "inplace", False)  # noqa: B010 - no attribute that nn.Module knows
    for node in module.graph.nodes:
        if "inplace" in node.kwargs:
            node.kwargs = {**node.kwargs, "inplace": False}
        if node.op == "call_method":
            node.target = node.target.rstrip("_")
        if node.op == "call_function":
            node.target = IN_PLACE.get(node.target, node.target)
    module.recompile()
    return module


def describe(traced: fx.GraphModule, node: fx.Node) -> Operator:
    """Return the ONNX operator at ``node``; an unknown one gets torch's name and no attributes."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        make = MODULES.get(type(module))
        return make(module) if make else Operator(type(module).__name__)
    tensors = [argument for argument in node.args if isinstance(argument, fx.Node)]
    others = [*node.args[len(tensors) :], *(value for name, value in node.kwargs.items() if name != "inplace")]
    if node.target in UNARY and len(tensors) == 1 and all(isinstance(value, bool) for value in others):
        return UNARY[node.target]
    if node.target in BINARY and len(tensors) == 2 and not others:
        return Operator(BINARY[node.target])
    if node.target in ("mean", torch.mean) and (found := _mean(node)) is not None:
        return found
    if node.target is F.adaptive_avg_pool2d:
        return _adaptive_pool(node.args[1])
    return Operator(f"torch.{getattr(node.target, '__name__', str(node.target))}")


def _mean(node: fx.Node) -> Operator | None:
    axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    keep = node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False)
    if axes is None:
        return None
    dims = [axes] if isinstance(axes, int) else list(axes)  # type: ignore[arg-type]
    return Operator("ReduceMean", {"axes": dims, "keepdims": int(bool(keep))})


def _adaptive_pool(size: object) -> Operator:
    is_global = size in (1, (1, 1), [1, 1])
    return Operator("GlobalAveragePool") if is_global else Operator("torch.adaptive_avg_pool2d")


def _average_pool(pool: nn.AvgPool2d) -> Operator:
    if pool.divisor_override is not None:
        return Operator("torch.avg_pool2d_with_divisor")
    return Operator("AveragePool", _window(pool) | {"count_include_pad": int(pool.count_include_pad)})


def _batch_norm(norm: nn.BatchNorm2d) -> Operator:
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        return Operator("torch.batch_norm_of_the_batch")
    scale = norm.weight if norm.affine else torch.ones_like(mean)
    bias = norm.bias if norm.affine else torch.zeros_like(mean)
    return Operator(
        "BatchNormalization", {"epsilon": norm.eps}, {"scale": scale, "bias": bias, "mean": mean, "var": var}
    )


def _window(module: Any) -> dict[str, Any]:
    padding = _pair(module.padding)
    return {
        "kernel_shape": _pair(module.kernel_size),
        "strides": _pair(module.stride),
        "pads": [*padding, *padding],
        "ceil_mode": int(module.ceil_mode),
    }


def _pair(value: Any) -> list[int]:
    return [int(part) for part in (value if isinstance(value, tuple | list) else (value, value))]


def _with_bias(module: Any) -> dict[str, Tensor]:
    return {"weight": module.weight} | ({"bias": module.bias} if module.bias is not None else {})
