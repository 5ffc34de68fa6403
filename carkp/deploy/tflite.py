"""Export of a quantised program as a .tflite file, which LiteRT, XNNPACK and tflite-micro execute.

Each layer of the program becomes one operator. A padding that TensorFlow Lite's convolutions do not have becomes a PAD
before it. Tensors are (B, H, W, C) in int8: a uint8 tensor of the program is stored as q - 128. Notes on target, codec
and run are stored as the model's metadata.

Importing this module requires the extra ``carkp[litert]``.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from carkp import disk
from carkp.deploy.litert import TfliteError
from carkp.deploy.runtime import INPUT_NAME, OUTPUT_NAME
from carkp.deploy.tflite_model import KINDS, ModelBuilder, Window
from carkp.quant.program import (
    FloatOp,
    Layer,
    QAdd,
    QConcat,
    QConv,
    QDepthToSpace,
    QProgram,
    QTensor,
    check_program,
)

Interface = Literal["float", "int8"]

UNSIGNED_OFFSET = 128
"""Offset that is subtracted from a uint8 value to store it as int8."""

VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "ADD": 2, "CONCATENATION": 2, "PAD": 2, "DEQUANTIZE": 2}
"""First version of each operator that takes int8; other operators have version 1."""


def save_tflite(
    program: QProgram, path: Path | str, interface: Interface = "float", notes: Mapping[str, str] | None = None
) -> None:
    """Write ``program`` for one image; after a resize of its input the file takes any number of images.

    Args:
        program: program that passes :func:`carkp.quant.program.check_program`.
        path: path of the file; an existing file is replaced only by the complete new one. The folder is created.
        interface: type of input and output: ``float`` for float32, ``int8`` for the quantised tensors themselves.
        notes: metadata, by name.

    Raises:
        ProgramError: the program is inconsistent.
        TfliteError: TensorFlow Lite cannot express a layer.
    """
    disk.write_atomic(Path(path), tflite_bytes(program, interface, notes or {}))


def tflite_bytes(program: QProgram, interface: Interface, notes: Mapping[str, str]) -> bytes:
    """Return the content of the file; see :func:`save_tflite`."""
    check_program(program)
    return _Writer(program).content(interface, notes)


class _Writer:
    """Writes the layers of a program; ``places`` maps the name of a tensor to its index in the file."""

    def __init__(self, program: QProgram) -> None:
        self.program, self.builder = program, ModelBuilder(KINDS.INT8, VERSIONS)
        self.places: dict[str, int] = {}

    def content(self, interface: Interface, notes: Mapping[str, str]) -> bytes:
        program, builder = self.program, self.builder
        image, heatmaps = program.tensors[program.input], program.tensors[program.output]
        if interface == "int8":
            given, made = self._activation(image, INPUT_NAME), self._activation(heatmaps, OUTPUT_NAME)
        else:
            given, made = (
                builder.tensor(name, _nhwc(tensor), KINDS.FLOAT32)
                for name, tensor in ((INPUT_NAME, image), (OUTPUT_NAME, heatmaps))
            )
            builder.operator("QUANTIZE", [given], self._activation(image))
        for layer in program.layers:
            self._write(layer)
        if interface == "float":
            builder.operator("DEQUANTIZE", [self._activation(heatmaps)], made)
        return builder.content(given, made, f"carkp, target {program.target.name}", notes)

    def _write(self, layer: Layer) -> None:
        tensors = self.program.tensors
        places = [self._activation(tensors[name]) for name in layer.inputs]
        result = tensors[layer.output]
        match layer:
            case QConv():
                self._write_conv(layer, tensors[layer.inputs[0]], result)
            case QAdd():
                self.builder.add(places, _activation_of(layer, result), self._activation(result))
            case QConcat():
                self.builder.concatenation(places, self._activation(result))
            case QDepthToSpace():
                self.builder.depth_to_space(places[0], layer.block, self._activation(result))
            case FloatOp():
                raise TfliteError(f"{layer.name} ({layer.kind}): has no integer form, and float layers are not written")

    def _write_conv(self, conv: QConv, source: QTensor, result: QTensor) -> None:
        is_depthwise = conv.groups > 1
        if is_depthwise and not conv.groups == source.shape[0] == result.shape[0]:
            raise TfliteError(f"{conv.name}: {conv.groups} groups are neither a dense nor a depthwise convolution")
        height, width = conv.weight.shape[2:]
        self.builder.convolution(
            conv.name,
            self._activation(source),
            conv.weight,
            conv.bias,
            (conv.weight_scale, np.float32(source.scale) * conv.weight_scale),
            Window((height, width), conv.stride, conv.dilation, conv.pads),
            is_depthwise,
            _activation_of(conv, result),
            self._activation(result),
        )

    def _activation(self, tensor: QTensor, name: str = "") -> int:
        if tensor.name not in self.places:
            zero_point = tensor.zero_point - (UNSIGNED_OFFSET if tensor.dtype == "uint8" else 0)
            self.places[tensor.name] = self.builder.tensor(
                name or tensor.name, _nhwc(tensor), scales=[tensor.scale], zero_points=[zero_point]
            )
        return self.places[tensor.name]


def _nhwc(tensor: QTensor) -> list[int]:
    channels, height, width = tensor.shape
    return [1, height, width, channels]


def _activation_of(layer: QConv | QAdd, result: QTensor) -> int:
    """Return the fused activation that clamps as the layer does.

    Raises:
        TfliteError: there is no such activation.
    """
    lowest, highest = result.range
    zero = result.zero_point
    six = min(highest, zero + math.floor(6 / result.scale + 0.5))
    words = {
        (lowest, highest): schema.ActivationFunctionType.NONE,
        (max(lowest, zero), highest): schema.ActivationFunctionType.RELU,
        (max(lowest, zero), six): schema.ActivationFunctionType.RELU6,
    }
    # if several activations clamp equally, the first one wins: NONE before RELU before RELU6
    found = next((word for clamp, word in words.items() if clamp == layer.clamp), None)
    if found is None:
        raise TfliteError(f"{layer.name}: no activation of TensorFlow Lite clamps to {layer.clamp}")
    return int(found)
