import pytest
import torch
from torch import Tensor, nn

from carkp.model.pose_net import build_pose_net
from carkp.quant.fold import FoldError, fold
from carkp.quant.graph import IMAGE, AddLayer, ConcatLayer, ConvLayer, DepthToSpaceLayer, FloatLayer, scale_groups
from tests.quant.networks import SIZE, GatedNet, SmallNet, images, with_statistics


def test_folded_network_computes_the_same_without_batch_norms():
    net = with_statistics(SmallNet())
    graph = fold(net, SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(graph(images()), net(images()), rtol=1e-5, atol=1e-5)
    assert {type(layer) for layer in graph.layers.values()} == {ConvLayer, AddLayer, ConcatLayer, DepthToSpaceLayer}
    assert not [module for module in graph.modules() if isinstance(module, nn.BatchNorm2d | nn.ConvTranspose2d)]


def test_folding_leaves_the_network_alone():
    net = with_statistics(SmallNet()).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    graph = fold(net, SIZE)
    assert net.training
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.zero_()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_names_say_where_a_layer_was():
    names = [step.name for step in fold(with_statistics(SmallNet()), SIZE).steps]
    assert names[0] == "stem/1"
    assert "block/add" in names
    assert names[-7:] == [
        *(f"up/0/phase_{phase}" for phase in ("00", "01", "10", "11")),
        "up/0/concat",
        "up/0/depth_to_space",
        "final",
    ]


def test_the_pad_before_a_convolution_becomes_its_own():
    stem = fold(with_statistics(SmallNet()), SIZE).layers["stem/1"]
    assert isinstance(stem, ConvLayer)
    assert stem.pads == (0, 0, 1, 1)
    assert stem.activation == "relu6"


def test_shapes_are_those_of_the_tensors():
    graph = fold(with_statistics(SmallNet()), SIZE)
    seen: dict[str, tuple[int, ...]] = {}
    graph(images(), on_tensor=lambda name, values: seen.update({name: tuple(values.shape[1:])}))
    assert seen == graph.shapes


def test_the_keypoint_network_folds_to_convolutions_and_additions():
    net = build_pose_net("tf_efficientnet_lite0", "none", (64, 64), head_channels=16, drop_path_rate=0.2).net
    graph = fold(net, (64, 64))
    assert not [layer for layer in graph.layers.values() if isinstance(layer, FloatLayer)]
    assert sum(isinstance(layer, ConvLayer) for layer in graph.layers.values()) == 49 + 3 * 4


def test_unknown_operators_stay_in_float_and_compute_the_same():
    net = GatedNet().eval()
    graph = fold(net, SIZE)
    kinds = [layer.kind for layer in graph.layers.values() if isinstance(layer, FloatLayer)]
    assert kinds == ["Silu", "ReduceMean", "Sigmoid", "Mul", "torch.getitem", "torch.cumsum", "torch.getitem"]
    with torch.inference_mode():
        torch.testing.assert_close(graph(images()), net(images()))


def test_an_activation_that_two_layers_read_before_is_not_folded():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return torch.relu(y) + self.norm(y)

    net = with_statistics(Shared())
    graph = fold(net, SIZE)
    assert [layer.kind for layer in graph.layers.values() if isinstance(layer, FloatLayer)] == [
        "Relu",
        "BatchNormalization",
    ]
    torch.testing.assert_close(graph(images()), net(images()))


def test_tensors_that_are_only_moved_share_a_scale():
    graph = fold(with_statistics(SmallNet()), SIZE)
    groups = scale_groups(graph)
    head = [name for name in groups if name.startswith("up/0")]
    assert len({groups[name] for name in head}) == 1
    assert groups[IMAGE] == IMAGE
    assert len(set(groups.values())) == len(groups) - len(head) + 1


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_behind_a_transposed_convolution_scales_axis_1(groups: int):
    net = with_statistics(
        nn.Sequential(nn.ConvTranspose2d(4, 6, 4, 2, 1, bias=True, groups=groups), nn.BatchNorm2d(6), nn.ReLU())
    )
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fold(net, (8, 8), in_channels=4)(x), net(x), rtol=1e-5, atol=1e-5)


def test_a_transposed_convolution_that_cannot_be_rewritten_stays_in_float():
    net = nn.Sequential(nn.ConvTranspose2d(3, 4, 3, 2, 1)).eval()  # 16 -> 31
    (layer,) = fold(net, SIZE).layers.values()
    assert isinstance(layer, FloatLayer)
    assert layer.kind == "ConvTranspose"


def test_a_transposed_convolution_used_twice_and_named_arguments():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 3, 4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.up(self.up(x))
            return torch.cat(tensors=[y, y], dim=1)

    net = Twice().eval()
    torch.testing.assert_close(fold(net, SIZE)(images()), net(images()), rtol=1e-5, atol=1e-5)


def test_a_network_that_branches_on_its_input_is_refused():
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(FoldError, match=r"cannot be traced by torch\.fx"):
        fold(Branching(), SIZE)
