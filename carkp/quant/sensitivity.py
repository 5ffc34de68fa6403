"""What each tensor's 8 bits cost at the output, alone: the order in which 16 bits are worth giving."""

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
    """Everything in float but one tensor and those that share its scale.

    Attributes:
        tensor: the one that leads them.
        output_db: signal to noise at the output, in decibels.
        shift_px: mean distance of a keypoint from where the float network puts it, in input pixels; each counts as
            much as its peak is high there, for without a peak there is no place.
    """

    tensor: str
    output_db: float
    shift_px: float


def tensor_sensitivities(net: FakeQuantNet, batches: Iterable[Tensor], decode: Decode) -> list[TensorSensitivity]:
    """A row for every scale that calibration chooses, the one that moves keypoints farthest first.

    The float network runs once a batch; for each tensor only what lies behind it is computed again.

    Args:
        net: calibrated.
        batches: normalised images (B, 3, H, W), at least one; all tensors of a batch are held at once.
        decode: of the codec.
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
    """By leader: the tensors of a scale that are computed, and not moved only."""
    members: dict[str, set[str]] = {}
    for step, layer in net.graph.items():
        if not isinstance(layer, MOVING) and net.groups[step.name] != net.groups[IMAGE]:
            members.setdefault(net.groups[step.name], set()).add(step.name)
    return members


def _run_quantised(net: FakeQuantNet, images: Tensor, exact: dict[str, Tensor], names: Collection[str]) -> Tensor:
    """The output with the tensors of ``names`` quantised, given all tensors in float."""
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
