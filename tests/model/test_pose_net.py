"""The network as a whole: sizes, shapes, the literal reference, rebuilding from a checkpoint's dict."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from carkp.model.backbone import build_backbone
from carkp.model.head import DeconvHead
from carkp.model.pose_net import build_pose_net, pose_net_from_architecture

LITE = "tf_efficientnet_lite0"


def num_parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("name", [LITE, "efficientnet_lite0", "efficientnet_b0_nose_relu"])
def test_the_reference_family_has_4_153_million_parameters(name: str) -> None:
    built = build_pose_net(name, "none", (128, 128))
    assert num_parameters(built.net) == 4_153_100
    assert built.source.kind == "none"
    with torch.no_grad():
        assert built.net(torch.zeros(2, 3, 128, 128)).shape == (2, 12, 32, 32)


def test_other_sizes_and_heads() -> None:
    net = build_pose_net(LITE, "none", (64, 96), head_channels=16, num_deconvs=2, num_keypoints=5).net
    with torch.no_grad():
        assert net(torch.zeros(2, 3, 64, 96)).shape == (2, 5, 8, 12)


def test_literal_reference_has_relu_and_no_squeeze_excitation() -> None:
    module = build_backbone("efficientnet_b0_nose_relu", (64, 64)).module
    kinds = {type(layer).__name__ for layer in module.modules()}
    assert kinds == {"Sequential", "Residual", "Conv2d", "BatchNorm2d", "ReLU"}


def test_activation_option() -> None:
    def kinds(activation: Any) -> set[type[nn.Module]]:
        module = build_backbone(LITE, (64, 64), activation).module
        return {type(layer) for layer in module.modules()} & {nn.ReLU, nn.ReLU6}

    assert kinds("default") == {nn.ReLU6}
    assert kinds("relu") == {nn.ReLU}


def test_drop_path_acts_in_training_only() -> None:
    module = build_backbone(LITE, (64, 64), drop_path_rate=0.5).module
    images = torch.randn(8, 3, 64, 64)
    with torch.no_grad():
        module.eval()
        torch.testing.assert_close(module(images), module(images))
        drops = [layer for layer in module.modules() if type(layer).__name__ == "StochasticDepth"]
        assert len(drops) == 9
        assert not torch.equal(drops[-1].train()(images), images)


def test_any_timm_network_with_a_stride_32_map_will_do() -> None:
    net = build_pose_net("resnet18", "none", (64, 64)).net
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 12, 16, 16)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("no_such_net", (64, 64), "no model named 'no_such_net'"),
        (LITE, (100, 64), "multiples of 32"),
        (LITE, (0, 64), "multiples of 32"),
        ("vit_tiny_patch16_224", (224, 224), "stride 16"),
    ],
)
def test_bad_backbones_are_named(name: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(name, size)


def test_bad_activation_is_named() -> None:
    with pytest.raises(ValueError, match="activation must be one of"):
        build_backbone(LITE, (64, 64), "gelu")  # type: ignore[arg-type]


def test_architecture_survives_json_and_rebuilds_the_same_network() -> None:
    built = build_pose_net(LITE, "none", (64, 96), head_channels=16, drop_path_rate=0.1)
    rebuilt = pose_net_from_architecture(json.loads(json.dumps(built.architecture)))
    rebuilt.load_state_dict(built.net.state_dict())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt.eval()(images), built.net.eval()(images), atol=0, rtol=0)


def test_incomplete_architecture_is_refused() -> None:
    architecture = build_pose_net(LITE, "none", (64, 64)).architecture
    del architecture["activation"]
    with pytest.raises(ValueError, match="missing entries \\['activation'\\], unknown entries \\['act'\\]"):
        pose_net_from_architecture({**architecture, "act": "relu"})


def test_head_starts_near_zero_and_is_linear_at_the_end() -> None:
    torch.manual_seed(0)
    head = DeconvHead(in_channels=8, num_keypoints=12)
    assert float(head.final.weight.detach().std()) == pytest.approx(1e-3, rel=0.1)
    assert not head.final.bias.detach().any()
    heatmaps = head(torch.randn(2, 8, 4, 4))
    assert heatmaps.shape == (2, 12, 32, 32)
    assert float(heatmaps.detach().abs().max()) < 0.2
    assert (heatmaps < 0).any()


def test_head_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="positive channels"):
        DeconvHead(in_channels=0, num_keypoints=12)


def test_channels_last_computes_the_same() -> None:
    net = build_pose_net(LITE, "none", (64, 64)).net.eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = net(images)
        got = net.to(memory_format=torch.channels_last)(images)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-4)
