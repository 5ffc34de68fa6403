"""Multipliers and tables of sums that requantisation needs, for each arithmetic of :data:`Requantisation`.

``float32`` is the arithmetic of ONNX Runtime, ``fixed_point`` that of NPUs, the others are those of LiteRT. The kernels
of the simulator use them to requantise accumulators.

Legend: O output channels; q quantised values.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from carkp.quant.program import Float32Array, QTensor
from carkp.quant.target import Requantisation

Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]

MULTIPLIER_BITS = 31
NUM_LEVELS = 256
MAX_SHIFT = 62
TFLITE_ADD_BITS = 20
"""Left shift of addends in TensorFlow Lite's int8 ADD."""

XNNPACK_ADD_BITS = 20
"""Position of the highest bit of the larger multiplier in XNNPACK's int8 addition."""


class FixedPoint(NamedTuple):
    """Scales as ``multipliers * 2**-shifts``, both (O,) int64; multipliers are in [2^30, 2^31) where shifts < 62."""

    multipliers: Int64Array
    shifts: Int64Array


def fixed_point_multipliers(scales: NDArray[np.floating[Any]]) -> FixedPoint:
    """Return the 31-bit multipliers and right shifts nearest to ``scales`` (O,).

    A float32 scale is represented exactly down to 2^-32. The shift is at most 62, so that ``acc * M + 2^(n-1)`` fits in
    int64: smaller scales get fewer bits.

    Raises:
        ValueError: a scale is not finite, not positive, or so large (2^30) that it needs a shift below 1.
    """
    wide: Float64Array = scales.astype(np.float64)
    if not (np.isfinite(wide).all() and (wide > 0).all()):
        raise ValueError(f"requantisation scales must be finite and positive, got {wide.min()} to {wide.max()}")
    _, exponents = np.frexp(wide)
    shifts = np.minimum(MULTIPLIER_BITS - exponents.astype(np.int64), MAX_SHIFT)
    multipliers = _times_power_of_two(wide, shifts)
    # 1 - 2^-53 rounds up to 2^31 * 2^-31: one bit too many.
    is_carried = multipliers == 1 << MULTIPLIER_BITS
    multipliers, shifts = np.where(is_carried, multipliers >> 1, multipliers), shifts - is_carried
    if (shifts < 1).any():
        raise ValueError(f"requantisation scale {wide.max()} is too large: fixed point needs less than 2^30")
    return FixedPoint(multipliers, shifts)


class TfliteMultipliers(NamedTuple):
    """Scales as ``multipliers * 2**(exponents - 31)``, both (O,) int64; multipliers are in [2^30, 2^31), or 0."""

    multipliers: Int64Array
    exponents: Int64Array


def tflite_multipliers(scales: Float64Array) -> TfliteMultipliers:
    """Return TensorFlow Lite's multipliers of ``scales`` (O,), rounded half away from zero; 0 for scales below 2^-32.

    Source: ``QuantizeMultiplier`` in tensorflow/lite/kernels/internal/quantization_util.cc.

    Raises:
        ValueError: a scale is not finite, not positive, or 2^30 and more.
    """
    if not (np.isfinite(scales).all() and (scales > 0).all() and (scales < 2.0**30).all()):
        raise ValueError(f"requantisation scales must be in (0, 2^30), got {scales.min()} to {scales.max()}")
    mantissas, exponents = np.frexp(scales)
    multipliers = np.floor(np.ldexp(mantissas, MULTIPLIER_BITS) + 0.5).astype(np.int64)
    is_carried = multipliers == 1 << MULTIPLIER_BITS
    multipliers = np.where(is_carried, multipliers >> 1, multipliers)
    wide = exponents.astype(np.int64) + is_carried
    is_lost = wide < -MULTIPLIER_BITS
    return TfliteMultipliers(np.where(is_lost, 0, multipliers), np.where(is_lost, 0, wide))


def tflite_scales(input_scale: float, weight_scales: Float32Array, output_scale: float) -> Float64Array:
    """Return ``s_in * s_weight / s_out`` (O,) in float64, in the order of TensorFlow Lite."""
    scales: Float64Array = np.float64(input_scale) * weight_scales.astype(np.float64) / np.float64(output_scale)
    return scales


def add_table(
    tensor_a: QTensor, tensor_b: QTensor, tensor_out: QTensor, clamp: tuple[int, int], requantisation: Requantisation
) -> Int64Array:
    """Return the quantised sum for every pair of inputs, (256, 256), at ``[q_a - lowest of a, q_b - lowest of b]``.

    ``float32`` is ONNX Runtime's addition of tensors that are stored as uint8: for int8 tensors 128 is added to the
    values and the zero point, which keeps the sum but changes its rounding. In ``float32``, ``fixed_point`` and
    ``xnnpack`` the ratios of the scales are float32 quotients; TensorFlow Lite's own kernels compute them in float64.
    """
    if requantisation in ("tflite_reference", "tflite_optimised", "xnnpack"):
        return _add_litert(tensor_a, tensor_b, tensor_out, clamp, requantisation)
    ratio_a = np.float32(tensor_a.scale) / np.float32(tensor_out.scale)
    ratio_b = np.float32(tensor_b.scale) / np.float32(tensor_out.scale)
    shift_a, shift_b, shift_out = (-tensor.range[0] for tensor in (tensor_a, tensor_b, tensor_out))
    points = (tensor_a.zero_point + shift_a, tensor_b.zero_point + shift_b, tensor_out.zero_point + shift_out)
    stored = np.arange(NUM_LEVELS, dtype=np.int64)
    add = _add_float32 if requantisation == "float32" else _add_fixed_point
    q: Int64Array = np.clip(add(stored[:, None], stored[None, :], ratio_a, ratio_b, points) - shift_out, *clamp)
    return q


def fma_float32(a: Float32Array, b: Float32Array, c: Float32Array) -> Float32Array:
    """Return ``a * b + c`` rounded once, elementwise: the fused multiply-add that numpy does not have.

    The product is exact in float64. The float64 sum is rounded to odd (TwoSum gives the exact error), so that rounding
    to float32 gives the correctly rounded result. Source: Boldo and Melquiond 2008, "Emulation of FMA and correctly
    rounded sums: proved algorithms using rounding to odd".
    """
    product: Float64Array = a.astype(np.float64) * b.astype(np.float64)
    addend: Float64Array = c.astype(np.float64)
    total: Float64Array = np.asarray(product + addend)
    shadow = total - product
    error = (product - (total - shadow)) + (addend - shadow)
    bits = total.view(np.int64)
    is_to_move = (error != 0) & ((bits & 1) == 0)
    outwards = np.where((error > 0) == (total > 0), 1, -1)
    odd: Float64Array = np.where(is_to_move, bits + outwards, bits).view(np.float64)
    return odd.astype(np.float32)


def _add_float32(
    values_a: Int64Array,
    values_b: Int64Array,
    ratio_a: np.float32,
    ratio_b: np.float32,
    points: tuple[int, int, int],
) -> Int64Array:
    """Compute ONNX Runtime's QLinearAdd (MlasQLinearAdd) as its x86 build does; ``points``: zero points of a, b, out.

    All multiply-adds are fused, including the one inside ``zo - (ra za + rb zb)``, which fuses the product ``ra za``.
    """
    zero_a, zero_b, zero_out = (np.asarray(point, np.float32) for point in points)
    wide_a, wide_b = np.asarray(ratio_a), np.asarray(ratio_b)
    fixed = zero_out - fma_float32(wide_a, zero_a, wide_b * zero_b)
    inner = fma_float32(values_b.astype(np.float32), wide_b, fixed)
    total = fma_float32(values_a.astype(np.float32), wide_a, inner)
    return np.rint(total).astype(np.int64)


def _add_fixed_point(
    values_a: Int64Array,
    values_b: Int64Array,
    ratio_a: np.float32,
    ratio_b: np.float32,
    points: tuple[int, int, int],
) -> Int64Array:
    """Compute ``(((a - za) Ma + (b - zb) Mb + 2^(n-1)) >> n) + zo``; n is the shift of the larger ratio.

    All values stay far below 2^63.
    """
    (multiplier_a, multiplier_b), shift = _addends(ratio_a, ratio_b)
    wide = (values_a - points[0]) * multiplier_a + (values_b - points[1]) * multiplier_b
    q: Int64Array = ((wide + _half(np.asarray(shift))) >> shift) + points[2]
    return q


def fixed_point_addends(tensor_a: QTensor, tensor_b: QTensor, tensor_out: QTensor) -> tuple[tuple[int, int], int]:
    """Return the multipliers of two addends and their common shift, which is that of the larger ratio of scales.

    Raises:
        ValueError: as :func:`fixed_point_multipliers`.
    """
    return _addends(*(np.float32(tensor.scale) / np.float32(tensor_out.scale) for tensor in (tensor_a, tensor_b)))


def _addends(ratio_a: np.float32, ratio_b: np.float32) -> tuple[tuple[int, int], int]:
    ratios = np.asarray([ratio_a, ratio_b])
    shift = int(fixed_point_multipliers(ratios).shifts.min())
    first, second = _times_power_of_two(ratios.astype(np.float64), np.asarray(shift)).tolist()
    return (first, second), shift


def _add_litert(
    tensor_a: QTensor, tensor_b: QTensor, tensor_out: QTensor, clamp: tuple[int, int], requantisation: Requantisation
) -> Int64Array:
    """Compute :func:`add_table` for LiteRT's three kinds of kernels."""
    centred = [np.arange(tensor.range[0], tensor.range[1] + 1) - tensor.zero_point for tensor in (tensor_a, tensor_b)]
    scales = [tensor.scale for tensor in (tensor_a, tensor_b, tensor_out)]
    if requantisation == "xnnpack":
        total = _add_xnnpack(centred[0][:, None], centred[1][None, :], scales)
    else:
        total = _add_tflite(centred[0][:, None], centred[1][None, :], scales, requantisation == "tflite_reference")
    q: Int64Array = np.clip(total + tensor_out.zero_point, *clamp)
    return q


def _add_xnnpack(a: Int64Array, b: Int64Array, scales: list[float]) -> Int64Array:
    """Compute ``(a Ma + b Mb + 2^(n-1)) >> n`` with multipliers of 21 bits.

    Source: XNNPACK, src/microparams-init.c, qs8_add_minmax.
    """
    ratios = np.array(scales[:2], np.float32) / np.float32(scales[2])
    shift = XNNPACK_ADD_BITS - int(np.floor(np.log2(float(ratios.max()))))
    multipliers = np.rint(np.ldexp(ratios.astype(np.float64), shift)).astype(np.int64)
    total: Int64Array = (a * multipliers[0] + b * multipliers[1] + (1 << (shift - 1))) >> shift
    return total


def _add_tflite(a: Int64Array, b: Int64Array, scales: list[float], is_reference: bool) -> Int64Array:
    """Add as TensorFlow Lite does, with 20 more bits in between.

    Source: tensorflow/lite/kernels/add.cc and internal/reference/add.h.
    """
    twice_largest = 2.0 * max(scales[:2])
    real = [scales[0] / twice_largest, scales[1] / twice_largest, twice_largest / ((1 << TFLITE_ADD_BITS) * scales[2])]
    multipliers, exponents = tflite_multipliers(np.array(real))
    first, second, last = zip(multipliers.tolist(), exponents.tolist(), strict=True)
    if is_reference:
        terms = [
            multiply_tflite(values << TFLITE_ADD_BITS, *by, is_reference=True)
            for values, by in ((a, first), (b, second))
        ]
    else:  # one rounding per addend, because the shift comes first
        terms = [
            _high_product(values << (TFLITE_ADD_BITS + exponent), multiplier)
            for values, (multiplier, exponent) in ((a, first), (b, second))
        ]
    return multiply_tflite(terms[0] + terms[1], *last, is_reference=True)


def multiply_tflite(values: Int64Array, multiplier: int, exponent: int, is_reference: bool) -> Int64Array:
    """Return ``values`` times ``multiplier * 2**(exponent - 31)``, rounded twice as TensorFlow Lite does.

    The first rounding is that of the high half of the doubled product, half up. The second is that of the right shift:
    half away from zero in the reference kernels (gemmlowp's RoundingDivideByPOT), half up in the optimised ones.
    """
    left, right = max(exponent, 0), max(-exponent, 0)
    high = _high_product(values << left, multiplier)
    if not is_reference:
        rounded: Int64Array = (high + ((1 << right) >> 1)) >> right
        return rounded
    mask = (1 << right) - 1
    threshold = (mask >> 1) + (high < 0)
    away: Int64Array = (high >> right) + ((high & mask) > threshold)
    return away


def _high_product(values: Int64Array, multiplier: int) -> Int64Array:
    """Return the high 32 bits of twice the product, rounded half up (SaturatingRoundingDoublingHighMul)."""
    high: Int64Array = (values * multiplier + (1 << (MULTIPLIER_BITS - 1))) >> MULTIPLIER_BITS
    return high


def _times_power_of_two(values: Float64Array, exponents: Int64Array) -> Int64Array:
    """Return ``values * 2**exponents`` (at most 2^62), rounded to the nearest integer."""
    return np.rint(np.ldexp(values, exponents)).astype(np.int64)


def _half(shifts: Int64Array) -> Int64Array:
    return np.left_shift(np.int64(1), shifts - 1)
