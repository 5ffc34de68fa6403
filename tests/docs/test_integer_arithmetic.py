"""The formulas of docs/integer_arithmetic.md, written anew from the page in whole numbers, against the code."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from carkp.quant import requantise, simulate
from carkp.quant.program import QTensor

ZERO_POINT, LOWEST, HIGHEST = 3, -100, 120
SCALES = np.array([2**-8, 3.1e-5, 4.7e-4, 2.9e-3], np.float32)
HALF = Fraction(1, 2)


@pytest.fixture(scope="module")
def sums() -> np.ndarray:
    """Accumulators (N, O): small ones, where many are ties, and large ones."""
    rng = np.random.default_rng(0)
    small, large = (rng.integers(-limit, limit, (600, len(SCALES))) for limit in (2000, 2**20))
    return np.concatenate([small, large]).astype(np.float64)


def centred(formula: Callable[[int, float], int], sums: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """``clamp(formula + zero point)`` of each sum and its channel's scale, less the zero point."""
    values = [
        [formula(int(total), float(scale)) for total, scale in zip(row, scales, strict=True)] for row in sums.tolist()
    ]
    return np.clip(np.array(values) + ZERO_POINT, LOWEST, HIGHEST) - ZERO_POINT


def fixed_point(total: int, scale: float) -> int:
    _, exponent = math.frexp(scale)
    shift = min(31 - exponent, 62)
    multiplier = round(Fraction(scale) * 2**shift)
    return (total * multiplier + 2 ** (shift - 1)) >> shift


def tflite(total: int, scale: float, is_reference: bool) -> int:
    mantissa, exponent = math.frexp(scale)
    multiplier = math.floor(Fraction(mantissa) * 2**31 + HALF)
    high = ((total << max(exponent, 0)) * multiplier + 2**30) >> 31
    value = Fraction(high, 2 ** max(-exponent, 0))
    if not is_reference:
        return math.floor(value + HALF)
    return math.floor(abs(value) + HALF) * (1 if value >= 0 else -1)


def test_fixed_point(sums: np.ndarray) -> None:
    rows, found = sums.copy(), requantise.fixed_point_multipliers(SCALES)
    limits = LOWEST - ZERO_POINT, HIGHEST - ZERO_POINT
    simulate._requantise_fixed_point(rows, found.multipliers.astype(np.int32), found.shifts, *limits)
    np.testing.assert_array_equal(rows, centred(fixed_point, sums, SCALES))


def test_float32(sums: np.ndarray) -> None:
    rows, limits = sums.copy(), (np.float32(LOWEST - ZERO_POINT), np.float32(HIGHEST - ZERO_POINT))
    simulate._requantise_float32(rows, SCALES, *limits)
    np.testing.assert_array_equal(rows, np.rint(np.clip(sums.astype(np.float32) * SCALES, *limits)))


@pytest.mark.parametrize("is_reference", [True, False])
def test_tflite(sums: np.ndarray, is_reference: bool) -> None:
    scales = SCALES.astype(np.float64)
    rows, found = sums.copy(), requantise.tflite_multipliers(scales)
    kinds, limits = np.full(len(scales), is_reference), (LOWEST - ZERO_POINT, HIGHEST - ZERO_POINT)
    simulate._requantise_tflite(rows, found.multipliers, found.exponents, kinds, *limits)
    np.testing.assert_array_equal(rows, centred(lambda total, scale: tflite(total, scale, is_reference), sums, scales))


@pytest.mark.parametrize("rule", ["fixed_point", "xnnpack"])
def test_sums_of_two_tensors(rule: str) -> None:
    first, second, result = (QTensor(name, (1, 1, 1), "int8", float(np.float32(scale)), 0) for name, scale in SUMMANDS)
    ratios = [np.float32(tensor.scale) / np.float32(result.scale) for tensor in (first, second)]
    largest = float(max(ratios))
    shift = min(31 - math.frexp(largest)[1], 62) if rule == "fixed_point" else 20 - math.floor(math.log2(largest))
    multipliers = [round(Fraction(float(ratio)) * 2**shift) for ratio in ratios]
    a, b = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128), indexing="ij")
    expected = np.clip((a * multipliers[0] + b * multipliers[1] + 2 ** (shift - 1)) >> shift, -128, 127)
    np.testing.assert_array_equal(requantise.add_table(first, second, result, (-128, 127), rule), expected)


def test_sums_of_two_tensors_in_float32() -> None:
    first, second, result = (QTensor(name, (1, 1, 1), "int8", float(np.float32(scale)), 0) for name, scale in SUMMANDS)
    r_a, r_b = (np.float32(tensor.scale) / np.float32(result.scale) for tensor in (first, second))
    zero = np.float32(128)  # of tensors that are stored as uint8
    fixed = zero - fused(r_a, zero, r_b * zero)
    table = requantise.add_table(first, second, result, (-128, 127), "float32")
    for a, b in np.random.default_rng(0).integers(0, 256, (1500, 2)):
        total = np.rint(fused(np.float32(a), r_a, fused(np.float32(b), r_b, fixed)))
        assert table[a, b] == np.clip(total - 128, -128, 127)


SUMMANDS = (("a", 0.031), ("b", 0.0127), ("sum", 0.041))


def fused(a: np.float32, b: np.float32, c: np.float32) -> np.float32:
    """``a b + c`` rounded once: of the float32 neighbours of the exact value the nearest, of two the even one."""
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    near = np.float32(float(exact))
    neighbours = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    return min(neighbours, key=lambda value: (abs(Fraction(float(value)) - exact), int(value.view(np.int32)) & 1))
