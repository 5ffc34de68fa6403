import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from carkp.deploy.runtime import session_options
from carkp.quant.program import (
    FloatOp,
    ProgramError,
    QAdd,
    QConcat,
    QConv,
    QDepthToSpace,
    QProgram,
    QTensor,
    accumulator_bounds,
)
from carkp.quant.simulate import AccumulatorOverflowError, Simulator, UnsupportedLayerError
from carkp.quant.target import Target
from tests.quant import reference

DTYPES = ["uint8", "int8"]
REQUANTISATIONS = ["float32", "fixed_point"]

CONVS = {
    "dense": {"channels": (5, 7), "kernel": (3, 3), "pads": (1, 1, 1, 1)},
    "depthwise": {"channels": (6, 6), "kernel": (5, 3), "pads": (2, 1, 2, 1), "groups": 6},
    "grouped": {"channels": (6, 4), "kernel": (3, 3), "pads": (1, 1, 1, 1), "groups": 2},
    "strided": {"channels": (3, 8), "kernel": (3, 3), "pads": (0, 0, 1, 1), "stride": (2, 2)},
    "asymmetric": {"channels": (4, 5), "kernel": (2, 2), "pads": (1, 0, 0, 1)},
    "uneven": {"channels": (4, 5), "kernel": (3, 2), "pads": (2, 0, 1, 3), "stride": (2, 1)},
    "dilated": {"channels": (4, 5), "kernel": (3, 3), "pads": (2, 2, 2, 2), "dilation": (2, 3)},
    "pointwise": {"channels": (9, 3), "kernel": (1, 1)},
    "one_channel": {"channels": (1, 1), "kernel": (3, 3), "pads": (1, 1, 1, 1)},
    "deep": {"channels": (2400, 5), "kernel": (1, 1), "size": (4, 3)},
    "deep_grouped": {"channels": (4800, 4), "kernel": (1, 1), "groups": 2, "size": (4, 3)},
    "large_kernel": {"channels": (2, 3), "kernel": (24, 45), "pads": (12, 22, 11, 22), "size": (5, 4)},
}


def make_target(dtype, **changes):
    values = {"accumulator_bits": 32, "requantisation": "float32", "per_channel_weights": True} | changes
    return Target(name="test", description="", activation_dtype=dtype, **values)


def make_tensor(name, shape, dtype, scale=0.05, zero_point=None):
    default = 128 if dtype == "uint8" else 0
    return QTensor(name, shape, dtype, float(np.float32(scale)), default if zero_point is None else zero_point)


def random_q(rng, tensor, batch=2):
    lowest, highest = tensor.range
    return rng.integers(lowest, highest + 1, (batch, *tensor.shape)).astype(tensor.dtype)


def make_conv(
    rng,
    source,
    output,
    channels,
    kernel,
    pads=(0, 0, 0, 0),
    stride=(1, 1),
    dilation=(1, 1),
    groups=1,
    zero_point=None,
    clamp=None,
    size=None,
):
    """Weights and biases of the full range; the scales fill most of the output's range."""
    totals = (source.shape[1] + pads[0] + pads[2], source.shape[2] + pads[1] + pads[3])
    height, width = (
        (t - d * (k - 1) - 1) // s + 1 for t, d, k, s in zip(totals, dilation, kernel, stride, strict=True)
    )
    result = make_tensor(output, (channels[1], height, width), source.dtype, rng.uniform(0.02, 0.2), zero_point)
    weight = rng.integers(-127, 128, (channels[1], channels[0] // groups, *kernel)).astype(np.int8)
    spread = 73 * 90 * np.sqrt(weight[0].size)
    gains = rng.uniform(30, 90, channels[1]) / spread
    conv = QConv(
        name=f"conv_{output}",
        inputs=(source.name,),
        output=output,
        weight=weight,
        weight_scale=(gains * result.scale / source.scale).astype(np.float32),
        bias=rng.integers(-spread, spread, channels[1]).astype(np.int32),
        stride=stride,
        pads=pads,
        dilation=dilation,
        groups=groups,
        clamp=clamp or result.range,
    )
    return conv, result


def make_program(target, layers, tensors):
    return QProgram(target, tensors[0].name, layers[-1].output, {tensor.name: tensor for tensor in tensors}, layers)


def conv_program(dtype, case, zero_point=None, **changes):
    rng = np.random.default_rng(1)
    source = make_tensor("x", (case["channels"][0], *case.get("size", (9, 8))), dtype, zero_point=zero_point)
    conv, result = make_conv(rng, source, "y", **case)
    return make_program(make_target(dtype, **changes), (conv,), (source, result))


def exact_program(weight, bias, groups=1, pads=(0, 0, 0, 0), size=(1, 1), **changes):
    """int8, one convolution whose output is its accumulator: all scales are 1."""
    source = make_tensor("x", (weight.shape[1] * groups, *size), "int8", 1.0)
    result = make_tensor("y", (weight.shape[0], 1, 1), "int8", 1.0)
    ones = np.ones(len(weight), np.float32)
    conv = QConv("conv", ("x",), "y", weight, ones, bias, (1, 1), pads, (1, 1), groups, (-128, 127))
    return make_program(make_target("int8", **changes), (conv,), (source, result))


def assert_layer_equals_reference(program, requantisation):
    rng = np.random.default_rng(2)
    layer = program.layers[0]
    inputs = [random_q(rng, program.tensors[name]) for name in layer.inputs]
    result = Simulator(program, requantisation).run_layer(layer, [torch.from_numpy(q) for q in inputs])
    expected = reference.run_layer(program, layer, inputs, requantisation)
    assert result.dtype == getattr(torch, program.tensors[layer.output].dtype)
    assert np.array_equal(result.numpy(), expected)
    return expected


@pytest.mark.parametrize("requantisation", REQUANTISATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONVS)
def test_conv_equals_the_reference(name, dtype, requantisation):
    expected = assert_layer_equals_reference(conv_program(dtype, CONVS[name]), requantisation)
    assert np.ptp(expected) > 100


@pytest.mark.parametrize("requantisation", REQUANTISATIONS)
@pytest.mark.parametrize("zero_points", [(0, 0), (0, 128), (128, 0), (37, 201)])
def test_conv_with_other_zero_points_and_a_clamp(zero_points, requantisation):
    case = CONVS["asymmetric"] | {"clamp": (zero_points[1], min(zero_points[1] + 90, 255))}
    program = conv_program("uint8", case)
    tensors = [
        make_tensor(tensor.name, tensor.shape, "uint8", tensor.scale, zero_point)
        for tensor, zero_point in zip(program.tensors.values(), zero_points, strict=True)
    ]
    assert_layer_equals_reference(make_program(program.target, program.layers, tensors), requantisation)


@pytest.mark.parametrize("requantisation", REQUANTISATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_add_equals_the_reference(dtype, requantisation):
    tensors = [make_tensor(name, (5, 7, 6), dtype, scale) for name, scale in (("a", 0.07), ("b", 0.031), ("c", 0.09))]
    layer = QAdd("add", ("a", "b"), "c", (tensors[2].zero_point - 60, tensors[2].zero_point + 100))
    rng = np.random.default_rng(0)
    inputs = [random_q(rng, tensor) for tensor in tensors[:2]]
    first, feed = make_conv(rng, tensors[0], "b", (5, 5), (1, 1))
    tensors[1] = feed
    program = make_program(make_target(dtype), (first, layer), tensors)
    result = Simulator(program, requantisation).run_layer(layer, [torch.from_numpy(q) for q in inputs])
    assert np.array_equal(result.numpy(), reference.run_layer(program, layer, inputs, requantisation))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [2, 3])
def test_depth_to_space_equals_the_reference(dtype, block):
    tensors = (make_tensor("x", (2 * block**2, 3, 4), dtype), make_tensor("y", (2, 3 * block, 4 * block), dtype))
    program = make_program(make_target(dtype), (QDepthToSpace("up", ("x",), "y", block),), tensors)
    assert_layer_equals_reference(program, None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_concat_equals_the_reference(dtype):
    source, double = make_tensor("x", (3, 4, 5), dtype), make_tensor("xx", (6, 4, 5), dtype)
    layers = (QConcat("twice", ("x", "x"), "xx"),)
    assert_layer_equals_reference(make_program(make_target(dtype), layers, (source, double)), None)


def head_program(dtype, **changes):
    """conv -> conv -> add of both -> four phase convolutions -> concat -> depth-to-space -> conv."""
    rng = np.random.default_rng(5)
    relu = {"zero_point": 0, "clamp": (0, 240)} if dtype == "uint8" else {"clamp": (0, 120)}
    image = make_tensor("image", (3, 12, 10), dtype, 1 / 128)
    stem, first = make_conv(rng, image, "first", (3, 8), (3, 3), (0, 0, 1, 1), (2, 2), **relu)
    inner, second = make_conv(rng, first, "second", (8, 8), (3, 3), (1, 1, 1, 1), groups=8)
    total = make_tensor("total", first.shape, dtype, 0.15)
    layers, tensors = (
        [stem, inner, QAdd("add", ("first", "second"), "total", total.range)],
        [image, first, second, total],
    )
    for phase, pads in enumerate(((1, 1, 0, 0), (1, 0, 0, 1), (0, 1, 1, 0), (0, 0, 1, 1))):
        layer, tensor = make_conv(rng, total, f"phase{phase}", (8, 4), (2, 2), pads, **relu)
        layers.append(layer)
        tensors.append(make_tensor(tensor.name, tensor.shape, dtype, 0.1, tensor.zero_point))
    stacked = make_tensor("stacked", (16, *total.shape[1:]), dtype, 0.1, tensors[-1].zero_point)
    up = make_tensor("up", (4, 12, 10), dtype, 0.1, tensors[-1].zero_point)
    layers.append(QConcat("concat", tuple(f"phase{phase}" for phase in range(4)), "stacked"))
    layers.append(QDepthToSpace("d2s", ("stacked",), "up", 2))
    last, heatmaps = make_conv(rng, up, "heatmaps", (4, 5), (1, 1))
    return make_program(make_target(dtype, **changes), (*layers, last), (*tensors, stacked, up, heatmaps))


@pytest.mark.parametrize("requantisation", REQUANTISATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_program_equals_the_reference_in_every_tensor(dtype, requantisation):
    program = head_program(dtype, requantisation=requantisation)
    images = torch.from_numpy(np.random.default_rng(0).uniform(-1.1, 1.1, (2, 3, 12, 10)).astype(np.float32))
    seen = {}
    simulator = Simulator(program)
    heatmaps = simulator.run(images, on_tensor=seen.__setitem__)
    expected = reference.run_program(program, simulator.quantise_input(images).numpy(), requantisation)
    assert list(seen) == list(expected)
    for name, q in expected.items():
        assert np.array_equal(seen[name].numpy(), q), name
    tensor = program.tensors["heatmaps"]
    dequantised = (expected["heatmaps"] - tensor.zero_point).astype(np.float32) * np.float32(tensor.scale)
    assert heatmaps.dtype == torch.float32
    assert np.array_equal(heatmaps.numpy(), dequantised)


def test_layers_run_alone_as_in_the_program():
    program = head_program("uint8")
    images = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0)) * 2 - 1
    simulator, seen = Simulator(program), {}
    simulator.run(images, on_tensor=seen.__setitem__)
    for layer in program.layers:
        assert torch.equal(simulator.run_layer(layer, [seen[name] for name in layer.inputs]), seen[layer.output])


def test_rows_are_the_same_on_any_number_of_threads():
    rng = np.random.default_rng(0)
    image = make_tensor("image", (3, 41, 43), "uint8")
    conv, first = make_conv(rng, image, "first", (3, 30), (3, 3), (1, 1, 1, 1))
    total = make_tensor("total", first.shape, "uint8", 0.2)
    layers = (conv, QAdd("add", ("first", "first"), "total", (0, 255)))
    program = make_program(make_target("uint8"), layers, (image, first, total))
    images = torch.randn(3, 3, 41, 43, generator=torch.Generator().manual_seed(0)) * 3
    expected = Simulator(program, num_threads=1).run(images)
    assert len(expected.unique()) > 100
    assert torch.equal(Simulator(program, num_threads=3).run(images), expected)


def test_autocast_and_gradients_change_nothing():
    program = head_program("int8")
    images = torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    expected = Simulator(program).run(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Simulator(program).run(images.clone().requires_grad_()), expected)


def test_memory_layout_of_the_images_changes_nothing():
    program = head_program("int8")
    images = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    expected = Simulator(program).run(images)
    assert torch.equal(Simulator(program).run(images.contiguous(memory_format=torch.channels_last)), expected)


# Exactness of the accumulator


@pytest.mark.parametrize(
    "geometry", [{"channels": (56, 40), "kernel": (3, 3)}, {"channels": (96, 96), "kernel": (5, 5), "groups": 96}]
)
def test_float32_sums_are_exact(geometry):
    """Sizes at which a Winograd or FFT convolution would be chosen, were there one."""
    program = conv_program("uint8", geometry | {"pads": (1, 1, 1, 1), "size": (20, 24)})
    q = random_q(np.random.default_rng(0), program.tensors["x"])
    step = Simulator(program)._steps["y"]
    accumulators = step._accumulate(torch.from_numpy(q.astype(np.float32) - 128))
    assert accumulators.dtype == torch.float32
    assert np.array_equal(accumulators.numpy(), reference.accumulate(program.layers[0], q.astype(np.int64), 128))


def _cancelled(rng, shape, groups=1, pads=(0, 0, 0, 0), size=(1, 1)):
    """Large sums of one sign that the bias brings back to -100..100, where a scale of 1 shows each unit."""
    weight = rng.integers(100, 128, shape).astype(np.int8)
    program = exact_program(weight, np.zeros(shape[0], np.int32), groups, pads, size)
    q = rng.integers(90, 128, (1, shape[1] * groups, *size)).astype(np.int8)
    sums = reference.accumulate(program.layers[0], q, 0).ravel()
    expected = rng.integers(-100, 101, shape[0])
    return exact_program(weight, (expected - sums).astype(np.int32), groups, pads, size), q, expected, sums


@pytest.mark.parametrize(
    ("geometry", "num_parts", "dtype"),
    [
        ({"shape": (4, 2500, 1, 1)}, 3, torch.float32),
        ({"shape": (4, 300, 3, 3), "size": (3, 3)}, 3, torch.float32),
        ({"shape": (4, 2500, 1, 1), "groups": 2}, 1, torch.float64),
        ({"shape": (2, 1, 40, 50), "size": (40, 50)}, 1, torch.float64),
    ],
)
def test_sums_beyond_float32_are_exact(geometry, num_parts, dtype):
    program, q, expected, sums = _cancelled(np.random.default_rng(0), **geometry)
    assert np.abs(sums).min() > 2**24
    simulator = Simulator(program)
    parts = simulator._steps["y"].parts
    assert (len(parts), parts[0].weight.dtype) == (num_parts, dtype)
    result = simulator.run_layer(program.layers[0], [torch.from_numpy(q)])
    assert np.array_equal(result.numpy().ravel(), expected)


def test_a_large_bias_alone_is_exact():
    weight = np.full((3, 1, 1, 1), 127, np.int8)
    program = exact_program(weight, np.array([2**25 + 1, -(2**25) - 1, 5], np.int32), groups=3)
    simulator = Simulator(program)
    assert simulator._steps["y"].parts[0].weight.dtype == torch.float32
    accumulators = simulator._steps["y"]._accumulate(torch.zeros(1, 3, 1, 1))
    assert accumulators.ravel().tolist() == [2**25 + 1, -(2**25) - 1, 5]


@pytest.mark.parametrize(("bias", "dtype"), [(127, torch.float32), (128, torch.float64), (-128, torch.float64)])
def test_float32_ends_right_below_its_bound(bias, dtype):
    weight = np.full((1, 1033, 1, 1), 127, np.int8)
    weight[0, -1] = 7
    program = exact_program(weight, np.array([bias], np.int32))
    assert accumulator_bounds(program, program.layers[0])[0] == 2**24 - 128 + abs(bias)
    simulator = Simulator(program)
    assert simulator._steps["y"].bias.dtype == dtype
    lowest = torch.full((1, 1033, 1, 1), -128.0)
    assert simulator._steps["y"]._accumulate(lowest).item() == -(2**24) + 128 + bias


def test_overflow_is_an_error_only_when_it_happens():
    weight = np.full((1, 4, 1, 1), 100, np.int8)
    program = exact_program(weight, np.array([60], np.int32), accumulator_bits=16)
    simulator, layer = Simulator(program), program.layers[0]
    fits = torch.tensor([127, 127, 73, 0], dtype=torch.int8).view(1, 4, 1, 1)
    assert simulator.run_layer(layer, [fits]).item() == 127
    with pytest.raises(AccumulatorOverflowError, match=r"conv: a sum of 32860 does not fit .* 16 bits"):
        simulator.run_layer(layer, [fits + torch.tensor([0, 0, 1, 0], dtype=torch.int8).view(1, 4, 1, 1)])
    with pytest.raises(AccumulatorOverflowError, match="conv: a sum of -51140 "):
        simulator.run(torch.full((1, 4, 1, 1), -500.0))


@pytest.mark.parametrize(("bias", "is_error"), [(2**15 - 1, False), (2**15, True), (-(2**15), False), (-40000, True)])
def test_overflow_ends_of_the_accumulator(bias, is_error):
    program = exact_program(np.ones((1, 1, 1, 1), np.int8), np.array([bias], np.int32), accumulator_bits=16)
    zero = torch.zeros(1, 1, 1, 1)
    if is_error:
        with pytest.raises(AccumulatorOverflowError):
            Simulator(program).run(zero)
    else:
        Simulator(program).run(zero)


def test_overflow_of_32_bits_is_seen_beyond_float32():
    weight = np.full((1, 1, 1, 1), 127, np.int8)
    program = exact_program(weight, np.array([2**31 - 1 - 127], np.int32))
    one, two = (torch.full((1, 1, 1, 1), value, dtype=torch.int8) for value in (1, 2))
    assert Simulator(program).run_layer(program.layers[0], [one]).item() == 127
    with pytest.raises(AccumulatorOverflowError, match=f"{2**31 + 126} "):
        Simulator(program).run_layer(program.layers[0], [two])


@pytest.mark.parametrize(
    ("requantisation", "expected"), [("float32", [-2, 0, 0, 2, 2]), ("fixed_point", [-1, 0, 1, 2, 3])]
)
def test_ties_of_the_kernels(requantisation, expected):
    program = exact_program(np.ones((5, 5, 1, 1), np.int8), np.array([-3, -1, 1, 3, 5], np.int32))
    program.layers[0].weight_scale[:] = 0.5
    q = Simulator(program, requantisation).run_layer(program.layers[0], [torch.zeros(1, 5, 1, 1, dtype=torch.int8)])
    assert q.ravel().tolist() == expected


# Quantisation of the input


@given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=2), st.floats(2.0**-10, 1, width=32), st.booleans())
def test_round_trip_is_within_half_a_step(values, scale, is_signed):
    dtype = "int8" if is_signed else "uint8"
    source = make_tensor("x", (2, 1, 1), dtype, scale)
    simulator = _identity(source)
    images = torch.tensor(values).view(1, 2, 1, 1)
    q = simulator.quantise_input(images)
    back = (q.double() - source.zero_point) * source.scale
    inside = images.double().clamp(-128 * source.scale, 127 * source.scale)
    assert ((back - inside).abs() <= source.scale * 0.5001).all()
    expected = np.rint(images.numpy() / np.float32(scale)).clip(-128, 127) + source.zero_point
    assert np.array_equal(q.numpy(), expected)


def _identity(source):
    layer = QDepthToSpace("same", ("x",), "y", 1)
    result = QTensor("y", source.shape, source.dtype, source.scale, source.zero_point)
    return Simulator(make_program(make_target(source.dtype), (layer,), (source, result)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1 / 128, 0.1, 0.0317])
def test_quantisation_equals_onnxruntime(dtype, scale):
    source = make_tensor("x", (1, 50, 60), dtype, scale)
    rng = np.random.default_rng(0)
    values = rng.uniform(-140, 140, (2, 1, 50, 60)) * scale
    values[1] = rng.integers(-280, 281, (1, 50, 60)) / 2 * scale
    images = values.astype(np.float32)
    expected = _run_node("QuantizeLinear", images, [np.float32(source.scale), _point(source)], dtype)
    assert np.array_equal(_identity(source).quantise_input(torch.from_numpy(images)).numpy(), expected)


# ONNX Runtime's convolution


@pytest.mark.parametrize("zero_points", [(0, 0), (128, 128), (0, 128), (128, 0)])
@pytest.mark.parametrize("name", ["dense", "depthwise", "grouped", "strided", "asymmetric", "pointwise", "deep"])
def test_conv_equals_onnxruntime(name, zero_points):
    case = CONVS[name] | {"zero_point": zero_points[1]}
    program = conv_program("uint8", case, zero_points[0])
    conv, (source, result) = program.layers[0], program.tensors.values()
    q = random_q(np.random.default_rng(3), source, batch=3)
    constants = [np.float32(source.scale), _point(source), conv.weight, conv.weight_scale]
    constants += [np.zeros(len(conv.weight), np.int8), np.float32(result.scale), _point(result), conv.bias]
    attributes = {"strides": conv.stride, "pads": conv.pads, "dilations": conv.dilation, "group": conv.groups}
    expected = _run_node("QLinearConv", q, constants, "uint8", **attributes)
    assert np.array_equal(Simulator(program).run_layer(conv, [torch.from_numpy(q)]).numpy(), expected)


def _point(tensor):
    return np.dtype(tensor.dtype).type(tensor.zero_point)


def _run_node(kind, x, constants, dtype, **attributes):
    names = [f"c{index}" for index in range(len(constants))]
    node = helper.make_node(kind, ["x", *names], ["y"], **attributes)
    values = [numpy_helper.from_array(np.asarray(value), name) for value, name in zip(constants, names, strict=True)]
    inputs = [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)]
    outputs = [helper.make_tensor_value_info("y", getattr(TensorProto, dtype.upper()), None)]
    graph = helper.make_graph([node], kind, inputs, outputs, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = session_options(num_threads=1)
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


# Errors


def test_float_layers_are_refused_by_name():
    source = make_tensor("x", (2, 3, 3), "int8")
    tensors = (source, make_tensor("a", (2, 3, 3), "int8"), make_tensor("b", (2, 3, 3), "int8"))
    layers = (FloatOp("act1", "Softmax", ("x",), "a"), FloatOp("norm", "InstanceNormalization", ("a",), "b"))
    with pytest.raises(UnsupportedLayerError, match=r"act1 \(Softmax\), norm \(InstanceNormalization\).*check"):
        Simulator(make_program(make_target("int8"), layers, tensors))


def test_a_contradictory_program_is_refused():
    source, result = make_tensor("x", (4, 3, 3), "int8"), make_tensor("y", (1, 5, 6), "int8")
    with pytest.raises(ProgramError, match="up: output has shape"):
        Simulator(make_program(make_target("int8"), (QDepthToSpace("up", ("x",), "y", 2),), (source, result)))


def test_scales_out_of_fixed_point_are_refused_by_layer():
    program = exact_program(np.ones((1, 1, 1, 1), np.int8), np.zeros(1, np.int32))
    program.layers[0].weight_scale[:] = 2.0**30
    Simulator(program, "float32")
    with pytest.raises(ValueError, match=r"conv: .*too large"):
        Simulator(program, "fixed_point")


def test_images_and_tensors_must_fit():
    simulator = _identity(make_tensor("x", (2, 3, 4), "int8"))
    with pytest.raises(ValueError, match="images must be float32"):
        simulator.run(torch.zeros(1, 2, 4, 3))
    with pytest.raises(ValueError, match="images must be float32"):
        simulator.run(torch.zeros(1, 2, 3, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="NaN"):
        simulator.run(torch.full((1, 2, 3, 4), torch.nan))
    with pytest.raises(ValueError, match="x: must be int8"):
        simulator.run_layer(simulator.program.layers[0], [torch.zeros(1, 2, 3, 4, dtype=torch.uint8)])


def test_tensors_are_released_behind_their_last_reader():
    program = head_program("int8")
    released = [name for names in Simulator(program)._released for name in names]
    assert sorted(released) == sorted(set(program.tensors) - {program.output})
    assert Simulator(program)._released[2] == ["first", "second"]
