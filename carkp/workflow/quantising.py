"""Code that the stages of quantisation share: the target, calibrated checkpoints, tables of scales."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.deploy.hardware import Hardware
from carkp.disk import write_atomic
from carkp.keypoints.codec import CODEC_KEY, HeatmapCodec, codec_from_json, codec_to_json
from carkp.keypoints.metrics import Scores
from carkp.model.pose_net import pose_net_from_architecture
from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.fold import fold
from carkp.quant.graph import ConvLayer
from carkp.quant.target import Target
from carkp.training.checkpoint import CheckpointError, load_checkpoint
from carkp.workflow.preparation import PreparedData
from carkp.workflow.references import ModelFile
from carkp.workflow.scoring import Scorer
from carkp.workflow.targets import load_target


def build_target(config: ExperimentConfig, parameter: str) -> Target:
    """Return the target that ``parameter`` names, or else the configuration.

    Raises:
        ConfigError: the target does not exist, or its file is malformed.
    """
    return load_target(parameter or config.quant.target).arithmetic


def build_hardware(config: ExperimentConfig, parameter: str) -> Hardware:
    """Return the hardware of the target that ``parameter`` names, or else the configuration.

    Raises:
        ConfigError: the target does not exist, its file is malformed, or it describes no hardware.
    """
    target = load_target(parameter or config.quant.target)
    if target.hardware is None:
        raise ConfigError(
            f"the target {target.name} does not describe its hardware: add `hardware:` to its file, as in "
            "configs/targets/bpu.yaml"
        )
    return target.hardware


@dataclass(frozen=True)
class Prepared:
    """A calibrated network: fake-quantised as ``net``, and float as ``net.graph``.

    ``origin`` says where it comes from, as strings: the float model, its scores, the data.
    """

    net: FakeQuantNet
    origin: Mapping[str, str]
    architecture: Mapping[str, Any]

    @property
    def codec(self) -> HeatmapCodec:
        """Codec of the heatmaps that the network was trained for."""
        return codec_from_json(self.origin[CODEC_KEY])


def prepared_architecture(
    float_architecture: Mapping[str, Any], net: FakeQuantNet, per_channel_weights: bool, origin: Mapping[str, str]
) -> dict[str, Any]:
    """Return the architecture that a checkpoint stores for a calibrated network."""
    wide = {"wide": sorted(net.wide)} if net.wide else {}
    return {
        "float": dict(float_architecture),
        "input_size": list(float_architecture["input_size"]),
        "fake_quant": {"target": net.target.model_dump(), "per_channel_weights": per_channel_weights, **wide},
        "origin": dict(origin),
    }


def load_prepared(path: Path) -> Prepared:
    """Load the calibrated network of a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: it is a float checkpoint, or weights and architecture do not fit.
    """
    checkpoint = load_checkpoint(path)
    architecture = checkpoint.architecture
    if "fake_quant" not in architecture:
        raise CheckpointError(f"{path}: holds a float network, but a calibrated one is needed: calibrate it first")
    try:
        settings = architecture["fake_quant"]
        float_net = pose_net_from_architecture(architecture["float"]).eval()
        graph = fold(float_net, tuple(architecture["input_size"]))
        target = Target.model_validate(settings["target"])
        net = FakeQuantNet(graph, target, settings["per_channel_weights"], settings.get("wide", ()))
        net.load_state_dict(checkpoint.weights)
        codec_from_json(architecture["origin"][CODEC_KEY])
    except (ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path}: holds no calibrated network of its architecture: {error}") from error
    return Prepared(net.eval(), architecture["origin"], architecture)


def origin_of(
    experiment: str,
    scorer: Scorer,
    model: ModelFile,
    model_digest: str,
    data: PreparedData,
    scores: Mapping[str, Scores],
) -> dict[str, str]:
    """Return what a quantised model stores about its float model."""
    return {
        "experiment": experiment,
        "float_model": model.reference,
        "float_digest": model_digest,
        **_scored_as(scorer, data),
        **{f"float_{split}_pck": repr(found.pck) for split, found in scores.items()},
    }


def _scored_as(scorer: Scorer, data: PreparedData) -> dict[str, str]:
    """Return the conditions that two scores must share to be compared."""
    return {
        "data_digest": data.digest,
        "alpha": repr(scorer.alpha),
        "val_sources": ",".join(scorer.choosing),
        CODEC_KEY: codec_to_json(scorer.codec),
    }


def retention_metrics(
    scorer: Scorer, origin: Mapping[str, str], data: PreparedData, scores: Mapping[str, Scores]
) -> dict[str, float]:
    """Return the kept share of the float model's PCK by split; empty if the float scores had other conditions."""
    if any(origin.get(name, "") != value for name, value in _scored_as(scorer, data).items()):
        return {}
    known = {split: float(origin[key]) for split in scores if (key := f"float_{split}_pck") in origin}
    return {f"{split}/retention": scores[split].pck / pck for split, pck in known.items() if pck > 0}


def describe_retention(metrics: Mapping[str, float]) -> str:
    return "\n".join(f"{name}: {value:.2%} of float" for name, value in metrics.items())


def quantisation_tags(prepared: Prepared) -> dict[str, str]:
    """Return the tags of a run on a quantised model."""
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
            f"{path}: calibrated for the target {found.name}, but {wanted.name} was requested; give "
            f"target={found.name}, or calibrate for {wanted.name} (if the target's file was edited since, calibrate "
            "again)"
        )


def write_scales(net: FakeQuantNet, path: Path) -> None:
    """Write scales and zero points of tensors, and weight scales of convolutions, as JSON."""
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
    write_atomic(path, json.dumps(content, indent=1).encode())
