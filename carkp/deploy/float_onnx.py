"""The float network as one ONNX file, and the proof that it computes the same.

Legend: B batch, K keypoints, H W height and width of the image.
"""

import copy
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from carkp.deploy.quiet import quiet
from carkp.deploy.runtime import INPUT_NAME, OUTPUT_NAME, OnnxRunner

OPSET = 18
"""The ONNX operator set: the one torch's exporter emits without a version conversion."""

EXAMPLE_BATCH = 2
"""torch.export specialises dimensions of size 1, so that the example must have more."""


class ExportMismatchError(ValueError):
    """An exported file computes something else than the network."""


def export_float_onnx(net: nn.Module, input_size: tuple[int, int], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes ``net`` in evaluation mode to ``path``, replacing it at once when it is complete.

    Input ``image`` (B, 3, H, W): float32, YUV444 normalised as (v - 128) / 128; B is symbolic, H and W are fixed.
    Output ``heatmaps``. Batch norms are folded into the convolutions. ``net`` itself is left as it was.

    Args:
        net: on any device, in any mode and memory format.
        input_size: (height, width) in pixels.
        path: the file; its folder is made.
        metadata: strings kept in the file's metadata_props.

    Raises:
        TypeError: metadata that is not strings.
        onnx.checker.ValidationError: the exporter wrote an invalid model.
    """
    bad = [key for key, value in metadata.items() if not (isinstance(key, str) and isinstance(value, str))]
    if bad:
        raise TypeError(f"metadata must map strings to strings; not so: {bad}")
    model = _to_onnx(net, input_size)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    onnx.save_model(model, str(temporary))
    temporary.replace(path)


def check_against_torch(path: Path, net: nn.Module, images: Tensor, tolerance: float = 1e-4) -> float:
    """The largest absolute difference between the file in ONNX Runtime and ``net`` in evaluation mode.

    Args:
        path: an exported file.
        net: the network it came from.
        images: (B, 3, H, W) float32, normalised.
        tolerance: largest difference allowed, in units of the heatmaps (peaks are 1).

    Raises:
        ExportMismatchError: the difference is larger, or a value is not finite.
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


def _to_onnx(net: nn.Module, input_size: tuple[int, int]) -> onnx.ModelProto:
    plain = copy.deepcopy(net).cpu().float().eval().to(memory_format=torch.contiguous_format)
    example = torch.zeros(EXAMPLE_BATCH, 3, *input_size)
    with quiet():
        program = torch.onnx.export(
            plain,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            external_data=False,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    return _without_traces(program.model_proto)


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the exporter's notes on nodes and values, which quote source files and their paths."""
    graph = model.graph
    for item in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, model]:
        del item.metadata_props[:]
        item.doc_string = ""
    return model
