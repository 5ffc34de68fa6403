"""Builder of a .tflite model with any type of numbers: buffers, tensors, operators, metadata.

Importing this module requires the extra ``carkp[litert]``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from carkp.deploy.litert import FILE_IDENTIFIER

SCHEMA_VERSION = 3
ALIGNMENT = 16
"""Alignment of the start of every buffer, in bytes: kernels load vectors from buffers."""

PADDINGS = schema.Padding
KINDS = schema.TensorType


@dataclass(frozen=True)
class Window:
    """The window of a convolution; sizes are (height, width), pads are top, left, bottom, right."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]

    def same_pads(self, size: Sequence[int]) -> tuple[int, int, int, int]:
        """Return the pads of TensorFlow's SAME for an input of ``size``."""
        ends = []
        for length, extent, step, spread in zip(size, self.kernel, self.stride, self.dilation, strict=True):
            total = max((math.ceil(length / step) - 1) * step + (extent - 1) * spread + 1 - length, 0)
            ends.append((total // 2, total - total // 2))
        (top, bottom), (left, right) = ends
        return top, left, bottom, right


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose bytes start at a multiple of ``ALIGNMENT``; the generated class does not align them."""

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


class ModelBuilder:
    """Builds a model with one subgraph. A tensor is identified by its index; methods that add a tensor return it."""

    def __init__(self, activations: int, versions: Mapping[str, int]) -> None:
        """``activations``: type of the tensors between layers; ``versions``: versions of operators other than 1."""
        self.activations, self.versions = activations, versions
        self.buffers: list[schema.BufferT] = [_AlignedBuffer()]  # buffer 0 is empty, for tensors without content
        self.tensors: list[schema.TensorT] = []
        self.operators: list[schema.OperatorT] = []
        self.codes: dict[str, int] = {}

    def content(self, given: int, made: int, description: str, notes: Mapping[str, str]) -> bytes:
        """Return the bytes of the file: ``given`` is its input, ``made`` its output, ``notes`` its metadata by name."""
        graph = schema.SubGraphT(
            tensors=self.tensors, inputs=[given], outputs=[made], operators=self.operators, name="main"
        )
        metadata = [
            schema.MetadataT(name=name, buffer=self._buffer(np.frombuffer(text.encode(), np.uint8)))
            for name, text in notes.items()
        ]
        model = schema.ModelT(
            version=SCHEMA_VERSION,
            operatorCodes=[self._operator_code(kind) for kind in self.codes],
            subgraphs=[graph],
            description=description,
            buffers=self.buffers,
            metadata=metadata,
        )
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())

    def convolution(
        self,
        name: str,
        source: int,
        weight: NDArray[Any],
        bias: NDArray[Any],
        scales: tuple[NDArray[np.float32], NDArray[np.float32]] | tuple[None, None],
        window: Window,
        is_depthwise: bool,
        activation: int,
        result: int,
    ) -> None:
        """Add a dense or depthwise convolution, with a PAD before it if TensorFlow Lite does not have its padding.

        Args:
            name: name of the layer.
            source: index of the input tensor (B, H, W, C).
            weight: weight (O, I / groups, kh, kw), in torch's layout.
            bias: bias (O,).
            scales: scales of weight and bias, (O,) each; None in float.
            window: kernel, stride, dilation, pads.
            is_depthwise: whether each channel is a group; otherwise there is one group.
            activation: fused activation.
            result: index of the output tensor (B, h, w, O).
        """
        place, padding = self._padded(name, source, window)
        common = {
            "padding": padding,
            "strideH": window.stride[0],
            "strideW": window.stride[1],
            "dilationHFactor": window.dilation[0],
            "dilationWFactor": window.dilation[1],
            "fusedActivationFunction": activation,
        }
        # (1, kh, kw, O) or (O, kh, kw, I)
        stored = weight.transpose(1, 2, 3, 0) if is_depthwise else weight.transpose(0, 2, 3, 1)
        places = [
            place,
            self.constant(f"{name}.weight", stored, scales[0], axis=3 if is_depthwise else 0),
            self.constant(f"{name}.bias", bias, scales[1]),
        ]
        if is_depthwise:
            options = schema.DepthwiseConv2DOptionsT(depthMultiplier=1, **common)
            self.operator("DEPTHWISE_CONV_2D", places, result, options)
        else:
            self.operator("CONV_2D", places, result, schema.Conv2DOptionsT(**common))

    def add(self, sources: Sequence[int], activation: int, result: int) -> None:
        self.operator("ADD", sources, result, schema.AddOptionsT(fusedActivationFunction=activation))

    def concatenation(self, sources: Sequence[int], result: int) -> None:
        self.operator("CONCATENATION", sources, result, schema.ConcatenationOptionsT(axis=3))

    def depth_to_space(self, source: int, block: int, result: int) -> None:
        self.operator("DEPTH_TO_SPACE", [source], result, schema.DepthToSpaceOptionsT(blockSize=block))

    def operator(self, kind: str, inputs: Sequence[int], output: int, options: Any = None) -> None:
        code = self.codes.setdefault(kind, len(self.codes))
        operator = schema.OperatorT(opcodeIndex=code, inputs=list(inputs), outputs=[output])
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.operators.append(operator)

    def constant(
        self, name: str, content: NDArray[Any], scales: NDArray[np.float32] | None = None, axis: int = 0
    ) -> int:
        """Add a constant tensor; if quantised, it has one scale and one zero point per channel of ``axis``."""
        content = np.ascontiguousarray(content)
        zeros = None if scales is None else [0] * len(scales)
        listed = None if scales is None else scales.tolist()
        kind = getattr(KINDS, content.dtype.name.upper())
        return self.tensor(name, list(content.shape), kind, listed, zeros, axis, self._buffer(content))

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        kind: int | None = None,
        scales: Sequence[float] | None = None,
        zero_points: Sequence[int] | None = None,
        axis: int = 0,
        buffer: int = 0,
    ) -> int:
        """Add a tensor of type ``kind`` (default: that of activations); without a ``buffer`` its batch is variable."""
        quantisation = None
        if scales is not None:
            quantisation = schema.QuantizationParametersT(
                scale=list(scales), zeroPoint=list(zero_points or []), quantizedDimension=axis
            )
        self.tensors.append(
            schema.TensorT(
                shape=list(shape),
                shapeSignature=None if buffer else [-1, *shape[1:]],
                type=self.activations if kind is None else kind,
                buffer=buffer,
                name=name,
                quantization=quantisation,
                hasRank=True,
            )
        )
        return len(self.tensors) - 1

    def _padded(self, name: str, place: int, window: Window) -> tuple[int, int]:
        """Return the index of the tensor that the convolution reads, and TensorFlow's kind of padding."""
        if not any(window.pads):
            return place, PADDINGS.VALID
        source = self.tensors[place]
        _, height, width, channels = source.shape
        if window.pads == window.same_pads((height, width)):
            return place, PADDINGS.SAME
        top, left, bottom, right = window.pads
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        size = [1, height + top + bottom, width + left + right, channels]
        padded = self.tensor(f"{name}.padded", size)
        self.tensors[padded].quantization = source.quantization
        self.operator("PAD", [place, self.constant(f"{name}.padded_by", amounts)], padded)
        return padded, PADDINGS.VALID

    def _buffer(self, content: NDArray[Any]) -> int:
        buffer = _AlignedBuffer()
        buffer.data = content
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def _operator_code(self, kind: str) -> schema.OperatorCodeT:
        code = getattr(schema.BuiltinOperator, kind)
        return schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=self.versions.get(kind, 1))
