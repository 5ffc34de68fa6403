"""Run a :class:`QProgram` on the CPU with the integers of its target, at the speed of a float network.

Between the quantisation of the input and the dequantisation of the output, every value is an integer. Inside, a tensor
is a *carrier*: contiguous float32 (B, H, W, C) that holds the centred integers ``q - zero_point``, so that padding is
zero. Outside, quantised tensors are (B, C, H, W) in torch's uint8, int8 or int16.

float32 convolutions of integers are exact in any order of additions as long as no partial sum reaches 2^24. This is
checked for every convolution when the program is loaded. Convolutions that may exceed it are computed in parts, or in
float64. TF32 or bfloat16 multipliers are exact for 8 bits. Convolutions of 16 bits are computed in float64.

Legend: B batch, C channels, H W height and width, K keypoints, h w of the heatmaps, O output channels.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from carkp.quant.program import (
    FloatOp,
    Layer,
    QAdd,
    QConcat,
    QConv,
    QDepthToSpace,
    QProgram,
    QTensor,
    accumulator_bounds,
    check_program,
    requantise_scales,
)
from carkp.quant.requantise import (
    add_table,
    fixed_point_addends,
    fixed_point_multipliers,
    tflite_multipliers,
    tflite_scales,
)
from carkp.quant.target import Requantisation

EXACT_FLOAT32 = 1 << 24
"""float32 represents every integer below this magnitude exactly."""

BYTE_LEVELS = 255
"""Largest magnitude of a centred value of 8 bits."""

TFLITE_DEPTHWISE_VECTOR = 8
"""Number of channels that LiteRT's fast depthwise kernel computes at a time."""

MIN_ELEMENTS_A_THREAD = 1 << 15
"""Smallest number of elements per thread: passing rows to a thread takes about 20 us, requantising so many 13 us."""

TORCH_DTYPES = {"uint8": torch.uint8, "int8": torch.int8, "int16": torch.int16}

Rows = NDArray[np.floating[Any]]
RowsFunction = Callable[[slice], None]
OnTensor = Callable[[str, Tensor], None]
Function = TypeVar("Function", bound=Callable[..., Any])


class UnsupportedLayerError(ValueError):
    """A program with layers or tensors that have no integer form."""


class AccumulatorOverflowError(ArithmeticError):
    """A convolution's sum does not fit in the target's accumulator; the message names the layer."""


class Simulator:
    """The integer network of ``program``.

    ``requantisation`` replaces that of the target, for comparisons. ``num_threads`` 0 means torch's number of threads.

    Raises:
        ProgramError: the program is inconsistent.
        UnsupportedLayerError: it has layers without an integer form, or tensors of 16 bits with a requantisation other
            than ``fixed_point``.
        ValueError: a scale is out of the range of the requantisation.
    """

    def __init__(self, program: QProgram, requantisation: Requantisation | None = None, num_threads: int = 0) -> None:
        check_program(program)
        _refuse_float_layers(program)
        self.program = program
        self.requantisation: Requantisation = requantisation or program.target.requantisation
        if program.wide_tensors and self.requantisation != "fixed_point":
            raise UnsupportedLayerError(
                f"{', '.join(program.wide_tensors)}: tensors of 16 bits are not possible with {self.requantisation}"
            )
        pool = _RowPool(num_threads or torch.get_num_threads())
        self._steps = {layer.output: _prepare(program, layer, self.requantisation, pool) for layer in program.layers}
        self._released = _last_uses(program)

    def run(self, images: Tensor, on_tensor: OnTensor | None = None) -> Tensor:
        """Run the network: normalised images, float32 (B, 3, H, W) -> heatmaps, float32 (B, K, h, w).

        ``on_tensor(name, q)`` is called with every quantised tensor (B, C, H, W), starting with the input.

        Raises:
            AccumulatorOverflowError: a sum needs more than the target's accumulator bits.
            ValueError: the images have another shape or dtype than the program's input, or hold NaN.
        """
        program = self.program
        carriers = {program.input: self._quantise(images)}
        if on_tensor is not None:
            on_tensor(program.input, self._to_public(program.input, carriers[program.input]))
        for layer, released in zip(program.layers, self._released, strict=True):
            carriers[layer.output] = self._run_step(layer, [carriers[name] for name in layer.inputs])
            if on_tensor is not None:
                on_tensor(layer.output, self._to_public(layer.output, carriers[layer.output]))
            for name in released:
                del carriers[name]
        return carriers[program.output].permute(0, 3, 1, 2).contiguous() * program.tensors[program.output].scale

    def quantise_input(self, images: Tensor) -> Tensor:
        """Quantise images as in :meth:`run` to q (B, 3, H, W): ``rint(x / scale) + zero_point``, clamped.

        Halves round to even. LiteRT's reference kernels round half away from zero; its other kernels multiply by
        ``1 / scale``.
        """
        return self._to_public(self.program.input, self._quantise(images))

    def _quantise(self, images: Tensor) -> Tensor:
        return _quantise(self.program.tensors[self.program.input], images, self.requantisation)

    def run_layer(self, layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
        """Run one layer on quantised tensors (B, C, H, W) and return its quantised output.

        Raises:
            AccumulatorOverflowError: as :meth:`run`.
            ValueError: an input has another shape or dtype than in the program.
        """
        tensors = [self.program.tensors[name] for name in layer.inputs]
        carriers = [_to_carrier(tensor, q) for tensor, q in zip(tensors, inputs, strict=True)]
        return self._to_public(layer.output, self._run_step(layer, carriers))

    def _run_step(self, layer: Layer, carriers: list[Tensor]) -> Tensor:
        # An autocast around the call would round the sums to bfloat16.
        with torch.no_grad(), torch.autocast(device_type="cpu", enabled=False):
            return self._steps[layer.output](carriers)

    def _to_public(self, name: str, carrier: Tensor) -> Tensor:
        tensor = self.program.tensors[name]
        q = (carrier + tensor.zero_point).to(TORCH_DTYPES[tensor.dtype])
        return q.permute(0, 3, 1, 2).contiguous()


class _RowPool:
    """Calls a function on ranges of rows, one range per thread. The function must release the GIL."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="simulate")

    def run(self, function: RowsFunction, num_rows: int, num_columns: int) -> None:
        num_parts = max(1, min(self._num_threads, num_rows * num_columns // MIN_ELEMENTS_A_THREAD))
        edges = [num_rows * part // num_parts for part in range(num_parts + 1)]
        ranges = [slice(start, stop) for start, stop in pairwise(edges)]
        others = [self._executor.submit(function, rows) for rows in ranges[1:]]
        function(ranges[0])
        for other in others:
            other.result()


Step = Callable[[list[Tensor]], Tensor]


def _prepare(program: QProgram, layer: Layer, requantisation: Requantisation, pool: _RowPool) -> Step:
    match layer:
        case QConv():
            return _prepare_conv(program, layer, requantisation, pool)
        case QAdd():
            return _prepare_add(program, layer, requantisation, pool)
        case QConcat():
            return partial(torch.cat, dim=3)
        case QDepthToSpace():
            return partial(_depth_to_space, block=layer.block)
        case FloatOp():
            raise AssertionError(f"{layer.name} should have been refused")


@dataclass(frozen=True)
class _Part:
    """A convolution over some input channels. ``weight`` is (O, I, kh, kw), and its dtype holds all sums exactly."""

    channels: slice
    weight: Tensor


@dataclass(frozen=True)
class _ConvStep:
    """A convolution that is ready to run.

    If ``bias`` (O,) is float32, there is one part in float32. Else the sums of the parts and the bias are added in
    float64.

    ``limit``: sums must be in [-limit, limit); None if they cannot be outside.
    ``requantise`` changes accumulators (rows, O) to centred values, in place.
    """

    conv: QConv
    parts: tuple[_Part, ...]
    bias: Tensor
    limit: int | None
    requantise: Callable[[Rows], None]
    pool: _RowPool

    def __call__(self, carriers: list[Tensor]) -> Tensor:
        top, left, bottom, right = self.conv.pads
        x = carriers[0].permute(0, 3, 1, 2)
        if (top, left) != (bottom, right):
            x = F.pad(x, (left, right, top, bottom))
        accumulators = self._accumulate(x).permute(0, 2, 3, 1).contiguous()
        if self.limit is not None:
            _check_overflow(self.conv.name, accumulators, self.limit)
        rows: Rows = accumulators.view(-1, accumulators.shape[3]).numpy()
        self.pool.run(lambda part: self.requantise(rows[part]), *rows.shape)
        return accumulators.float()

    def _accumulate(self, x: Tensor) -> Tensor:
        """Return the accumulators, (B, C, H, W) -> (B, O, h, w), in float32 or float64; every value is exact."""
        if self.bias.dtype == torch.float32:
            return self._convolve(x, self.parts[0].weight, self.bias)
        total = self.bias.view(-1, 1, 1)
        for part in self.parts:
            total = total + self._convolve(x[:, part.channels].to(part.weight.dtype), part.weight, None)
        return total

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        top, left, bottom, right = self.conv.pads
        padding = (top, left) if (top, left) == (bottom, right) else (0, 0)
        return F.conv2d(x, weight, bias, self.conv.stride, padding, self.conv.dilation, self.conv.groups)


def _prepare_conv(program: QProgram, conv: QConv, requantisation: Requantisation, pool: _RowPool) -> _ConvStep:
    source = program.tensors[conv.inputs[0]]
    largest = max(abs(limit - source.zero_point) for limit in source.range)
    bound = int(accumulator_bounds(program, conv).max())
    limit = 1 << (program.target.accumulator_bits - 1)
    parts = _exact_parts(conv, largest)
    is_exact = bound < EXACT_FLOAT32 and parts[0].weight.dtype == torch.float32
    return _ConvStep(
        conv=conv,
        parts=parts,
        bias=torch.from_numpy(conv.bias.copy()).to(torch.float32 if is_exact else torch.float64),
        limit=limit if bound >= limit else None,
        requantise=_row_requantiser(program, conv, requantisation),
        pool=pool,
    )


def _exact_parts(conv: QConv, largest: int) -> tuple[_Part, ...]:
    """Split the input channels into ranges whose sums, without the bias, are exact in float32; else use float64.

    ``largest``: the largest magnitude of a centred input. float64 takes 2.5 to 3.4 times as long as float32, two parts
    take 1.2 to 1.6 times as long. So float64 is used only where a split by channels cannot help: for grouped
    convolutions, kernels of more than 500 taps, and inputs of 16 bits.
    """
    # (O, I / groups): the largest magnitude that a channel can add.
    shares = np.abs(conv.weight.astype(np.int64)).sum(axis=(2, 3)) * largest
    if shares.sum(axis=1).max() < EXACT_FLOAT32:
        return (_part(conv, slice(None), torch.float32),)
    if conv.groups > 1 or shares.max() >= EXACT_FLOAT32 or largest > BYTE_LEVELS:
        return (_part(conv, slice(None), torch.float64),)
    return tuple(_part(conv, channels, torch.float32) for channels in _split_channels(shares))


def _split_channels(shares: NDArray[np.int64]) -> Iterable[slice]:
    """Cut the columns of ``shares`` (O, I) into ranges in which every row's sum is below 2^24."""
    start, sums = 0, np.zeros(len(shares), dtype=np.int64)
    for channel, share in enumerate(shares.T):
        sums = sums + share
        if sums.max() >= EXACT_FLOAT32:
            yield slice(start, channel)
            start, sums = channel, share
    yield slice(start, shares.shape[1])


def _part(conv: QConv, channels: slice, dtype: torch.dtype) -> _Part:
    weight = torch.from_numpy(conv.weight[:, channels].copy()).to(dtype)
    return _Part(channels, weight.contiguous(memory_format=torch.channels_last))


def _check_overflow(name: str, accumulators: Tensor, limit: int) -> None:
    lowest, highest = (int(value) for value in torch.aminmax(accumulators))
    if lowest < -limit or highest >= limit:
        worst = lowest if lowest < -limit else highest
        raise AccumulatorOverflowError(
            f"{name}: a sum of {worst} does not fit in an accumulator of {limit.bit_length()} bits"
        )


def _prepare_add(program: QProgram, layer: QAdd, requantisation: Requantisation, pool: _RowPool) -> Step:
    a, b, out = (program.tensors[name] for name in (*layer.inputs, layer.output))
    if a.is_wide or b.is_wide or out.is_wide:
        return _prepare_wide_add(layer, (a, b, out), pool)
    try:
        table = add_table(a, b, out, layer.clamp, requantisation)
    except ValueError as error:
        raise ValueError(f"{layer.name}: {error}") from error
    centred = (table - out.zero_point).astype(np.float32).ravel()
    first = np.float32(256 * (a.zero_point - a.range[0]) + b.zero_point - b.range[0])

    def add(carriers: list[Tensor]) -> Tensor:
        result = torch.empty_like(carriers[0])
        left, right, total = (x.view(-1, x.shape[3]).numpy() for x in (*carriers, result))
        pool.run(lambda rows: _look_up(left[rows], right[rows], centred, first, total[rows]), *total.shape)
        return result

    return add


def _prepare_wide_add(layer: QAdd, tensors: tuple[QTensor, QTensor, QTensor], pool: _RowPool) -> Step:
    """Prepare a sum with tensors of 16 bits: it is computed, because a table of all pairs would be too large."""
    multipliers, shift = fixed_point_addends(*tensors)
    lowest, highest = (limit - tensors[2].zero_point for limit in layer.clamp)

    def add(carriers: list[Tensor]) -> Tensor:
        result = torch.empty_like(carriers[0])
        left, right, total = (x.view(-1, x.shape[3]).numpy() for x in (*carriers, result))
        pool.run(
            lambda rows: _add_fixed_point(left[rows], right[rows], *multipliers, shift, lowest, highest, total[rows]),
            *total.shape,
        )
        return result

    return add


def _depth_to_space(carriers: list[Tensor], block: int) -> Tensor:
    batch, height, width, channels = carriers[0].shape
    blocks = carriers[0].view(batch, height, width, block, block, channels // (block * block))
    return blocks.transpose(2, 3).reshape(batch, height * block, width * block, -1)


def _quantise(tensor: QTensor, images: Tensor, requantisation: Requantisation) -> Tensor:
    """Quantise images as ONNX QuantizeLinear does: float32 quotient, half to even. LiteRT kinds use its QUANTIZE."""
    if images.dtype != torch.float32 or tuple(images.shape[1:]) != tensor.shape:
        raise ValueError(f"images must be float32 (B, *{tensor.shape}), got {images.dtype} {tuple(images.shape)}")
    if images.isnan().any():
        raise ValueError("images contain NaN, which no integer can represent")
    lowest, highest = tensor.range
    values, scale = images.detach().permute(0, 2, 3, 1), torch.tensor(tensor.scale)
    match requantisation:
        case "float32" | "fixed_point":
            centred = (values / scale).round_()
        case "tflite_reference":
            quotients = values / scale
            centred = torch.copysign((quotients.abs() + 0.5).floor_(), quotients)
        case "tflite_optimised" | "xnnpack":
            centred = (values * (1 / scale)).round_()
    return centred.clamp_(lowest - tensor.zero_point, highest - tensor.zero_point).contiguous()


def _to_carrier(tensor: QTensor, q: Tensor) -> Tensor:
    if q.dtype != TORCH_DTYPES[tensor.dtype] or tuple(q.shape[1:]) != tensor.shape:
        expected = f"{tensor.dtype} (B, *{tensor.shape})"
        raise ValueError(f"{tensor.name}: must be {expected}, got {q.dtype} {tuple(q.shape)}")
    return q.permute(0, 2, 3, 1).contiguous().float() - tensor.zero_point


def _refuse_float_layers(program: QProgram) -> None:
    unsupported = [f"{layer.name} ({layer.kind})" for layer in program.layers if isinstance(layer, FloatOp)]
    if unsupported:
        raise UnsupportedLayerError(
            f"these layers have no integer form and cannot be simulated: {', '.join(unsupported)}. The stage `check` "
            "shows such layers"
        )


def _last_uses(program: QProgram) -> list[list[str]]:
    """Return for each layer the tensors that no later layer reads."""
    last = {program.input: 0} | {layer.output: index for index, layer in enumerate(program.layers)}
    last |= {name: index for index, layer in enumerate(program.layers) for name in layer.inputs}
    last.pop(program.output)
    return [[name for name, at in last.items() if at == index] for index in range(len(program.layers))]


def _row_requantiser(program: QProgram, conv: QConv, requantisation: Requantisation) -> Callable[[Rows], None]:
    """Return a function that requantises accumulators (rows, O) in place, to centred values of the output tensor."""
    zero_point = program.tensors[conv.output].zero_point
    lowest, highest = (limit - zero_point for limit in conv.clamp)
    if requantisation in ("tflite_reference", "tflite_optimised"):
        return _tflite_requantiser(program, conv, requantisation == "tflite_reference", (lowest, highest))
    scales = requantise_scales(program, conv)
    if not np.isfinite(scales).all():
        raise ValueError(f"{conv.name}: a requantisation scale is out of range of float32")
    if requantisation in ("float32", "xnnpack"):
        return lambda rows: _requantise_float32(rows, scales, np.float32(lowest), np.float32(highest))
    try:
        fixed = fixed_point_multipliers(scales)
    except ValueError as error:
        raise ValueError(f"{conv.name}: {error}") from error
    # int32, so that the product compiles to a multiplication of 32-bit halves.
    multipliers = fixed.multipliers.astype(np.int32)
    return lambda rows: _requantise_fixed_point(rows, multipliers, fixed.shifts, lowest, highest)


def _tflite_requantiser(
    program: QProgram, conv: QConv, is_reference: bool, limits: tuple[int, int]
) -> Callable[[Rows], None]:
    source, result = program.tensors[conv.inputs[0]], program.tensors[conv.output]
    try:
        found = tflite_multipliers(tflite_scales(source.scale, conv.weight_scale, result.scale))
    except ValueError as error:
        raise ValueError(f"{conv.name}: {error}") from error
    rounds_away = np.full(len(conv.weight), is_reference)
    if conv.groups > 1:  # fast depthwise kernels leave channels that do not fill a vector to the reference kernel
        rounds_away[len(conv.weight) // TFLITE_DEPTHWISE_VECTOR * TFLITE_DEPTHWISE_VECTOR :] = True
    return lambda rows: _requantise_tflite(rows, found.multipliers, found.exponents, rounds_away, *limits)


def _compiled(function: Function) -> Function:
    # No fastmath: every rounding must be exact.
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


@_compiled
def _requantise_float32(rows: Rows, scales: NDArray[np.float32], lowest: np.float32, highest: np.float32) -> None:
    """Requantise in place as ONNX Runtime does (MlasRequantizeOutput): float32 accumulators and product, half to even.

    ``rows`` (rows, O) are below 2^31 in magnitude; ``scales`` is (O,). ``lowest`` and ``highest`` are clamp values
    minus the zero point.
    """
    for row in range(rows.shape[0]):
        for channel in range(rows.shape[1]):
            value = np.float32(rows[row, channel]) * scales[channel]
            value = lowest if value < lowest else value
            value = highest if value > highest else value
            rows[row, channel] = np.rint(value)


@_compiled
def _requantise_fixed_point(
    rows: Rows, multipliers: NDArray[np.int32], shifts: NDArray[np.int64], lowest: int, highest: int
) -> None:
    """Requantise in place: ``(acc * M + 2^(n-1)) >> n``; halves round up, towards plus infinity.

    ``rows`` (rows, O) are in [-2^31, 2^31). So the product stays below 2^62 and the sum below 2^63: nothing overflows.
    gemmlowp and Jacob et al. 2018 (arXiv:1712.05877, equation 6) also use a 31-bit multiplier and a rounding right
    shift. They round twice: first the high half of the doubled product, then the shift, with ties away from zero. Here
    there is one rounding and ties go up, so results differ at ties and next to them.
    """
    for row in range(rows.shape[0]):
        for channel in range(rows.shape[1]):
            shift = shifts[channel]
            # Both fit in 32 bits: the product is below 2^62.
            product = np.int64(np.int32(rows[row, channel])) * np.int64(multipliers[channel])
            value = (product + (np.int64(1) << (shift - 1))) >> shift
            value = lowest if value < lowest else value
            value = highest if value > highest else value
            rows[row, channel] = value


@_compiled
def _requantise_tflite(
    rows: Rows,
    multipliers: NDArray[np.int64],
    exponents: NDArray[np.int64],
    rounds_away: NDArray[np.bool_],
    lowest: int,
    highest: int,
) -> None:
    """Requantise accumulators (rows, O) in [-2^31, 2^31) in place, as :func:`carkp.quant.requantise.multiply_tflite`.

    ``rounds_away``: whether a channel's second rounding is half away from zero; otherwise it is half up.
    """
    for row in range(rows.shape[0]):
        for channel in range(rows.shape[1]):
            exponent = exponents[channel]
            left, right = max(exponent, 0), max(-exponent, 0)
            product = (np.int64(rows[row, channel]) << left) * multipliers[channel]
            high = (product + (np.int64(1) << 30)) >> 31
            if rounds_away[channel]:
                mask = (np.int64(1) << right) - 1
                threshold = (mask >> 1) + (1 if high < 0 else 0)
                value = (high >> right) + (1 if (high & mask) > threshold else 0)
            else:
                value = (high + ((np.int64(1) << right) >> 1)) >> right
            value = lowest if value < lowest else value
            value = highest if value > highest else value
            rows[row, channel] = value


@_compiled
def _add_fixed_point(
    a: Rows,
    b: Rows,
    multiplier_a: int,
    multiplier_b: int,
    shift: int,
    lowest: int,
    highest: int,
    out: Rows,
) -> None:
    """Compute ``(a Ma + b Mb + 2^(n-1)) >> n`` for centred values of up to 16 bits, far below 2^63; half rounds up."""
    half = np.int64(1) << (shift - 1)
    for row in range(out.shape[0]):
        for channel in range(out.shape[1]):
            total = np.int64(a[row, channel]) * multiplier_a + np.int64(b[row, channel]) * multiplier_b
            value = int((total + half) >> shift)
            value = lowest if value < lowest else value
            value = highest if value > highest else value
            out[row, channel] = value


@_compiled
def _look_up(a: Rows, b: Rows, table: NDArray[np.float32], first: np.float32, out: Rows) -> None:
    """Compute ``out = table[256 a + b + first]``; the index is a small integer, exact in float32."""
    for row in range(out.shape[0]):
        for channel in range(out.shape[1]):
            out[row, channel] = table[np.uint32(a[row, channel] * np.float32(256) + b[row, channel] + first)]
