"""What each tensor costs alone: ranked as running the quantised network whole says."""

import pytest
import torch
from torch import Tensor

from carkp.quant.sensitivity import tensor_sensitivities
from carkp.quant.sqnr import decibels
from tests.quant.networks import BPU, SmallNet, calibrated, images, with_statistics


def decode(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Two numbers a map that move with its values: (B, K, 2); one in four maps has no peak."""
    largest = heatmaps.amax(dim=(2, 3))
    is_peak = torch.tensor([1.0, 1.0, -1.0, 1.0])
    return torch.stack([heatmaps.mean(dim=(2, 3)), largest], dim=2), (largest.abs() + 1) * is_peak


def test_a_tensor_alone_is_what_the_network_gives_with_it_alone_quantised() -> None:
    net, batches = calibrated(with_statistics(SmallNet()), BPU), [images(3), images(5, seed=4)]
    rows = tensor_sensitivities(net, batches, decode)
    assert {row.tensor for row in rows} == set(net.num_levels)
    assert [row.shift_px for row in rows] == sorted((row.shift_px for row in rows), reverse=True)
    names = [step.name for step in net.graph.steps]
    with torch.no_grad():
        exact = torch.cat([net.graph(batch) for batch in batches])
        for row in rows:
            # the weights of a layer count for its tensor in the network: take the float ones
            net.quantised_layers = frozenset(name for name in names if net.groups[name] == row.tensor)
            rounded = []
            for batch in batches:
                rounded.append(
                    net.graph.execute(batch, lambda step, layer, inputs: _activation(net, step, layer, inputs))
                )
            found = torch.cat(rounded)
            noise = float((found - exact).double().square().sum())
            assert row.output_db == pytest.approx(decibels(float(exact.double().square().sum()), noise), abs=1e-4)
            (points, peaks), moved = decode(exact), decode(found)[0]
            weights = peaks.clamp(min=0)
            shift = float(((moved - points).norm(dim=2) * weights).sum() / weights.sum())
            assert row.shift_px == pytest.approx(shift, rel=1e-4)
    assert rows[0].shift_px > 1.5 * rows[-1].shift_px


def _activation(net, step, layer, inputs):  # type: ignore[no-untyped-def]
    result = layer(*inputs)
    is_moved = type(layer).__name__ in ("ConcatLayer", "DepthToSpaceLayer")
    return net.quantiser(step.name)(result) if step.name in net.quantised_layers and not is_moved else result
