"""What requantisation needs beforehand, in the two arithmetics of :data:`Requantisation`: multipliers, sums of addends.

``float32`` is ONNX Runtime's, ``fixed_point`` that of NPUs. Accumulators are requantised by the simulator's kernels.

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


class FixedPoint(NamedTuple):
    """Scales as ``multipliers * 2**-shifts``, both (O,) int64; multipliers are in [2^30, 2^31) where shifts < 62."""

    multipliers: Int64Array
    shifts: Int64Array


def fixed_point_multipliers(scales: NDArray[np.floating[Any]]) -> FixedPoint:
    """The 31-bit multipliers and right shifts nearest to ``scales`` (O,).

    A float32 scale is met exactly down to 2^-32. The shift ends at 62, so that ``acc * M + 2^(n-1)`` fits in int64:
    smaller scales get fewer bits.

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
        raise ValueError(f"requantisation scale {wide.max()} is too large: fixed point ends below 2^30")
    return FixedPoint(multipliers, shifts)


def add_table(
    tensor_a: QTensor, tensor_b: QTensor, tensor_out: QTensor, clamp: tuple[int, int], requantisation: Requantisation
) -> Int64Array:
    """(256, 256): the quantised sum for every pair of inputs, at ``[q_a - lowest of a, q_b - lowest of b]``.

    The ratios of the scales are float32 quotients in both arithmetics. ``float32`` is ONNX Runtime's addition of
    tensors stored as uint8, int8 ones with 128 added to values and zero point: the sum stays the same, its rounding
    does not.
    """
    ratio_a = np.float32(tensor_a.scale) / np.float32(tensor_out.scale)
    ratio_b = np.float32(tensor_b.scale) / np.float32(tensor_out.scale)
    shift_a, shift_b, shift_out = (-tensor.range[0] for tensor in (tensor_a, tensor_b, tensor_out))
    points = (tensor_a.zero_point + shift_a, tensor_b.zero_point + shift_b, tensor_out.zero_point + shift_out)
    stored = np.arange(NUM_LEVELS, dtype=np.int64)
    add = _add_float32 if requantisation == "float32" else _add_fixed_point
    q: Int64Array = np.clip(add(stored[:, None], stored[None, :], ratio_a, ratio_b, points) - shift_out, *clamp)
    return q


def fma_float32(a: Float32Array, b: Float32Array, c: Float32Array) -> Float32Array:
    """``a * b + c`` rounded once, elementwise: the fused multiply-add that numpy does not have.

    The product is exact in float64. The sum is rounded to odd there (exact error by TwoSum), after which rounding to
    float32 gives the correctly rounded result: Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums:
    proved algorithms using rounding to odd".
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
    """ONNX Runtime's QLinearAdd (MlasQLinearAdd) as its x86 build computes it; ``points`` are those of a, b, out.

    All multiply-adds are fused, the one inside of ``zo - (ra za + rb zb)`` too, on ``ra za``.
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
    """``(((a - za) Ma + (b - zb) Mb + 2^(n-1)) >> n) + zo`` with the shift of the larger ratio; far below 2^63."""
    ratios = np.asarray([ratio_a, ratio_b])
    shift = fixed_point_multipliers(ratios).shifts.min()
    multiplier_a, multiplier_b = _times_power_of_two(ratios.astype(np.float64), np.asarray(shift))
    wide = (values_a - points[0]) * multiplier_a + (values_b - points[1]) * multiplier_b
    q: Int64Array = ((wide + _half(shift)) >> shift) + points[2]
    return q


def _times_power_of_two(values: Float64Array, exponents: Int64Array) -> Int64Array:
    """``values * 2**exponents``, rounded to the nearest integer; up to 2^62."""
    return np.rint(np.ldexp(values, exponents)).astype(np.int64)


def _half(shifts: Int64Array) -> Int64Array:
    return np.left_shift(np.int64(1), shifts - 1)
