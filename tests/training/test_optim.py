import pytest
import torch
from torch import nn

from carkp.training.optim import WeightAverage, warmup_cosine


def test_schedule_warms_up_then_falls_to_zero() -> None:
    factors = [warmup_cosine(step, 10, 100) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    assert warmup_cosine(0, 0, 10) == 1.0


def test_average_is_the_exponential_one_of_parameters_and_buffers() -> None:
    net = nn.BatchNorm1d(1)
    average = WeightAverage(net, decay=0.5)
    expected = 1.0
    for n in range(20):
        with torch.no_grad():
            net.weight.fill_(n)
            net.running_mean.fill_(n)
        average.update(net)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    assert average.net.weight.item() == pytest.approx(expected, rel=1e-5)
    assert average.net.num_batches_tracked.item() == net.num_batches_tracked.item()
    assert not average.net.weight.requires_grad


def test_an_average_that_trusts_its_start_gives_it_up_as_slowly_as_its_decay_says() -> None:
    net = nn.Linear(1, 1)
    with torch.no_grad():
        net.weight.fill_(1.0)
    trusting, usual = WeightAverage(net, 0.9, trusts_start=True), WeightAverage(net, 0.9)
    with torch.no_grad():
        net.weight.fill_(0.0)
    for average in (trusting, usual):
        average.update(net)
    assert trusting.net.weight.item() == pytest.approx(0.9)
    assert usual.net.weight.item() == pytest.approx(0.1)
