"""Rewrites timm modules to plain torch: static pads, BatchNorm2d followed by its activation, residual chains.

Legend: B batch, C channels, H W height and width.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.drop import DropPath
from timm.layers.norm_act import BatchNormAct2d
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from torch import Tensor, nn
from torchvision.ops import StochasticDepth  # type: ignore[import-untyped]

Size = tuple[int, int]
Parts = list[tuple[str, nn.Module]]
Pads = tuple[int, int, int, int]
PadsByPath = dict[str, Pads]

EXACTNESS = 1e-4
"""Largest relative difference tolerated by the check at the end of :func:`to_plain`; it is 0 in practice."""


class Residual(nn.Sequential):
    """A chain of layers whose input is added to its output: ``chain(x) + x``."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        for layer in self:
            x = layer(x)
        return x + shortcut


def to_plain(module: nn.Module, input_size: Size, in_channels: int = 3) -> nn.Module:
    """Return a copy of ``module`` without timm's own layers, for images of exactly ``input_size``.

    Parameter names inside chains (blocks, Sequential) stay the same, so state dicts remain compatible with timm's. The
    result is compared with the original on a random input, in evaluation mode.

    Args:
        module: module that maps (B, in_channels, H, W) to a tensor or a list of tensors.
        input_size: (height, width) in pixels; the TensorFlow "same" pads are computed for this size.
        in_channels: number of channels of the input.

    Raises:
        ValueError: the rewritten module computes something else, because timm has a layer that is unknown here.
    """
    pads = _same_pads(module, input_size, in_channels)
    plain = _single(_parts("module", copy.deepcopy(module), "module", pads))
    _check_same_outputs(module, plain, input_size, in_channels)
    return plain.train(module.training)


def same_pads(size: Size, kernel_size: Size, stride: Size, dilation: Size) -> Pads:
    """Return the pads (left, right, top, bottom) of TensorFlow's "same" convolution; the odd pixel is right or bottom.

    Source: https://www.tensorflow.org/api_docs/python/tf/nn, notes on padding: out = ceil(in / stride).
    """
    totals = [
        max((-(-length // step) - 1) * step + (kernel - 1) * spread + 1 - length, 0)
        for length, kernel, step, spread in zip(size, kernel_size, stride, dilation, strict=True)
    ]
    (top, bottom), (left, right) = [(total // 2, total - total // 2) for total in totals]
    return left, right, top, bottom


def _same_pads(module: nn.Module, input_size: Size, in_channels: int) -> PadsByPath:
    """Return the pads of every Conv2dSame by its dotted name, computed from the size of its input."""
    pads: PadsByPath = {}

    def record(path: str, conv: nn.Conv2d, args: tuple[Tensor, ...]) -> None:
        height, width = args[0].shape[-2:]
        pads[path] = same_pads((height, width), *_pairs(conv))

    convs = {_path(name): conv for name, conv in module.named_modules() if isinstance(conv, Conv2dSame)}
    handles = [
        conv.register_forward_pre_hook(lambda layer, args, path=path: record(path, layer, args))
        for path, conv in convs.items()
    ]
    _run(module, torch.zeros(1, in_channels, *input_size))
    for handle in handles:
        handle.remove()
    return pads


def _path(name: str) -> str:
    """Return the dotted name under a root called ``module``; an empty ``name`` is the root."""
    return f"module.{name}" if name else "module"


def _pairs(conv: nn.Conv2d) -> tuple[Size, Size, Size]:
    height, width = conv.kernel_size
    return (height, width), (conv.stride[0], conv.stride[1]), (conv.dilation[0], conv.dilation[1])


def _run(module: nn.Module, images: Tensor) -> Tensor:
    """Return the output in evaluation mode, or the last one of a list; then restore the mode."""
    was_training = module.training
    with torch.no_grad():
        output = module.eval()(images)
    module.train(was_training)
    last = output[-1] if isinstance(output, list | tuple) else output
    assert isinstance(last, Tensor)
    return last


def _check_same_outputs(module: nn.Module, plain: nn.Module, input_size: Size, in_channels: int) -> None:
    images = torch.randn(2, in_channels, *input_size, generator=torch.Generator().manual_seed(0))
    expected, got = _run(module, images), _run(plain, images)
    error = float((expected - got).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not error <= EXACTNESS:
        raise ValueError(f"rewriting {type(module).__name__} to plain torch changed its output by {error:.2g}")


def _parts(name: str, module: nn.Module, path: str, pads: PadsByPath) -> Parts:
    """Return the plain layers, in order, that replace ``module``, the child ``name`` of its parent."""
    match module:
        case Conv2dSame():
            return _conv_parts(name, module, pads[path])
        case BatchNormAct2d():
            return _norm_parts(name, module)
        case DropPath():
            return [(name, StochasticDepth(module.drop_prob, mode="row"))]
        case DepthwiseSeparableConv() | InvertedResidual():
            return [(name, _block(module, path, pads))]
        case nn.Sequential():
            return [(name, nn.Sequential(_chain(module, path, pads)))]
        case _:
            for child_name, child in list(module.named_children()):
                parts = _parts(child_name, child, f"{path}.{child_name}", pads)
                setattr(module, child_name, _single(parts))
            return [(name, module)]


def _single(parts: Parts) -> nn.Module:
    return parts[0][1] if len(parts) == 1 else nn.Sequential(OrderedDict(parts))


def _chain(module: nn.Module, path: str, pads: PadsByPath) -> OrderedDict[str, nn.Module]:
    """Return the children of a module that runs them in sequence, flattened, without identities."""

    def flatten() -> Iterator[tuple[str, nn.Module]]:
        for name, child in module.named_children():
            if not isinstance(child, nn.Identity):
                yield from _parts(name, child, f"{path}.{name}", pads)

    return OrderedDict(flatten())


def _block(
    block: DepthwiseSeparableConv | InvertedResidual,
    path: str,
    pads: PadsByPath,
) -> nn.Sequential:
    layers = _chain(block, path, pads)
    if block.has_skip:
        return Residual(layers)
    layers.pop("drop_path", None)
    return nn.Sequential(layers)


def _conv_parts(name: str, conv: nn.Conv2d, pads: Pads) -> Parts:
    left, right, top, bottom = pads
    is_symmetric = left == right and top == bottom
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        _pairs(conv)[0],
        stride=_pairs(conv)[1],
        padding=(top, left) if is_symmetric else 0,
        dilation=_pairs(conv)[2],
        groups=conv.groups,
        bias=conv.bias is not None,
        device="meta",
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    plain.train(conv.training)
    return [(name, plain)] if is_symmetric else [(f"{name}_pad", nn.ZeroPad2d(pads)), (name, plain)]


def _norm_parts(name: str, norm: BatchNormAct2d) -> Parts:
    if not isinstance(norm.drop, nn.Identity):
        raise ValueError(f"{name}: BatchNormAct2d with a drop layer cannot be rewritten")
    plain = nn.BatchNorm2d(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta"
    )
    plain.weight, plain.bias = norm.weight, norm.bias
    plain.running_mean, plain.running_var = norm.running_mean, norm.running_var
    plain.num_batches_tracked = norm.num_batches_tracked
    plain.train(norm.training)
    if isinstance(norm.act, nn.Identity):
        return [(name, plain)]
    return [(name, plain), (f"{name}_act", norm.act)]
