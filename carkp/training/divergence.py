"""Training steps with a loss or gradient that is NaN or infinite: the layer where it began, and the samples."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

MAX_IN_A_ROW = 3
"""Number of skipped steps in a row that ends a training. A single sample may cause one such step, but not many."""

_MAX_SHOWN = 4


@dataclass(frozen=True)
class Origin:
    """The place of the first value that is NaN or infinite: ``kind`` is weight, output, gradient or loss."""

    kind: str
    layer: str

    def __str__(self) -> str:
        return {
            "weight": f"the weight {self.layer} is not finite",
            "output": f"the first layer whose output is not finite is {self.layer}",
            "gradient": f"the first layer whose gradient is not finite is {self.layer}",
            "loss": "the output of every layer is finite: check the labels and the other terms of the loss",
        }[self.kind]


@dataclass(frozen=True)
class Divergence:
    """A step that was skipped.

    Attributes:
        epoch, step: numbers of the epoch and of the step within it, counted from 1.
        num_steps: number of steps in an epoch.
        loss, gradient_norm: values of this step.
        samples: ids of the batch on this process.
        origin: place of the first value that is NaN or infinite.
        num_in_a_row: number of skipped steps in a row, up to and including this one.
    """

    epoch: int
    step: int
    num_steps: int
    loss: float
    gradient_norm: float
    samples: Sequence[str]
    origin: Origin
    num_in_a_row: int

    def __str__(self) -> str:
        what = "gradient" if math.isfinite(self.loss) else "loss"
        value = self.gradient_norm if what == "gradient" else self.loss
        shown = ", ".join(self.samples[:_MAX_SHOWN]) + (", …" if len(self.samples) > _MAX_SHOWN else "")
        return (
            f"the {what} became {value} in epoch {self.epoch}, step {self.step} of {self.num_steps} "
            f"({self.origin}; samples {shown})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON; loss and gradient norm are strings, because they may be NaN or infinite."""
        return {**asdict(self), "loss": str(self.loss), "gradient_norm": str(self.gradient_norm)}


def divergences_to_json(found: Sequence[Divergence]) -> str:
    """Return the skipped steps as the text of a JSON list."""
    return json.dumps([item.to_json() for item in found], indent=1)


def find_origin(net: nn.Module, forward: Callable[[], object], loss: float) -> Origin:
    """Run the forward pass of a step again and find the first value that is NaN or infinite.

    Args:
        net: network with the gradients of the step, and with the weights from before the step.
        forward: function that runs ``net`` on the inputs of the step.
        loss: loss of the step.
    """
    if wrong := [name for name, value in net.named_parameters() if not _is_finite(value)]:
        return Origin("weight", wrong[0])
    with torch.no_grad(), _outputs_watched(net) as (order, unfit):
        forward()
    if unfit:
        return Origin("output", unfit[0])
    gradients = {name.rpartition(".")[0]: value.grad for name, value in net.named_parameters()}
    broken = [name for name in reversed(order) if (found := gradients.get(name)) is not None and not _is_finite(found)]
    return Origin("gradient", broken[0]) if broken and math.isfinite(loss) else Origin("loss", "")


@contextmanager
def _outputs_watched(net: nn.Module) -> Iterator[tuple[list[str], list[str]]]:
    """Collect the names of layers in the order in which they run, and of layers whose output is not finite."""
    order: list[str] = []
    unfit: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            del module, inputs
            order.append(name)
            if isinstance(output, Tensor) and not _is_finite(output):
                unfit.append(name)

        return look

    leaves = [(name, module) for name, module in net.named_modules() if not any(True for _ in module.children())]
    hooks = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        yield order, unfit
    finally:
        for hook in hooks:
            hook.remove()


def _is_finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())


class KeptBuffers:
    """A copy of the buffers after the last good step, because a forward pass changes the batch norm statistics."""

    def __init__(self, net: nn.Module) -> None:
        self._own = list(net.buffers())
        self._kept = [buffer.clone() for buffer in self._own]

    @torch.no_grad()
    def keep(self) -> None:
        if self._own:
            torch._foreach_copy_(self._kept, self._own)

    @torch.no_grad()
    def restore(self) -> None:
        if self._own:
            torch._foreach_copy_(self._own, self._kept)
