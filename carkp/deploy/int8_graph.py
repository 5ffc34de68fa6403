"""The graph of a quantised program in standard ONNX operators.

All activations of 8 bits are stored as uint8. For an int8 tensor of the program, 128 is added to the values and to the
zero point. ONNX Runtime's kernels for signed activations are slower. And if a signed tensor with zero point 0 follows
an activation function, ONNX Runtime does not run the convolution in int8 at all.

Tensors of 16 bits are stored unchanged. ONNX Runtime has no integer kernels for them. It runs layers that read or write
them in float, with results that are close to the program's but not equal (:mod:`carkp.deploy.reference_onnx` is equal).

Three things are written in another form than in the program, with the same results, because ONNX Runtime needs it:

- Depth to space is written as transpositions and reshapes. ONNX Runtime computes in NHWC, so it removes the outer
  transpositions.
- A dense convolution with fewer than 16 output channels gets 16, and a Slice after it.
- A dense convolution whose number of input channels is not a multiple of 4 gets empty channels, and a Pad before it.
  Only with such numbers of channels does ONNX Runtime use its direct kernels (MlasConvSym) instead of im2col.

Values in the graph are named after the tensors and layers: ``<tensor>.q``, ``.q_scale`` and ``.q_zero_point``;
``<layer>.weight`` and the like.
"""

import numpy as np
from onnx import GraphProto, TensorProto, ValueInfoProto, helper

from carkp.deploy.float_ops import FloatSite, GraphParts, write_float_op
from carkp.deploy.runtime import INPUT_NAME, OUTPUT_NAME
from carkp.quant.program import (
    Float32Array,
    FloatOp,
    Int8Array,
    Int32Array,
    Layer,
    QAdd,
    QConcat,
    QConv,
    QDepthToSpace,
    QProgram,
    QTensor,
)
from carkp.quant.target import RANGES

SIGNED_OFFSET = 128
"""Offset that is added to an int8 value to store it as uint8."""

KERNEL_OUTPUTS, KERNEL_INPUTS = 16, 4
"""Smallest number of output channels, and divisor of the input channels, of ONNX Runtime's direct kernels on x86."""


def program_to_graph(program: QProgram, batch: int | str) -> GraphProto:
    """Return the graph from float32 ``image`` (B, 3, H, W) to float32 ``heatmaps`` (B, K, h, w).

    ``batch`` is B or its symbol.

    Raises:
        UnsupportedOperatorError: a FloatOp has no ONNX form.
    """
    parts, tensors = GraphParts(), program.tensors
    image, heatmaps = tensors[program.input], tensors[program.output]
    parts.node("QuantizeLinear", [INPUT_NAME, *units(parts, image)], stored(image))
    for layer in program.layers:
        _write_layer(parts, program, layer)
    parts.node("DequantizeLinear", [stored(heatmaps), *units(parts, heatmaps)], OUTPUT_NAME)
    made = [tensors[name] for name in (program.input, *(layer.output for layer in program.layers))]
    return helper.make_graph(
        parts.nodes,
        program.target.name,
        [_value_info(INPUT_NAME, TensorProto.FLOAT, batch, image)],
        [_value_info(OUTPUT_NAME, TensorProto.FLOAT, batch, heatmaps)],
        list(parts.initializers.values()),
        value_info=[_value_info(stored(tensor), stored_type(tensor), batch, tensor) for tensor in made],
    )


def _value_info(name: str, kind: int, batch: int | str, tensor: QTensor) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [batch, *tensor.shape])


def stored(tensor: QTensor) -> str:
    """Return the name of a tensor's stored values."""
    return f"{tensor.name}.q"


def stored_type(tensor: QTensor) -> int:
    """Return ONNX's number of the type in which a tensor is stored."""
    return int(TensorProto.INT16 if tensor.is_wide else TensorProto.UINT8)


def offset_of(tensor: QTensor) -> int:
    """Return the offset that is added to a tensor's values to store them."""
    return SIGNED_OFFSET if tensor.dtype == "int8" else 0


def zero_point_of(parts: GraphParts, tensor: QTensor) -> str:
    """Return the name of a tensor's stored zero point."""
    dtype = np.int16 if tensor.is_wide else np.uint8
    return parts.constant(f"{tensor.name}.q_zero_point", np.asarray(tensor.zero_point + offset_of(tensor), dtype))


def units(parts: GraphParts, tensor: QTensor) -> list[str]:
    """Return the names of a tensor's scale and of its stored zero point."""
    return [
        parts.constant(f"{tensor.name}.q_scale", np.asarray(tensor.scale, np.float32)),
        zero_point_of(parts, tensor),
    ]


def _write_layer(parts: GraphParts, program: QProgram, layer: Layer) -> None:
    sources, result = [program.tensors[name] for name in layer.inputs], program.tensors[layer.output]
    match layer:
        case QConv() if sources[0].is_wide or result.is_wide:
            _write_wide(parts, layer, _float_conv(parts, program, layer), result)
        case QConv():
            _write_conv(parts, layer, sources[0], result)
        case QAdd():
            total = parts.node("Add", _dequantise(parts, layer, sources), f"{layer.name}.sum")
            if result.is_wide:
                _write_wide(parts, layer, total, result)
            else:
                parts.node("QuantizeLinear", [total, *units(parts, result)], _raw(layer, result))
                _write_clip(parts, layer, result)
        case QConcat():
            parts.node("Concat", [stored(source) for source in sources], stored(result), axis=1)
        case QDepthToSpace():
            _write_depth_to_space(parts, layer, sources[0], result)
        case FloatOp():
            has_matrix = "weight" in layer.weights
            values = tuple((_dequantise_channels if has_matrix else _dequantise)(parts, layer, sources))
            shapes = tuple(source.shape for source in sources)
            value = write_float_op(FloatSite(parts, layer, values, shapes, result.shape))
            parts.node("QuantizeLinear", [value, *units(parts, result)], stored(result))


def _write_conv(parts: GraphParts, conv: QConv, source: QTensor, result: QTensor) -> None:
    num_outputs, num_inputs = conv.weight.shape[:2]
    is_dense = conv.groups == 1
    extra_outputs = max(0, KERNEL_OUTPUTS - num_outputs) if is_dense else 0
    extra_inputs = -num_inputs % KERNEL_INPUTS if is_dense else 0
    name, outputs = conv.name, (0, extra_outputs)
    inputs = [
        _padded_channels(parts, conv, source, extra_inputs) if extra_inputs else stored(source),
        *units(parts, source),
        parts.constant(f"{name}.weight", np.pad(conv.weight, (outputs, (0, extra_inputs), (0, 0), (0, 0)))),
        parts.constant(f"{name}.weight_scale", np.pad(conv.weight_scale, outputs, constant_values=1)),
        parts.constant(f"{name}.weight_zero_point", np.zeros(num_outputs + extra_outputs, np.int8)),
        *units(parts, result),
        parts.constant(f"{name}.bias", np.pad(conv.bias, outputs)),
    ]
    attributes = {
        "kernel_shape": conv.weight.shape[2:],
        "strides": conv.stride,
        "pads": conv.pads,
        "dilations": conv.dilation,
        "group": conv.groups,
    }
    raw = _raw(conv, result)
    made = parts.node("QLinearConv", inputs, f"{name}.padded" if extra_outputs else raw, **attributes)
    if extra_outputs:
        bounds = [("start", 0), ("end", num_outputs), ("axis", 1)]
        limits = [parts.constant(f"{name}.slice_{role}", np.array([value], np.int64)) for role, value in bounds]
        parts.node("Slice", [made, *limits], raw)
    _write_clip(parts, conv, result)


def _float_conv(parts: GraphParts, program: QProgram, conv: QConv) -> str:
    """Write a convolution in float of the program's dequantised integers, and return the name of its result."""
    source, name = program.tensors[conv.inputs[0]], conv.name
    (image,) = _dequantise(parts, conv, [source])
    operands = [
        _real(parts, f"{name}.weight", conv.weight, conv.weight_scale),
        _real(parts, f"{name}.bias", conv.bias, np.float32(source.scale) * conv.weight_scale),
    ]
    return parts.node(
        "Conv",
        [image, *operands],
        f"{name}.sum",
        kernel_shape=conv.weight.shape[2:],
        strides=conv.stride,
        pads=conv.pads,
        dilations=conv.dilation,
        group=conv.groups,
    )


def _real(parts: GraphParts, name: str, array: Int8Array | Int32Array, scales: Float32Array) -> str:
    """Write the dequantisation of integers (O, …) with one scale per output channel."""
    given = [
        parts.constant(name, array),
        parts.constant(f"{name}_scale", scales),
        parts.constant(f"{name}_zero_point", np.zeros(len(array), array.dtype)),
    ]
    return parts.node("DequantizeLinear", given, f"{name}_real", axis=0)


def _write_wide(parts: GraphParts, layer: QConv | QAdd, value: str, result: QTensor) -> None:
    """Clip a float value and quantise it to 16 bits; ONNX Runtime cannot clip 16-bit integers."""
    limits = [
        parts.constant(f"{layer.name}.clamp_{role}", np.asarray((limit - result.zero_point) * result.scale, np.float32))
        for role, limit in zip(("min", "max"), layer.clamp, strict=True)
    ]
    clipped = parts.node("Clip", [value, *limits], f"{layer.name}.clipped")
    parts.node("QuantizeLinear", [clipped, *units(parts, result)], stored(result))


def _padded_channels(parts: GraphParts, conv: QConv, source: QTensor, num: int) -> str:
    """Write the input with ``num`` additional channels, all zero."""
    pads = parts.constant(f"{conv.name}.channel_pads", np.array([0, 0, 0, 0, 0, num, 0, 0], np.int64))
    return parts.node("Pad", [stored(source), pads, units(parts, source)[1]], f"{conv.name}.input_padded")


def _write_depth_to_space(parts: GraphParts, layer: QDepthToSpace, source: QTensor, result: QTensor) -> None:
    channels, height, width = result.shape
    block, name = layer.block, layer.name
    blocks = [0, height // block, width // block, block, block, channels]  # 0 keeps the batch
    rows = [0, height, width, channels]
    shapes = [
        parts.constant(f"{name}.{role}_shape", np.array(shape, np.int64))
        for role, shape in (("blocks", blocks), ("rows", rows))
    ]
    nhwc = parts.node("Transpose", [stored(source)], f"{name}.nhwc", perm=(0, 2, 3, 1))
    split = parts.node("Reshape", [nhwc, shapes[0]], f"{name}.blocks")
    ordered = parts.node("Transpose", [split], f"{name}.rows_of_blocks", perm=(0, 1, 3, 2, 4, 5))
    joined = parts.node("Reshape", [ordered, shapes[1]], f"{name}.rows")
    parts.node("Transpose", [joined], stored(result), perm=(0, 3, 1, 2))


def _raw(layer: QConv | QAdd, result: QTensor) -> str:
    """Return the name of a layer's values before its clamp; if uint8 itself is the clamp, that of the result."""
    return stored(result) if _stored_clamp(layer, result) == RANGES["uint8"] else f"{layer.name}.unclamped"


def _write_clip(parts: GraphParts, layer: QConv | QAdd, result: QTensor) -> None:
    raw = _raw(layer, result)
    if raw == stored(result):
        return
    limits = [
        parts.constant(f"{layer.name}.clamp_{role}", np.asarray(limit, np.uint8))
        for role, limit in zip(("min", "max"), _stored_clamp(layer, result), strict=True)
    ]
    parts.node("Clip", [raw, *limits], stored(result))


def _stored_clamp(layer: QConv | QAdd, result: QTensor) -> tuple[int, int]:
    lowest, highest = layer.clamp
    return lowest + offset_of(result), highest + offset_of(result)


def _dequantise(parts: GraphParts, layer: Layer, sources: list[QTensor]) -> list[str]:
    """Dequantise a layer's inputs for this layer only: ONNX Runtime does not fuse values that two layers share."""
    return [
        parts.node("DequantizeLinear", [stored(source), *units(parts, source)], f"{layer.name}.input{index}")
        for index, source in enumerate(sources)
    ]


def _dequantise_channels(parts: GraphParts, layer: Layer, sources: list[QTensor]) -> list[str]:
    """Dequantise a layer's inputs with one scale per channel, all equal.

    After a DequantizeLinear with a single scale, ONNX Runtime (1.31, WeightBiasQuantization) converts the float weights
    of Gemm and ConvTranspose to int8, with one scale for all outputs. With one scale per channel it does not, unless
    the tensor has only one channel.
    """
    values = []
    for index, source in enumerate(sources):
        name, num_channels = f"{layer.name}.input{index}", source.shape[0]
        zero_points = np.full(num_channels, source.zero_point + offset_of(source), np.uint8)
        units = [
            parts.constant(f"{name}_scale", np.full(num_channels, source.scale, np.float32)),
            parts.constant(f"{name}_zero_point", zero_points),
        ]
        values.append(parts.node("DequantizeLinear", [stored(source), *units], name, axis=1))
    return values
