"""Equalised channels: the float network stays what it is, the quantised one gets closer to it."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from carkp.quant.calibrate import Observer, choose_thresholds, observe
from carkp.quant.convert import convert
from carkp.quant.equalise import DENSE_EXPONENT, MAX_FACTOR, equalise
from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.fold import fold
from carkp.quant.graph import ConvLayer, LayerGraph
from carkp.quant.simulate import Simulator
from tests.quant.networks import BPU, SIZE, SmallNet, images, with_statistics

BATCHES = [images(8, seed=2), images(8, seed=3)]


def uneven(act: type[nn.Module]) -> LayerGraph:
    """A pointwise convolution, a depthwise and a pointwise one, with channels of very different ranges."""
    net = nn.Sequential(nn.Conv2d(3, 8, 1), act(), nn.Conv2d(8, 8, 3, padding=1, groups=8), act(), nn.Conv2d(8, 4, 1))
    for module in net:
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0, 1, generator=torch.Generator().manual_seed(module.in_channels))
            nn.init.uniform_(module.bias, 0, 1, generator=torch.Generator().manual_seed(1))
    gains = 2.0 ** torch.arange(2, -6, -1)
    for module in (net[0], net[2]):
        module.weight.data *= gains[:, None, None, None]
        module.bias.data *= gains
    net[2].weight.data /= gains[:, None, None, None]
    return fold(net.eval(), SIZE)


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6])
def test_the_float_network_stays_the_same(act: type[nn.Module]) -> None:
    graph = uneven(act)
    other = images(16, seed=9)
    before = graph(other)
    factors = equalise(graph, BATCHES)
    assert len(factors) == 2
    assert all(found.max() > 1.3 and found.min() == 1 for found in factors.values())
    torch.testing.assert_close(graph(other), before, rtol=1e-4, atol=1e-5)


def test_bounds_move_with_the_channels() -> None:
    """On images that reach the bound of a ReLU6 in a channel that calibration saw far below it."""
    graph = uneven(nn.ReLU6)
    dim = [batch * 0.1 for batch in BATCHES]
    bright = images(4, seed=9) * 30
    before = graph(bright)
    first = next(layer for _, layer in graph.items() if isinstance(layer, ConvLayer))
    assert (first(bright).amax(dim=(0, 2, 3)) == 6).sum() > 4
    equalise(graph, dim)
    assert (first.factors > 1).sum() > 4
    assert first(bright).amax() > 6.5
    torch.testing.assert_close(graph(bright), before, rtol=1e-4, atol=1e-4)


def test_channels_get_ranges_of_like_size() -> None:
    graph = uneven(nn.ReLU)
    before = largest_by_channel(graph)
    factors = equalise(graph, BATCHES)
    after = largest_by_channel(graph)
    depthwise_input, dense_input = factors
    for name, exponent in ((depthwise_input, 1.0), (dense_input, DENSE_EXPONENT)):
        expected = (before[name].max() / before[name]).clamp(max=MAX_FACTOR) ** exponent
        torch.testing.assert_close(factors[name], expected)
        torch.testing.assert_close(after[name], before[name] * expected)
    spread = [float(found[depthwise_input].max() / found[depthwise_input].min()) for found in (before, after)]
    assert spread[1] < spread[0] / 3


def largest_by_channel(graph: LayerGraph) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}

    def see(name: str, values: torch.Tensor) -> None:
        highest = values.detach().amax(dim=(0, 2, 3))
        found[name] = torch.maximum(found[name], highest) if name in found else highest

    for batch in BATCHES:
        graph(batch, on_tensor=see)
    return found


def quantised(graph: LayerGraph) -> FakeQuantNet:
    net = FakeQuantNet(graph, BPU, True).eval()
    histograms = observe(net.graph, BATCHES)
    net.set_thresholds(choose_thresholds(histograms, net.num_levels, dict.fromkeys(histograms, Observer("minmax", 99))))
    return net


def test_the_quantised_network_gets_closer_to_it() -> None:
    batch, noise = images(16, seed=9), []
    exact = uneven(nn.ReLU)(batch)
    for is_equalised in (False, True):
        graph = uneven(nn.ReLU)
        if is_equalised:
            equalise(graph, BATCHES)
        simulated = Simulator(convert(quantised(graph), {})).run(batch)
        noise.append(float((simulated - exact).detach().square().mean()))
    assert noise[1] < noise[0] / 1.4


def test_only_what_one_convolution_reads_is_scaled() -> None:
    """Not the inputs of a sum, and not what a transposed convolution moves."""
    graph = fold(with_statistics(SmallNet()), SIZE)
    assert set(equalise(graph, BATCHES)) == {"stem/1", "down/0", "down/3", "block/0"}


def test_a_checkpoint_keeps_the_bounds(tmp_path: Path) -> None:
    net = quantised(uneven(nn.ReLU6))
    equalise(net.graph, [batch * 0.1 for batch in BATCHES])
    bright = images(4, seed=9) * 30
    torch.save(net.state_dict(), tmp_path / "net.pt")
    loaded = quantised(uneven(nn.ReLU6))
    old = copy.deepcopy(loaded.state_dict())
    loaded.load_state_dict(torch.load(tmp_path / "net.pt"))
    assert np.array_equal(loaded.graph(bright).detach(), net.graph(bright).detach())
    plain = {name: value for name, value in old.items() if not name.endswith("factors")}
    loaded.load_state_dict(plain)  # of an earlier version
    assert np.array_equal(loaded.graph(bright).detach(), quantised(uneven(nn.ReLU6)).graph(bright).detach())
