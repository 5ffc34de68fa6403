"""Comparison of all kernels that run a .tflite file, LiteRT's and tflite-micro's, with the simulator."""

from pathlib import Path

import torch
from tqdm import tqdm

from carkp.config.loading import ConfigError
from carkp.data.dataset import normalise
from carkp.data.store import Store
from carkp.deploy.litert import RULES, LiteRtRunner, TfliteMicroRunner
from carkp.quant.program import QProgram
from carkp.quant.simulate import Simulator
from carkp.quant.target import Requantisation
from carkp.workflow.alignment import KernelCheck
from carkp.workflow.build import eval_dataset


def check_kernels(program: QProgram, path: Path, store: Store, num_crops: int, seed: int) -> list[KernelCheck]:
    """Compare every kind of kernels with the simulator under its requantisation rule, on the first crops of a split.

    Raises:
        ConfigError: tflite-micro is not installed.
    """
    _, height, width = program.tensors[program.input].shape
    dataset = eval_dataset(store, (height, width), seed)
    images = normalise(torch.stack([dataset[index]["image"] for index in range(min(num_crops, len(dataset)))]))
    runners: dict[str, tuple[Requantisation, LiteRtRunner | TfliteMicroRunner]] = {
        kernels: (rule, LiteRtRunner(path, kernels, torch.get_num_threads())) for kernels, rule in RULES.items()
    }
    try:
        runners["tflite-micro"] = (RULES["reference"], TfliteMicroRunner(path))
    except ImportError as error:
        raise ConfigError(f"align: {error}") from error
    checks = []
    for name, (rule, runner) in tqdm(runners.items(), desc="LiteRT's kernels", unit="kind"):
        expected = Simulator(program, rule).run(images).numpy()
        different = runner.run(images.numpy()) != expected
        checks.append(KernelCheck(name, rule, different.size, int(different.sum())))
    return checks
