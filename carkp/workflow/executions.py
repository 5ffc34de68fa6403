"""The ways to execute a model, each as a function from uint8 images to heatmaps."""

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
    """Return the integer simulator as a function; ``requantisation`` None: the target's own.

    Raises:
        ConfigError: the program has layers without integer arithmetic.
    """
    try:
        simulator = Simulator(program, requantisation)
    except ValueError as error:
        raise ConfigError(f"int_infer: {error}") from error
    return lambda images: simulator.run(normalise(images.cpu()))


def onnx_forward(runner: OnnxRunner) -> Forward:
    """Return a session of ONNX Runtime on the CPU as a function."""
    return array_forward(runner.run_all)


def array_forward(run: Callable[[Float32Array], Float32Array]) -> Forward:
    """Wrap ``run``, which takes normalised images (B, 3, H, W) and returns heatmaps (B, K, h, w)."""

    def forward(images: Tensor) -> Tensor:
        return torch.from_numpy(run(normalise(images.cpu()).numpy()))

    return forward
