"""Files of programs with tensors of 16 bits: the reference file is exact, the int8 file runs and is read back."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from carkp.deploy.check import judge_program
from carkp.deploy.graph_audit import FloatKernelError, require_int8_convs
from carkp.deploy.int8_onnx import WIDE_OPSET, load_program, save_program
from carkp.deploy.layer_cost import tensor_bytes
from carkp.deploy.perf import predict
from carkp.deploy.reference_onnx import save_reference
from carkp.deploy.runtime import OnnxRunner
from carkp.quant.program import QConv, QProgram, same_program
from carkp.quant.simulate import Simulator
from carkp.workflow.targets import load_target
from tests.quant.networks import images
from tests.quant.test_wide import GROUPS, SETS, mixed_program

BATCH = images(16, seed=5)
NEXT_TO_IT = 2.5
ONE_BYTE_STEP = 256.5
"""Sums of 16 bits are rounded in float32, in an order that depends on the CPU. A tie can move a byte on the way to the
output by one step, which a few outputs of 16 bits show as so many steps."""


def simulated(program: QProgram) -> np.ndarray:
    expected = Simulator(program).run(BATCH).numpy()
    assert len(np.unique(expected)) > 100
    return expected


@pytest.mark.parametrize("wide", SETS, ids="+".join)
def test_the_reference_file_equals_the_simulator(wide: tuple[str, ...], tmp_path: Path) -> None:
    program = mixed_program(wide)
    save_reference(program, tmp_path / "reference.onnx")
    assert np.array_equal(OnnxRunner(tmp_path / "reference.onnx").run(BATCH.numpy()), simulated(program))


@pytest.mark.parametrize("wide", SETS, ids="+".join)
def test_the_int8_file_is_next_to_it_and_is_read_back(wide: tuple[str, ...], tmp_path: Path) -> None:
    program, path = mixed_program(wide), tmp_path / "int8.onnx"
    save_program(program, path)
    assert same_program(load_program(path), program)
    assert onnx.load(path).opset_import[0].version == WIDE_OPSET
    output = program.tensors[program.output]
    steps = np.abs(OnnxRunner(path).run(BATCH.numpy()) - simulated(program)) / output.scale
    assert np.mean(steps > NEXT_TO_IT) < 0.01
    assert steps.max() < (ONE_BYTE_STEP if output.dtype == "int16" else NEXT_TO_IT)
    num_touched = program.num_convs - program.num_byte_convs
    assert num_touched >= 1
    require_int8_convs(path, program.num_byte_convs, num_touched)
    with pytest.raises(FloatKernelError):
        require_int8_convs(path, program.num_convs)


def test_hardware_says_whether_it_takes_them_and_what_they_take() -> None:
    narrow, wide = mixed_program(()), mixed_program(GROUPS)
    bpu, cpu = (load_target(name).hardware for name in ("bpu", "onnxruntime_cpu"))
    assert bpu is not None
    assert cpu is not None
    assert {item.verdict for item in judge_program(wide, bpu)} == {"int8"}
    breaches = [item.breach for item in judge_program(wide, cpu)]
    assert all(
        breach is not None and (breach.limit, breach.found, breach.allowed) == ("activation bits", "16", "8")
        for breach in breaches
    )
    assert not any(item.breach for item in judge_program(narrow, cpu))
    assert bpu.performance.wide_products is not None
    times = [predict(program, bpu.performance, judge_program(program, bpu)) for program in (narrow, wide)]
    assert times[1].total_us > times[0].total_us
    assert times[1].macs == times[0].macs
    assert times[1].peak_activation_bytes > 1.7 * times[0].peak_activation_bytes
    for name, tensor in wide.tensors.items():
        assert tensor_bytes(tensor) == (1 if name == wide.input else 2) * tensor_bytes(narrow.tensors[name])
    last = [layer for layer in wide.layers if isinstance(layer, QConv)][-1]
    compute = [next(layer.compute_us for layer in time.layers if layer.name == last.name) for time in times]
    assert compute[1] > compute[0]
