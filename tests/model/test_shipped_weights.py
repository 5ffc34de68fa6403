"""A training's first weights from a shipped model: the whole network, or a refusal that names what differs."""

from pathlib import Path

import pytest
import torch

from carkp.config.loading import ConfigError, load_config
from carkp.config.schema import ExperimentConfig
from carkp.training.checkpoint import load_checkpoint
from carkp.workflow.build import build_model
from carkp.workflow.early import check_network
from carkp.workflow.reuse import stage_settings
from tests.tiny_models import ROOT, TinyModels


def tiny(*overrides: str) -> ExperimentConfig:
    return load_config(ROOT / "configs" / "tiny.yaml", ["model.pretrained=carkp-car12", *overrides])


def test_backbone_and_head_are_those_of_the_shipped_model(shipped_folder: Path) -> None:
    built = build_model(tiny())
    assert (built.source.kind, built.source.detail, built.source.has_head) == (
        "shipped",
        "carkp-car12 (whole network, trained at commit 0123456789ab)",
        True,
    )
    weights = load_checkpoint(shipped_folder / "weights.safetensors").weights
    found = built.net.state_dict()
    assert set(found) == set(weights)
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_the_same_outputs_as_the_shipped_network(shipped_folder: Path, tiny_models: TinyModels) -> None:
    images = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, expected = build_model(tiny()).net.eval()(images), tiny_models.net(images)
        other = build_model(tiny("model.pretrained=none", "seed=1")).net.eval()(images)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01 * scale)
    assert float((other - expected).abs().max()) > 0.1 * scale


def test_other_sizes_and_stochastic_depth_may_start_from_it(shipped_folder: Path) -> None:
    assert build_model(tiny("model.input_size=[96, 64]", "model.drop_path_rate=0.1")).source.kind == "shipped"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.backbone=resnet18", "that network has model.backbone=tf_efficientnet_lite0, the configuration has"),
        (
            "model.head_channels=24",
            "has model.head_channels=16, the configuration has model.head_channels=24: set the",
        ),
        ("model.activation=relu", "has model.activation=default, the configuration has model.activation=relu"),
    ],
)
def test_another_architecture_is_refused(shipped_folder: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_network(tiny(override))


def test_a_missing_model_is_said_before_training(shipped_folder: Path) -> None:
    (shipped_folder / "weights.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"carkp-car12: this installation of carkp does not have the model"):
        check_network(tiny())
    assert stage_settings("float", tiny())["model.pretrained"] == "carkp-car12"


def test_it_counts_by_its_content(shipped_folder: Path) -> None:
    path = shipped_folder / "weights.safetensors"
    named = stage_settings("float", tiny())["model.pretrained"]
    assert named == stage_settings("float", tiny(f"model.pretrained={path}"))["model.pretrained"]
    path.write_bytes(path.read_bytes() + b" ")
    assert stage_settings("float", tiny())["model.pretrained"] != named
