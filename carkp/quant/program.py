"""The int8 network as plain data, for the simulator, the ONNX writer and the checker.

A tensor holds integers q of 8 or 16 bits. The real value of q is ``scale * (q - zero_point)``. A convolution
accumulates ``sum (q_in - zero_point_in) * weight + bias`` in int32 and requantises the sum to its output tensor.

Legend: O output channels, I input channels, kh kw kernel height and width, C H W channels, height and width of a
tensor. The batch is never part of a shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carkp.quant.target import MAX_WEIGHT, RANGES, WIDE, Dtype, Target

Int8Array = NDArray[np.int8]
Int32Array = NDArray[np.int32]
Float32Array = NDArray[np.float32]


class ProgramError(ValueError):
    """An inconsistent program; the message names the layer."""


@dataclass(frozen=True)
class QTensor:
    """A tensor of 8 or 16 bits. ``shape`` is (C, H, W); float32 can represent ``scale`` exactly."""

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    scale: float
    zero_point: int

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest quantised value."""
        return RANGES[self.dtype]

    @property
    def is_wide(self) -> bool:
        """Whether the tensor has 16 bits."""
        return self.dtype == WIDE


@dataclass(frozen=True, eq=False)
class QConv:
    """A convolution with its bias and activation.

    Attributes:
        weight: (O, I / groups, kh, kw).
        weight_scale: (O,).
        bias: (O,), in units of input scale * weight scale.
        pads: top, left, bottom, right; padded values are the input's zero point.
        clamp: smallest and largest quantised output value, which apply the activation.
    """

    name: str
    inputs: tuple[str]
    output: str
    weight: Int8Array
    weight_scale: Float32Array
    bias: Int32Array
    stride: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    clamp: tuple[int, int]


@dataclass(frozen=True, eq=False)
class QAdd:
    """The requantised sum of two tensors of the same shape. ``clamp`` as in :class:`QConv`."""

    name: str
    inputs: tuple[str, str]
    output: str
    clamp: tuple[int, int]


@dataclass(frozen=True, eq=False)
class QConcat:
    """Concatenation along the channels of tensors with the same scale and zero point."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, eq=False)
class QDepthToSpace:
    """Depth to space, (C b b, H, W) -> (C, H b, W b), in ONNX mode DCR.

    Channel ``(i b + j) C + c`` becomes pixel (i, j) of a block.
    """

    name: str
    inputs: tuple[str]
    output: str
    block: int


@dataclass(frozen=True, eq=False)
class FloatOp:
    """An operator without an int8 form: its inputs are dequantised, its output is quantised.

    ``kind`` is the name of the ONNX operator if there is one, else torch's name. ``attributes`` are JSON values,
    ``weights`` are float32.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Float32Array] = field(default_factory=dict)


Layer = QConv | QAdd | QConcat | QDepthToSpace | FloatOp


@dataclass(frozen=True, eq=False)
class QProgram:
    """A quantised network for ``target``: layers in order of execution, and every tensor by its name.

    ``input`` is the quantised image, ``output`` the quantised heatmaps. ``origin`` says where the program comes from
    (run, experiment, digests), as strings.
    """

    target: Target
    input: str
    output: str
    tensors: Mapping[str, QTensor]
    layers: tuple[Layer, ...]
    origin: Mapping[str, str] = field(default_factory=dict)

    @property
    def wide_tensors(self) -> list[str]:
        """Names of the tensors of 16 bits."""
        return [name for name, tensor in self.tensors.items() if tensor.is_wide]

    @property
    def num_convs(self) -> int:
        return sum(isinstance(layer, QConv) for layer in self.layers)

    @property
    def num_byte_convs(self) -> int:
        """Number of convolutions with an input and an output of 8 bits."""
        names = [(conv.inputs[0], conv.output) for conv in self.layers if isinstance(conv, QConv)]
        return sum(not any(self.tensors[name].is_wide for name in pair) for pair in names)


def requantise_scales(program: QProgram, conv: QConv) -> Float32Array:
    """Return the scales (O,) from accumulator to output units, ``s_in * s_weight / s_out``.

    They are computed in float32, in the order of ONNX Runtime.
    """
    source, result = program.tensors[conv.inputs[0]], program.tensors[conv.output]
    scales: Float32Array = np.float32(source.scale) * conv.weight_scale / np.float32(result.scale)
    return scales


def accumulator_bounds(program: QProgram, conv: QConv) -> NDArray[np.int64]:
    """Return the largest |value| (O,) of any partial sum: ``sum |w| max |q - zero_point| + |bias|``."""
    source = program.tensors[conv.inputs[0]]
    largest = max(abs(limit - source.zero_point) for limit in source.range)
    weights: NDArray[np.int64] = np.abs(conv.weight.astype(np.int64)).sum(axis=(1, 2, 3))
    return weights * largest + np.abs(conv.bias.astype(np.int64))


def check_program(program: QProgram) -> None:
    """Check that a program is consistent.

    Raises:
        ProgramError: a layer reads a tensor that does not exist yet, shapes or scales do not fit, or a value is out of
            range.
    """
    known = {program.input}
    names = [layer.name for layer in program.layers]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ProgramError(f"layers share the names {', '.join(repeated)}")
    for name, tensor in program.tensors.items():
        _check_tensor(name, tensor)
    if program.wide_tensors and program.target.requantisation != "fixed_point":
        raise ProgramError(
            f"{', '.join(program.wide_tensors)}: 16 bits need fixed-point requantisation, but the target "
            f"{program.target.name} uses {program.target.requantisation}"
        )
    if program.tensors[program.input].is_wide:
        raise ProgramError(f"{program.input}: the image has 8 bits")
    for layer in program.layers:
        missing = [name for name in (*layer.inputs, layer.output) if name not in program.tensors]
        unread = [name for name in layer.inputs if name not in known]
        if missing or unread:
            raise ProgramError(
                f"{layer.name}: unknown tensors {missing}, tensors read before they are computed {unread}"
            )
        if layer.output in known:
            raise ProgramError(f"{layer.name}: computes {layer.output} a second time")
        _check_layer(program, layer)
        known.add(layer.output)
    if program.output not in known:
        raise ProgramError(f"no layer computes the output {program.output}")


def same_program(first: QProgram, second: QProgram) -> bool:
    """Return whether two programs are equal in every number and name."""
    plain = ("target", "input", "output", "origin")
    return (
        all(getattr(first, name) == getattr(second, name) for name in plain)
        and dict(first.tensors) == dict(second.tensors)
        and len(first.layers) == len(second.layers)
        and all(_same_layer(one, other) for one, other in zip(first.layers, second.layers, strict=True))
    )


def _same_layer(one: Layer, other: Layer) -> bool:
    return type(one) is type(other) and all(
        _same_value(getattr(one, item.name), getattr(other, item.name)) for item in fields(one)
    )


def _same_value(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(_same_value(one[name], other[name]) for name in one)
    return bool(one == other)


def _check_tensor(name: str, tensor: QTensor) -> None:
    lowest, highest = tensor.range
    if name != tensor.name:
        raise ProgramError(f"the tensor {tensor.name} is stored under the name {name}")
    if not (np.isfinite(tensor.scale) and tensor.scale > 0 and float(np.float32(tensor.scale)) == tensor.scale):
        raise ProgramError(f"{tensor.name}: scale must be a positive float32, got {tensor.scale}")
    if not lowest <= tensor.zero_point <= highest:
        raise ProgramError(f"{tensor.name}: zero point {tensor.zero_point} is out of range of {tensor.dtype}")
    if tensor.is_wide and tensor.zero_point:
        raise ProgramError(f"{tensor.name}: {tensor.dtype} is symmetric, its zero point must be 0")


def _check_layer(program: QProgram, layer: Layer) -> None:
    sources, result = [program.tensors[name] for name in layer.inputs], program.tensors[layer.output]
    match layer:
        case QConv():
            _check_conv(layer, sources[0], result)
        case QAdd():
            if {source.shape for source in sources} != {result.shape}:
                raise ProgramError(f"{layer.name}: adds {sources[0].shape} and {sources[1].shape} to {result.shape}")
            _check_clamp(layer.name, layer.clamp, result)
        case QConcat():
            expected = (sum(source.shape[0] for source in sources), *sources[0].shape[1:])
            _check_moved(layer.name, sources, result, expected)
        case QDepthToSpace():
            channels, height, width = sources[0].shape
            blocks = layer.block * layer.block
            _check_moved(layer.name, sources, result, (channels // blocks, height * layer.block, width * layer.block))
        case FloatOp():
            pass


def _check_moved(name: str, sources: list[QTensor], result: QTensor, shape: tuple[int, ...]) -> None:
    """Check a layer that moves numbers without changing them: its output has ``shape`` and the inputs' scale."""
    units = {(tensor.dtype, tensor.scale, tensor.zero_point) for tensor in (*sources, result)}
    if len(units) != 1:
        raise ProgramError(f"{name}: inputs and output differ in scale or zero point: {sorted(units)}")
    if result.shape != shape:
        raise ProgramError(f"{name}: output has shape {result.shape}, expected {shape}")


def _check_conv(conv: QConv, source: QTensor, result: QTensor) -> None:
    num_outputs, inputs_a_group, *kernel = conv.weight.shape
    top, left, bottom, right = conv.pads
    totals = (source.shape[1] + top + bottom, source.shape[2] + left + right)
    size = tuple(
        (total - spread * (extent - 1) - 1) // step + 1
        for total, extent, step, spread in zip(totals, kernel, conv.stride, conv.dilation, strict=True)
    )
    if source.shape[0] != inputs_a_group * conv.groups or result.shape != (num_outputs, *size):
        raise ProgramError(
            f"{conv.name}: weight {conv.weight.shape}, groups {conv.groups} and pads {conv.pads} do not map "
            f"{source.shape} to {result.shape}"
        )
    dtypes = [array.dtype for array in (conv.weight, conv.weight_scale, conv.bias)]
    if dtypes != [np.int8, np.float32, np.int32]:
        raise ProgramError(f"{conv.name}: weight, scales and bias are {dtypes}, expected int8, float32 and int32")
    if conv.bias.shape != (num_outputs,) or conv.weight_scale.shape != (num_outputs,):
        raise ProgramError(
            f"{conv.name}: bias {conv.bias.shape} and weight scales {conv.weight_scale.shape} do not fit"
        )
    if int(conv.weight.min()) < -MAX_WEIGHT:
        raise ProgramError(f"{conv.name}: a weight is -128, the smallest allowed is -{MAX_WEIGHT}")
    if not (np.isfinite(conv.weight_scale).all() and (conv.weight_scale > 0).all()):
        raise ProgramError(f"{conv.name}: weight scales must be positive")
    _check_clamp(conv.name, conv.clamp, result)


def _check_clamp(name: str, clamp: tuple[int, int], result: QTensor) -> None:
    lowest, highest = result.range
    if not lowest <= clamp[0] <= clamp[1] <= highest:
        raise ProgramError(f"{name}: clamp {clamp} is out of range of {result.dtype}")
