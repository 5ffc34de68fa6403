"""The written file is valid, computes the program's integers, holds the program, and is refused when it was changed."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from carkp.deploy.float_ops import FLOAT_KINDS, UnsupportedOperatorError
from carkp.deploy.graph_audit import audit_kernels, optimised_graph, require_int8_convs
from carkp.deploy.int8_onnx import Int8OnnxError, load_program, program_to_onnx, save_program
from carkp.deploy.runtime import OnnxRunner
from carkp.quant.program import (
    ProgramError,
    QConv,
    QProgram,
    QTensor,
    requantise_scales,
    same_program,
)
from carkp.quant.target import Dtype
from tests.deploy.programs import SIZE, Net, images, pose_net


def quantise(values: NDArray[Any], tensor: QTensor) -> NDArray[np.int64]:
    scaled = np.rint(values.astype(np.float32) / np.float32(tensor.scale)).astype(np.int64)
    return np.clip(scaled + tensor.zero_point, *tensor.range)


def dequantise(values: NDArray[np.int64], tensor: QTensor) -> NDArray[np.float32]:
    return (values - tensor.zero_point).astype(np.float32) * np.float32(tensor.scale)


def reference_conv(program: QProgram, conv: QConv, values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Exact accumulation, float32 multiplier, round half to even."""
    source, result = program.tensors[conv.inputs[0]], program.tensors[conv.output]
    top, left, bottom, right = conv.pads
    padded = np.pad(values - source.zero_point, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, conv.weight.shape[2:], (2, 3))
    windows = windows[:, :, :: conv.stride[0], :: conv.stride[1]]
    num_outputs, depth = conv.weight.shape[:2]
    grouped = windows.reshape(len(values), conv.groups, depth, *windows.shape[2:])
    weight = conv.weight.astype(np.int64).reshape(conv.groups, num_outputs // conv.groups, *conv.weight.shape[1:])
    sums = np.einsum("bgihwyx,goiyx->bgohw", grouped, weight).reshape(len(values), num_outputs, *windows.shape[2:4])
    sums = sums + conv.bias.astype(np.int64)[:, None, None]
    scaled = sums.astype(np.float32) * requantise_scales(program, conv)[:, None, None]
    return np.clip(np.rint(scaled).astype(np.int64) + result.zero_point, *conv.clamp)


@pytest.fixture(params=["int8", "uint8"])
def dtype(request: pytest.FixtureRequest) -> Dtype:
    chosen: Dtype = request.param
    return chosen


@pytest.mark.parametrize("batch", [None, 2])
def test_written_file_runs_in_int8_and_holds_the_program(dtype: Dtype, batch: int | None, tmp_path: Path) -> None:
    program, path = pose_net(dtype), tmp_path / "made" / "net.onnx"
    save_program(program, path, batch)
    onnx.checker.check_model(str(path), full_check=True)
    assert [item.name for item in path.parent.iterdir()] == ["net.onnx"]
    audit = require_int8_convs(path, program.num_convs)
    assert program.num_convs == 9
    assert audit.op_counts["com.microsoft.QLinearAdd"] == 2
    assert "Add" not in audit.op_counts
    runner = OnnxRunner(path)
    assert runner.image_shape == (batch or "batch", 3, *SIZE)
    for num_images in [batch] if batch else [1, 5]:
        heatmaps = runner.run(images(num_images))
        assert heatmaps.shape == (num_images, 5, *SIZE)
        assert len(np.unique(heatmaps)) > 50
    assert same_program(load_program(path), program)


def test_only_standard_operators_and_no_float_convolution(dtype: Dtype) -> None:
    model = program_to_onnx(pose_net(dtype), None)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}
    assert audit_kernels(model).float_kernels == ()
    stored = {value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert stored == {TensorProto.UINT8}


@pytest.mark.parametrize("kind", ["dense", "depthwise", "strided", "clamped"])
def test_convolution_equals_integer_reference(dtype: Dtype, kind: str, tmp_path: Path) -> None:
    net = Net(dtype)
    stem = net.conv("stem", "image", 16)
    options: dict[str, Any] = {
        "dense": {"kernel": 3},
        "depthwise": {"kernel": 5, "groups": 16},
        "strided": {"kernel": 3, "stride": 2, "pads": (0, 1, 1, 0)},
        "clamped": {"relu": False, "clamp": (-20, 90) if dtype == "int8" else (100, 200)},
    }[kind]
    program = net.program(net.conv("last", stem, 16, **options))
    save_program(program, tmp_path / "net.onnx")
    batch = images(3)
    values = quantise(batch, program.tensors["image"])
    for layer in program.layers:
        assert isinstance(layer, QConv)
        values = reference_conv(program, layer, values)
    assert len(np.unique(values)) > 50
    expected = dequantise(values, program.tensors["last"])
    np.testing.assert_array_equal(OnnxRunner(tmp_path / "net.onnx").run(batch), expected)


def test_clip_only_where_saturation_does_not_do_it(dtype: Dtype) -> None:
    model = program_to_onnx(pose_net(dtype), None)
    clipped = [node.output[0] for node in model.graph.node if node.op_type == "Clip"]
    num_positive = 7  # stem, depthwise, the sum with ReLU, four phases
    assert len(clipped) == (num_positive if dtype == "int8" else 0)


def test_metadata_can_be_read_by_others(dtype: Dtype, tmp_path: Path) -> None:
    program, path = pose_net(dtype), tmp_path / "net.onnx"
    save_program(program, path)
    metadata = OnnxRunner(path).metadata
    assert metadata["carkp.target"] == f"test_{dtype}"
    assert metadata["carkp.origin.run"] == "abc"
    assert json.loads(metadata["carkp.scales"])["stem"] == program.tensors["stem"].scale
    assert onnx.load(path).producer_name == "carkp"


def test_notes_of_others_are_no_change(tmp_path: Path) -> None:
    program, path = pose_net("int8"), tmp_path / "net.onnx"
    save_program(program, path)
    model = onnx.load(path)
    model.metadata_props.add(key="registry.version", value="3")
    onnx.save(model, path)
    assert same_program(load_program(path), program)


def _change_initializer(model: ModelProto, name: str) -> None:
    tensor = next(item for item in model.graph.initializer if item.name == name)
    changed = numpy_helper.to_array(tensor).copy()
    changed.reshape(-1)[0] += changed.dtype.type(1)
    tensor.CopyFrom(numpy_helper.from_array(changed, name))


def _change_node(model: ModelProto) -> None:
    node = next(item for item in model.graph.node if item.name == "stem.unclamped")
    next(item for item in node.attribute if item.name == "pads").ints[0] += 1


def _change_origin(model: ModelProto) -> None:
    next(item for item in model.metadata_props if item.key == "carkp.origin.run").value = "another"


def _change_program(model: ModelProto) -> None:
    item = next(item for item in model.metadata_props if item.key == "carkp.program")
    item.value = item.value.replace('"clamp": [0, 127]', '"clamp": [1, 127]', 1)


def _change_target(model: ModelProto) -> None:
    item = next(item for item in model.metadata_props if item.key == "carkp.program")
    item.value = item.value.replace('"accumulator_bits": 32', '"accumulator_bits": 24', 1)


def _break_program(model: ModelProto) -> None:
    item = next(item for item in model.metadata_props if item.key == "carkp.program")
    item.value = item.value.replace('"clamp"', '"clmp"', 1)


def _drop_weight(model: ModelProto) -> None:
    kept = [item for item in model.graph.initializer if item.name != "final.weight"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


EDITS: dict[str, tuple[Callable[[ModelProto], None], str]] = {
    "weight": (lambda model: _change_initializer(model, "final.weight"), "the weights of final differ from"),
    "weight scale": (lambda model: _change_initializer(model, "stem.weight_scale"), "the weights of stem differ from"),
    "bias": (lambda model: _change_initializer(model, "up.phase01.bias"), r"the weights of up\.phase01 differ from"),
    "scale": (lambda model: _change_initializer(model, "stem.q_scale"), r"initializer stem\.q_scale"),
    "zero point": (lambda model: _change_initializer(model, "stem.q_zero_point"), "initializer stem.q_zero_point"),
    "node": (_change_node, r"node stem\.unclamped"),
    "program": (_change_program, r"initializer stem\.clamp_min"),
    "origin": (_change_origin, "its inputs, outputs, order or metadata"),
    "target": (_change_target, "its inputs, outputs, order or metadata"),
    "damaged program": (_break_program, "cannot be rebuilt"),
    "missing weight": (_drop_weight, r"cannot be rebuilt \(KeyError: 'final\.weight'"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_file_is_refused(edit: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    save_program(pose_net("int8"), path)
    model = onnx.load(path)
    change, message = EDITS[edit]
    change(model)
    onnx.save(model, path)
    with pytest.raises(Int8OnnxError, match=rf"net\.onnx: .*{message}.*export it again"):
        load_program(path)


def test_missing_and_truncated_files(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(Int8OnnxError, match=r"net\.onnx: no such file"):
        load_program(path)
    save_program(pose_net("uint8"), path)
    content = path.read_bytes()
    for length in (0, 3, len(content) // 2, len(content) - 4):
        path.write_bytes(content[:length])
        with pytest.raises(Int8OnnxError, match=r"net\.onnx: truncated or not an ONNX file"):
            load_program(path)
    path.write_bytes(b"PK\x03\x04 this is a zip")
    with pytest.raises(Int8OnnxError, match=r"net\.onnx: truncated or not an ONNX file"):
        load_program(path)


def test_damaged_bytes_are_never_read_as_another_program(tmp_path: Path) -> None:
    program, path = pose_net("int8"), tmp_path / "net.onnx"
    save_program(program, path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 150):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(damaged))
        with pytest.raises(Int8OnnxError, match=r"net\.onnx: "):
            load_program(path)


def test_file_without_program_is_refused(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 3, 8, 8]) for name in ("image", "heatmaps")]
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["heatmaps"])], "g", ends[:1], ends[1:])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9, producer_name="pytorch"), tmp_path / "f.onnx")
    with pytest.raises(Int8OnnxError, match=r"f\.onnx: an ONNX file of pytorch without a quantised program"):
        load_program(tmp_path / "f.onnx")


@pytest.mark.parametrize(
    ("text", "message"), [('{"format": 2}', "has format 2, this carkp reads format 1"), ("{", "not JSON")]
)
def test_other_format_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = program_to_onnx(pose_net("int8"), None)
    next(item for item in model.metadata_props if item.key == "carkp.program").value = text
    onnx.save(model, path)
    with pytest.raises(Int8OnnxError, match=message):
        load_program(path)


def test_programs_that_cannot_be_written(tmp_path: Path) -> None:
    program = pose_net("int8")
    path = tmp_path / "net.onnx"
    with pytest.raises(Int8OnnxError, match="batch must be at least 1"):
        save_program(program, path, 0)
    twins = (*program.layers[:-1], replace(program.layers[-1], name="stem"))
    with pytest.raises(ProgramError, match=r"share the names stem"):
        save_program(replace(program, layers=twins), path)
    net = Net("int8")
    net.float_op("mean", "ReduceMean", ("image",), (3, 1, 1), {"axes": (2, 3)})
    with pytest.raises(Int8OnnxError, match="a tuple or a key that is not a string"):
        save_program(net.program("mean"), path)
    net = Net("int8")
    net.float_op("mean", "ReduceMean", ("image",), (3, 9, 9), {"axes": [2, 3]})
    with pytest.raises(Int8OnnxError, match=r"net\.onnx: not written, the program does not give a valid ONNX model"):
        save_program(net.program("mean"), path)
    assert not list(tmp_path.iterdir())


def squeeze_excite(dtype: Dtype) -> QProgram:
    net = Net(dtype)
    stem = net.conv("stem", "image", 8)
    mean = net.float_op("se.mean", "ReduceMean", (stem,), (8, 1, 1), {"axes": [2, 3]}, scale=0.01, is_positive=True)
    squeezed = net.conv("se.reduce", mean, 4, kernel=1, relu=False, scale=0.004)
    active = net.float_op("se.silu", "Silu", (squeezed,), (4, 1, 1), {}, scale=0.003)
    excited = net.conv("se.expand", active, 8, kernel=1, relu=False, scale=0.004)
    gate = net.float_op("se.gate", "Sigmoid", (excited,), (8, 1, 1), {}, scale=1 / 127, is_positive=True)
    return net.program(net.float_op("se.scaled", "Mul", (stem, gate), (8, *SIZE), {}, scale=0.02, is_positive=True))


def sigmoid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = 1 / (1 + np.exp(-values))
    return result


def test_squeeze_and_excite_in_float(dtype: Dtype, tmp_path: Path) -> None:
    program, path = squeeze_excite(dtype), tmp_path / "se.onnx"
    save_program(program, path)
    require_int8_convs(path, 3)
    assert same_program(load_program(path), program)
    batch = images(2)
    stem, reduce, expand = [layer for layer in program.layers if isinstance(layer, QConv)]
    tensors = program.tensors
    known = reference_conv(program, stem, quantise(batch, tensors["image"]))
    mean = quantise(dequantise(known, tensors["stem"]).mean((2, 3), keepdims=True), tensors["se.mean"])
    squeezed = dequantise(reference_conv(program, reduce, mean), tensors["se.reduce"])
    active = quantise(squeezed * sigmoid(squeezed), tensors["se.silu"])
    excited = dequantise(reference_conv(program, expand, active), tensors["se.expand"])
    gate = dequantise(quantise(sigmoid(excited), tensors["se.gate"]), tensors["se.gate"])
    expected = quantise(dequantise(known, tensors["stem"]) * gate, tensors["se.scaled"])
    got = quantise(OnnxRunner(path).run(batch), tensors["se.scaled"])
    assert len(np.unique(expected)) > 20
    assert np.abs(got - expected).max() <= 1


WEIGHTS = np.random.default_rng(1)


def weights(*shape: int) -> NDArray[np.float32]:
    return WEIGHTS.uniform(0.2, 1, shape).astype(np.float32)


SAME = (4, 8, 12)
Case = tuple[int, tuple[int, ...], dict[str, Any]]
CASES: dict[str, Case] = {
    **{kind: (1, SAME, {}) for kind in ("Relu", "LeakyRelu", "Elu", "Sigmoid", "HardSwish", "Silu", "Gelu", "Tanh")},
    **{kind: (2, SAME, {}) for kind in ("Add", "Sub", "Mul", "Div")},
    "Clip": (1, SAME, {"min": -1, "max": 1}),
    "HardSigmoid": (1, SAME, {"alpha": 1 / 6, "beta": 0.5}),
    "Softmax": (1, SAME, {"axis": 1}),
    "ReduceMean": (1, (1, 8, 12), {"axes": [1], "keepdims": 1}),
    "GlobalAveragePool": (1, (4, 1, 1), {}),
    "MaxPool": (1, (4, 4, 6), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": False}),
    "AveragePool": (1, (4, 4, 6), {"kernel_shape": [2, 2], "strides": [2, 2], "count_include_pad": 1}),
    "BatchNormalization": (
        1,
        SAME,
        {"epsilon": 1e-3, "weights": {n: weights(4) for n in ("scale", "bias", "mean", "var")}},
    ),
    "Resize": (1, (4, 16, 36), {"mode": "linear", "scales": [1, 1, 2, 3]}),
    "Transpose": (1, (12, 4, 8), {"perm": [0, 3, 1, 2]}),
    "Reshape": (1, (2, 2, 96), {"shape": [-1, 2, 2, 96]}),
    "ConvTranspose": (
        1,
        (6, 16, 24),
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "weights": {"weight": weights(4, 6, 4, 4), "bias": weights(6)}},
    ),
}


def float_net(kind: str, dtype: Dtype) -> QProgram:
    net = Net(dtype)
    sources = tuple(net.conv(f"source{index}", "image", 4, stride=2, relu=False) for index in (0, 1))
    if kind in ("Flatten", "Gemm"):
        result = net.float_op("flat", "Flatten", sources[:1], (384,), {"axis": 1})
        if kind == "Gemm":
            result = net.float_op(
                "op", kind, (result,), (12,), {"weights": {"weight": weights(12, 384), "bias": weights(12)}}
            )
        length = net.tensors[result].shape[0]
        net.float_op("last", "Reshape", (result,), (4, 3, length // 12), {})
    else:
        num_inputs, shape, options = CASES[kind]
        net.float_op("last", kind, sources[:num_inputs], shape, options)
    return net.program("last")


def test_every_kind_has_a_case() -> None:
    assert set(FLOAT_KINDS) == {*CASES, "Flatten", "Gemm"}


@pytest.mark.parametrize("kind", FLOAT_KINDS)
def test_every_kind_is_valid_and_runs(kind: str, tmp_path: Path) -> None:
    for dtype in ("int8", "uint8"):
        path = tmp_path / f"{dtype}.onnx"
        program = float_net(kind, dtype)
        save_program(program, path)
        heatmaps = OnnxRunner(path).run(images(2))
        assert heatmaps.shape == (2, *program.tensors["last"].shape)
        assert np.isfinite(heatmaps).all()
        assert len(np.unique(heatmaps)) > 1
        assert same_program(load_program(path), program)
        assert audit_kernels(optimised_graph(path)).num_qlinear_convs == program.num_convs


@pytest.mark.parametrize("kind", ["Gemm", "ConvTranspose"])
def test_float_weights_stay_float(kind: str, tmp_path: Path) -> None:
    """Behind a DequantizeLinear with one scale, ONNX Runtime would quantise them by itself."""
    save_program(float_net(kind, "uint8"), tmp_path / "net.onnx")
    audit = audit_kernels(optimised_graph(tmp_path / "net.onnx"))
    assert len(audit.float_kernels) == 1
    assert audit.op_counts[kind] == 1
    assert audit.op_counts["DequantizeLinear"] == 2  # the operator's input and the heatmaps, no weights


def test_sums_that_share_tensors_are_fused(dtype: Dtype, tmp_path: Path) -> None:
    net = Net(dtype)
    twice = net.add("twice", "image", "image")
    again = net.add("again", twice, "image")
    program = net.program(net.add("third", twice, again, relu=True))
    save_program(program, tmp_path / "net.onnx")
    counts = audit_kernels(optimised_graph(tmp_path / "net.onnx")).op_counts
    assert counts["com.microsoft.QLinearAdd"] == 3
    assert counts["DequantizeLinear"] == 1


def gelu(values: NDArray[np.float32]) -> NDArray[Any]:
    return values / 2 * (1 + np.vectorize(math.erf)(values / np.sqrt(2)))


FORMULAS: dict[str, Callable[[NDArray[np.float32]], NDArray[Any]]] = {
    "Silu": lambda values: values * sigmoid(values),
    "Gelu": gelu,
    "HardSwish": lambda values: values * np.clip(values / 6 + 0.5, 0, 1),
    "Clip": lambda values: np.clip(values, -1, 1),
    "ReduceMean": lambda values: values.mean(1, keepdims=True),
    "Sub": lambda values: 1 - values,
    "Resize": lambda values: values.repeat(2, 2).repeat(3, 3),
}


@pytest.mark.parametrize("kind", FORMULAS)
def test_float_operators_compute_their_formula(kind: str, tmp_path: Path) -> None:
    _, shape, options = CASES[kind]
    if kind == "Sub":
        options = {"weights": {"a": np.ones((), np.float32)}}
    if kind == "Resize":
        options = {"mode": "nearest"}
    net = Net("uint8")
    net.conv("source", "image", 4, stride=2, relu=False, scale=0.03)
    program = net.program(net.float_op("last", kind, ("source",), shape, options))
    save_program(program, tmp_path / "net.onnx")
    assert same_program(load_program(tmp_path / "net.onnx"), program)
    conv = program.layers[0]
    assert isinstance(conv, QConv)
    batch = images(2)
    source = dequantise(reference_conv(program, conv, quantise(batch, net.tensors["image"])), net.tensors["source"])
    expected = quantise(FORMULAS[kind](source), net.tensors["last"])
    got = quantise(OnnxRunner(tmp_path / "net.onnx").run(batch), net.tensors["last"])
    assert len(np.unique(expected)) > 20
    assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("Mish", {}, r"last: no ONNX form of operator 'Mish' is known\. Replace it .*float_ops\.py"),
        ("HardSigmoid", {}, r"last: HardSigmoid: attributes missing \['alpha', 'beta'\]"),
        ("Relu", {"inplace": True}, r"unknown \['inplace'\]"),
        ("Gelu", {"approximate": "tanh"}, "approximate='none'"),
        ("Add", {}, "two operands"),
        ("Resize", {"mode": "cubic"}, "mode must be"),
        ("Resize", {"mode": "nearest", "scales": [1, 1, 2, 2]}, "contradict"),
        ("Reshape", {"shape": [1, 5, 8, 12]}, "contradicts"),
        ("Mul", {"weights": {"b": np.ones((), np.float64)}}, "must be float32"),
    ],
)
def test_operators_that_cannot_be_written(kind: str, options: dict[str, Any], message: str) -> None:
    net = Net("int8")
    net.conv("source", "image", 4, stride=2)
    net.float_op("last", kind, ("source",), SAME, options)
    with pytest.raises(UnsupportedOperatorError, match=message):
        program_to_onnx(net.program("last"), None)


def test_shapes_suit_the_direct_kernels_of_onnxruntime(dtype: Dtype) -> None:
    model = program_to_onnx(pose_net(dtype), None)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "QLinearConv"]
    groups = {node.name: next(item.i for item in node.attribute if item.name == "group") for node in convs}
    for node in convs:
        outputs, inputs = arrays[node.input[3]].shape[:2]
        assert groups[node.name] > 1 or (outputs >= 16 and inputs % 4 == 0), node.name
    assert "DepthToSpace" not in {node.op_type for node in model.graph.node}
