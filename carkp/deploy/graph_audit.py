"""Audit of the kernels that ONNX Runtime really runs: if it cannot fuse a convolution, it silently runs it in float."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from carkp.deploy.runtime import session_options

FLOAT_KERNELS = frozenset({"Conv", "FusedConv", "ConvTranspose", "MatMul", "Gemm", "FusedMatMul", "FusedGemm"})
"""Operators that multiply in float, in any domain: a float Conv can appear in the domain com.microsoft.nchwc."""


class FloatKernelError(ValueError):
    """ONNX Runtime runs in float what should run in int8."""


@dataclass(frozen=True)
class KernelAudit:
    """The kernels with which a graph multiplies.

    ``float_kernels`` are "name (domain.operator)"; ``op_counts`` maps "domain.operator", or "operator" in the standard
    domain, to the number of nodes.
    """

    num_qlinear_convs: int
    float_kernels: tuple[str, ...]
    op_counts: dict[str, int]


def optimised_graph(path: Path | str, level: str = "ORT_ENABLE_ALL", num_threads: int = 1) -> ModelProto:
    """Return the graph that ONNX Runtime runs on this machine's CPU; it may differ on other machines.

    Args:
        path: path of an ONNX file.
        level: a name of onnxruntime.GraphOptimizationLevel.
        num_threads: number of threads of one operator.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the level is unknown, or the file is not a readable ONNX file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such ONNX file")
    levels = dict(onnxruntime.GraphOptimizationLevel.__members__)
    if level not in levels:
        raise ValueError(f"level must be one of {sorted(levels)}, got {level!r}")
    options = session_options(num_threads)
    options.graph_optimization_level = levels[level]
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(written)
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the only common base class of onnxruntime's exceptions is Exception
            raise ValueError(f"{path}: not a readable ONNX file (truncated, or another format): {error}") from error
        return onnx.load(str(written))


def audit_kernels(model: ModelProto) -> KernelAudit:
    """Count the int8 convolutions and list the float kernels of a graph, including its subgraphs."""
    nodes = list(_all_nodes(model.graph))
    return KernelAudit(
        num_qlinear_convs=sum(node.op_type == "QLinearConv" for node in nodes),
        float_kernels=tuple(f"{node.name} ({_operator(node)})" for node in nodes if node.op_type in FLOAT_KERNELS),
        op_counts=dict(Counter(_operator(node) for node in nodes)),
    )


def require_int8_convs(path: Path | str, num_convs: int, num_float: int = 0) -> KernelAudit:
    """Audit the graph that runs, and require ``num_convs`` int8 convolutions and ``num_float`` float kernels.

    Raises:
        FloatKernelError: the graph has other numbers of them; the message names the float kernels.
    """
    audit = audit_kernels(optimised_graph(path))
    if len(audit.float_kernels) != num_float or audit.num_qlinear_convs != num_convs:
        names = ", ".join(audit.float_kernels) or "none"
        raise FloatKernelError(
            f"{path}: ONNX Runtime would run {audit.num_qlinear_convs} of {num_convs} convolutions in int8, and "
            f"these layers in float: {names} ({num_float} expected). Its latency would not be that of an int8 model. "
            "Other versions of ONNX Runtime fuse differently: install the version in constraints.txt"
        )
    return audit


def _operator(node: NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
            for subgraph in inner:
                yield from _all_nodes(subgraph)
