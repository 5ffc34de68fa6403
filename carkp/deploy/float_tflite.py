"""Export of the folded network as a .tflite file in float32, to run it in LiteRT without quantisation.

Importing this module requires the extra ``carkp[litert]``.
"""

from collections.abc import Sequence
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema
from torch import nn

from carkp import disk
from carkp.deploy.litert import TfliteError
from carkp.deploy.runtime import INPUT_NAME, OUTPUT_NAME
from carkp.deploy.tflite_model import KINDS, ModelBuilder, Window
from carkp.quant.graph import IMAGE, Activation, AddLayer, ConcatLayer, ConvLayer, DepthToSpaceLayer, LayerGraph

ACTIVATIONS: dict[Activation, int] = {
    "none": schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}


def save_float_tflite(graph: LayerGraph, path: Path) -> None:
    """Write ``graph`` for one image; after a resize of its input the file takes any number of images.

    Args:
        graph: folded network, not equalised.
        path: path of the file; an existing file is replaced only by the complete new one. The folder is created.

    Raises:
        TfliteError: a layer cannot be written.
    """
    builder = ModelBuilder(KINDS.FLOAT32, {})
    names = {IMAGE: INPUT_NAME, graph.output: OUTPUT_NAME}
    places = {tensor: builder.tensor(names.get(tensor, tensor), _nhwc(shape)) for tensor, shape in graph.shapes.items()}
    for step, layer in graph.items():
        _write(builder, step.name, layer, [places[name] for name in step.inputs], places[step.name])
    disk.write_atomic(path, builder.content(places[IMAGE], places[graph.output], "carkp, float32", {}))


def _write(builder: ModelBuilder, name: str, layer: nn.Module, sources: Sequence[int], result: int) -> None:
    match layer:
        case ConvLayer():
            _write_conv(builder, name, layer, sources[0], result)
        case AddLayer():
            builder.add(sources, ACTIVATIONS[layer.activation], result)
        case ConcatLayer():
            builder.concatenation(sources, result)
        case DepthToSpaceLayer():
            builder.depth_to_space(sources[0], layer.block, result)
        case _:
            raise TfliteError(f"{name} ({type(layer).__name__}): cannot be written")


def _write_conv(builder: ModelBuilder, name: str, conv: ConvLayer, source: int, result: int) -> None:
    num_outputs, num_inputs, height, width = conv.weight.shape
    is_depthwise = conv.groups > 1
    if is_depthwise and not (num_inputs == 1 and conv.groups == num_outputs):
        raise TfliteError(f"{name}: {conv.groups} groups are neither a dense nor a depthwise convolution")
    if conv.activation == "relu6" and (conv.factors != 1).any():
        raise TfliteError(
            f"{name}: its channels are clamped at values other than 6: write the network before equalisation"
        )
    builder.convolution(
        name,
        source,
        conv.weight.detach().numpy(),
        conv.bias.detach().numpy(),
        (None, None),
        Window((height, width), conv.stride, conv.dilation, conv.pads),
        is_depthwise,
        ACTIVATIONS[conv.activation],
        result,
    )


def _nhwc(shape: Sequence[int]) -> list[int]:
    channels, height, width = shape
    return [1, height, width, channels]
