import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from carkp.deploy.runtime import session_options
from carkp.quant.program import QTensor
from carkp.quant.requantise import FixedPoint, add_table, fixed_point_multipliers, fma_float32
from carkp.quant.simulate import _requantise_fixed_point, _requantise_float32
from carkp.quant.target import RANGES
from tests.quant import reference

SCALES = st.floats(2.0**-31, 2.0**20, width=32)
ACCUMULATORS = st.integers(-(2**31), 2**31 - 1)


def requantise_float32(sums, scales, zero_point, clamp):
    """The simulator's kernel on accumulators (..., O)."""
    rows = sums.reshape(-1, len(scales)).astype(np.float64)
    _requantise_float32(rows, scales, *(np.float32(limit - zero_point) for limit in clamp))
    return (rows + zero_point).reshape(sums.shape).astype(np.int64)


def requantise_fixed_point(sums, fixed: FixedPoint, zero_point, clamp):
    """The simulator's kernel on accumulators (..., O)."""
    rows = sums.reshape(-1, len(fixed.shifts)).astype(np.float64)
    limits = (limit - zero_point for limit in clamp)
    _requantise_fixed_point(rows, fixed.multipliers.astype(np.int32), fixed.shifts, *limits)
    return (rows + zero_point).reshape(sums.shape).astype(np.int64)


def make_tensor(name, dtype, scale, zero_point):
    return QTensor(name, (1, 1, 1), dtype, float(np.float32(scale)), int(zero_point))


@given(st.floats(2.0**-31, 2.0**29, width=32))
def test_multipliers_are_in_range_and_exact(scale):
    fixed = fixed_point_multipliers(np.array([scale], np.float32))
    assert 2**30 <= fixed.multipliers[0] < 2**31
    assert 1 <= fixed.shifts[0] <= 62
    assert int(fixed.multipliers[0]) * 2.0 ** -int(fixed.shifts[0]) == scale


@given(st.floats(2.0**-31, 2.0**29))
def test_multipliers_of_float64_are_within_half_a_bit(scale):
    fixed = fixed_point_multipliers(np.array([scale]))
    assert 2**30 <= fixed.multipliers[0] < 2**31
    assert abs(int(fixed.multipliers[0]) * 2.0 ** -int(fixed.shifts[0]) / scale - 1) < 2.0**-30


def test_a_multiplier_that_rounds_up_to_32_bits_is_halved():
    fixed = fixed_point_multipliers(np.array([np.nextafter(0.5, 0)]))
    assert (fixed.multipliers[0], fixed.shifts[0]) == (2**30, 31)


def test_small_scales_get_fewer_bits():
    fixed = fixed_point_multipliers(np.array([2.0**-40, 3 * 2.0**-62, 2.0**-70], np.float32))
    assert fixed.multipliers.tolist() == [2**22, 3, 0]
    assert fixed.shifts.tolist() == [62, 62, 62]


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_scales_must_be_finite_and_positive(scale):
    with pytest.raises(ValueError, match="finite and positive"):
        fixed_point_multipliers(np.array([1.0, scale], np.float32))


def test_scales_must_need_a_shift():
    assert fixed_point_multipliers(np.array([2.0**29], np.float32)).shifts[0] == 1
    with pytest.raises(ValueError, match="too large"):
        fixed_point_multipliers(np.array([2.0**30], np.float32))


@given(ACCUMULATORS, SCALES, st.sampled_from([-128, 0, 7, 128]))
@settings(max_examples=400, deadline=None)
def test_both_requantisations_equal_the_reference(accumulator, scale, zero_point):
    scales, sums = np.array([scale], np.float32), np.array([accumulator])
    clamp = (min(zero_point, 0), max(zero_point, 100))
    in_float32 = requantise_float32(sums, scales, zero_point, clamp)
    in_fixed_point = requantise_fixed_point(sums, fixed_point_multipliers(scales), zero_point, clamp)
    assert in_float32[0] == reference.requantise(accumulator, scales[0], zero_point, clamp, "float32")
    assert in_fixed_point[0] == reference.requantise(accumulator, scales[0], zero_point, clamp, "fixed_point")


@given(ACCUMULATORS, SCALES)
@settings(max_examples=400, deadline=None)
def test_the_requantisations_differ_by_one_at_most(accumulator, scale):
    scales, sums = np.array([scale], np.float32), np.array([accumulator])
    in_float32 = requantise_float32(sums, scales, 0, (-128, 127))
    in_fixed_point = requantise_fixed_point(sums, fixed_point_multipliers(scales), 0, (-128, 127))
    assert abs(int(in_float32[0]) - int(in_fixed_point[0])) <= 1


def test_ties_go_to_even_in_float32_and_up_in_fixed_point():
    sums, scales = np.array([[-3], [-1], [1], [3], [5]]), np.array([0.5], np.float32)
    in_fixed_point = requantise_fixed_point(sums, fixed_point_multipliers(scales), 0, (-128, 127))
    assert requantise_float32(sums, scales, 0, (-128, 127)).ravel().tolist() == [-2, 0, 0, 2, 2]
    assert in_fixed_point.ravel().tolist() == [-1, 0, 1, 2, 3]


def test_the_widest_product_fits_in_int64():
    fixed = fixed_point_multipliers(np.array([2.0**-31 * (2 - 2.0**-23)], np.float32))
    sums = np.array([-(2**31), 2**31 - 1])
    assert requantise_fixed_point(sums, fixed, 0, (-128, 127)).tolist() == [-2, 2]


FLOATS = st.floats(-(2.0**60), 2.0**60, width=32)


@given(FLOATS, FLOATS, FLOATS)
@settings(max_examples=500)
def test_fma_equals_the_c_library(a, b, c):
    single = [np.array([value], np.float32) for value in (a, b, c)]
    assert fma_float32(*single)[0] == reference.fmaf(a, b, c)


def test_fma_equals_the_c_library_next_to_ties():
    rng = np.random.default_rng(0)
    # (1 + i e)(1 - i e) is just below 1, half a step of c, and float64 rounds the sum to the tie.
    offsets = rng.integers(-40, 41, 2000) * 2.0**-23
    a, b = (1 + offsets).astype(np.float32), (1 - offsets).astype(np.float32)
    c = (2 * rng.integers(2**23, 2**24, 2000) * rng.choice([-1, 1], 2000)).astype(np.float32)
    expected = [reference.fmaf(*map(float, values)) for values in zip(a, b, c, strict=True)]
    assert np.array_equal(fma_float32(a, b, c), expected)
    rounded_twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert (rounded_twice != expected).mean() > 0.2


def _random_add(seed, dtype, zero_points=None):
    """Scales whose ratios are random, or fractions that make many ties."""
    rng = np.random.default_rng(seed)
    lowest, highest = RANGES[dtype]
    points = rng.integers(lowest, highest + 1, 3) if zero_points is None else zero_points
    out = np.float32(2 ** rng.uniform(-7, -2))
    ratios = rng.integers(1, 40, 2) / rng.integers(8, 64, 2) if seed % 2 else 2 ** rng.uniform(-4, 1, 2)
    scales = (*(np.float32(ratio) * out for ratio in ratios), out)
    return [make_tensor(name, dtype, *values) for name, *values in zip("abo", scales, points, strict=True)]


ADDS = [
    *(_random_add(seed, "uint8", points) for seed in range(3) for points in ((0, 0, 0), (128, 0, 128), (128, 128, 0))),
    *(_random_add(seed, "int8", (0, 0, 0)) for seed in range(4)),
    *(_random_add(seed, dtype) for seed in range(10, 18) for dtype in ("uint8", "int8")),
    # Seeds at which it shows whether the constant is made with a fused multiply-add.
    *(_random_add(seed, "uint8") for seed in (85, 99, 131, 141)),
    *(_random_add(seed, "int8") for seed in (42, 67)),
]


@pytest.mark.parametrize("requantisation", ["float32", "fixed_point"])
@pytest.mark.parametrize("tensors", ADDS[::6])
def test_add_table_equals_the_reference(tensors, requantisation):
    lowest, highest = tensors[0].range
    clamp = (lowest + 3, highest - 20)
    table = add_table(*tensors, clamp, requantisation)
    pairs = np.random.default_rng(0).integers(lowest, highest + 1, (3000, 2)).tolist()
    expected = [reference.add(a, b, *tensors, clamp, requantisation) for a, b in pairs]
    assert [table[a - lowest, b - lowest] for a, b in pairs] == expected


@pytest.mark.parametrize("tensors", ADDS)
def test_add_table_equals_onnxruntime_on_every_pair(tensors, tmp_path):
    session = _add_session(tensors, tmp_path / "optimised.onnx")
    levels = np.arange(256, dtype=np.uint8)
    a, b = (values.ravel() for values in np.meshgrid(levels, levels, indexing="ij"))
    table = add_table(*tensors, tensors[2].range, "float32") - tensors[2].range[0]
    assert np.array_equal(session.run(None, {"a": a, "b": b})[0], table.ravel())
    for length in (1, 5, 15, 33):
        at = np.random.default_rng(length).integers(0, len(a), length)
        assert np.array_equal(session.run(None, {"a": a[at], "b": b[at]})[0], table.ravel()[at])


def _add_session(tensors, optimised):
    """DequantizeLinear x2 -> Add -> QuantizeLinear, stored as uint8, which onnxruntime turns into one QLinearAdd."""
    constants = []
    for tensor in tensors:
        constants.append(numpy_helper.from_array(np.float32(tensor.scale), f"{tensor.name}_scale"))
        constants.append(numpy_helper.from_array(np.uint8(tensor.zero_point - tensor.range[0]), f"{tensor.name}_zero"))
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "a_scale", "a_zero"], ["a_float"]),
        helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["b_float"]),
        helper.make_node("Add", ["a_float", "b_float"], ["o_float"]),
        helper.make_node("QuantizeLinear", ["o_float", "o_scale", "o_zero"], ["o"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.UINT8, ["n"]) for name in "abo"]
    graph = helper.make_graph(nodes, "add", values[:2], values[2:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = session_options(num_threads=1)
    options.optimized_model_filepath = str(optimised)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert [node.op_type for node in onnx.load(optimised).graph.node] == ["QLinearAdd"]
    return session
