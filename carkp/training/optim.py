"""Learning rate schedule and moving average of the weights."""

import copy
import math

import torch
from torch import nn


def warmup_cosine(step: int, num_warmup_steps: int, num_steps: int) -> float:
    """Return the factor of the learning rate: linear warm-up, then half a cosine that reaches 0 at ``num_steps``."""
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class WeightAverage:
    """Exponential moving average of parameters and buffers.

    The decay at update n is min(decay, (1 + n) / (10 + n)): it starts low, so that the average soon forgets the initial
    weights. With ``trusts_start`` the initial weights are trained, and the decay is constant.
    """

    def __init__(self, net: nn.Module, decay: float, trusts_start: bool = False) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay, self.trusts_start = decay, trusts_start
        self.num_updates = 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        start = 1.0 if self.trusts_start else (1 + self.num_updates) / (10 + self.num_updates)
        decay = min(self.decay, start)
        self.num_updates += 1
        averaged, current = [], []
        for mean, value in zip(self.net.state_dict().values(), net.state_dict().values(), strict=True):
            if mean.is_floating_point():
                averaged.append(mean)
                current.append(value)
            else:
                mean.copy_(value)
        torch._foreach_lerp_(averaged, current, 1 - decay)
