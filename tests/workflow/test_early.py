"""What a stage would refuse after minutes or hours is refused before its run is opened."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from carkp.config.loading import ConfigError, load_config
from carkp.config.schema import ExperimentConfig
from carkp.workflow import cli
from carkp.workflow.early import check_network, check_quantisation, check_scenes, refuse_early

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def tiny(*overrides: str) -> ExperimentConfig:
    return load_config(ROOT / "configs/tiny.yaml", overrides)


@pytest.mark.parametrize("target", sorted(path.stem for path in (ROOT / "configs/targets").glob("*.yaml")))
def test_the_configurations_that_come_with_carkp_pass(target: str) -> None:
    for name in ("synthetic", "synthetic_long", "tiny"):
        config = load_config(ROOT / f"configs/{name}.yaml", [f"quant.target={target}", "model.input_size=[64,64]"])
        refuse_early("main", config)


@pytest.mark.parametrize(
    ("check", "override", "message"),
    [
        (check_scenes, "data.val_scenes=[]", "synthetic has no such training scenes"),
        (check_scenes, "data.val_scenes=[car_craig]", "there are car_butler1, .*car_craig2"),
        (check_network, "model.backbone=tf_efficientnet_lite9", "no model named.*did you mean tf_efficientnet_lite"),
        (check_network, "model.backbone=vit_tiny_patch16_224", "stride 16"),
        (check_network, "model.backbone=vovnet39a", "vovnet39a cannot be used as a backbone for images of 64 x 64"),
        (check_network, "model.pretrained=nowhere.pt", "no such file"),
        (check_network, "model.pretrained=None", "none of auto, timm, package, none"),
        (check_network, "model.pretrained=broken.pt", "not a checkpoint"),
        (check_network, "model.pretrained=other.pt", "do not fit"),
        (check_network, "model.backbone=resnet18 model.pretrained=package", "contain weights of"),
        (check_network, "model.backbone=resnet18 model.pretrained=auto", "hub does not answer"),
        (check_network, "model.backbone=efficientnet_b0_nose_relu model.pretrained=auto", "no published weights"),
        (check_network, "model.backbone=resnet50.untrained model.pretrained=timm", "Invalid pretrained tag"),
        (check_network, "model.backbone=resnet51q model.pretrained=auto", "hub does not answer"),
        (check_network, "model.backbone=resnext26ts2 model.pretrained=auto", "no model named"),
        (check_network, "model.backbone=seresnet18 model.pretrained=timm", "no published weights of seresnet18"),
        (check_quantisation, "model.backbone=ghostnet_050", "ghostnet_050 cannot be quantised for bpu"),
        (check_quantisation, "model.backbone=xception41", r"model\.backbone=xception41: the network cannot be traced"),
        (
            check_quantisation,
            "model.backbone=edgenext_xx_small",
            r"model\.backbone=edgenext_xx_small: .*only float ones can be quantised",
        ),
        (check_quantisation, "quant.rules=[{tensors: heads/*, observer: minmax}]", "heads/.*matches no tensor"),
        (check_quantisation, "quant.target=bpuu", r"did you mean bpu\.yaml"),
    ],
)
def test_what_could_not_be_used_is_named(
    check: Callable[[ExperimentConfig], None], override: str, message: str
) -> None:
    Path("broken.pt").write_bytes(b"no checkpoint")
    torch.save({"backbone.conv_stem.weight": torch.zeros(1)}, "other.pt")
    words = [override] if "{" in override or "[" in override else override.split()
    with pytest.raises(ConfigError, match=message):
        check(tiny(*words))


def test_scenes_of_raw_data_are_known_before_they_are_prepared() -> None:
    for scene in ("train/car_a", "train/car_b", "test/car_craig2"):
        for folder in ("images_jpg", "bb", "gt"):
            Path("raw", scene, folder).mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"car_craig2.*there are car_a, car_b"):
        check_scenes(tiny("data.source=raw"))
    check_scenes(tiny("data.source=raw", "data.val_scenes=[car_craig2, car_b]"))
    check_scenes(tiny("data.source=nowhere"))  # what is not there is said by those who read it
    Path("raw/val").mkdir()
    check_scenes(tiny("data.source=raw"))


def test_a_file_of_weights_is_looked_at_before_the_data_are_made() -> None:
    for stage in ("float", "main", "tune"):
        with pytest.raises(ConfigError, match="no such file"):
            refuse_early(stage, tiny("model.pretrained=nowhere.pt"))
    refuse_early("infer", tiny("model.pretrained=nowhere.pt"))  # which needs no network of the configuration


def test_no_run_is_opened_for_settings_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def tracked_run(*_: object) -> None:
        pytest.fail("a run was opened")

    monkeypatch.setattr(cli, "tracked_run", tracked_run)
    with pytest.raises(ConfigError, match="stride 16"):
        cli.execute("float", tiny("model.backbone=vit_tiny_patch16_224"), lambda *_: None)
