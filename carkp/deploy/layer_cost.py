"""The cost of a layer of an int8 program on any hardware: products, bytes, and memory in use.

Legend: C H W channels, height and width of a tensor.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from carkp.deploy.hardware import OperatorKind
from carkp.quant.program import FloatOp, Layer, QAdd, QConcat, QConv, QDepthToSpace, QProgram, QTensor

BIAS_BYTES = 4


@dataclass(frozen=True)
class LayerCost:
    """The cost of a layer for one image.

    Attributes:
        macs: number of multiply-accumulates; for float operators, of those with weights.
        weight_bytes: size of weights and biases.
        input_bytes, output_bytes: size of the input and output tensors.
    """

    macs: int
    weight_bytes: int
    input_bytes: int
    output_bytes: int

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.input_bytes + self.output_bytes

    @property
    def intensity(self) -> float:
        """Multiply-accumulates per byte."""
        return self.macs / max(1, self.bytes)


def layer_cost(program: QProgram, layer: Layer) -> LayerCost:
    sources, result = [program.tensors[name] for name in layer.inputs], program.tensors[layer.output]
    inputs, output = sum(tensor_bytes(source) for source in dict.fromkeys(sources)), tensor_bytes(result)
    match layer:
        case QConv():
            weight_bytes = layer.weight.nbytes + BIAS_BYTES * len(layer.bias)
            return LayerCost(layer.weight[0].size * num_elements(result), weight_bytes, inputs, output)
        case FloatOp():
            weight_bytes = sum(weight.nbytes for weight in layer.weights.values())
            return LayerCost(_float_macs(layer, sources[0]), weight_bytes, inputs, output)
    return LayerCost(0, 0, inputs, output)


def operator_kind(layer: Layer) -> OperatorKind | None:
    """Return the kind of an operator; None for a float operator."""
    match layer:
        case QConv():
            return _conv_kind(layer)
        case QAdd():
            return "add"
        case QConcat():
            return "concat"
        case QDepthToSpace():
            return "depth_to_space"
        case FloatOp():
            return None


def num_elements(tensor: QTensor) -> int:
    """Return the number of elements for one image."""
    return math.prod(tensor.shape)


def tensor_bytes(tensor: QTensor) -> int:
    """Return the size in bytes for one image."""
    return num_elements(tensor) * (2 if tensor.is_wide else 1)


def live_bytes(program: QProgram) -> dict[str, int]:
    """Return for each layer the bytes of all tensors alive while it runs, including its inputs and its output.

    A tensor is alive from the layer that makes it to the last layer that reads it; no tensor is computed in place.
    """
    last_use = _last_uses(program)
    alive = {program.input}
    found: dict[str, int] = {}
    for layer in program.layers:
        alive.add(layer.output)
        found[layer.name] = sum(tensor_bytes(program.tensors[name]) for name in alive)
        alive = {name for name in alive if last_use.get(name) != layer.name}
    return found


def _last_uses(program: QProgram) -> Mapping[str, str | None]:
    uses: dict[str, str | None] = {name: layer.name for layer in program.layers for name in layer.inputs}
    return uses | {program.output: None}


def _conv_kind(conv: QConv) -> OperatorKind:
    if conv.groups == 1:
        is_pointwise = conv.weight.shape[2:] == (1, 1) and conv.stride == (1, 1)
        return "pointwise" if is_pointwise else "dense"
    return "depthwise" if conv.weight.shape[:2] == (conv.groups, 1) else "grouped"


def _float_macs(layer: FloatOp, source: QTensor) -> int:
    weight = layer.weights.get("weight")
    if weight is None:
        return 0
    return int(weight.size) * math.prod(source.shape[1:]) if layer.kind == "ConvTranspose" else int(weight.size)
