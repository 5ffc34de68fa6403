from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carkp.config.loading import ConfigError, dump_yaml, flatten, load_config, split_overrides
from carkp.config.schema import ExperimentConfig

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_loads(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_base_is_inherited_and_overrides_come_last(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("train: {lr: 0.5, epochs: 7}\nseed: 3\n")
    (tmp_path / "top.yaml").write_text("base: base.yaml\ntrain: {lr: 0.25}\n")
    config = load_config(tmp_path / "top.yaml", ["train.epochs=9", "model.input_size=[64, 96]"])
    assert (config.train.lr, config.train.epochs, config.seed) == (0.25, 9, 3)
    assert config.model.input_size == (64, 96)


def test_dumped_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(CONFIGS / "tiny.yaml", ["train.lr=0.007"])
    (tmp_path / "dump.yaml").write_text(dump_yaml(config))
    assert load_config(tmp_path / "dump.yaml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochs: 0}", r"train\.epochs: .*greater than 0"),
        ("train: {lr: 1e-3x}", r"write 1\.0e-3"),
        ("train: {learning_rate: 0.1}", r"train\.learning_rate: no such setting"),
        ("model: {input_size: [100, 128]}", "multiples of 32"),
        ("base: nowhere.yaml", "no such configuration file"),
        ("base: top.yaml", "leads back"),
        ("- a list", "expected `name: value`"),
        ("a: [1", "not valid YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "top.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "top.yaml")


@pytest.mark.parametrize("override", ["train.lr", "=3", "train..lr=3", "train.lr=[1"])
def test_malformed_overrides_are_named(override: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        load_config(CONFIGS / "tiny.yaml", [override])


def test_overrides_split_like_a_shell() -> None:
    assert split_overrides("a.b=c d.e='two words'") == ["a.b=c", "d.e=two words"]
    with pytest.raises(ConfigError):
        split_overrides("a='open")


@given(st.floats(1e-6, 10, allow_nan=False))
def test_any_float_survives_an_override(lr: float) -> None:
    assert load_config(CONFIGS / "tiny.yaml", [f"train.lr={lr!r}"]).train.lr == lr


def test_flatten_names_every_leaf() -> None:
    flat = flatten(ExperimentConfig().model_dump(mode="json"), "config")
    assert flat["config.train.lr"] == ExperimentConfig().train.lr
    assert flat["config.name"] == ExperimentConfig().name
    assert all(not isinstance(value, dict) for value in flat.values())
