"""ONNX Runtime, with standard operators on integers, gives what the simulator gives: on every element."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from carkp.deploy.reference_onnx import NoReferenceError, fixed_point, has_reference, reference_model, save_reference
from carkp.deploy.runtime import OnnxRunner
from carkp.quant.program import QConv, QProgram
from carkp.quant.requantise import fixed_point_multipliers
from carkp.quant.simulate import Simulator
from carkp.quant.target import Dtype
from tests.deploy.programs import SIZE, Net, images, pose_net, target

DTYPES: tuple[Dtype, ...] = ("int8", "uint8")


def on_npu(program: QProgram) -> QProgram:
    npu = target(program.target.activation_dtype).model_copy(update={"requantisation": "fixed_point"})
    return replace(program, target=npu)


def steps_apart(program: QProgram, path: Path, num_images: int = 4) -> np.ndarray:
    """How many steps of the output's scale the file is from the simulator, for every element."""
    batch = images(num_images)
    expected = Simulator(program).run(torch.from_numpy(batch)).numpy()
    assert len(np.unique(expected)) > 30
    return np.rint((OnnxRunner(path).run(batch) - expected) / program.tensors[program.output].scale).astype(int)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layer_equals_the_simulator(dtype: Dtype, tmp_path: Path) -> None:
    program, path = on_npu(pose_net(dtype)), tmp_path / "made" / "reference.onnx"
    save_reference(program, path)
    assert [item.name for item in path.parent.iterdir()] == ["reference.onnx"]
    assert not steps_apart(program, path).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_round_up_on_both_sides_of_zero(dtype: Dtype, tmp_path: Path) -> None:
    """A scale of exactly 1/8 puts one sum in eight on a tie."""
    net = Net(dtype)
    net.conv("last", "image", 6, relu=False, scale=0.02)
    conv = net.layers[0]
    assert isinstance(conv, QConv)
    source, result = net.tensors["image"], net.tensors["last"]
    weight_scale = np.full(6, 0.125 * result.scale / source.scale, np.float32)
    result = replace(result, scale=float(np.float32(np.float32(source.scale) * weight_scale[0]) * 8))
    net.tensors["last"] = result
    net.layers[0] = replace(conv, weight=conv.weight // 40, weight_scale=weight_scale)
    program = on_npu(net.program("last"))
    save_reference(program, tmp_path / "ties.onnx")
    assert not steps_apart(program, tmp_path / "ties.onnx", num_images=8).any()


def test_the_file_computes_in_integers_alone() -> None:
    model = reference_model(on_npu(pose_net("int8")))
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    kinds = {node.op_type for node in model.graph.node}
    assert kinds == {"QuantizeLinear", "ConvInteger", "Cast", "Add", "Mul", "Div", "Sub", "Clip", "Concat", "Reshape",
                     "Transpose", "DequantizeLinear"}  # fmt: skip
    is_float = [item.name for item in model.graph.initializer if item.data_type == TensorProto.FLOAT]
    assert sorted(is_float) == ["final.q_scale", "image.q_scale"]


def test_another_arithmetic_is_told_apart(tmp_path: Path) -> None:
    """The comparison can fail: the program of another shift."""
    program, path = on_npu(pose_net("int8")), tmp_path / "reference.onnx"
    save_reference(program, path)
    changed = {**program.tensors, "block.project": replace(program.tensors["block.project"], scale=0.03125)}
    assert steps_apart(replace(program, tensors=changed), path).any()


def test_multipliers_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    scales = np.exp(rng.uniform(np.log(1e-22), np.log(1e8), 20000)).astype(np.float32)
    found = np.array([fixed_point(float(scale)) for scale in scales])
    expected = fixed_point_multipliers(scales)
    np.testing.assert_array_equal(found[:, 0], expected.multipliers)
    np.testing.assert_array_equal(found[:, 1], expected.shifts)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 2.0**30])
def test_scales_without_a_multiplier_are_refused(scale: float) -> None:
    with pytest.raises(NoReferenceError, match="requantisation scale"):
        fixed_point(scale)


def test_programs_that_need_no_reference_are_refused() -> None:
    net = Net("int8")
    stem = net.conv("stem", "image", 8)
    mean = net.float_op("mean", "ReduceMean", (stem,), (8, 1, 1), {"axes": [2, 3]})
    for program in (pose_net("int8"), on_npu(net.program(mean))):
        assert not has_reference(program)
        with pytest.raises(NoReferenceError, match="only a program of integer layers"):
            reference_model(program)


def test_sums_that_int64_cannot_hold_are_refused() -> None:
    net = Net("int8", SIZE, channels=3)
    net.conv("last", "image", 4, relu=False)
    conv = net.layers[0]
    assert isinstance(conv, QConv)
    all_bits = np.full(4, 0.99999 * net.tensors["last"].scale / net.tensors["image"].scale, np.float32)
    net.layers[0] = replace(conv, bias=np.full(4, 2**31 - 1, np.int32), weight_scale=all_bits)
    program = on_npu(net.program("last"))
    with pytest.raises(NoReferenceError, match="last: its sums, multiplied by a multiplier, do not fit"):
        reference_model(program)
