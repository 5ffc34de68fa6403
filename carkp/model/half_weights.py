"""Float weights as they are shipped: a safetensors file in float16 that also describes its network.

The description is one JSON text in the file's metadata. With several texts, their order would differ between files.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

METADATA_KEY = "carkp"
FORMAT = 1
"""Version of the metadata; it is raised when older files can no longer be read."""

_REQUIRED: Mapping[str, type] = {"architecture": dict, "config": dict, "epoch": int, "notes": dict}
"""Required entries of the metadata -> their types."""


@dataclass(frozen=True)
class HalfWeights:
    """A trained float network.

    Attributes:
        architecture: the entries from which ``carkp.model.pose_net`` builds the network again.
        config: the resolved configuration of its training as a nested mapping.
        epoch: number of finished epochs.
        notes: other data stored with it: its codec, the commit that trained it, the digest of its configuration.
        weights: its state dict; floating-point tensors are float32, with values that float16 can represent.
    """

    architecture: Mapping[str, Any]
    config: Mapping[str, Any]
    epoch: int
    notes: Mapping[str, str]
    weights: Mapping[str, Tensor]


def round_to_half(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with every floating-point value rounded to float16, in float32; integers do not change.

    Raises:
        ValueError: a value is not finite in float16.
    """
    rounded = {
        name: value.half().float() if value.is_floating_point() else value.clone() for name, value in weights.items()
    }
    if lost := [name for name, value in rounded.items() if not bool(value.isfinite().all())]:
        raise ValueError(f"{lost[0]} holds values that float16 cannot hold ({len(lost)} of {len(rounded)} tensors do)")
    return rounded


def encode_half_weights(content: HalfWeights) -> bytes:
    """Return the bytes of the file; the same content gives the same bytes.

    Raises:
        ValueError: a value is not finite in float16.
    """
    rounded = round_to_half(content.weights)
    tensors = {name: _stored(value) for name, value in sorted(rounded.items())}
    metadata = {"format": FORMAT, **{name: getattr(content, name) for name in _REQUIRED}}
    return save(tensors, {METADATA_KEY: json.dumps(metadata, sort_keys=True)})


def read_half_weights(path: Path) -> HalfWeights:
    """Read a file that ``encode_half_weights`` wrote.

    Raises:
        ValueError: the file is damaged, does not describe its network, or has another format.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = _metadata(path, file.metadata() or {})
            names: list[str] = list(file.keys())
            stored = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as safetensors: {error}; download or copy it again") from error
    weights = {name: value.float() if value.is_floating_point() else value for name, value in stored.items()}
    return HalfWeights(**{name: metadata[name] for name in _REQUIRED}, weights=weights)


def _stored(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return (value.to(torch.float16) if value.is_floating_point() else value).contiguous()


def _metadata(path: Path, found: Mapping[str, str]) -> dict[str, Any]:
    try:
        metadata = json.loads(found[METADATA_KEY])
        version = metadata["format"]
        wrong = [name for name, kind in _REQUIRED.items() if not isinstance(metadata.get(name), kind)]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: weights without the description of their network: give them as model.pretrained"
        ) from error
    if version != FORMAT:
        raise ValueError(f"{path}: format {version}, this version of carkp reads {FORMAT}")
    if wrong:
        raise ValueError(f"{path}: damaged, its metadata lack {', '.join(wrong)}")
    return dict(metadata)
