"""Conversion of a calibrated network to an int8 program."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.float_layers import float_weights
from carkp.quant.graph import (
    BOUNDS,
    IMAGE,
    Activation,
    AddLayer,
    ConcatLayer,
    ConvLayer,
    DepthToSpaceLayer,
    FloatLayer,
    Step,
)
from carkp.quant.program import FloatOp, Layer, QAdd, QConcat, QConv, QDepthToSpace, QProgram, QTensor, check_program
from carkp.quant.target import RANGES


def convert(net: FakeQuantNet, origin: Mapping[str, str]) -> QProgram:
    """Return the int8 program of a calibrated network; ``origin`` is stored in it.

    An operator without an int8 form becomes a :class:`FloatOp`.
    """
    names = (IMAGE, *(step.name for step in net.graph.steps))
    program = QProgram(
        target=net.target,
        input=IMAGE,
        output=net.graph.output,
        tensors={name: _tensor(net, name) for name in names},
        layers=tuple(_layer(net, step) for step in net.graph.steps),
        origin=dict(origin),
    )
    check_program(program)
    return program


def _tensor(net: FakeQuantNet, name: str) -> QTensor:
    quantiser = net.quantiser(name)
    return QTensor(
        name=name,
        shape=net.graph.shapes[name],
        dtype=quantiser.grid.dtype,
        scale=float(quantiser.scale),
        zero_point=quantiser.grid.zero_point,
    )


def _layer(net: FakeQuantNet, step: Step) -> Layer:
    layer = net.graph.layers[step.name]
    match layer:
        case ConvLayer():
            return _conv(net, step, layer)
        case AddLayer():
            first, second = step.inputs
            return QAdd(step.name, (first, second), step.name, _clamp(net, step.name, layer.activation))
        case ConcatLayer():
            return QConcat(step.name, step.inputs, step.name)
        case DepthToSpaceLayer():
            return QDepthToSpace(step.name, (step.inputs[0],), step.name, layer.block)
        case FloatLayer():
            weights = {name: _array(value) for name, value in float_weights(layer).items()}
            return FloatOp(step.name, layer.kind, step.inputs, step.name, layer.attributes, weights)
    raise AssertionError(f"{step.name}: {type(layer).__name__} is not a layer of a folded network")


def _conv(net: FakeQuantNet, step: Step, layer: ConvLayer) -> QConv:
    quantiser = net.weight_quantiser(step.name)
    scales = net.weight_scales(step, layer)
    weight = quantiser.integers(layer.weight.detach(), scales)
    bias_scales = net.quantiser(step.inputs[0]).scale.double() * scales.double()
    bias = torch.round((layer.bias.detach() + quantiser.bias_shift).double() / bias_scales)
    return QConv(
        name=step.name,
        inputs=(step.inputs[0],),
        output=step.name,
        weight=weight.to(torch.int8).cpu().contiguous().numpy(),
        weight_scale=_array(scales),
        bias=bias.to(torch.int32).cpu().numpy(),
        stride=layer.stride,
        pads=layer.pads,
        dilation=layer.dilation,
        groups=layer.groups,
        clamp=_clamp(net, step.name, layer.activation),
    )


def _clamp(net: FakeQuantNet, name: str, activation: Activation) -> tuple[int, int]:
    """Return the activation's bounds as quantised values of the tensor.

    Equalisation raises the upper bounds of channels. Raised bounds lie above the tensor's threshold, so they are not
    needed here.
    """
    quantiser = net.quantiser(name)
    lowest, highest = RANGES[quantiser.grid.dtype]
    low, high = BOUNDS[activation]
    scale, zero_point = float(quantiser.scale), quantiser.grid.zero_point
    smallest = lowest if np.isinf(low) else max(lowest, zero_point + round(low / scale))
    largest = highest if np.isinf(high) else min(highest, zero_point + round(high / scale))
    return smallest, largest


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().contiguous().numpy().copy()
