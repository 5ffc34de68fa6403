import numpy as np
import pytest
import torch
from torch import nn

from carkp.quant.calibrate import CalibrationError, Observer, choose_thresholds, correct_biases, observe
from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.fold import fold
from carkp.quant.histogram import RESOLUTION
from tests.quant.networks import BPU, SIZE, SmallNet, calibrated, images, with_statistics


def test_histograms_are_those_of_the_float_network():
    graph = fold(with_statistics(SmallNet()), SIZE)
    batches = [images(3, seed=1), images(2, seed=5)]
    histograms = observe(graph, batches)
    seen: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode():
        for batch in batches:
            graph(batch, on_tensor=lambda name, values: seen.setdefault(name, []).append(values.numpy().ravel().copy()))
    for name in ("stem/1", "block/add", "final"):
        values = np.abs(np.concatenate(seen[name]))
        assert histograms[name].count == values.size
        assert histograms[name].largest == values.max()
        expected = np.percentile(values, 99, method="inverted_cdf")
        assert abs(histograms[name].quantile(0.99) - expected) <= RESOLUTION * expected


def test_every_calibrated_tensor_has_a_histogram_and_the_phases_share_one():
    net = FakeQuantNet(fold(with_statistics(SmallNet()), SIZE), BPU, True)
    histograms = observe(net.graph, [images()])
    assert set(histograms) == set(net.num_levels)
    assert histograms[net.groups["up/0/phase_11"]].count == 4 * 12 * 16 * 16


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_poisoned_activation_is_an_error_that_names_the_tensor(poison: float):
    net = with_statistics(SmallNet())
    assert isinstance(net.narrow[0], nn.Conv2d)
    graph = fold(net, SIZE)
    with torch.no_grad():
        graph.layers["narrow/0"].bias[0] = poison
    with pytest.raises(CalibrationError, match=r"narrow/0: \d+ of \d+ values are NaN or infinite"):
        observe(graph, [images()])


def test_dead_and_constant_activations_get_valid_scales():
    net = with_statistics(SmallNet())
    prepared = FakeQuantNet(fold(net, SIZE), BPU, True)
    with torch.no_grad():
        prepared.graph.layers["narrow/0"].weight.zero_()
        prepared.graph.layers["narrow/0"].bias.zero_()
        prepared.graph.layers["final"].weight.zero_()
        prepared.graph.layers["final"].bias.fill_(0.7)
    histograms = observe(prepared.graph, [images()])
    for kind in ("percentile", "minmax", "mse", "entropy"):
        observers = dict.fromkeys(histograms, Observer(kind, 99.975))
        prepared.set_thresholds(choose_thresholds(histograms, prepared.num_levels, observers))
        with torch.inference_mode():
            result = prepared(images())
        assert torch.isfinite(result).all()
        torch.testing.assert_close(result, torch.full_like(result, 0.7), rtol=0, atol=0.01)


def test_what_is_joined_to_the_image_must_fit_its_scale():
    class Joined(nn.Module):
        def __init__(self, gain: float) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            nn.init.constant_(self.conv.weight, gain)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, self.conv(x)], 1)

    observe(fold(Joined(0.1).eval(), SIZE), [images()])
    with pytest.raises(CalibrationError, match="conv: is concatenated with the image"):
        observe(fold(Joined(10.0).eval(), SIZE), [images()])


def test_no_images_are_refused():
    with pytest.raises(CalibrationError, match="no images"):
        observe(fold(with_statistics(SmallNet()), SIZE), [])


def test_bias_correction_removes_the_mean_error_of_rounded_weights():
    net = calibrated(with_statistics(SmallNet()), BPU)
    step = next(step for step in net.graph.steps if step.name == "narrow/0")
    layer = net.graph.layers["narrow/0"]

    def mean_error() -> torch.Tensor:
        found: dict[str, torch.Tensor] = {}
        with torch.inference_mode():
            net.graph(images(), on_tensor=found.__setitem__)
            x = found[step.inputs[0]]
            weight, bias = net.quantised_weights(step, layer)
            return (layer.accumulate(x, weight, bias) - layer.accumulate(x, layer.weight, layer.bias)).mean((0, 2, 3))

    before = mean_error().abs().max()
    correct_biases(net, [images(2), images(4)[2:]])
    assert mean_error().abs().max() < before / 100


@pytest.mark.parametrize("num_threads", [2, 3])
def test_threads_share_the_batches_and_count_the_same(num_threads: int) -> None:
    graph = fold(with_statistics(SmallNet()), SIZE)
    batches = [images(2, seed=seed) for seed in range(5)]
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the threads has: other sums of a convolution round otherwise
    try:
        expected = observe(graph, batches)
    finally:
        torch.set_num_threads(before)
    found = observe(graph, iter(batches), num_threads)
    assert torch.get_num_threads() == before
    assert list(found) == list(expected)
    for name, histogram in expected.items():
        assert found[name].count == histogram.count
        assert found[name].largest == histogram.largest
        assert found[name].counts.tolist() == histogram.counts.tolist()


def test_a_thread_that_fails_ends_all() -> None:
    bad = images()
    bad[0, 0, 0, 0] = float("nan")
    before = torch.get_num_threads()
    with pytest.raises(CalibrationError, match="NaN"):
        observe(fold(with_statistics(SmallNet()), SIZE), [images(), bad, images()], 2)
    with pytest.raises(CalibrationError, match="no images"):
        observe(fold(with_statistics(SmallNet()), SIZE), [], 2)
    assert torch.get_num_threads() == before
