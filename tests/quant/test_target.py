from pathlib import Path

import pytest

from carkp.config.loading import ConfigError, load_yaml
from carkp.deploy.hardware import TargetFile
from carkp.quant.target import Target

TARGETS = sorted((Path(__file__).parents[2] / "configs" / "targets").glob("*.yaml"))


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.stem)
def test_every_target_loads_under_its_name(path: Path) -> None:
    assert load_yaml(path, TargetFile, "target").arithmetic.name == path.stem


def test_the_reference_s_arithmetic_is_signed_and_fixed_point() -> None:
    bpu = load_yaml(next(path for path in TARGETS if path.stem == "bpu"), TargetFile, "target").arithmetic
    assert (bpu.activation_dtype, bpu.requantisation, bpu.per_channel_weights) == ("int8", "fixed_point", True)


def test_unknown_settings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nspeed: 3\n")
    with pytest.raises(ConfigError, match=r"speed: no such setting; name, description, .* are known"):
        load_yaml(path, Target, "target")
