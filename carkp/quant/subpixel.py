"""Transposed convolutions as ordinary ones: one convolution for each output phase, then depth to space.

Output pixel ``o = stride i + r`` of a transposed convolution (weight taps t, padding p) is the sum over the taps
``t = (r + p) mod stride + stride m`` of ``x[i + (r + p) // stride - m] w[t]``. So each phase r is an ordinary
convolution of the input with a part of the taps. Source: Shi et al. 2016, https://arxiv.org/abs/1609.07009.

Legend: I input channels, O output channels, kh kw kernel height and width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Pads = tuple[int, int, int, int]


@dataclass(frozen=True)
class Phase:
    """A convolution of stride 1: ``weight`` (O, I / groups, kh, kw), ``pads`` top, left, bottom, right."""

    weight: Tensor
    pads: Pads


@dataclass(frozen=True)
class _Axis:
    """One axis of a phase: its taps in the order of a correlation (-1 is a tap of zeros), and its pads."""

    taps: list[int]
    before: int
    after: int


def subpixel_phases(
    weight: Tensor,
    groups: int,
    stride: int,
    padding: tuple[int, int],
    input_size: tuple[int, int],
    output_size: tuple[int, int],
) -> list[Phase]:
    """Return the ``stride * stride`` convolutions that replace a transposed convolution.

    Their outputs, concatenated and moved from depth to space, equal its output. Phase (row, column) has the index
    ``row * stride + column``.

    Args:
        weight: weight of the transposed convolution, (I, O / groups, kh, kw).
        groups: groups of the transposed convolution.
        stride: stride of both height and width.
        padding: padding of height and width, as torch defines it.
        input_size: (height, width).
        output_size: (height, width), multiples of ``stride``.

    Raises:
        ValueError: the output size is not a multiple of the stride.
    """
    if any(length % stride for length in output_size):
        raise ValueError(
            f"the output {output_size} of a transposed convolution is not a multiple of its stride {stride}"
        )
    kernel = _grouped_transpose(weight, groups)
    rows, columns = [
        [_axis(weight.shape[2 + axis], stride, padding[axis], input_size[axis], output_size[axis], phase)
         for phase in range(stride)]
        for axis in (0, 1)
    ]  # fmt: skip
    return [
        Phase(
            _taps_of(_taps_of(kernel, 2, row.taps), 3, column.taps),
            (row.before, column.before, row.after, column.after),
        )
        for row in rows
        for column in columns
    ]


def depth_to_space(values: Tensor, block: int) -> Tensor:
    """Move channels to blocks of pixels: (B, b b C, H, W) -> (B, C, H b, W b).

    Channel ``(i b + j) C + c`` becomes pixel (i, j) of a block (DCR).
    """
    batch, depth, height, width = values.shape
    channels = depth // (block * block)
    blocks = values.reshape(batch, block, block, channels, height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels, height * block, width * block)


def _grouped_transpose(weight: Tensor, groups: int) -> Tensor:
    """(I, O / groups, kh, kw) -> (O, I / groups, kh, kw)."""
    parts = weight.chunk(groups)
    return torch.cat([part.transpose(0, 1) for part in parts])


def _axis(kernel: int, stride: int, padding: int, num_in: int, num_out: int, phase: int) -> _Axis:
    shift, first = divmod(phase + padding, stride)
    taps = list(range(first, kernel, stride))[::-1] or [-1]
    before = len(taps) - 1 - shift
    after = num_out // stride - 1 + len(taps) - before - num_in
    taps = [-1] * max(0, -before) + taps + [-1] * max(0, -after)
    return _Axis(taps, max(0, before), max(0, after))


def _taps_of(kernel: Tensor, axis: int, taps: list[int]) -> Tensor:
    """Return the given taps of one axis; -1 is a tap of zeros."""
    padded = F.pad(kernel, (0, 1) if axis == 3 else (0, 0, 0, 1))
    return padded.index_select(axis, torch.tensor([tap % padded.shape[axis] for tap in taps]))
