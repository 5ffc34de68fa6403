"""Initial weights of backbone and head from a model that comes with carkp, if the architecture is the same."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from carkp.model.half_weights import read_half_weights
from carkp.model.pretrained import PretrainedSource
from carkp.shipped import WEIGHTS_FILE, find_shipped_file

MUST_AGREE: Mapping[str, str] = {
    "name": "model.backbone",
    "activation": "model.activation",
    "head_channels": "model.head_channels",
    "num_deconvs": "num_deconvs",
    "num_keypoints": "num_keypoints",
}
"""Entries of an architecture that must be equal for the weights to fit -> the setting of each.

The input size and the stochastic depth may differ, because the same weights fit.
"""


def load_shipped(net: nn.Module, architecture: Mapping[str, Any], reference: str) -> PretrainedSource:
    """Load the float weights of a shipped model into ``net`` in place.

    Args:
        net: the network of ``architecture``.
        architecture: entries as in :class:`carkp.model.pose_net.BuiltModel`.
        reference: name of the shipped model.

    Raises:
        FileNotFoundError: this installation does not contain the model.
        ValueError: the model has another architecture, or its file is damaged.
    """
    path = find_shipped_file(reference, WEIGHTS_FILE)
    found = read_half_weights(path)
    differing = [name for name in MUST_AGREE if found.architecture.get(name) != architecture[name]]
    if differing:
        own = ", ".join(f"{MUST_AGREE[name]}={found.architecture.get(name)}" for name in differing)
        asked = ", ".join(f"{MUST_AGREE[name]}={architecture[name]}" for name in differing)
        raise ValueError(
            f"pretrained={reference}: that network has {own}, the configuration has {asked}: set the former, or use "
            "other weights (auto, timm, package, none, or a file)"
        )
    try:
        net.load_state_dict(dict(found.weights))
    except RuntimeError as error:
        raise ValueError(f"pretrained={reference}: {path} does not contain the stated network: {error}") from error
    commit = found.notes.get("commit", "unknown")
    return PretrainedSource("shipped", f"{reference} (whole network, trained at commit {commit[:12]})", has_head=True)
