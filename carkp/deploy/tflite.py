"""A quantised program as a .tflite file, which LiteRT, XNNPACK and tflite-micro execute.

The layers are the program's, one operator each but for paddings that TensorFlow Lite has no word for, which become a
PAD in front. Tensors are (B, H, W, C) in int8: a uint8 tensor of the program is stored as q - 128. Notes on target,
codec and run travel as the model's metadata.

Importing this module takes the extra ``carkp[litert]``.

Legend: O output channels, I input channels, kh kw kernel height and width.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from carkp import disk
from carkp.deploy.litert import FILE_IDENTIFIER, TfliteError
from carkp.deploy.runtime import INPUT_NAME, OUTPUT_NAME
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

SCHEMA_VERSION = 3
ALIGNMENT = 16
"""Bytes, of the start of every buffer: kernels load vectors from them."""

UNSIGNED_OFFSET = 128
"""What a uint8 value is lowered by to be stored as int8."""

VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "ADD": 2, "CONCATENATION": 2, "PAD": 2, "DEQUANTIZE": 2}
"""First version of an operator that takes int8; the others are of version 1."""


def save_tflite(
    program: QProgram, path: Path | str, interface: Interface = "float", notes: Mapping[str, str] | None = None
) -> None:
    """Writes ``program``, for one image or, after a resize of its input, for any number.

    Args:
        program: holds :func:`carkp.quant.program.check_program`.
        path: the file, replaced at once when it is complete; its folder is made.
        interface: ``float`` takes and gives float32, ``int8`` the quantised tensors themselves.
        notes: metadata, by name.

    Raises:
        ProgramError: the program contradicts itself.
        TfliteError: a layer that TensorFlow Lite cannot express.
    """
    disk.write_atomic(Path(path), tflite_bytes(program, interface, notes or {}))


def tflite_bytes(program: QProgram, interface: Interface, notes: Mapping[str, str]) -> bytes:
    """The content of the file; see :func:`save_tflite`."""
    check_program(program)
    model = _Writer(program, interface).model(notes)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose bytes begin at a multiple of ``ALIGNMENT``; the generated one's begin anywhere."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802
        place = None
        if self.data is not None:
            content = self.data.tobytes()
            builder.StartVector(1, len(content), ALIGNMENT)
            builder.head = builder.head - len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            place = builder.EndVector()
        schema.BufferStart(builder)
        if place is not None:
            schema.BufferAddData(builder, place)
        end: int = schema.BufferEnd(builder)
        return end


class _Writer:
    """The parts of a model in the making; tensors are known by their names in the program."""

    def __init__(self, program: QProgram, interface: Interface) -> None:
        self.program = program
        self.buffers: list[schema.BufferT] = [_AlignedBuffer()]  # buffer 0 is empty: that of tensors without content
        self.tensors: list[schema.TensorT] = []
        self.operators: list[schema.OperatorT] = []
        self.codes: dict[str, int] = {}
        self.places: dict[str, int] = {}
        tensors = program.tensors
        image, heatmaps = tensors[program.input], tensors[program.output]
        if interface == "int8":
            self.ends = self._activation(image, INPUT_NAME), self._activation(heatmaps, OUTPUT_NAME)
        else:
            ends = [
                self._tensor(name, _nhwc(tensor), schema.TensorType.FLOAT32)
                for name, tensor in ((INPUT_NAME, image), (OUTPUT_NAME, heatmaps))
            ]
            self.ends = ends[0], ends[1]
            self._operator("QUANTIZE", [ends[0]], self._activation(image))
        for layer in program.layers:
            self._write(layer)
        if interface == "float":
            self._operator("DEQUANTIZE", [self._activation(heatmaps)], self.ends[1])

    def model(self, notes: Mapping[str, str]) -> schema.ModelT:
        graph = schema.SubGraphT(
            tensors=self.tensors, inputs=[self.ends[0]], outputs=[self.ends[1]], operators=self.operators, name="main"
        )
        metadata = [
            schema.MetadataT(name=name, buffer=self._buffer(np.frombuffer(text.encode(), np.uint8)))
            for name, text in notes.items()
        ]
        return schema.ModelT(
            version=SCHEMA_VERSION,
            operatorCodes=[_operator_code(kind) for kind in self.codes],
            subgraphs=[graph],
            description=f"carkp, target {self.program.target.name}",
            buffers=self.buffers,
            metadata=metadata,
        )

    def _write(self, layer: Layer) -> None:
        tensors = self.program.tensors
        sources, result = [tensors[name] for name in layer.inputs], tensors[layer.output]
        match layer:
            case QConv():
                self._write_conv(layer, sources[0], result)
            case QAdd():
                options = schema.AddOptionsT(fusedActivationFunction=_activation_of(layer, result))
                places = [self._activation(source) for source in sources]
                self._operator("ADD", places, self._activation(result), options)
            case QConcat():
                options = schema.ConcatenationOptionsT(axis=3)
                places = [self._activation(source) for source in sources]
                self._operator("CONCATENATION", places, self._activation(result), options)
            case QDepthToSpace():
                options = schema.DepthToSpaceOptionsT(blockSize=layer.block)
                self._operator("DEPTH_TO_SPACE", [self._activation(sources[0])], self._activation(result), options)
            case FloatOp():
                raise TfliteError(f"{layer.name} ({layer.kind}): has no integer form, and none is written in float")

    def _write_conv(self, conv: QConv, source: QTensor, result: QTensor) -> None:
        is_depthwise = conv.groups > 1
        if is_depthwise and not conv.groups == source.shape[0] == result.shape[0]:
            raise TfliteError(f"{conv.name}: {conv.groups} groups are neither a dense nor a depthwise convolution")
        place, padding = self._padded(conv, source)
        common = {
            "padding": padding,
            "strideH": conv.stride[0],
            "strideW": conv.stride[1],
            "dilationHFactor": conv.dilation[0],
            "dilationWFactor": conv.dilation[1],
            "fusedActivationFunction": _activation_of(conv, result),
        }
        scales = np.float32(source.scale) * conv.weight_scale
        bias = self._constant(f"{conv.name}.bias", conv.bias, schema.TensorType.INT32, scales)
        if is_depthwise:
            content = conv.weight.transpose(1, 2, 3, 0)  # (1, kh, kw, O)
            weight = self._constant(f"{conv.name}.weight", content, schema.TensorType.INT8, conv.weight_scale, axis=3)
            options = schema.DepthwiseConv2DOptionsT(depthMultiplier=1, **common)
            self._operator("DEPTHWISE_CONV_2D", [place, weight, bias], self._activation(result), options)
            return
        content = conv.weight.transpose(0, 2, 3, 1)  # (O, kh, kw, I)
        weight = self._constant(f"{conv.name}.weight", content, schema.TensorType.INT8, conv.weight_scale)
        self._operator("CONV_2D", [place, weight, bias], self._activation(result), schema.Conv2DOptionsT(**common))

    def _padded(self, conv: QConv, source: QTensor) -> tuple[int, int]:
        """The tensor that the convolution reads, and its padding in TensorFlow's words."""
        place = self._activation(source)
        if not any(conv.pads):
            return place, schema.Padding.VALID
        if conv.pads == _same_pads(conv, source):
            return place, schema.Padding.SAME
        top, left, bottom, right = conv.pads
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        channels, height, width = source.shape
        size = [1, height + top + bottom, width + left + right, channels]
        name = f"{conv.name}.padded"
        padded = self._tensor(name, size, schema.TensorType.INT8, [source.scale], [_stored_zero(source)])
        self._operator("PAD", [place, self._constant(f"{name}_by", amounts, schema.TensorType.INT32)], padded)
        return padded, schema.Padding.VALID

    def _activation(self, tensor: QTensor, name: str = "") -> int:
        if tensor.name not in self.places:
            self.places[tensor.name] = self._tensor(
                name or tensor.name, _nhwc(tensor), schema.TensorType.INT8, [tensor.scale], [_stored_zero(tensor)]
            )
        return self.places[tensor.name]

    def _constant(
        self, name: str, content: NDArray[Any], kind: int, scales: NDArray[np.float32] | None = None, axis: int = 0
    ) -> int:
        """Content with one scale a channel of ``axis``, and as many zero points."""
        content = np.ascontiguousarray(content)
        zeros = None if scales is None else [0] * len(scales)
        listed = None if scales is None else scales.tolist()
        buffer = self._buffer(content)
        return self._tensor(name, list(content.shape), kind, listed, zeros, axis, buffer)

    def _tensor(
        self,
        name: str,
        shape: Sequence[int],
        kind: int,
        scales: Sequence[float] | None = None,
        zero_points: Sequence[int] | None = None,
        axis: int = 0,
        buffer: int = 0,
    ) -> int:
        quantisation = None
        if scales is not None:
            quantisation = schema.QuantizationParametersT(
                scale=list(scales), zeroPoint=list(zero_points or []), quantizedDimension=axis
            )
        signature = None if buffer else [-1, *shape[1:]]
        self.tensors.append(
            schema.TensorT(
                shape=list(shape),
                shapeSignature=signature,
                type=kind,
                buffer=buffer,
                name=name,
                quantization=quantisation,
                hasRank=True,
            )
        )
        return len(self.tensors) - 1

    def _buffer(self, content: NDArray[Any]) -> int:
        buffer = _AlignedBuffer()
        buffer.data = content
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def _operator(self, kind: str, inputs: Sequence[int], output: int, options: Any = None) -> None:
        code = self.codes.setdefault(kind, len(self.codes))
        operator = schema.OperatorT(opcodeIndex=code, inputs=list(inputs), outputs=[output])
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.operators.append(operator)


def _operator_code(kind: str) -> schema.OperatorCodeT:
    code = getattr(schema.BuiltinOperator, kind)
    return schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=VERSIONS.get(kind, 1))


def _nhwc(tensor: QTensor) -> list[int]:
    channels, height, width = tensor.shape
    return [1, height, width, channels]


def _stored_offset(tensor: QTensor) -> int:
    return UNSIGNED_OFFSET if tensor.dtype == "uint8" else 0


def _stored_zero(tensor: QTensor) -> int:
    """The zero point of the values as they are stored."""
    return tensor.zero_point - _stored_offset(tensor)


def _same_pads(conv: QConv, source: QTensor) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of TensorFlow's SAME."""
    ends = []
    for size, extent, step, spread in zip(
        source.shape[1:], conv.weight.shape[2:], conv.stride, conv.dilation, strict=True
    ):
        total = max((math.ceil(size / step) - 1) * step + (extent - 1) * spread + 1 - size, 0)
        ends.append((total // 2, total - total // 2))
    (top, bottom), (left, right) = ends
    return top, left, bottom, right


def _activation_of(layer: QConv | QAdd, result: QTensor) -> int:
    """The fused activation that clamps as the layer does.

    Raises:
        TfliteError: there is none.
    """
    lowest, highest = result.range
    zero = result.zero_point
    six = min(highest, zero + math.floor(6 / result.scale + 0.5))
    words = {
        (lowest, highest): schema.ActivationFunctionType.NONE,
        (max(lowest, zero), highest): schema.ActivationFunctionType.RELU,
        (max(lowest, zero), six): schema.ActivationFunctionType.RELU6,
    }
    # where they are the same clamp, no activation is the plainest word
    found = next((word for clamp, word in words.items() if clamp == layer.clamp), None)
    if found is None:
        raise TfliteError(f"{layer.name}: no activation of TensorFlow Lite clamps to {layer.clamp}")
    return int(found)
