"""What to_plain writes computes what timm computes, in evaluation and in training."""

from collections import OrderedDict

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from carkp.model.plain import Residual, same_pads, to_plain


def random_conv_same(kernel: int, stride: int, channels: int = 4, dilation: int = 1) -> Conv2dSame:
    torch.manual_seed(kernel * 10 + stride)
    return Conv2dSame(channels, 6, kernel, stride=stride, dilation=dilation, bias=True)


def shake_norms(module: nn.Module) -> None:
    """Running statistics and affine parameters away from 0 and 1, where errors would hide."""
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean):
                tensor.data += 0.2 * torch.randn(tensor.shape, generator=generator)
            layer.running_var.data.uniform_(0.5, 1.5, generator=generator)


def dict_of_children(features: nn.Module) -> OrderedDict[str, nn.Module]:
    return OrderedDict(features.named_children())


def lite_features(**options: object) -> nn.Module:
    torch.manual_seed(0)
    features = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(4,), **options)
    shake_norms(features)
    return features


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(16, 16), (15, 22)])
def test_conv_same_is_exact(kernel: int, stride: int, size: tuple[int, int]) -> None:
    conv = random_conv_same(kernel, stride)
    plain = to_plain(conv, size, in_channels=4)
    images = torch.randn(2, 4, *size)
    torch.testing.assert_close(plain(images), conv(images), atol=1e-6, rtol=0)
    assert not any(isinstance(layer, Conv2dSame) for layer in plain.modules())


def test_dilated_conv_same_is_exact() -> None:
    conv = random_conv_same(3, 1, dilation=2)
    images = torch.randn(2, 4, 12, 12)
    torch.testing.assert_close(to_plain(conv, (12, 12), in_channels=4)(images), conv(images), atol=1e-6, rtol=0)


def test_pads_are_one_sided_only_where_they_must_be() -> None:
    asymmetric = to_plain(random_conv_same(3, 2), (16, 16), in_channels=4)
    assert [type(layer) for layer in asymmetric] == [nn.ZeroPad2d, nn.Conv2d]
    assert asymmetric[0].padding == (0, 1, 0, 1)
    symmetric = to_plain(random_conv_same(5, 1), (16, 16), in_channels=4)
    assert type(symmetric) is nn.Conv2d
    assert symmetric.padding == (2, 2)


def test_same_pads_match_tensorflow() -> None:
    assert same_pads((128, 128), (3, 3), (2, 2), (1, 1)) == (0, 1, 0, 1)
    assert same_pads((32, 33), (5, 5), (2, 2), (1, 1)) == (2, 2, 1, 2)
    assert same_pads((7, 7), (1, 1), (2, 2), (1, 1)) == (0, 0, 0, 0)


def test_norm_act_becomes_norm_then_activation() -> None:
    norm = BatchNormAct2d(4, eps=1e-3, momentum=0.03, act_layer=nn.ReLU6)
    shake_norms(norm)
    plain = to_plain(norm, (8, 8), in_channels=4)
    assert [type(layer) for layer in plain] == [nn.BatchNorm2d, nn.ReLU6]
    assert (plain[0].eps, plain[0].momentum) == (1e-3, 0.03)
    images = 4 * torch.randn(3, 4, 8, 8)
    torch.testing.assert_close(plain(images), norm(images), atol=1e-6, rtol=0)
    torch.testing.assert_close(plain[0].running_var, norm.running_var, atol=1e-6, rtol=0)


def test_backbone_is_exact_in_eval_and_free_of_timm() -> None:
    features = lite_features().eval()
    body = nn.Sequential(dict_of_children(features)).eval()
    plain = to_plain(body, (64, 96))
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(plain(images), features(images)[-1], atol=1e-6, rtol=1e-6)
    assert not [type(layer) for layer in plain.modules() if type(layer).__module__.startswith("timm")]
    assert sum(isinstance(layer, Residual) for layer in plain.modules()) == 9


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.4])
def test_training_step_is_the_same(drop_path_rate: float) -> None:
    features = lite_features(drop_path_rate=drop_path_rate).train()
    plain = to_plain(nn.Sequential(dict_of_children(features)), (64, 64)).train()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    outputs = []
    for forward in (lambda x: features(x)[-1], plain):
        torch.manual_seed(5)
        output = forward(images)
        output.square().mean().backward()
        outputs.append(output)
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-5, rtol=1e-5)
    expected, got = dict(features.named_parameters()), dict(plain.named_parameters())
    assert got.keys() == expected.keys()
    for name, parameter in got.items():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-5, rtol=1e-4)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(buffer, dict(features.named_buffers())[name], atol=1e-5, rtol=1e-5)


def test_original_is_untouched_and_keys_stay() -> None:
    features = lite_features()
    body = nn.Sequential(dict_of_children(features))
    before = {key: value.clone() for key, value in body.state_dict().items()}
    plain = to_plain(body, (64, 64))
    assert list(plain.state_dict()) == list(before)
    for parameter in plain.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, before[key]) for key, value in body.state_dict().items())
    assert body.training


def test_a_layer_that_computes_something_else_is_reported() -> None:
    class Doubling(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match="changed its output"):
        to_plain(Doubling(nn.Conv2d(3, 4, 1)), (8, 8))
