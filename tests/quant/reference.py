"""Every layer kind in plain int64 numpy and Python integers, written from the definitions and not from the simulator.

Quantised tensors are (B, C, H, W) integer arrays.
"""

import ctypes
import ctypes.util
import math
from fractions import Fraction

import numpy as np

from carkp.quant.program import QAdd, QConcat, QConv, QDepthToSpace, QProgram

_libm = ctypes.CDLL(ctypes.util.find_library("m"))
_libm.fmaf.restype = ctypes.c_float
_libm.fmaf.argtypes = [ctypes.c_float] * 3


def fmaf(a, b, c):
    """The C library's fused multiply-add of three float32."""
    return np.float32(_libm.fmaf(a, b, c))


def run_program(program, q, requantisation):
    """Every tensor by name, from the quantised input."""
    tensors = {program.input: q.astype(np.int64)}
    for layer in program.layers:
        tensors[layer.output] = run_layer(program, layer, [tensors[name] for name in layer.inputs], requantisation)
    return tensors


def run_layer(program: QProgram, layer, inputs, requantisation):
    inputs = [q.astype(np.int64) for q in inputs]
    match layer:
        case QConv():
            return _requantised_conv(program, layer, inputs[0], requantisation)
        case QAdd():
            return _add(program, layer, *inputs, requantisation)
        case QConcat():
            return np.concatenate(inputs, axis=1)
        case QDepthToSpace():
            return _depth_to_space(inputs[0], layer.block)


def accumulate(conv, q, zero_point):
    """int64 (B, O, h, w): padded with the zero point, then centred; one tap and one group at a time."""
    top, left, bottom, right = conv.pads
    padded = np.pad(q, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=zero_point) - zero_point
    num_outputs, per_group, kernel_height, kernel_width = conv.weight.shape
    height = (padded.shape[2] - conv.dilation[0] * (kernel_height - 1) - 1) // conv.stride[0] + 1
    width = (padded.shape[3] - conv.dilation[1] * (kernel_width - 1) - 1) // conv.stride[1] + 1
    sums = np.zeros((len(q), num_outputs, height, width), dtype=np.int64) + conv.bias.astype(np.int64)[:, None, None]
    outputs_a_group = num_outputs // conv.groups
    for group in range(conv.groups):
        outputs = slice(group * outputs_a_group, (group + 1) * outputs_a_group)
        channels = slice(group * per_group, (group + 1) * per_group)
        for i in range(kernel_height):
            for j in range(kernel_width):
                y, x = i * conv.dilation[0], j * conv.dilation[1]
                rows = slice(y, y + (height - 1) * conv.stride[0] + 1, conv.stride[0])
                columns = slice(x, x + (width - 1) * conv.stride[1] + 1, conv.stride[1])
                tap = conv.weight[outputs, :, i, j].astype(np.int64)
                sums[:, outputs] += np.einsum("oi,bihw->bohw", tap, padded[:, channels, rows, columns])
    return sums


def multiplier_and_shift(scale):
    """Python integers (M, n) with ``scale = M 2^-n``, M in [2^30, 2^31)."""
    shift = 30 - math.floor(math.log2(scale))
    shift = next(n for n in (shift - 1, shift, shift + 1) if 2**30 <= Fraction(scale) * Fraction(2) ** n < 2**31)
    shift = min(shift, 62)
    return round(Fraction(scale) * Fraction(2) ** shift), shift


def requantise(accumulator, scale, zero_point, clamp, requantisation):
    """One Python integer and one np.float32 -> q."""
    if requantisation == "float32":
        q = round(float(np.float32(accumulator) * scale)) + zero_point
    else:
        multiplier, shift = multiplier_and_shift(float(scale))
        q = (accumulator * multiplier + 2 ** (shift - 1)) // 2**shift + zero_point
    return min(max(q, clamp[0]), clamp[1])


def add(a, b, tensor_a, tensor_b, tensor_out, clamp, requantisation):
    """One pair of Python integers -> q."""
    ratio_a = np.float32(tensor_a.scale) / np.float32(tensor_out.scale)
    ratio_b = np.float32(tensor_b.scale) / np.float32(tensor_out.scale)
    zero_a, zero_b, zero_out = tensor_a.zero_point, tensor_b.zero_point, tensor_out.zero_point
    if requantisation == "float32":
        shift = 128 if tensor_a.dtype == "int8" else 0  # stored as uint8
        a, b, zero_a, zero_b, zero_out = (value + shift for value in (a, b, zero_a, zero_b, zero_out))
        fixed = np.float32(zero_out) - fmaf(ratio_a, zero_a, ratio_b * np.float32(zero_b))
        q = round(float(fmaf(a, ratio_a, fmaf(b, ratio_b, fixed)))) - shift
    else:
        _, shift = multiplier_and_shift(max(float(ratio_a), float(ratio_b)))
        multiplier_a, multiplier_b = (round(Fraction(float(ratio)) * 2**shift) for ratio in (ratio_a, ratio_b))
        wide = (a - zero_a) * multiplier_a + (b - zero_b) * multiplier_b
        q = (wide + 2 ** (shift - 1)) // 2**shift + zero_out
    return min(max(q, clamp[0]), clamp[1])


def _requantised_conv(program, conv, q, requantisation):
    source, result = program.tensors[conv.inputs[0]], program.tensors[conv.output]
    sums = accumulate(conv, q, source.zero_point)
    out = np.empty_like(sums)
    for channel in range(sums.shape[1]):
        scale = np.float32(source.scale) * conv.weight_scale[channel] / np.float32(result.scale)
        for index in np.ndindex(sums.shape[0], *sums.shape[2:]):
            at = (index[0], channel, *index[1:])
            out[at] = requantise(int(sums[at]), scale, result.zero_point, conv.clamp, requantisation)
    return out


def _add(program, layer, a, b, requantisation):
    tensors = [program.tensors[name] for name in (*layer.inputs, layer.output)]
    out = np.empty_like(a)
    for at in np.ndindex(a.shape):
        out[at] = add(int(a[at]), int(b[at]), *tensors, layer.clamp, requantisation)
    return out


def _depth_to_space(q, block):
    batch, channels, height, width = q.shape
    channels //= block * block
    out = np.empty((batch, channels, height * block, width * block), dtype=q.dtype)
    for i in range(block):
        for j in range(block):
            first = (i * block + j) * channels
            out[:, :, i::block, j::block] = q[:, first : first + channels]
    return out
