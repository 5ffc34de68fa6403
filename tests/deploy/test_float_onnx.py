"""The exported file is valid, complete in itself, and computes what torch computes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from carkp.deploy.float_onnx import OPSET, ExportMismatchError, check_against_torch, export_float_onnx
from carkp.deploy.runtime import OnnxRunner
from carkp.model.pose_net import PoseNet, build_pose_net
from tests.quant.networks import GatedNet, with_statistics

SIZE = (64, 96)


@pytest.fixture(scope="module")
def net() -> PoseNet:
    torch.manual_seed(0)
    net = build_pose_net("tf_efficientnet_lite0", "none", SIZE, head_channels=16).net
    nn.init.normal_(net.head.final.weight, std=0.1)
    net.to(memory_format=torch.channels_last).train()
    with torch.no_grad():
        net(torch.randn(4, 3, *SIZE))  # running statistics that are not the initial ones
    return net


@pytest.fixture(scope="module")
def exported(net: PoseNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "made" / "float.onnx"
    export_float_onnx(net, SIZE, path, {"carkp.stage": "float", "names": "a,b"})
    return path


def images(num_images: int) -> torch.Tensor:
    return torch.randn(num_images, 3, *SIZE, generator=torch.Generator().manual_seed(num_images))


@pytest.mark.parametrize("num_images", [1, 3])
def test_computes_the_same_for_any_batch(num_images: int, exported: Path, net: PoseNet) -> None:
    error = check_against_torch(exported, net, images(num_images))
    assert 0 < error <= 1e-4


def test_mismatch_is_an_error(exported: Path, net: PoseNet) -> None:
    with pytest.raises(ExportMismatchError, match="differs from torch by"):
        check_against_torch(exported, net, images(2), tolerance=1e-12)
    other = build_pose_net("tf_efficientnet_lite0", "none", SIZE, head_channels=16, num_keypoints=3).net
    with pytest.raises(ExportMismatchError, match=r"shape \(2, 12, 16, 24\), torch gives \(2, 3, 16, 24\)"):
        check_against_torch(exported, other, images(2))


def test_not_a_number_is_a_mismatch(exported: Path, net: PoseNet) -> None:
    bad = images(1)
    bad[0, 0, 0, 0] = float("nan")
    with pytest.raises(ExportMismatchError):
        check_against_torch(exported, net, bad)


def test_one_file_with_named_ends_and_metadata(exported: Path) -> None:
    assert [path.name for path in exported.parent.iterdir()] == ["float.onnx"]
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    image, heatmaps = model.graph.input[0], model.graph.output[0]
    assert (image.name, heatmaps.name) == ("image", "heatmaps")
    batch, *rest = image.type.tensor_type.shape.dim
    assert batch.dim_param == "batch"
    assert [dim.dim_value for dim in rest] == [3, *SIZE]
    assert OnnxRunner(exported).metadata == {"carkp.stage": "float", "names": "a,b"}


def test_batch_norms_and_pads_are_folded(exported: Path) -> None:
    kinds = {node.op_type for node in onnx.load(exported).graph.node}
    assert kinds == {"Conv", "ConvTranspose", "Clip", "Relu", "Add"}


@pytest.mark.parametrize("groups", [1, 2])
def test_a_layer_without_an_int8_form_is_written_too(groups: int, tmp_path: Path) -> None:
    """A grouped transposed convolution keeps its batch norm."""
    up = nn.Sequential(nn.ConvTranspose2d(8, 4, 4, 2, 1, groups=groups, bias=False), nn.BatchNorm2d(4), nn.SiLU())
    net = with_statistics(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6(), *up))
    export_float_onnx(net, SIZE, tmp_path / "up.onnx", {})
    model = onnx.load(tmp_path / "up.onnx")
    assert model.producer_name == "carkp"
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert len(norms) == groups - 1
    assert check_against_torch(tmp_path / "up.onnx", net, images(3)) <= 1e-5


def test_an_operator_that_is_not_known_is_left_to_torch(tmp_path: Path) -> None:
    net = with_statistics(GatedNet())
    export_float_onnx(net, SIZE, tmp_path / "gated.onnx", {})
    assert onnx.load(tmp_path / "gated.onnx").producer_name == "pytorch"
    assert check_against_torch(tmp_path / "gated.onnx", net, images(3)) <= 1e-4


def test_no_source_paths_are_left_in_the_file(exported: Path) -> None:
    content = exported.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"stack_trace" not in content


def test_network_is_left_as_it_was(exported: Path, net: PoseNet) -> None:
    assert net.training
    assert net.backbone.conv_stem.weight.is_contiguous(memory_format=torch.channels_last)


def test_metadata_must_be_strings(net: PoseNet, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="epoch"):
        export_float_onnx(net, SIZE, tmp_path / "x.onnx", {"epoch": 3})  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())


def test_runner_runs_with_threads(exported: Path) -> None:
    batch = images(2).numpy()
    one, two = OnnxRunner(exported), OnnxRunner(exported, num_threads=2)
    assert one.input_size == SIZE
    assert one.run(batch).shape == (2, 12, 16, 24)
    np.testing.assert_allclose(one.run(batch), two.run(batch), atol=1e-5)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 3, 96, 64), np.float32),
        np.zeros((3, 64, 96), np.float32),
        np.zeros((1, 3, 64, 96), np.float64),
        np.zeros((1, 3, 64, 96), np.uint8),
    ],
)
def test_runner_refuses_other_images(batch: np.ndarray, exported: Path) -> None:
    with pytest.raises(ValueError, match="expected float32 images of shape"):
        OnnxRunner(exported).run(batch)


def test_runner_refuses_truncated_files(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(exported.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"cut\.onnx: not a readable ONNX file"):
        OnnxRunner(path)
