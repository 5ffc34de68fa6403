"""Export of the float network as one ONNX file, and a check that the file computes the same.

A network that :func:`carkp.quant.fold.fold` supports is written layer by layer, which takes a tenth of a second. Any
other network is written by torch's exporter, which takes ten seconds.

Legend: B batch, K keypoints, H W height and width of the image.
"""

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from carkp.deploy.float_ops import FloatSite, GraphParts, UnsupportedOperatorError, write_float_op
from carkp.deploy.quiet import quiet
from carkp.deploy.runtime import INPUT_NAME, OUTPUT_NAME, OnnxRunner
from carkp.disk import write_atomic
from carkp.quant.float_layers import float_weights
from carkp.quant.fold import FoldError, fold
from carkp.quant.graph import IMAGE, Activation, AddLayer, ConcatLayer, ConvLayer, FloatLayer, LayerGraph, Step
from carkp.quant.program import FloatOp

OPSET = 18
"""The ONNX operator set: the one that torch's exporter writes without a version conversion."""

IR_VERSION = 10
"""Version of the file format: torch's exporter writes it for this operator set, and older readers accept it."""

BATCH = "batch"
"""Symbol of the batch size."""

EXAMPLE_BATCH = 2
"""Batch size of the example: torch.export specialises dimensions of size 1, so it must be larger."""


class ExportMismatchError(ValueError):
    """An exported file does not compute the same as the network."""


def export_float_onnx(net: nn.Module, input_size: tuple[int, int], path: Path, metadata: Mapping[str, str]) -> None:
    """Write ``net`` in evaluation mode to ``path``; an existing file is replaced only by the complete new one.

    The input is ``image`` (B, 3, H, W): float32, YUV444 normalised as (v - 128) / 128; B is symbolic, H and W are
    fixed. The output is ``heatmaps``. Batch norms are folded into the convolutions. ``net`` itself does not change.

    Args:
        net: network on any device, in any mode and memory format.
        input_size: (height, width) in pixels.
        path: path of the file; its folder is created.
        metadata: strings to store in the file's metadata_props.

    Raises:
        TypeError: a key or value of ``metadata`` is not a string.
        onnx.checker.ValidationError: the exporter wrote an invalid model.
    """
    bad = [key for key, value in metadata.items() if not (isinstance(key, str) and isinstance(value, str))]
    if bad:
        raise TypeError(f"metadata must map strings to strings; wrong entries: {bad}")
    plain = copy.deepcopy(net).cpu().float().eval().to(memory_format=torch.contiguous_format)
    try:
        model = _written(fold(plain, input_size, keep_transposed=True))
    except (FoldError, UnsupportedOperatorError):
        model = _exported_by_torch(plain, input_size)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    write_atomic(path, model.SerializeToString(deterministic=True))


def check_against_torch(path: Path, net: nn.Module, images: Tensor, tolerance: float = 1e-4) -> float:
    """Return the largest absolute difference between the file in ONNX Runtime and ``net`` in evaluation mode.

    Args:
        path: path of an exported file.
        net: network from which the file was exported.
        images: normalised images, (B, 3, H, W) float32.
        tolerance: largest difference allowed, in units of the heatmaps (peaks are 1).

    Raises:
        ExportMismatchError: the difference is larger, a value is not finite, or the shapes differ.
    """
    was_training = net.training
    with torch.inference_mode():
        expected = net.eval()(images).float().cpu().numpy()
    net.train(was_training)
    got = OnnxRunner(path).run(images.float().cpu().contiguous().numpy())
    if got.shape != expected.shape:
        raise ExportMismatchError(f"{path}: heatmaps have shape {got.shape}, torch gives {expected.shape}")
    error = float(abs(got - expected).max())
    if not error <= tolerance:
        raise ExportMismatchError(f"{path}: differs from torch by {error:.3g}, more than {tolerance:g}")
    return error


def _written(graph: LayerGraph) -> onnx.ModelProto:
    """Write a folded network as a model of ONNX operators.

    Raises:
        UnsupportedOperatorError: a layer has no ONNX form here.
    """
    parts, values = GraphParts(), {IMAGE: INPUT_NAME}
    for step, layer in graph.items():
        values[step.name] = _write_layer(parts, graph, step, layer, [values[name] for name in step.inputs])
    parts.nodes[-1].output[0] = OUTPUT_NAME
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, *graph.shapes[tensor]])
        for name, tensor in ((INPUT_NAME, IMAGE), (OUTPUT_NAME, graph.output))
    ]
    made = helper.make_graph(parts.nodes, "carkp", ends[:1], ends[1:], list(parts.initializers.values()))
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="carkp", ir_version=IR_VERSION
    )


def _write_layer(parts: GraphParts, graph: LayerGraph, step: Step, layer: nn.Module, inputs: list[str]) -> str:
    match layer:
        case ConvLayer():
            return _activate(parts, step.name, layer.activation, _write_conv(parts, step.name, layer, inputs[0]))
        case AddLayer():
            return _activate(parts, step.name, layer.activation, parts.node("Add", inputs, f"{step.name}.sum"))
        case ConcatLayer():
            return parts.node("Concat", inputs, step.name, axis=1)
        case FloatLayer():
            weights = {role: weight.detach().numpy() for role, weight in float_weights(layer).items()}
            operator = FloatOp(step.name, layer.kind, step.inputs, step.name, layer.attributes, weights)
            shapes = tuple(graph.shapes[name] for name in step.inputs)
            return write_float_op(FloatSite(parts, operator, tuple(inputs), shapes, graph.shapes[step.name]))
    raise UnsupportedOperatorError(f"{step.name} ({type(layer).__name__}): cannot be written")


def _write_conv(parts: GraphParts, name: str, conv: ConvLayer, source: str) -> str:
    weights = [
        parts.constant(f"{name}.{role}", tensor.detach().numpy())
        for role, tensor in (("weight", conv.weight), ("bias", conv.bias))
    ]
    return parts.node(
        "Conv",
        [source, *weights],
        f"{name}.conv",
        strides=conv.stride,
        pads=conv.pads,
        dilations=conv.dilation,
        group=conv.groups,
        kernel_shape=conv.weight.shape[2:],
    )


def _activate(parts: GraphParts, name: str, activation: Activation, value: str) -> str:
    match activation:
        case "relu6":
            bounds = [parts.constant(role, np.asarray(bound, np.float32)) for role, bound in (("zero", 0), ("six", 6))]
            return parts.node("Clip", [value, *bounds], name)
        case "relu":
            return parts.node("Relu", [value], name)
        case "none":
            return value


def _exported_by_torch(plain: nn.Module, input_size: tuple[int, int]) -> onnx.ModelProto:
    example = torch.zeros(EXAMPLE_BATCH, 3, *input_size)
    with quiet():
        program = torch.onnx.export(
            plain,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},),
            external_data=False,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    return _without_traces(program.model_proto)


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's notes on nodes and values from the model; they quote source files and their paths."""
    graph = model.graph
    for item in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, model]:
        del item.metadata_props[:]
        item.doc_string = ""
    return model
