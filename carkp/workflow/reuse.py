"""What decides a stage's result, as one digest: runs with the same are worth the same.

Settings that change no result (loader processes, threads, what is kept of a run) are left out, and so is the commit.
Data and models count by their content, whatever run or file they come from.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from pydantic import BaseModel

from carkp.config.loading import flatten
from carkp.config.schema import ExperimentConfig
from carkp.deploy.compiled import file_digest
from carkp.deploy.cpu import cpu_features
from carkp.quant.target import Target

INPUTS_TAG = "carkp.inputs"

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "data": (),  # all of it is in the data key
    "float": ("seed", "model", "heatmap", "augment", "train", "eval"),
    "calibration": ("seed", "heatmap", "eval", "quant"),
    "export": ("heatmap", "eval"),
    "align": ("heatmap", "eval", "align"),
    "check": (),
    "compile": (),
    "report": (),
}
"""The parts of the configuration that a stage's result depends on."""

IGNORED = frozenset(
    {
        "train.num_workers",
        "train.num_threads",
        "train.nproc",  # a parameter of the stage may say otherwise: it is among the upstream values
        "eval.batch_size",
        "quant.target",  # its content is among the upstream values
    }
)


def inputs_digest(stage: str, config: ExperimentConfig, upstream: Mapping[str, str]) -> str:
    """SHA-256 of the stage, its settings and ``upstream``: digests of what else it works on."""
    content = {"stage": stage, "settings": stage_settings(stage, config), "upstream": dict(upstream)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def stage_settings(stage: str, config: ExperimentConfig) -> dict[str, Any]:
    """The settings that decide the result of a stage, by dotted name; a file of weights counts by its content."""
    tree = config.model_dump(mode="json", include=set(SECTIONS[stage]))
    settings = {name.removeprefix("config."): value for name, value in flatten(tree, "config").items()}
    weights = Path(str(settings.get("model.pretrained", "")))
    if weights.is_file():
        settings["model.pretrained"] = file_digest(weights)
    return {name: value for name, value in settings.items() if name not in IGNORED}


def target_digest(target: Target) -> str:
    """Of the arithmetic and the name, which files are named after."""
    return _digest(target, exclude={"description"})


def hardware_digest(hardware: BaseModel) -> str:
    return _digest(hardware, exclude=set())


def host_digest() -> str:
    """Of what decides how this machine runs int8 models, and how fast."""
    cpu = cpu_features()
    return f"{cpu.model}; {' '.join(cpu.int8_flags)}; onnxruntime {onnxruntime.__version__}"


def _digest(model: BaseModel, exclude: set[str]) -> str:
    content = model.model_dump(mode="json", exclude=exclude)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
