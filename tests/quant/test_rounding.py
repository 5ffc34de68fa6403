"""Roundings that serve the layer's sums: by the definition, and through every execution."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from carkp.quant.convert import convert
from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.graph import ConvLayer
from carkp.quant.program import QConv
from carkp.quant.rounding import (
    compensate,
    preserve_sums,
    round_by_second_moments,
    round_by_sums,
    second_moments,
)
from carkp.quant.simulate import Simulator
from carkp.quant.sqnr import layer_sqnr
from tests.quant.networks import BPU, CPU, SmallNet, calibrated, images, with_statistics


def random_weights(*shape: int, spread: float = 20.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * spread


def test_sums_are_kept_and_weights_go_no_further_than_to_a_neighbour() -> None:
    scaled = random_weights(50, 1, 3, 3)
    found = preserve_sums(scaled)
    assert torch.equal(found, found.round())
    assert float((found - scaled).abs().max()) < 1
    assert float((found - scaled).sum((1, 2, 3)).abs().max()) <= 0.5 + 1e-9
    assert float((scaled.round() - scaled).sum((1, 2, 3)).abs().max()) > 0.7


def test_no_other_choice_with_the_sum_is_nearer() -> None:
    """Against all roundings of four weights."""
    scaled = random_weights(40, 1, 2, 2, spread=3)
    found = preserve_sums(scaled)
    for kernel, rounded in zip(scaled.flatten(1), found.flatten(1), strict=True):
        choices = torch.tensor(list(product(*[(float(v.floor()), float(v.ceil())) for v in kernel])))
        close = choices[(choices.sum(1) - kernel.sum()).abs() <= 0.5]
        best = (close - kernel).square().sum(1).min()
        assert float((rounded - kernel).square().sum()) == pytest.approx(float(best), abs=1e-5)


def test_compensation_lowers_the_error_of_the_output() -> None:
    rng = torch.Generator().manual_seed(1)
    mixing = torch.randn(12, 4, generator=rng, dtype=torch.float64)
    inputs = mixing @ torch.randn(4, 500, generator=rng, dtype=torch.float64) + 1.5
    moments = (inputs @ inputs.T)[None]
    scaled = random_weights(30, 12, 1, 1)
    found = compensate(scaled, moments)
    assert torch.equal(found, found.round())

    def error(integers: Tensor) -> float:
        return float(((integers - scaled).flatten(1).double() @ inputs).square().mean())

    assert error(found) < 0.5 * error(scaled.round())


def test_inputs_that_are_independent_leave_the_nearest() -> None:
    scaled = random_weights(30, 6, 3, 3)
    assert torch.equal(compensate(scaled, 7 * torch.eye(54, dtype=torch.float64)[None]), scaled.round().double())


def test_weights_stay_in_range() -> None:
    scaled = torch.full((4, 1, 3, 3), 126.9)
    scaled[:, :, 0, 0] = 127.0
    inputs = torch.ones(9, 50, dtype=torch.float64)
    for found in (preserve_sums(scaled), compensate(scaled, (inputs @ inputs.T).expand(4, 9, 9))):
        assert float(found.abs().max()) <= 127


def test_second_moments_are_those_of_the_patches() -> None:
    net = calibrated(small_net(), BPU)
    batch = images(2)
    inputs: dict[str, Tensor] = {}
    with torch.inference_mode():
        net.graph(batch, on_tensor=inputs.__setitem__)
    moments = second_moments(net, [batch])
    for step, layer in net.graph.items():
        if not isinstance(layer, ConvLayer):
            continue
        weight = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        energy = layer.double().accumulate(inputs[step.inputs[0]].double(), weight, None).square().sum((0, 2, 3))
        flat = weight.flatten(1).reshape(layer.groups, -1, weight[0].numel())
        found = torch.einsum("god,gde,goe->go", flat, moments[step.name], flat).flatten()
        torch.testing.assert_close(found, energy, rtol=1e-6, atol=1e-6)


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(SmallNet())


def rounded_nets(kind: str) -> FakeQuantNet:
    net = calibrated(small_net(), CPU if kind == "sums" else BPU)
    if kind == "sums":
        round_by_sums(net)
    else:
        round_by_second_moments(net, [images(8, seed=2)])
    return net


@pytest.mark.parametrize("kind", ["sums", "second_moments"])
def test_program_and_fake_quantisation_have_the_chosen_weights(kind: str) -> None:
    net = rounded_nets(kind)
    program = convert(net, {})
    moved = 0
    for layer in program.layers:
        if isinstance(layer, QConv):
            step = next(step for step in net.graph.steps if step.name == layer.name)
            conv = net.graph.layers[layer.name]
            assert isinstance(conv, ConvLayer)
            weight, _ = net.quantised_weights(step, conv)
            expected = layer.weight * layer.weight_scale[:, None, None, None]
            np.testing.assert_allclose(weight.detach(), expected, rtol=1e-6)
            moved += int((torch.from_numpy(layer.weight) != net.scaled_weights(step, conv).round()).sum())
    assert moved > 5
    batch = images(3)
    with torch.inference_mode():
        steps = (Simulator(program).run(batch) - net(batch)) / program.tensors[program.output].scale
    assert float(steps.abs().max()) < 1.5


def test_layers_get_nearer_to_float() -> None:
    nearest, chosen = calibrated(small_net(), BPU), rounded_nets("second_moments")
    rows = [{row.name: row for row in layer_sqnr(net, [images(8, seed=9)])} for net in (nearest, chosen)]
    gains = [rows[1][name].weights_db - rows[0][name].weights_db for name in rows[0] if rows[0][name].kind == "conv"]
    assert np.mean(gains) > 2


def test_a_file_without_roundings_is_read_as_nearest() -> None:
    net = calibrated(small_net(), BPU)
    old = {name: value for name, value in net.state_dict().items() if not name.endswith(".steps")}
    chosen = rounded_nets("second_moments")
    chosen.load_state_dict(old)
    with torch.inference_mode():
        torch.testing.assert_close(chosen(images()), net(images()), rtol=0, atol=0)


def test_roundings_are_forgotten_before_weights_change() -> None:
    net = rounded_nets("second_moments")
    net.round_to_nearest()
    with torch.inference_mode():
        nearest = calibrated(small_net(), BPU)
        torch.testing.assert_close(net(images()), nearest(images()), rtol=0, atol=0)
