"""Parameters, multiply-accumulates (MACs) and FLOPs of each layer of a network, counted during one run.

Legend: B batch (always 1 here), C channels, H W height and width.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from carkp.model.plain import Residual, Size

NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
FREE = (nn.Identity, nn.ZeroPad2d, nn.Flatten, nn.Dropout)
FLOPS_PER_ELEMENT: dict[type[nn.Module], int] = {nn.ReLU: 1, nn.ReLU6: 2, nn.Hardtanh: 2, Residual: 1}


@dataclass(frozen=True)
class LayerOps:
    """Parameters and operations of one layer for one image.

    A multiply-accumulate is two FLOPs. Only convolutions and linear layers have MACs. Batch norms (a scale and a shift
    for each element), activations and additions have only FLOPs, because folding and fusing removes them.
    """

    name: str
    type: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    flops: int


@dataclass(frozen=True)
class TotalOps:
    """Sums over layers, for one image."""

    parameters: int
    macs: int
    flops: int


def count_ops(net: nn.Module, input_size: Size, in_channels: int = 3) -> list[LayerOps]:
    """Run ``net`` on one zero image of ``input_size`` and count the operations of its layers, in order of execution.

    Functional calls outside of modules are not counted, except the addition of :class:`Residual`.

    Raises:
        ValueError: a layer has parameters but its kind is unknown.
    """
    rows: list[LayerOps] = []
    seen: set[int] = set()

    def record(name: str, module: nn.Module, output: Any) -> None:
        if isinstance(output, Tensor):
            rows.append(_layer_ops(name, module, output, is_first_call=id(module) not in seen))
            seen.add(id(module))

    handles = [
        module.register_forward_hook(lambda layer, args, output, name=name: record(name, layer, output))
        for name, module in net.named_modules()
        if _is_counted(module)
    ]
    was_training = net.training
    try:
        with torch.no_grad():
            net.eval()(_zero_image(net, input_size, in_channels))
    finally:
        net.train(was_training)
        for handle in handles:
            handle.remove()
    return rows


def total_ops(layers: Iterable[LayerOps]) -> TotalOps:
    rows = list(layers)
    return TotalOps(
        parameters=sum(row.parameters for row in rows),
        macs=sum(row.macs for row in rows),
        flops=sum(row.flops for row in rows),
    )


def _zero_image(net: nn.Module, input_size: Size, in_channels: int) -> Tensor:
    like = next(net.parameters(), torch.zeros(()))
    return torch.zeros(1, in_channels, *input_size, dtype=like.dtype, device=like.device)


def _is_counted(module: nn.Module) -> bool:
    is_leaf = next(module.children(), None) is None
    has_own_parameters = next(module.parameters(recurse=False), None) is not None
    return is_leaf or has_own_parameters or isinstance(module, Residual)


def _layer_ops(name: str, module: nn.Module, output: Tensor, is_first_call: bool) -> LayerOps:
    own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    macs = _macs(module, output)
    return LayerOps(
        name=name,
        type="Add" if isinstance(module, Residual) else type(module).__name__,
        output_shape=tuple(output.shape),
        parameters=own if is_first_call else 0,
        macs=macs,
        flops=2 * macs + _other_flops(name, module, output, has_macs=macs > 0),
    )


def _macs(module: nn.Module, output: Tensor) -> int:
    """Return the number of taps of one output element times the number of output elements.

    A transposed convolution spreads its k x k taps over stride x stride output pixels, so that each pixel gets
    k^2 / stride^2 taps; multiplications by inserted zeros are not counted. Padding counts as data.
    """
    match module:
        case nn.Conv2d():
            taps = math.prod(module.kernel_size) * module.in_channels // module.groups
            return taps * output.numel()
        case nn.ConvTranspose2d():
            all_taps = math.prod(module.kernel_size) * module.in_channels // module.groups * output.numel()
            return round(all_taps / math.prod(module.stride))
        case nn.Linear():
            return module.in_features * output.numel()
        case _:
            return 0


def _other_flops(name: str, module: nn.Module, output: Tensor, has_macs: bool) -> int:
    """Return the FLOPs other than multiply-accumulates: bias additions, norms, activations, additions."""
    if has_macs:
        return output.numel() if getattr(module, "bias", None) is not None else 0
    if isinstance(module, NORMS):
        return 2 * output.numel()
    if isinstance(module, FREE):
        return 0
    if next(module.parameters(recurse=False), None) is not None:
        raise ValueError(f"cannot count the operations of {name} ({type(module).__name__})")
    return FLOPS_PER_ELEMENT.get(type(module), 1) * output.numel()
