import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carkp.quant.fake_quant import MAX_BIAS, ActivationQuantiser, FakeQuantNet, WeightQuantiser, activation_grid
from carkp.quant.fold import fold
from carkp.quant.graph import IMAGE, ConvLayer
from carkp.quant.target import INPUT_SCALE
from tests.quant.networks import BPU, CPU, SIZE, SmallNet, calibrated, images, with_statistics


@given(
    values=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=50),
    threshold=st.floats(0.01, 10),
    dtype=st.sampled_from(["int8", "uint8"]),
    is_signed=st.booleans(),
)
@settings(deadline=None)
def test_a_value_within_the_range_moves_by_half_a_step_at_most(values, threshold, dtype, is_signed):
    grid = activation_grid(dtype, is_signed)
    quantiser = ActivationQuantiser(grid)
    scale = np.float32(threshold / grid.num_levels)
    quantiser.scale.fill_(float(scale))
    x = torch.tensor(values)
    lowest = 0.0 if grid.zero_point == 0 and dtype == "uint8" else -threshold
    clipped = x.clamp(lowest, threshold)
    moved = (quantiser(x) - clipped).abs()
    inside = (x >= lowest) & (x <= threshold)
    assert (moved[inside] <= float(scale) * 0.5001).all()
    assert torch.equal(quantiser(quantiser(x)), quantiser(x))


@pytest.mark.parametrize(
    "grid", [activation_grid("int8", True), activation_grid("uint8", True), activation_grid("uint8", False)]
)
def test_rounding_without_gradients_is_the_same(grid):
    quantiser = ActivationQuantiser(grid)
    quantiser.scale.fill_(0.0371)
    x = torch.cat(
        [torch.randn(20000, generator=torch.Generator().manual_seed(0)) * 5, torch.arange(-300, 300) * 0.01855]
    )
    with torch.no_grad():
        fast = quantiser(x)
    assert torch.equal(fast, quantiser(x))


def test_grids_of_the_targets():
    assert (activation_grid("int8", True).num_levels, activation_grid("int8", False).num_levels) == (127, 127)
    assert activation_grid("uint8", False).zero_point == 0
    assert activation_grid("uint8", False).num_levels == 255
    assert (activation_grid("uint8", True).zero_point, activation_grid("uint8", True).num_levels) == (128, 127)


def test_the_input_is_the_yuv_byte_exactly():
    for target in (BPU, CPU):
        net = calibrated(with_statistics(SmallNet()), target)
        assert float(net.quantiser(IMAGE).scale) == INPUT_SCALE
        every_byte = (torch.arange(256.0) - 128) / 128
        assert torch.equal(net.quantiser(IMAGE)(every_byte), every_byte)
        assert IMAGE not in net.num_levels


def test_weight_scales_are_those_of_the_largest_weight_of_each_channel():
    weight = torch.tensor([[1.0, -2.54], [0.5, 0.127]])[:, :, None, None]
    layer = ConvLayer(weight, torch.zeros(2))
    scales = WeightQuantiser(layer.weight.shape, per_channel=True).scales(layer, torch.tensor(0.1))
    torch.testing.assert_close(scales, torch.tensor([2.54, 0.5]) / 127)
    scales = WeightQuantiser(layer.weight.shape, per_channel=False).scales(layer, torch.tensor(0.1))
    torch.testing.assert_close(scales, torch.tensor([2.54, 2.54]) / 127)


def test_an_empty_channel_with_a_bias_keeps_the_bias_within_bounds():
    layer = ConvLayer(torch.zeros(2, 1, 1, 1), torch.tensor([3.0, 0.0]))
    input_scale = torch.tensor(0.01)
    scales = WeightQuantiser(layer.weight.shape, per_channel=True).scales(layer, input_scale)
    assert (torch.tensor([3.0]) / (input_scale * scales[0])).item() == pytest.approx(MAX_BIAS)
    assert torch.isfinite(scales).all()
    assert (scales > 0).all()


def test_gradients_pass_inside_of_the_range_and_stop_outside():
    net = calibrated(with_statistics(SmallNet()), BPU).train()
    net(images()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.graph.parameters())
    assert any((parameter.grad != 0).any() for parameter in net.graph.parameters() if parameter.grad is not None)
    quantiser = net.quantiser("stem/1")
    x = torch.tensor([0.1, 1e6], requires_grad=True)
    quantiser(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 0]


@pytest.mark.parametrize("target", [BPU, CPU])
def test_fake_quantised_outputs_are_near_the_float_ones_and_on_the_grid(target):
    net = calibrated(with_statistics(SmallNet()), target, percentile=100.0)
    with torch.inference_mode():
        exact, rounded = net.graph(images()), net(images())
    scale = net.quantiser(net.graph.output).scale
    assert 0 < float((exact - rounded).abs().mean() / exact.abs().mean()) < 0.1
    steps = rounded / scale
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)


def test_only_the_named_layers_are_quantised():
    net = calibrated(with_statistics(SmallNet()), BPU)
    net.quantised_layers = frozenset()
    with torch.inference_mode():
        assert torch.equal(net(images()), net.graph(images()))
        net.quantised_layers = frozenset(["final"])
        assert not torch.equal(net(images()), net.graph(images()))


def test_thresholds_must_name_every_tensor_and_be_positive():
    net = FakeQuantNet(fold(with_statistics(SmallNet()), SIZE), BPU, True)
    with pytest.raises(ValueError, match="expected"):
        net.set_thresholds({"final": 1.0})
    good = dict.fromkeys(net.num_levels, 1.0)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="final: the threshold must be positive and finite"):
            net.set_thresholds({**good, "final": bad})
