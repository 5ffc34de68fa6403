"""The keypoint network: a backbone and a deconvolution head.

Legend: B batch, K keypoints, H W height and width of the image.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from carkp.keypoints.schema import NUM_KEYPOINTS
from carkp.model.backbone import Activation, build_backbone, count_weights
from carkp.model.head import DeconvHead
from carkp.model.plain import Size
from carkp.model.pretrained import PretrainedSource, load_pretrained
from carkp.model.shipped_weights import load_shipped
from carkp.shipped import is_shipped

MAX_EXTENT_PX = 2048
"""Largest height or width of a network's input."""

_SHOWN = 200

ARCHITECTURE_KEYS = (
    "name",
    "input_size",
    "num_keypoints",
    "head_channels",
    "num_deconvs",
    "activation",
    "drop_path_rate",
)


class PoseNet(nn.Module):
    """The keypoint network: normalised images (B, 3, H, W) -> heatmaps (B, K, H / 4, W / 4)."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        heatmaps: Tensor = self.head(self.backbone(images))
        return heatmaps


@dataclass(frozen=True)
class BuiltModel:
    """A network, the source of its weights, and the architecture that a checkpoint needs to build it again."""

    net: PoseNet
    source: PretrainedSource
    architecture: dict[str, Any]


def build_pose_net(
    name: str,
    pretrained: str,
    input_size: Size,
    head_channels: int = 128,
    num_deconvs: int = 3,
    num_keypoints: int = NUM_KEYPOINTS,
    activation: Activation = "default",
    drop_path_rate: float = 0.0,
) -> BuiltModel:
    """Build the network and load the weights that ``pretrained`` names.

    New weights are drawn from torch's global generator. For speed on CPUs and tensor cores convert the result with
    ``net.to(memory_format=torch.channels_last)``.

    Args:
        name: name of the backbone, see :func:`carkp.model.backbone.build_backbone`.
        pretrained: ``auto``, ``timm``, ``package``, ``none`` or a path, see
            :func:`carkp.model.pretrained.load_pretrained`; or the name of a model that comes with carkp, see
            :func:`carkp.model.shipped_weights.load_shipped`.
        input_size: (height, width) in pixels, multiples of 32. The network accepts only this size.
        head_channels: output channels of each transposed convolution.
        num_deconvs: number of transposed convolutions; each doubles the resolution, 3 give heatmaps of stride 4.
        num_keypoints: number of heatmaps.
        activation: activation function of the backbone; ``default`` is that of the architecture.
        drop_path_rate: rate of stochastic depth of the backbone in training.
    """
    architecture = {
        "name": name,
        "input_size": [int(length) for length in input_size],
        "num_keypoints": num_keypoints,
        "head_channels": head_channels,
        "num_deconvs": num_deconvs,
        "activation": activation,
        "drop_path_rate": drop_path_rate,
    }
    net = pose_net_from_architecture(architecture)
    if is_shipped(pretrained):
        return BuiltModel(net, load_shipped(net, architecture, pretrained), architecture)
    source = load_pretrained(net, name, pretrained)
    return BuiltModel(net, source, architecture)


def pose_net_from_architecture(architecture: dict[str, Any]) -> PoseNet:
    """Build the untrained network that an ``architecture`` of :class:`BuiltModel` describes.

    Raises:
        ValueError: an entry is missing, unknown or invalid.
    """
    _check_architecture(architecture)
    height, width = architecture["input_size"]
    backbone = build_backbone(
        architecture["name"], (height, width), architecture["activation"], architecture["drop_path_rate"]
    )
    head = DeconvHead(
        backbone.out_channels,
        architecture["num_keypoints"],
        architecture["head_channels"],
        architecture["num_deconvs"],
    )
    return PoseNet(backbone.module, head)


def require_small(architecture: dict[str, Any], num_weights: int) -> None:
    """Refuse an architecture with more weights than there are for it: a file may name a network of any size.

    Raises:
        ValueError: the backbone has more weights than ``num_weights``, or the architecture is invalid.
    """
    _check_architecture(architecture)
    num_needed = count_weights(architecture["name"], architecture["activation"])
    if num_needed > num_weights:
        raise ValueError(f"{architecture['name']} has {num_needed:,} weights, but {num_weights:,} were given")


def _check_architecture(architecture: dict[str, Any]) -> None:
    missing = [key for key in ARCHITECTURE_KEYS if key not in architecture]
    unknown = [key for key in architecture if key not in ARCHITECTURE_KEYS]
    if missing or unknown:
        raise ValueError(f"architecture: missing entries {missing}, unknown entries {unknown}")
    size, rate = architecture["input_size"], architecture["drop_path_rate"]
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise ValueError(f"architecture: input_size must be height and width, got {size!r}"[:_SHOWN])
    limits = {"num_keypoints": 1024, "head_channels": 8192, "num_deconvs": 5}
    counts = {"height": (size[0], MAX_EXTENT_PX), "width": (size[1], MAX_EXTENT_PX)}
    counts |= {name: (architecture[name], most) for name, most in limits.items()}
    for name, (count, most) in counts.items():
        if not isinstance(count, int) or not 0 <= count <= most:
            raise ValueError(f"architecture: {name} must be a whole number up to {most}, got {count!r}"[:_SHOWN])
    if not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise ValueError(f"architecture: drop_path_rate must be from 0 to 1, got {rate!r}"[:_SHOWN])
    if not all(isinstance(architecture[name], str) for name in ("name", "activation")):
        raise ValueError("architecture: name and activation must be text")
