"""The ways to execute a model, all as functions from uint8 images to heatmaps."""

from collections.abc import Callable

import torch
from torch import Tensor

from carkp.config.loading import ConfigError
from carkp.data.dataset import normalise
from carkp.deploy.runtime import Float32Array, OnnxRunner
from carkp.quant.program import QProgram
from carkp.quant.simulate import Simulator
from carkp.quant.target import Requantisation
from carkp.training.evaluate import Forward


def simulator_forward(program: QProgram, requantisation: Requantisation | None = None) -> Forward:
    """The integer simulator; None: with the target's own requantisation.

    Raises:
        ConfigError: the program has layers without integer arithmetic.
    """
    try:
        simulator = Simulator(program, requantisation)
    except ValueError as error:
        raise ConfigError(f"int_infer: {error}") from error
    return lambda images: simulator.run(normalise(images.cpu()))


def onnx_forward(runner: OnnxRunner) -> Forward:
    """A session of ONNX Runtime on the CPU."""
    return array_forward(runner.run_all)


def array_forward(run: Callable[[Float32Array], Float32Array]) -> Forward:
    """``run`` takes normalised images (B, 3, H, W) to heatmaps (B, K, h, w)."""

    def forward(images: Tensor) -> Tensor:
        return torch.from_numpy(run(normalise(images.cpu()).numpy()))

    return forward
