"""Counts against numbers worked out by hand."""

import pytest
import torch
from torch import nn

from carkp.model.opcount import count_ops, total_ops
from carkp.model.plain import Residual
from carkp.model.pose_net import build_pose_net


def test_convolution() -> None:
    (row,) = count_ops(nn.Conv2d(3, 8, 3, stride=2, padding=1), (16, 16))
    assert (row.type, row.output_shape) == ("Conv2d", (1, 8, 8, 8))
    assert row.parameters == 8 * 3 * 9 + 8
    assert row.macs == 8 * 8 * 8 * 27
    assert row.flops == 2 * row.macs + 8 * 8 * 8


def test_depthwise_convolution_has_one_input_channel_an_output() -> None:
    (row,) = count_ops(nn.Conv2d(6, 6, 5, padding=2, groups=6, bias=False), (8, 8), in_channels=6)
    assert row.macs == 6 * 8 * 8 * 25
    assert row.flops == 2 * row.macs


def test_transposed_convolution_counts_no_zeros() -> None:
    deconv = nn.ConvTranspose2d(5, 7, 4, stride=2, padding=1, bias=False)
    (row,) = count_ops(deconv, (8, 8), in_channels=5)
    assert row.output_shape == (1, 7, 16, 16)
    assert row.macs == 16 * 16 * 7 * 5 * 4  # 4 of the 16 taps meet each output pixel


def test_linear_after_flatten() -> None:
    rows = count_ops(nn.Sequential(nn.Flatten(), nn.Linear(48, 10)), (4, 4))
    assert [row.macs for row in rows] == [0, 480]
    assert [row.flops for row in rows] == [0, 970]


def test_elementwise_layers_have_flops_and_no_macs() -> None:
    net = nn.Sequential(nn.ZeroPad2d(1), nn.BatchNorm2d(3), nn.ReLU6(), nn.ReLU())
    rows = count_ops(net, (2, 2))
    assert [row.macs for row in rows] == [0, 0, 0, 0]
    assert [row.flops for row in rows] == [0, 2 * 48, 2 * 48, 48]


def test_residual_adds_once() -> None:
    rows = count_ops(Residual(nn.Conv2d(3, 3, 1, bias=False)), (4, 4))
    assert [(row.type, row.flops) for row in rows] == [("Conv2d", 2 * 144), ("Add", 48)]


def test_a_layer_run_twice_works_twice_and_weighs_once() -> None:
    conv = nn.Conv2d(3, 3, 1, bias=False)
    rows = count_ops(nn.Sequential(conv, nn.ReLU(), conv), (4, 4))
    assert [row.parameters for row in rows] == [9, 0, 0]
    assert total_ops(rows).macs == 2 * 144


def test_unknown_layer_with_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="PReLU"):
        count_ops(nn.Sequential(nn.PReLU()), (4, 4))


def test_network_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    count_ops(net, (4, 4))
    assert net.training
    assert int(net[1].num_batches_tracked) == 0
    assert not net[0]._forward_hooks


def test_default_network_costs_what_is_published() -> None:
    net = build_pose_net("tf_efficientnet_lite0", "none", (128, 128)).net
    total = total_ops(count_ops(net, (128, 128)))
    assert total.parameters == 4_153_100
    assert total.macs == 227_331_584
    assert total.flops > 2 * total.macs
    assert total.parameters == sum(parameter.numel() for parameter in net.parameters())
    assert torch.is_grad_enabled()
