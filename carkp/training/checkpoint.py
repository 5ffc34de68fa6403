"""Checkpoints: written beside their final name and renamed, read with ``weights_only=True``."""

import hashlib
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carkp.model.pose_net import PoseNet, pose_net_from_architecture

FORMAT_VERSION = 1

_REQUIRED = ("format_version", "architecture", "weights", "config", "epoch")


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class Checkpoint:
    """A network and, in ``last.pt``, what training needs to go on.

    Attributes:
        architecture: what ``carkp.model`` rebuilds the network from.
        weights: its state dict.
        config: the resolved configuration of the run as a nested mapping.
        epoch: finished epochs.
        training_state: optimiser, scheduler, random state and best score; empty in ``best.pt``.
    """

    architecture: dict[str, Any]
    weights: dict[str, Tensor]
    config: dict[str, Any]
    epoch: int
    training_state: dict[str, Any]


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and values: the identity of a model, whatever file it lies in."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content: Mapping[str, Any] = {"format_version": FORMAT_VERSION, **vars(checkpoint)}
    try:
        torch.save(content, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: no such file, a truncated or foreign one, or another format version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict) or any(name not in content for name in _REQUIRED):
        raise CheckpointError(f"{path}: not a carkp checkpoint, it lacks one of {', '.join(_REQUIRED)}")
    if content["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: checkpoint format {content['format_version']}, this version of carkp reads {FORMAT_VERSION}"
        )
    return Checkpoint(
        architecture=content["architecture"],
        weights=content["weights"],
        config=content["config"],
        epoch=content["epoch"],
        training_state=content.get("training_state", {}),
    )


def load_net(checkpoint: Checkpoint) -> PoseNet:
    """The float network of a checkpoint in evaluation mode.

    Raises:
        CheckpointError: weights and architecture do not fit.
    """
    if "fake_quant" in checkpoint.architecture:
        raise CheckpointError("the checkpoint holds a calibrated network, here a float one is wanted (stage float)")
    try:
        net = pose_net_from_architecture(checkpoint.architecture)
        net.load_state_dict(checkpoint.weights)
    except (ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"the checkpoint holds no network of this architecture: {error}") from error
    return net.eval()
