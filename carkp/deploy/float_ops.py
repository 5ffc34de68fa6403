"""Operators without an int8 form, written in float as standard ONNX operators of opset 18.

Attributes have ONNX's names, and count the batch as axis 0. Some inputs of opset 18 operators are attributes here:
``axes`` of ReduceMean, ``min`` and ``max`` of Clip. A missing attribute has ONNX's default; if torch has another
default, the attribute is required. Weights have torch's layout.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from carkp.quant.program import FloatOp

Shape = tuple[int, ...]

FLOAT_ATTRIBUTES = ("alpha", "beta", "epsilon")
"""Attributes that must be floats in ONNX, even if JSON has an integer."""


class UnsupportedOperatorError(ValueError):
    """A FloatOp has no ONNX form; the message names the layer and says what to do."""


class GraphParts:
    """Nodes and initializers of a graph that is being built. Every node has one output, and is named after it."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add an initializer if there is none of this name, and return its name."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        return name


@dataclass(frozen=True)
class FloatSite:
    """A float operator and the graph that it is written to.

    Attributes:
        values: names of its float inputs.
        source_shapes: shapes of the inputs, without the batch.
        output_shape: shape of the output, without the batch.
    """

    parts: GraphParts
    layer: FloatOp
    values: tuple[str, ...]
    source_shapes: tuple[Shape, ...]
    output_shape: Shape

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        output = f"{self.layer.name}.value{len(self.parts.nodes)}"
        return self.parts.node(kind, inputs, output, **attributes)

    def constant(self, role: str, value: NDArray[Any]) -> str:
        return self.parts.constant(f"{self.layer.name}.constant_{role}", value)

    def scalar(self, role: str, value: float) -> str:
        return self.constant(role, np.asarray(value, np.float32))

    def weights(self, *roles: str) -> list[str]:
        """Add the weights of these roles that the layer has, and return their names in this order."""
        present = [role for role in roles if role in self.layer.weights]
        return [self.parts.constant(f"{self.layer.name}.{role}", self.layer.weights[role]) for role in present]

    def attributes(self) -> dict[str, Any]:
        """Return the layer's attributes with the types that ONNX needs; None means absent."""
        given = {name: value for name, value in self.layer.attributes.items() if value is not None}
        return {name: float(value) if name in FLOAT_ATTRIBUTES else value for name, value in given.items()}

    def error(self, problem: str) -> UnsupportedOperatorError:
        return UnsupportedOperatorError(f"{self.layer.name}: {self.layer.kind}: {problem}")


@dataclass(frozen=True)
class FloatKind:
    """The inputs, attributes and weights of a kind of float operator.

    ``write`` writes the operator and returns the name of its result. ``num_inputs`` 0 means any number.
    """

    write: Callable[[FloatSite], str]
    num_inputs: int = 1
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    required_weights: tuple[str, ...] = ()
    optional_weights: tuple[str, ...] = ()


def write_float_op(site: FloatSite) -> str:
    """Append the nodes of ``site.layer`` and return the name of the float result.

    Raises:
        UnsupportedOperatorError: the kind is unknown, or attributes, weights or inputs are unknown, missing or invalid.
    """
    layer = site.layer
    if layer.kind not in FLOAT_KINDS:
        raise UnsupportedOperatorError(
            f"{layer.name}: no ONNX form of operator {layer.kind!r} is known. Replace it in the network with one of "
            f"{', '.join(FLOAT_KINDS)}, or add it to FLOAT_KINDS in carkp/deploy/float_ops.py"
        )
    kind = FLOAT_KINDS[layer.kind]
    _check_names(site, "attributes", list(site.attributes()), kind.required, kind.optional)
    _check_names(site, "weights", list(layer.weights), kind.required_weights, kind.optional_weights)
    bad = [name for name, weight in layer.weights.items() if weight.dtype != np.float32]
    if bad:
        raise site.error(f"weights must be float32; wrong ones: {bad}")
    if kind.num_inputs and len(site.values) != kind.num_inputs:
        raise site.error(f"takes {kind.num_inputs} inputs, got {list(layer.inputs)}")
    return kind.write(site)


def _check_names(
    site: FloatSite, what: str, found: list[str], required: tuple[str, ...], optional: tuple[str, ...]
) -> None:
    missing = [name for name in required if name not in found]
    unknown = [name for name in found if name not in (*required, *optional)]
    if missing or unknown:
        raise site.error(
            f"{what} missing {missing}, unknown {unknown}; it needs {list(required)} and may have {list(optional)}"
        )


def _write_plain(site: FloatSite) -> str:
    """Write one node whose operator is the kind."""
    return site.node(site.layer.kind, site.values, **site.attributes())


def _write_clip(site: FloatSite) -> str:
    limits = site.attributes()
    bounds = [site.scalar(role, limits[role]) if role in limits else "" for role in ("min", "max")]
    return site.node("Clip", [*site.values, *bounds])


def _write_silu(site: FloatSite) -> str:
    """Write the input times its sigmoid."""
    return site.node("Mul", [*site.values, site.node("Sigmoid", site.values)])


def _write_gelu(site: FloatSite) -> str:
    """Write the exact form, ``x / 2 * (1 + erf(x / sqrt(2)))``, because opset 18 has no Gelu."""
    if site.attributes().get("approximate", "none") != "none":
        raise site.error("only approximate='none' is supported; use nn.GELU() without an approximation")
    root = site.node("Div", [*site.values, site.scalar("root", np.sqrt(2.0))])
    bell = site.node("Add", [site.node("Erf", [root]), site.scalar("one", 1.0)])
    half = site.node("Mul", [*site.values, site.scalar("half", 0.5)])
    return site.node("Mul", [half, bell])


def _write_binary(site: FloatSite) -> str:
    """Write an operator on two tensors, or a tensor and a constant.

    Weight ``a`` is the left operand, weight ``b`` the right one.
    """
    operands = [*site.weights("a"), *site.values, *site.weights("b")]
    if len(operands) != 2:
        raise site.error(f"takes two operands (inputs, or one input and weight 'a' or 'b'), got {operands}")
    return site.node(site.layer.kind, operands)


def _write_reduce_mean(site: FloatSite) -> str:
    attributes = site.attributes()
    axes = site.constant("axes", np.asarray(attributes.pop("axes"), np.int64))
    return site.node("ReduceMean", [*site.values, axes], **attributes)


def _write_batch_norm(site: FloatSite) -> str:
    inputs = [*site.values, *site.weights("scale", "bias", "mean", "var")]
    return site.node("BatchNormalization", inputs, **site.attributes())


def _write_gemm(site: FloatSite) -> str:
    """Write input times weight^T plus bias, with weight (outputs, inputs), as in torch.nn.Linear."""
    inputs = [*site.values, *site.weights("weight", "bias")]
    return site.node("Gemm", inputs, **{"transB": 1, **site.attributes()})


def _write_conv_transpose(site: FloatSite) -> str:
    return site.node("ConvTranspose", [*site.values, *site.weights("weight", "bias")], **site.attributes())


def _write_resize(site: FloatSite) -> str:
    """Write an enlargement by whole factors; the default coordinates are those of torch without align_corners."""
    attributes = site.attributes()
    before, after = site.source_shapes[0], site.output_shape
    if len(before) != len(after) or any(new % old for old, new in zip(before, after, strict=True)):
        raise site.error(f"only integer factors are supported, not {before} to {after}")
    factors = [1.0, *(new / old for old, new in zip(before, after, strict=True))]
    if list(attributes.pop("scales", factors)) != factors:
        raise site.error(f"scales {site.attributes()['scales']} contradict the shapes, {before} to {after}")
    if attributes["mode"] not in ("nearest", "linear"):
        raise site.error(f"mode must be 'nearest' or 'linear', got {attributes['mode']!r}")
    if attributes["mode"] == "nearest":
        attributes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", **attributes}
    return site.node(
        "Resize", [*site.values, "", site.constant("scales", np.asarray(factors, np.float32))], **attributes
    )


def _write_reshape(site: FloatSite) -> str:
    """Write a reshape to the shape of the output tensor; the 0 in front keeps the batch."""
    given = list(site.attributes().get("shape", [0, *site.output_shape]))[1:]
    if len(given) != len(site.output_shape) or any(
        want not in (-1, got) for want, got in zip(given, site.output_shape, strict=True)
    ):
        raise site.error(
            f"shape {given} after the batch dimension contradicts the output tensor's, {site.output_shape}"
        )
    return site.node("Reshape", [*site.values, site.constant("shape", np.asarray([0, *site.output_shape], np.int64))])


_POOL = ("strides", "pads", "ceil_mode")
_BINARY = FloatKind(_write_binary, num_inputs=0, optional_weights=("a", "b"))

FLOAT_KINDS: dict[str, FloatKind] = {
    "Relu": FloatKind(_write_plain),
    "Clip": FloatKind(_write_clip, optional=("min", "max")),
    "LeakyRelu": FloatKind(_write_plain, optional=("alpha",)),
    "Elu": FloatKind(_write_plain, optional=("alpha",)),
    "Sigmoid": FloatKind(_write_plain),
    "HardSigmoid": FloatKind(_write_plain, required=("alpha", "beta")),
    "HardSwish": FloatKind(_write_plain),
    "Silu": FloatKind(_write_silu),
    "Gelu": FloatKind(_write_gelu, optional=("approximate",)),
    "Tanh": FloatKind(_write_plain),
    "Softmax": FloatKind(_write_plain, required=("axis",)),
    "Mul": _BINARY,
    "Sub": _BINARY,
    "Div": _BINARY,
    "Add": _BINARY,
    "ReduceMean": FloatKind(_write_reduce_mean, required=("axes",), optional=("keepdims",)),
    "GlobalAveragePool": FloatKind(_write_plain),
    "MaxPool": FloatKind(_write_plain, required=("kernel_shape",), optional=(*_POOL, "dilations")),
    "AveragePool": FloatKind(
        _write_plain, required=("kernel_shape", "count_include_pad"), optional=_POOL
    ),  # torch counts the padding, ONNX does not
    "BatchNormalization": FloatKind(
        _write_batch_norm, optional=("epsilon",), required_weights=("scale", "bias", "mean", "var")
    ),
    "Gemm": FloatKind(
        _write_gemm, optional=("alpha", "beta", "transB"), required_weights=("weight",), optional_weights=("bias",)
    ),
    "Resize": FloatKind(
        _write_resize, required=("mode",), optional=("scales", "coordinate_transformation_mode", "nearest_mode")
    ),
    "Transpose": FloatKind(_write_plain, required=("perm",)),
    "Reshape": FloatKind(_write_reshape, optional=("shape",)),
    "Flatten": FloatKind(_write_plain, optional=("axis",)),
    "ConvTranspose": FloatKind(
        _write_conv_transpose,
        optional=("strides", "pads", "output_padding", "group", "dilations", "kernel_shape"),
        required_weights=("weight",),
        optional_weights=("bias",),
    ),
}
"""All kinds of FloatOp that can be written."""
