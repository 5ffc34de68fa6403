"""The error at the output that the 8 bits of each tensor cause alone: it shows which tensors need 16 bits first."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.graph import IMAGE, MOVING, Step
from carkp.quant.sqnr import decibels

Decode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Heatmaps (B, K, h, w) -> keypoints (B, K, 2) in input pixels, and their peaks (B, K)."""


@dataclass(frozen=True)
class TensorSensitivity:
    """The error at the output if only one tensor, and those that share its scale, are quantised.

    Attributes:
        tensor: name of the tensor that leads the group with this scale.
        output_db: signal-to-noise ratio at the output, in decibels.
        shift_px: mean distance between the keypoints of this network and of the float network, in input pixels. The
            weight of a keypoint is the height of its peak in the float network, because without a peak there is no
            position.
    """

    tensor: str
    output_db: float
    shift_px: float


def tensor_sensitivities(net: FakeQuantNet, batches: Iterable[Tensor], decode: Decode) -> list[TensorSensitivity]:
    """Return one row for every scale that calibration chooses, sorted by ``shift_px``, largest first.

    The float network runs once per batch. For each tensor only the layers after it are computed again.

    Args:
        net: the calibrated network.
        batches: normalised images (B, 3, H, W), at least one batch; all tensors of a batch are in memory at once.
        decode: decoding function of the codec.
    """
    members = _members(net)
    noise, shift = dict.fromkeys(members, 0.0), dict.fromkeys(members, 0.0)
    signal, total_peak = 0.0, 0.0
    with torch.inference_mode():
        for images in batches:
            exact: dict[str, Tensor] = {}
            heatmaps = net.graph(images, on_tensor=exact.__setitem__)
            points, peaks = decode(heatmaps)
            peaks = peaks.clamp(min=0)
            signal += float(heatmaps.double().square().sum())
            total_peak += float(peaks.sum())
            for leader, names in members.items():
                quantised = _run_quantised(net, images, exact, names)
                noise[leader] += float((quantised - heatmaps).double().square().sum())
                shift[leader] += float(((decode(quantised)[0] - points).norm(dim=2) * peaks).sum())
    rows = [TensorSensitivity(name, decibels(signal, noise[name]), shift[name] / total_peak) for name in members]
    return sorted(rows, key=lambda row: row.shift_px, reverse=True)


def _members(net: FakeQuantNet) -> dict[str, set[str]]:
    """Return for each leader the tensors of its group, without those that are only moved."""
    members: dict[str, set[str]] = {}
    for step, layer in net.graph.items():
        if not isinstance(layer, MOVING) and net.groups[step.name] != net.groups[IMAGE]:
            members.setdefault(net.groups[step.name], set()).add(step.name)
    return members


def _run_quantised(net: FakeQuantNet, images: Tensor, exact: dict[str, Tensor], names: Collection[str]) -> Tensor:
    """Return the output with the tensors of ``names`` quantised; ``exact``: all tensors in float."""
    changed: set[str] = set()

    def apply(step: Step, layer: nn.Module, inputs: list[Tensor]) -> Tensor:
        is_new = not changed.isdisjoint(step.inputs)
        result: Tensor = layer(*inputs) if is_new else exact[step.name]
        if step.name in names:
            result = net.quantiser(step.name)(result)
        if is_new or step.name in names:
            changed.add(step.name)
        return result

    return net.graph.execute(images, apply)
