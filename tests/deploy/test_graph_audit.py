"""The audit finds every way in which ONNX Runtime leaves a convolution in float."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from carkp.deploy.graph_audit import FloatKernelError, audit_kernels, optimised_graph, require_int8_convs

CHANNELS, SIZE = 16, 12
PADS = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


class Graph:
    """A small graph from ``image`` to ``heatmaps``."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        rng = np.random.default_rng(0)
        weight = rng.integers(-127, 128, (CHANNELS, CHANNELS, 3, 3))
        self.arrays |= {"scale": np.asarray(0.03, np.float32), "weight_scale": np.full(CHANNELS, 1e-3, np.float32)}
        self.arrays |= {"weight_zero": np.zeros(CHANNELS, np.int8), "weight": weight.astype(np.int8)}
        self.arrays |= {"float_weight": (weight / 1000).astype(np.float32), "bias": np.zeros(CHANNELS, np.int32)}
        self.arrays |= {"signed_zero": np.asarray(0, np.int8), "zero": np.asarray(0, np.uint8)}

    def node(self, kind: str, inputs: str, output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs.split(), [output], name=f"the_{kind}_{output}", **attributes))

    def save(self, path: Path) -> Path:
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", CHANNELS, SIZE, SIZE])
            for name in ("image", "heatmaps")
        ]
        used = {name for node in self.nodes for name in node.input}
        arrays = [numpy_helper.from_array(value, name) for name, value in self.arrays.items() if name in used]
        graph = helper.make_graph(self.nodes, "g", ends[:1], ends[1:], arrays)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
        return path


def write_qdq(path: Path, zero: str) -> Path:
    """DQ -> Conv -> Relu -> Q; fused only where saturation to the zero point can stand for the Relu."""
    graph = Graph()
    graph.node("QuantizeLinear", f"image scale {zero}", "q")
    graph.node("DequantizeLinear", f"q scale {zero}", "f")
    graph.node("DequantizeLinear", "weight weight_scale weight_zero", "w", axis=0)
    graph.node("Conv", "f w", "c", **PADS)
    graph.node("Relu", "c", "r")
    graph.node("QuantizeLinear", f"r scale {zero}", "rq")
    graph.node("DequantizeLinear", f"rq scale {zero}", "heatmaps")
    return graph.save(path)


def write_float_conv(path: Path) -> Path:
    graph = Graph()
    graph.node("Conv", "image float_weight", "c", **PADS)
    graph.node("Relu", "c", "heatmaps")
    return graph.save(path)


def write_half_float(path: Path) -> Path:
    """One convolution in int8, one behind it in float."""
    graph = Graph()
    graph.node("QuantizeLinear", "image scale zero", "q")
    graph.node("QLinearConv", "q scale zero weight weight_scale weight_zero scale zero bias", "c", **PADS)
    graph.node("DequantizeLinear", "c scale zero", "f")
    graph.node("Conv", "f float_weight", "heatmaps", **PADS)
    return graph.save(path)


def write_matmul(path: Path) -> Path:
    graph = Graph()
    graph.arrays["square"] = np.eye(SIZE, dtype=np.float32)
    graph.node("MatMul", "image square", "heatmaps")
    return graph.save(path)


def test_fused_model_passes(tmp_path: Path) -> None:
    path = write_qdq(tmp_path / "net.onnx", "zero")
    audit = require_int8_convs(path, 1)
    assert audit.float_kernels == ()
    assert audit.op_counts["com.microsoft.QLinearConv"] == 1
    assert list(tmp_path.iterdir()) == [path]


def write_signed_qdq(path: Path) -> Path:
    return write_qdq(path, "signed_zero")


@pytest.mark.parametrize(
    ("write", "num_int8", "name"),
    [
        (write_signed_qdq, 0, "Conv"),
        (write_float_conv, 0, "Conv"),
        (write_half_float, 1, "Conv"),
        (write_matmul, 0, "MatMul"),
    ],
)
def test_float_kernels_are_found(write: Callable[[Path], Path], num_int8: int, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx")
    audit = audit_kernels(optimised_graph(path))
    assert audit.num_qlinear_convs == num_int8
    assert len(audit.float_kernels) == 1
    assert name in audit.float_kernels[0]
    with pytest.raises(FloatKernelError, match=rf"net\.onnx: .* {num_int8} convolutions in int8, .*{name}"):
        require_int8_convs(path, num_int8)


def test_float_convolutions_of_other_domains(tmp_path: Path) -> None:
    """The Conv of com.microsoft.nchwc is what a float convolution becomes; older levels keep the standard one."""
    path = write_float_conv(tmp_path / "net.onnx")
    assert audit_kernels(optimised_graph(path)).op_counts.keys() & {"com.microsoft.nchwc.Conv"}
    extended = audit_kernels(optimised_graph(path, "ORT_ENABLE_EXTENDED"))
    assert extended.op_counts.keys() & {"Conv", "com.microsoft.FusedConv"}
    assert len(extended.float_kernels) == 1


def test_missing_int8_convolution(tmp_path: Path) -> None:
    path = write_qdq(tmp_path / "net.onnx", "zero")
    with pytest.raises(FloatKernelError, match=r"would run 1 of 2 convolutions in int8, .* float: none \(0 expected\)"):
        require_int8_convs(path, 2)


def test_kernels_in_subgraphs_are_found() -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Gemm", ["a", "b"], ["y"], name="inner")], "then", [], [value])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    assert audit_kernels(model).float_kernels == ("inner (Gemm)", "inner (Gemm)")


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        optimised_graph(tmp_path / "none.onnx")
    path = write_float_conv(tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"level must be one of .*ORT_ENABLE_ALL"):
        optimised_graph(path, "all")
    path.write_bytes(b"no onnx")
    with pytest.raises(ValueError, match=r"net\.onnx: not a readable ONNX file"):
        optimised_graph(path)
