"""Export of a quantised program with fixed-point requantisation as an ONNX file with explicit integer arithmetic.

In ONNX Runtime, the int8 file of an NPU target runs with ONNX Runtime's own requantisation, which differs from the
target's. The file written here is for checks, not for speed. ConvInteger computes the sums, and standard operators on
int64 multiply, round, shift and clamp as the target does. So an independent program executes the target's arithmetic.
The simulator is not used: the writer only computes constants, and it computes them here, as whole numbers.

    q = clamp(floor((acc M + 2^(n-1)) / 2^n) + zero_point)

ONNX divides integers towards zero. So 2^62, a multiple of 2^n, is added to every dividend to make it positive, and
2^(62-n) is subtracted from the quotient. Activations of 8 bits are stored as uint8, as in
:mod:`carkp.deploy.int8_graph`. Weights are stored as uint8 too, with 128 added, because ONNX Runtime's kernels for
unsigned bytes are exact on every CPU. Tensors of 16 bits are stored as int32; a convolution processes their two bytes
separately, ``sum w x = 256 sum w high + sum w low``.

Legend: O output channels; M, n multiplier and shift of a requantisation scale, as in :mod:`carkp.quant.target`.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper

from carkp import disk
from carkp.deploy.float_ops import GraphParts
from carkp.deploy.int8_graph import SIGNED_OFFSET, offset_of, stored, units, zero_point_of
from carkp.deploy.int8_onnx import IR_VERSION, OPSET
from carkp.deploy.notes import ORIGIN_PREFIX, TARGET_KEY
from carkp.deploy.runtime import INPUT_NAME, OUTPUT_NAME
from carkp.quant.program import (
    FloatOp,
    Layer,
    QAdd,
    QConcat,
    QConv,
    QDepthToSpace,
    QProgram,
    QTensor,
    accumulator_bounds,
    check_program,
    requantise_scales,
)

Int64Array = NDArray[np.int64]

MULTIPLIER_BITS, MAX_SHIFT = 31, 62
OFFSET = 1 << 62
"""Number added to make every dividend positive; a multiple of every divisor."""

INT64_END = 1 << 63
BYTE, WIDE_OFFSET = 1 << 8, 1 << 15


class NoReferenceError(ValueError):
    """A program has no such file; the message says why."""


def has_reference(program: QProgram) -> bool:
    """Return whether ``program`` has a reference file: it must use fixed point and have only integer layers.

    For a target that requantises in float32, the int8 file itself has the target's arithmetic.
    """
    is_whole = not any(isinstance(layer, FloatOp) for layer in program.layers)
    return program.target.requantisation == "fixed_point" and is_whole


def save_reference(program: QProgram, path: Path | str) -> None:
    """Write the reference file for any batch size; an existing file is replaced only by the complete new one.

    The folder is created.

    Raises:
        ProgramError: the program is inconsistent.
        NoReferenceError: the program has no such file, or a sum does not fit in int64.
    """
    model = reference_model(program)
    onnx.checker.check_model(model, full_check=True)
    disk.write_atomic(Path(path), model.SerializeToString(deterministic=True))


def reference_model(program: QProgram) -> ModelProto:
    """Return the model from float32 ``image`` (B, 3, H, W) to float32 ``heatmaps`` (B, K, h, w).

    Raises:
        ProgramError, NoReferenceError: as ``save_reference``.
    """
    if not has_reference(program):
        raise NoReferenceError(
            f"{program.target.name}: only a program of integer layers and fixed-point requantisation has a reference "
            "file"
        )
    check_program(program)
    model = helper.make_model(
        _graph(program), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="carkp"
    )
    origin = {ORIGIN_PREFIX + name: value for name, value in program.origin.items()}
    helper.set_model_props(model, {TARGET_KEY: program.target.name, **origin})
    return model


def _graph(program: QProgram) -> GraphProto:
    parts, tensors = GraphParts(), program.tensors
    image, heatmaps = tensors[program.input], tensors[program.output]
    parts.node("QuantizeLinear", [INPUT_NAME, *units(parts, image)], stored(image))
    for layer in program.layers:
        _write_layer(parts, program, layer)
    parts.node("DequantizeLinear", [stored(heatmaps), *_real_units(parts, heatmaps)], OUTPUT_NAME)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *tensor.shape])
        for name, tensor in ((INPUT_NAME, image), (OUTPUT_NAME, heatmaps))
    ]
    return helper.make_graph(
        parts.nodes, f"{program.target.name} reference", ends[:1], ends[1:], list(parts.initializers.values())
    )


def _write_layer(parts: GraphParts, program: QProgram, layer: Layer) -> None:
    sources, result = [program.tensors[name] for name in layer.inputs], program.tensors[layer.output]
    match layer:
        case QConv():
            _write_conv(parts, program, layer, sources[0], result)
        case QAdd():
            _write_add(parts, layer, sources, result)
        case QConcat():
            parts.node("Concat", [stored(source) for source in sources], stored(result), axis=1)
        case QDepthToSpace():
            _write_depth_to_space(parts, layer, sources[0], result)
        case FloatOp():
            raise AssertionError(f"{layer.name} should have been refused")


def _write_conv(parts: GraphParts, program: QProgram, conv: QConv, source: QTensor, result: QTensor) -> None:
    name = conv.name
    weight = (conv.weight.astype(np.int16) + SIGNED_OFFSET).astype(np.uint8)
    operands = [
        parts.constant(f"{name}.weight", weight),
        parts.constant("weight_zero_point", np.asarray(SIGNED_OFFSET, np.uint8)),
    ]
    if source.is_wide:
        high, low = (
            _integer_conv(parts, conv, bytes_, _byte(parts, zero), operands, role)
            for role, bytes_, zero in zip(
                ("high", "low"), _two_bytes(parts, conv, source), (SIGNED_OFFSET, 0), strict=True
            )
        )
        shifted = parts.node("Mul", [high, _scalar(parts, "byte", BYTE)], f"{name}.high_shifted")
        wide = parts.node("Add", [shifted, low], f"{name}.wide")
    else:
        wide = _integer_conv(parts, conv, stored(source), zero_point_of(parts, source), operands, "wide")
    pairs = [fixed_point(float(scale)) for scale in requantise_scales(program, conv)]
    multipliers, shifts = ([pair[index] for pair in pairs] for index in (0, 1))
    for bound, multiplier, shift in zip(accumulator_bounds(program, conv).tolist(), multipliers, shifts, strict=True):
        if bound * multiplier > OFFSET or bound * multiplier + OFFSET + (1 << (shift - 1)) >= INT64_END:
            raise NoReferenceError(f"{name}: its sums, multiplied by a multiplier, do not fit in 64 bits")
    biased = parts.node("Add", [wide, _channels(parts, f"{name}.bias", conv.bias.tolist())], f"{name}.accumulators")
    product = parts.node("Mul", [biased, _channels(parts, f"{name}.multipliers", multipliers)], f"{name}.products")
    _write_rounding(parts, conv, product, shifts, result)


def _integer_conv(
    parts: GraphParts, conv: QConv, source: str, zero_point: str, operands: Sequence[str], role: str
) -> str:
    """Write the sums (B, O, h, w) over unsigned bytes, in int64."""
    weight, weight_zero_point = operands
    sums = parts.node(
        "ConvInteger",
        [source, weight, zero_point, weight_zero_point],
        f"{conv.name}.{role}_sums",
        kernel_shape=conv.weight.shape[2:],
        strides=conv.stride,
        pads=conv.pads,
        dilations=conv.dilation,
        group=conv.groups,
    )
    return parts.node("Cast", [sums], f"{conv.name}.{role}", to=TensorProto.INT64)


def _two_bytes(parts: GraphParts, conv: QConv, source: QTensor) -> tuple[str, str]:
    """Write the high and the low byte of ``x + 2^15``, where x has 16 bits.

    With the zero points 128 for the high and 0 for the low byte, ``256 high + low = x``.
    """
    name = f"{conv.name}.input"
    offset, base = (
        parts.constant(role, np.asarray(value, np.int32))
        for role, value in (("wide_offset", WIDE_OFFSET), ("wide_base", BYTE))
    )
    raised = parts.node("Add", [stored(source), offset], f"{name}_raised")
    high = parts.node("Div", [raised, base], f"{name}_high")
    low = parts.node("Sub", [raised, parts.node("Mul", [high, base], f"{name}_high_shifted")], f"{name}_low")
    first, second = (parts.node("Cast", [value], f"{value}_byte", to=TensorProto.UINT8) for value in (high, low))
    return first, second


def _write_add(parts: GraphParts, layer: QAdd, sources: Sequence[QTensor], result: QTensor) -> None:
    """Write ``floor(((a - za) Ma + (b - zb) Mb + 2^(n-1)) / 2^n) + zo``, with the shift of the larger ratio."""
    ratios = [float(np.float32(source.scale) / np.float32(result.scale)) for source in sources]
    _, shift = fixed_point(max(ratios))
    terms = []
    for index, (source, ratio) in enumerate(zip(sources, ratios, strict=True)):
        name = f"{layer.name}.{'ab'[index]}"
        wide = parts.node("Cast", [stored(source)], f"{name}_wide", to=TensorProto.INT64)
        centred = parts.node(
            "Sub", [wide, _scalar(parts, f"{name}_zero_point", _stored_zero(source))], f"{name}_centred"
        )
        multiplier = _scalar(parts, f"{name}_multiplier", round(Fraction(ratio) * (1 << shift)))
        terms.append(parts.node("Mul", [centred, multiplier], f"{name}_product"))
    total = parts.node("Add", terms, f"{layer.name}.products")
    _write_rounding(parts, layer, total, [shift], result)


def _write_rounding(
    parts: GraphParts, layer: QConv | QAdd, products: str, shifts: Sequence[int], result: QTensor
) -> None:
    """Write the rounding from products to stored values. ``shifts``: one for every channel, or one for all."""
    name, zero = layer.name, _stored_zero(result)
    halves = _channels(parts, f"{name}.halves", [OFFSET + (1 << (shift - 1)) for shift in shifts])
    divisors = _channels(parts, f"{name}.divisors", [1 << shift for shift in shifts])
    moves = _channels(parts, f"{name}.moves", [(OFFSET >> shift) - zero for shift in shifts])
    raised = parts.node("Add", [products, halves], f"{name}.raised")
    quotients = parts.node("Div", [raised, divisors], f"{name}.quotients")
    values = parts.node("Sub", [quotients, moves], f"{name}.values")
    offset = offset_of(result)
    limits = [
        _scalar(parts, f"{name}.clamp_{role}", limit + offset)
        for role, limit in zip(("min", "max"), layer.clamp, strict=True)
    ]
    clamped = parts.node("Clip", [values, *limits], f"{name}.clamped")
    parts.node("Cast", [clamped], stored(result), to=TensorProto.INT32 if result.is_wide else TensorProto.UINT8)


def _write_depth_to_space(parts: GraphParts, layer: QDepthToSpace, source: QTensor, result: QTensor) -> None:
    channels, height, width = result.shape
    block, name = layer.block, layer.name
    split = np.array([0, block, block, channels, height // block, width // block], np.int64)  # 0 keeps the batch
    joined = np.array([0, channels, height, width], np.int64)
    blocks = parts.node("Reshape", [stored(source), parts.constant(f"{name}.split", split)], f"{name}.blocks")
    ordered = parts.node("Transpose", [blocks], f"{name}.ordered", perm=(0, 3, 4, 1, 5, 2))
    parts.node("Reshape", [ordered, parts.constant(f"{name}.joined", joined)], stored(result))


def fixed_point(scale: float) -> tuple[int, int]:
    """Return the 31-bit multiplier M and the shift n with ``M / 2^n`` nearest to ``scale``; n is at most 62.

    M is rounded half to even.

    Raises:
        NoReferenceError: the scale is not finite or not positive, or so large that n would be below 1.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise NoReferenceError(f"requantisation scales must be finite and positive, got {scale}")
    shift = min(MULTIPLIER_BITS - math.frexp(scale)[1], MAX_SHIFT)
    if shift < 1:
        raise NoReferenceError(f"requantisation scale {scale} is too large: fixed point needs less than 2^30")
    return round(Fraction(scale) * (1 << shift)), shift


def _real_units(parts: GraphParts, tensor: QTensor) -> list[str]:
    """Return the names of scale and zero point for DequantizeLinear, which takes no zero point with int32."""
    return units(parts, tensor)[: 1 if tensor.is_wide else 2]


def _byte(parts: GraphParts, value: int) -> str:
    return parts.constant(f"byte_{value}", np.asarray(value, np.uint8))


def _channels(parts: GraphParts, name: str, values: Sequence[int]) -> str:
    """Add an int64 constant (1, O, 1, 1) and return its name."""
    return parts.constant(name, np.array(values, np.int64).reshape(1, -1, 1, 1))


def _scalar(parts: GraphParts, name: str, value: int) -> str:
    return parts.constant(name, np.asarray(value, np.int64))


def _stored_zero(tensor: QTensor) -> int:
    """Return the zero point of a tensor's stored values."""
    return tensor.zero_point + offset_of(tensor)
