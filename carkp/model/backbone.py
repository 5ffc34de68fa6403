"""Backbones: timm networks up to their last stride-32 map, in plain torch.

Legend: B batch, C channels, H W height and width of the image.
"""

import difflib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from carkp.model.plain import Size, to_plain

Activation = Literal["default", "relu", "relu6"]

STRIDE = 32
"""Image pixels per cell of a backbone's output."""

LITERAL_REFERENCE = "efficientnet_b0_nose_relu"
"""EfficientNet-B0 without squeeze-and-excitation, with ReLU: the reference network, taken literally."""

ACTIVATIONS: dict[str, type[nn.Module] | None] = {"default": None, "relu": nn.ReLU, "relu6": nn.ReLU6}


@dataclass(frozen=True)
class Backbone:
    """A feature extractor: (B, 3, H, W) -> (B, out_channels, H / 32, W / 32)."""

    module: nn.Module
    out_channels: int


class LastMap(nn.Module):
    """The last map of a timm ``features_only`` network."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        last: Tensor = self.features(images)[-1]
        return last


def build_backbone(
    name: str, input_size: Size, activation: Activation = "default", drop_path_rate: float = 0.0
) -> Backbone:
    """Build a backbone for images of exactly ``input_size``, initialised from torch's global random generator.

    Args:
        name: a timm model that supports ``features_only``, or ``efficientnet_b0_nose_relu``.
        input_size: (height, width) in pixels, multiples of 32.
        activation: activation function; ``default`` keeps that of the architecture (ReLU6 for the lite family).
        drop_path_rate: rate of stochastic depth in the last residual block; it rises linearly from 0.

    Raises:
        ValueError: the name is unknown, 32 does not divide the size, or the network has no stride-32 map or does not
            support this size.
    """
    if any(length < STRIDE or length % STRIDE for length in input_size):
        raise ValueError(f"input_size must be positive multiples of {STRIDE}, got {input_size}")
    features = _timm_features(name, activation, drop_path_rate)
    out_channels = _last_channels(features, name)
    try:
        module = to_plain(_body(features), input_size)
        _check_output(module, name, input_size, out_channels)
    except Exception as error:  # timm's networks raise different kinds of errors for unsupported sizes
        height, width = input_size
        raise ValueError(
            f"{name} cannot be used as a backbone for images of {height} x {width} pixels: {_in_words(error)}"
        ) from error
    return Backbone(module, out_channels)


def count_weights(name: str, activation: Activation = "default") -> int:
    """Count the parameter values of a backbone, without allocating memory for them.

    Raises:
        ValueError: as :func:`build_backbone`.
    """
    with torch.device("meta"):
        features = _timm_features(name, activation, 0.0)
    return sum(parameter.numel() for parameter in features.parameters())


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _timm_features(name: str, activation: Activation, drop_path_rate: float) -> nn.Module:
    is_literal = name == LITERAL_REFERENCE
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    layer = ACTIVATIONS[activation] or (nn.ReLU if is_literal else None)
    timm_name = "efficientnet_b0" if is_literal else name
    if not timm.is_model(timm_name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists them"
        raise ValueError(f"timm has no model named {name!r}; {hint}")
    options: dict[str, Any] = {"act_layer": layer} if layer else {}
    if drop_path_rate:
        options["drop_path_rate"] = drop_path_rate
    try:
        features: nn.Module = timm.create_model(timm_name, pretrained=False, features_only=True, **options)
    except Exception as error:  # each network raises its own kinds
        raise ValueError(f"timm cannot build {name!r} as a backbone with {options}: {_in_words(error)}") from error
    if is_literal:
        _remove_squeeze_excitation(features)
    return features


def _remove_squeeze_excitation(features: nn.Module) -> None:
    for module in list(features.modules()):
        if hasattr(module, "se"):
            module.se = nn.Identity()


def _last_channels(features: Any, name: str) -> int:
    info = features.feature_info
    stride, channels = int(info.reduction()[-1]), int(info.channels()[-1])
    if stride != STRIDE:
        raise ValueError(f"{name}: the last feature map has stride {stride}, expected {STRIDE}")
    return channels


def _body(features: nn.Module) -> nn.Module:
    """Return an EfficientNet-like network as one chain with timm's parameter names; wrap others in ``LastMap``."""
    children = OrderedDict(features.named_children())
    if list(children) == ["conv_stem", "bn1", "blocks"]:
        return nn.Sequential(children)
    return LastMap(features)


def _check_output(module: nn.Module, name: str, input_size: Size, out_channels: int) -> None:
    with torch.no_grad():
        shape = tuple(module.eval()(torch.zeros(1, 3, *input_size)).shape)
    module.train()
    expected = (1, out_channels, input_size[0] // STRIDE, input_size[1] // STRIDE)
    if shape != expected:
        raise ValueError(f"{name}: the backbone gives {shape}, expected {expected} (NCHW)")
