"""What the stages of quantisation share: the target, the images to calibrate with, tables of scales."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carkp.config.loading import ConfigError, load_yaml
from carkp.config.schema import ExperimentConfig
from carkp.data.dataset import normalise
from carkp.data.store import Store
from carkp.deploy.hardware import Hardware, TargetFile
from carkp.keypoints.codec import CODEC_KEY, codec_to_json
from carkp.keypoints.metrics import Scores
from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.graph import ConvLayer
from carkp.quant.target import Target
from carkp.stages._build import build_codec, build_eval_dataset
from carkp.stages._cli import Parameter, find_config
from carkp.stages._data import PreparedData
from carkp.stages._models import ModelFile, Prepared

TARGET = Parameter("target", "", "a file of configs/targets without .yaml, or a path; empty: as in the configuration")


def build_target(config: ExperimentConfig, parameter: str) -> Target:
    """The target that ``parameter``, or else the configuration, names.

    Raises:
        ConfigError: there is no such target, or its file is malformed.
    """
    return _load_target(config, parameter).arithmetic


def build_hardware(config: ExperimentConfig, parameter: str) -> Hardware:
    """The hardware of the target that ``parameter``, or else the configuration, names.

    Raises:
        ConfigError: there is no such target, its file is malformed, or it describes no hardware.
    """
    target = _load_target(config, parameter)
    if target.hardware is None:
        raise ConfigError(
            f"the target {target.name} says nothing about its hardware: add `hardware:` to its file, as in "
            "configs/targets/bpu.yaml"
        )
    return target.hardware


def _load_target(config: ExperimentConfig, parameter: str) -> TargetFile:
    name = parameter or config.quant.target
    is_path = name.endswith((".yaml", ".yml"))
    return load_yaml(find_config(name if is_path else f"configs/targets/{name}.yaml"), TargetFile)


def has_per_channel_weights(config: ExperimentConfig, target: Target) -> bool:
    return target.per_channel_weights if config.quant.weights == "target" else config.quant.weights == "per_channel"


def calibration_batches(config: ExperimentConfig, store: Store, num_images: int) -> Iterator[Tensor]:
    """Normalised images (B, 3, H, W): a random choice out of a split, under validation transforms, loaded as needed."""
    generator = np.random.default_rng(config.seed)
    chosen = np.sort(generator.choice(len(store), size=min(num_images, len(store)), replace=False))
    dataset = build_eval_dataset(config, store)
    for start in range(0, len(chosen), config.quant.batch_size):
        samples = [dataset[int(index)]["image"] for index in chosen[start : start + config.quant.batch_size]]
        images = normalise(torch.stack(samples))
        yield images.contiguous(memory_format=torch.channels_last) if config.train.channels_last else images


def origin_of(
    config: ExperimentConfig, model: ModelFile, model_digest: str, data: PreparedData, scores: Mapping[str, Scores]
) -> dict[str, str]:
    """What a quantised model remembers of the float model that it was made of."""
    return {
        "experiment": config.name,
        "float_model": model.reference,
        "float_digest": model_digest,
        "data_digest": data.digest,
        "alpha": repr(config.eval.alpha),
        CODEC_KEY: codec_to_json(build_codec(config.heatmap, config.model.input_size)),
        **{f"float_{split}_pck": repr(found.pck) for split, found in scores.items()},
    }


def retention_metrics(
    config: ExperimentConfig, origin: Mapping[str, str], data: PreparedData, scores: Mapping[str, Scores]
) -> dict[str, float]:
    """Share of the float model's PCK kept, for every split; nothing where that was scored otherwise."""
    scored_as = {
        "data_digest": data.digest,
        "alpha": repr(config.eval.alpha),
        CODEC_KEY: codec_to_json(build_codec(config.heatmap, config.model.input_size)),
    }
    if any(origin.get(name) != value for name, value in scored_as.items()):
        return {}
    known = {split: float(origin[key]) for split in scores if (key := f"float_{split}_pck") in origin}
    return {f"{split}/retention": scores[split].pck / pck for split, pck in known.items() if pck > 0}


def describe_retention(metrics: Mapping[str, float]) -> str:
    return "\n".join(f"{name}: {value:.2%} of float" for name, value in metrics.items())


def quantisation_tags(prepared: Prepared) -> dict[str, str]:
    """Tags of a run on a quantised model."""
    return {
        "carkp.target": prepared.net.target.name,
        "carkp.float_model": prepared.origin["float_model"],
        "carkp.data_digest": prepared.origin["data_digest"],
    }


def check_target(found: Target, wanted: Target, path: Path) -> None:
    """Refuse a model that was calibrated for other hardware.

    Raises:
        ConfigError: the arithmetic differs.
    """
    if found != wanted:
        raise ConfigError(
            f"{path}: calibrated for the target {found.name}, asked for {wanted.name}; give target={found.name}, or "
            f"calibrate for {wanted.name} (a target whose file was edited since needs a new calibration too)"
        )


def write_scales(net: FakeQuantNet, path: Path) -> None:
    """Scales and zero points of tensors, and weight scales of convolutions, as JSON."""
    tensors: dict[str, Any] = {}
    for name in net.groups:
        quantiser = net.quantiser(name)
        scale = float(quantiser.scale)
        tensors[name] = {
            "dtype": quantiser.grid.dtype,
            "scale": scale,
            "zero_point": quantiser.grid.zero_point,
            "threshold": scale * quantiser.grid.num_levels,
        }
    weights = {
        step.name: net.weight_scales(step, layer).tolist()
        for step, layer in net.graph.items()
        if isinstance(layer, ConvLayer)
    }
    content = {"target": net.target.name, "tensors": tensors, "weights": weights}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))
