"""Target files describe their hardware, and every number says where it is from."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from carkp.config.loading import ConfigError, load_yaml
from carkp.deploy.hardware import Hardware, Number, TargetFile, flat_numbers
from carkp.quant.target import Target

TARGETS = sorted((Path(__file__).parents[2] / "configs" / "targets").glob("*.yaml"))


def hardware(name: str) -> Hardware:
    found = load_yaml(next(path for path in TARGETS if path.stem == name), TargetFile, "target").hardware
    assert found is not None
    return found


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.stem)
def test_every_target_loads_with_its_hardware(path: Path) -> None:
    target = load_yaml(path, TargetFile, "target")
    assert target.name == path.stem
    assert type(target.arithmetic) is Target
    assert target.hardware is not None
    numbers = flat_numbers(target.hardware)
    assert {"performance.peak_gmacs_per_s", "performance.efficiency.depthwise"} <= set(numbers)
    assert all(number.assumed != bool(number.source) for number in numbers.values())


def test_all_targets_are_there() -> None:
    names = {path.stem for path in TARGETS}
    assert names == {"bpu", "onnxruntime_cpu", "litert", "tflm", "jetson_orin_nano_int8", "cortex_m_class"}


def test_limits_of_the_reference_s_hardware_are_assumed() -> None:
    limits = [number for name, number in flat_numbers(hardware("bpu")).items() if not name.startswith("performance")]
    assert limits
    assert all(number.assumed for number in limits)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value": 3}, "source"),
        ({"value": 3, "source": "a data sheet", "assumed": True}, "not both"),
        ({"value": 0, "assumed": True}, "greater than 0"),
        ({"value": float("inf"), "assumed": True}, "finite"),
        ({"value": 3, "assumed": True, "unit": "m"}, "unit"),
    ],
)
def test_a_number_has_one_origin(fields: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Number.model_validate(fields)


def test_mistakes_in_a_file_are_named(tmp_path: Path) -> None:
    text = next(path for path in TARGETS if path.stem == "bpu").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("unsupported: fallback", "unsupported: perhaps"))
    with pytest.raises(ConfigError, match=r"hardware\.unsupported"):
        load_yaml(path, TargetFile, "target")
    path.write_text(
        text.replace("    depthwise: {max_kernel: {value: 7, assumed: true}", "    depthwise: {max_kernel: 7")
    )
    with pytest.raises(ConfigError, match=r"hardware\.operators\.depthwise\.max_kernel"):
        load_yaml(path, TargetFile, "target")


def test_hardware_may_be_left_out(tmp_path: Path) -> None:
    text = next(path for path in TARGETS if path.stem == "bpu").read_text()
    path = tmp_path / "plain.yaml"
    path.write_text(text[: text.index("hardware:")])
    assert load_yaml(path, TargetFile, "target").hardware is None
