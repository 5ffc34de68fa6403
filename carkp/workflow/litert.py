"""What the stages do with LiteRT: .tflite files of the targets that it executes, a check of its kinds of kernels."""

from collections.abc import Mapping
from pathlib import Path

import torch
from tqdm import tqdm

from carkp.config.loading import ConfigError
from carkp.data.dataset import normalise
from carkp.data.store import Store
from carkp.deploy.litert import INSTALL, RULES, LiteRtRunner, TfliteMicroRunner
from carkp.quant.program import FloatOp, QProgram
from carkp.quant.simulate import Simulator
from carkp.quant.target import Requantisation
from carkp.workflow.alignment import KernelCheck
from carkp.workflow.build import eval_dataset
from carkp.workflow.references import tflite_names


def is_executed_by_litert(program: QProgram) -> bool:
    """Whether a .tflite file computes what the program says: by its target's arithmetic, and in integers throughout."""
    return program.target.requantisation in RULES.values() and not any(
        isinstance(layer, FloatOp) for layer in program.layers
    )


def write_tflite(program: QProgram, folder: Path, notes: Mapping[str, str] | None = None) -> dict[str, Path]:
    """The .tflite files of a program, by their interface, ``float`` and ``int8``.

    Raises:
        TfliteError: a layer that TensorFlow Lite cannot express.
        ConfigError: what they take is not installed.
    """
    name = program.target.name
    try:
        from carkp.deploy.tflite import save_tflite
    except ImportError as error:
        raise ConfigError(f"target {name} needs LiteRT, which is not installed: {INSTALL}") from error
    paths = {interface: folder / file for interface, file in tflite_names(name).items()}
    save_tflite(program, paths["float"], "float", notes)
    save_tflite(program, paths["int8"], "int8", notes)
    return paths


def check_kernels(program: QProgram, path: Path, store: Store, num_crops: int, seed: int) -> list[KernelCheck]:
    """Every kind of kernels on the first crops of a split, each against the simulator with the rule that it follows.

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
