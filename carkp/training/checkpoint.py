"""Checkpoints: written to a temporary file that is then renamed, and read with ``weights_only=True``."""

import hashlib
import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carkp.disk import describe_free_space, write_atomic
from carkp.file_kinds import is_safetensors
from carkp.model.half_weights import read_half_weights
from carkp.model.pose_net import PoseNet, pose_net_from_architecture, require_small
from carkp.model.weight_files import check_archive, strange_tensors

FORMAT_VERSION = 1

_REQUIRED: Mapping[str, type] = {
    "format_version": int,
    "architecture": dict,
    "weights": dict,
    "config": dict,
    "epoch": int,
}


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class Checkpoint:
    """A network and, in ``last.pt``, the state from which training can resume.

    Attributes:
        architecture: entries from which ``carkp.model`` builds the network again.
        weights: its state dict.
        config: the resolved configuration of the run as a nested mapping.
        epoch: number of finished epochs.
        training_state: optimiser, settings, random states and the best epoch; empty in ``best.pt``.
    """

    architecture: dict[str, Any]
    weights: dict[str, Tensor]
    config: dict[str, Any]
    epoch: int
    training_state: dict[str, Any]


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and values: it identifies a model independently of its file."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; an existing file stays intact until the new one is on the disk.

    Raises:
        CheckpointError: the file cannot be written.
    """
    buffer = io.BytesIO()  # torch's own writer hides the reason of a disk error
    torch.save({"format_version": FORMAT_VERSION, **vars(checkpoint)}, buffer)
    try:
        write_atomic(path, buffer.getvalue())
    except OSError as error:
        raise CheckpointError(_describe_failed_write(path, error)) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU; shipped weights (:mod:`carkp.model.half_weights`) can be read too.

    Raises:
        CheckpointError: there is no such file, it is damaged or of another kind, or it has another format version.
    """
    if not path.is_file():
        kind = "a directory, not a checkpoint: give the file in it" if path.is_dir() else "no such checkpoint"
        raise CheckpointError(f"{path}: {kind}")
    if is_safetensors(path):
        return _load_half_weights(path)
    content = _check_content(_read(path), path)
    return Checkpoint(
        architecture=content["architecture"],
        weights=content["weights"],
        config=content["config"],
        epoch=content["epoch"],
        training_state=content.get("training_state", {}),
    )


def _load_half_weights(path: Path) -> Checkpoint:
    try:
        found = read_half_weights(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return Checkpoint(dict(found.architecture), dict(found.weights), dict(found.config), found.epoch, {})


def _read(path: Path) -> object:
    """Read the file after checking the checksums, which ``torch.load`` does not check."""
    try:
        check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and zipfile raise many kinds of errors for a file of another kind
        raise CheckpointError(f"{path}: not a readable checkpoint ({_describe_failed_read(error)})") from error
    if strange := strange_tensors(content):
        raise CheckpointError(f"{path}: not a readable checkpoint ({strange[0]})")
    return content


def _check_content(content: object, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a carkp checkpoint, it contains {type(content).__name__}")
    version = content.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: checkpoint format {version}, this version of carkp reads {FORMAT_VERSION}")
    if missing := [name for name in _REQUIRED if name not in content]:
        raise CheckpointError(f"{path}: not a carkp checkpoint, it lacks {', '.join(missing)}")
    if wrong := _wrong_entries(content):
        raise CheckpointError(f"{path}: not a carkp checkpoint: {', '.join(wrong[:3])}")
    return content


def _wrong_entries(content: Mapping[str, Any]) -> list[str]:
    """Return a message for each entry with a wrong type."""
    wrong = [name for name, kind in _REQUIRED.items() if not isinstance(content[name], kind)]
    if not isinstance(content.get("training_state", {}), dict):
        wrong.append("training_state")
    found = [f"{name} is {type(content[name]).__name__}" for name in wrong]
    if "weights" not in wrong:
        found += [
            f"weights.{name} is not a tensor"
            for name, value in content["weights"].items()
            if not torch.is_tensor(value)
        ]
    return found


def _describe_failed_read(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, zipfile.BadZipFile):
        return f"it is damaged: {error}; copy it again or use another one"
    first = (str(error).splitlines() or [""])[0] or type(error).__name__
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in first:  # torch's message suggests to trust it
        return "it is truncated, or written by another program, or contains more than tensors and plain values"
    return f"it is truncated, or written by another program: {first}"


def _describe_failed_write(path: Path, error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    kept = "The previous checkpoint is intact" if path.is_file() else "There is no earlier checkpoint"
    return (
        f"{path}: the checkpoint cannot be written: {reason}. {describe_free_space(path)}. {kept}: free some space "
        "(check quotas and permissions too), then continue with resume=latest or train again"
    )


def load_net(checkpoint: Checkpoint) -> PoseNet:
    """Return the float network of a checkpoint in evaluation mode.

    Raises:
        CheckpointError: the checkpoint holds a calibrated network, weights and architecture do not fit, or weights are
            NaN or infinite.
    """
    if "fake_quant" in checkpoint.architecture:
        raise CheckpointError(
            "the checkpoint contains a calibrated network, but a float network is needed (stage float)"
        )
    try:
        require_small(checkpoint.architecture, sum(value.numel() for value in checkpoint.weights.values()))
        net = pose_net_from_architecture(checkpoint.architecture)
        net.load_state_dict(checkpoint.weights)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the checkpoint contains no network of this architecture: {error}") from error
    if broken := [name for name, value in net.state_dict().items() if not bool(value.isfinite().all())]:
        raise CheckpointError(
            f"the checkpoint's weights are NaN or infinite ({broken[0]} is the first of {len(broken)} such tensors): "
            "its training diverged; use an earlier checkpoint, or train it again"
        )
    return net.eval()
