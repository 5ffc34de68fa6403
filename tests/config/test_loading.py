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
        ("train: {lr: 1e-3x}", r"plain number, such as 0\.001 or 1\.0e-3"),
        ("train: {learning_rate: 0.1}", r"train\.learning_rate: no such setting"),
        ("model: {input_size: [100, 128]}", "multiples of 32"),
        ("base: nowhere.yaml", "no such configuration file"),
        ("base: top.yaml", "leads back"),
        ("- a list", "expected `name: value`"),
        ("a: [1", "not valid YAML"),
        ("train: {lr: 0.1, lr: 0.2}", "given twice"),
        ("base: ''", "must be the name of a YAML file"),
        ("base: $NOT_SET_HERE/x.yaml", "NOT_SET_HERE is not set"),
        ("name: 2024", "put it in quotes"),
        ("model: {pretrained: no}", r"model\.pretrained: .*put it in quotes"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "top.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "top.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("heatmap.window=4", r"heatmap\.window: must be odd.*3 and 5"),
        ("heatmap.window=0", r"heatmap\.window"),
        ("heatmap.window=33", r"heatmap\.window=33 reaches beyond the heatmap"),
        ("heatmap.window=wide", r"heatmap\.window"),
        ("heatmap.sigma=0.1", r"heatmap\.sigma"),
        ("heatmap.sigma=17", r"heatmap\.sigma=17 is more than the heatmap's 16 cells"),
        ("train.lr=nan", r"train\.lr: .*finite"),
        ("train.lr=.inf", r"train\.lr: .*finite"),
        ("quant.sweep=[99,.nan]", r"quant\.sweep\.1: .*finite"),
        ("align.moved_px=inf", r"align\.moved_px: .*finite"),
        ("train.epochs=yes", r"train\.epochs: must be a number, not true or false"),
        ("train.lr=on", r"train\.lr: must be a number"),
        ("train.epochs=010", "another number"),
        ("train.epochs=1:30", "another number"),
        ("train.epochs=", r"train\.epochs"),
        ("train.warmup_epochs=9", "warmup_epochs=9 must not be more than epochs=2"),
        ("qat.warmup_epochs=2", "warmup_epochs=2 must not be more than epochs=1"),
        ("train.num_samples=3", "num_samples=3 is too small for one batch of batch_size=8"),
        ("train.batch_size=29", r"synthetic\.num_train_cars=28 is too small for one batch of train\.batch_size=29"),
        ("train.nproc=4", r"synthetic\.num_train_cars=28 is too small for one batch"),
        ("train={reduced_epochs: 2, reduced_size: [32, 64]}", r"reduced_epochs=2 must be less than train\.epochs=2"),
        ("train={reduced_epochs: 1, epochs: 2, reduced_size: [32, 96]}", r"reduced_size=\[32, 96\] must not be"),
        ("train.freeze_batch_norm=true", "freeze_batch_norm keeps .*pretrained=none has none to keep"),
        ("train.nproc=99999", r"train\.nproc: .*1024"),
        ("train.num_workers=1000000", r"train\.num_workers: .*1024"),
        ("model.input_size=[3200000, 64]", r"model\.input_size"),
        ("model.input_size=128", "write a list"),
        ("model.head_channels=1000000", r"model\.head_channels"),
        ("model.drop_path_rate=1", r"model\.drop_path_rate"),
        ("augment.noise_sigma=1e300", r"augment\.noise_sigma: .*255"),
        ("augment.max_scale=1e300", r"augment\.max_scale: .*100"),
        ("augment.min_scale=1e-12", r"augment\.min_scale: .*0\.01"),
        ("heatmap.background_weight=1e300", r"heatmap\.background_weight: .*1000"),
        ("eval.alpha=10.5", r"eval\.alpha: .*10"),
        ("data.val_scenes=car_craig2", "write a list"),
        ("data.val_scenes=[a, a]", "names a scene twice"),
        ("data.val_scenes=[1]", "put it in quotes"),
        ("data.source=~nobody_of_that_name/x", "no home directory"),
        ("seed=4294967296", "seed"),
        ("synthetic.image_size=[10, 10]", r"synthetic\.image_size: must be at least 96"),
        ("quant.rules=[{tensors: a, observer: minmax, percentile: 99}]", "uses no percentile"),
        ("tracking.system_metrics_interval_s=0", r"tracking\.system_metrics_interval_s"),
        ("name=" + "a" * 300, "name"),
    ],
)
def test_what_a_stage_would_refuse_after_minutes_is_refused_at_once(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIGS / "tiny.yaml", [override])


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("lr=3", r"did you mean train\.lr or qat\.lr or adapt\.lr\?"),
        ("train.LR=3", r"did you mean train\.lr\?"),
        ("qat.sigma=3", r"did you mean heatmap\.sigma\?"),
        ("Train.lr=3", r"did you mean train\?"),
        ("augment.flip_prob=1", r"did you mean augment\.flip_probability\?"),
        ("model.pretrain=none", r"did you mean model\.pretrained\?"),
        ("eval.iterations=3", "eval has alpha, batch_size"),
        ("zzz=3", r"docs/settings\.md lists them"),
        ("train.learning-rate=3", r"train\.learning-rate: no such setting; train has epochs, "),
        ("train.foo=3", r"train\.foo: no such setting; train has epochs, "),
        ("--train.lr=3", r"--train: no such setting; did you mean train\?"),
        ("train/lr=3", r"train/lr: no such setting; did you mean train\.lr\?"),
    ],
)
def test_the_setting_that_was_meant_is_named(override: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=meant):
        load_config(CONFIGS / "tiny.yaml", [override])


def test_each_unknown_name_of_a_section_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("train:\n  learning-rate: 1\n  batch-size: 3\n")
    with pytest.raises(ConfigError, match=r"2 problem\(s\)") as error:
        load_config(path)
    assert "train.learning-rate: no such setting" in str(error.value)
    assert "train.batch-size: no such setting; did you mean train.batch_size?" in str(error.value)


def test_spaces_around_the_name_of_an_override_do_not_count() -> None:
    assert load_config(CONFIGS / "tiny.yaml", [" train.lr = 0.25"]).train.lr == 0.25


def test_the_file_that_was_meant_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean tiny\.yaml\?"):
        load_config(CONFIGS / "tinny.yaml")
    (tmp_path / "python_env.yaml").write_text("python: 3.11")
    (tmp_path / "own.yaml").write_text("base: tiny.yaml")
    with pytest.raises(ConfigError, match=r"no such configuration file; .* holds own\.yaml$"):
        load_config(tmp_path / "nosuch_env.yaml")
    with pytest.raises(ConfigError, match="a directory, not a configuration file"):
        load_config(CONFIGS)
    (tmp_path / "mine.yaml").write_text("base: tinny.yaml")
    with pytest.raises(ConfigError, match=r"tinny\.yaml: no such.*mine\.yaml names as its `base`"):
        load_config(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("override", "value"),
    [("name=2024", "2024"), ("data.source=#1", "#1"), ("data.root=yes", "yes"), ("model.pretrained=null", "null")],
)
def test_overrides_of_text_are_text(override: str, value: str) -> None:
    settings = flatten(load_config(CONFIGS / "tiny.yaml", [override]).model_dump())
    assert settings[override.split("=")[0]] == value


def test_a_section_without_a_line_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("train: {lr: 0.5}\n")
    (tmp_path / "top.yaml").write_text("base: base.yaml\ntrain:\nqat:\n")
    assert load_config(tmp_path / "top.yaml").train.lr == 0.5


def test_base_is_found_beside_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/base.yaml").write_text("seed: 7\n")
    (tmp_path / "there/top.yaml").write_text("base: base.yaml\n")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "there/top.yaml")
    assert load_config(tmp_path / "link.yaml").seed == 7


def test_paths_are_filled_in_where_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("CARS", "/disk/cars")
    words = ["data.source=$CARS/raw", "data.root=~/data", "model.pretrained=~/w.pt", "quant.target=${CARS}/t.yaml"]
    config = load_config(CONFIGS / "tiny.yaml", words)
    assert (config.data.source, config.data.root) == ("/disk/cars/raw", "/home/ann/data")
    assert (config.model.pretrained, config.quant.target) == ("/home/ann/w.pt", "/disk/cars/t.yaml")


def test_a_source_with_a_validation_split_needs_no_scenes() -> None:
    assert load_config(CONFIGS / "tiny.yaml", ["data.source=here", "data.val_scenes=[]"]).data.val_scenes == ()


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
    assert flatten({"a": {"b": 1}, "c": 2}) == {"a.b": 1, "c": 2}
