"""Several sources in one configuration."""

from pathlib import Path

import pytest

from carkp.config.loading import ConfigError, dump_yaml, load_config
from carkp.config.schema import ExperimentConfig, SourceConfig
from carkp.config.sources import ALONE, by_source, choosing, shares

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
MIXED = "[{source: synthetic, share: 0.75}, {source: /disk/carfusion, share: 0.25}]"


def mixed(sources: str = MIXED, *overrides: str) -> ExperimentConfig:
    return load_config(TINY, [f"data.sources={sources}", *overrides])


def test_each_source_is_configured_as_it_would_be_alone() -> None:
    parts = by_source(mixed())
    assert list(parts) == ["synthetic", "carfusion"]
    assert parts["synthetic"] == load_config(TINY)
    assert parts["carfusion"] == load_config(TINY, ["data.source=/disk/carfusion"])
    assert by_source(load_config(TINY)) == {ALONE: load_config(TINY)}


def test_a_source_may_have_validation_scenes_of_its_own() -> None:
    sources = "[{source: synthetic, share: 0.5}, {source: own, share: 0.5, val_scenes: [mine]}]"
    parts = by_source(mixed(sources, "data.val_scenes=[car_fifth1]"))
    assert parts["synthetic"].data.val_scenes == ("car_fifth1",)
    assert parts["own"].data.val_scenes == ("mine",)


def test_shares_are_taken_out_of_their_sum() -> None:
    thirds = mixed("[{source: a, share: 0.333}, {source: b, share: 0.333}, {source: c, share: 0.333}]")
    assert shares(thirds.data) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    assert shares(load_config(TINY).data) == {}


def test_generated_sources_choose_where_there_are_any() -> None:
    assert choosing(mixed().data) == ("synthetic",)
    both = "[{source: own, share: 0.2}, {source: rendered, share: 0.4}, {source: synthetic, share: 0.4}]"
    assert choosing(mixed(both, "rendered.meshes=m").data) == ("rendered", "synthetic")
    assert choosing(mixed("[{source: a, share: 0.5}, {source: b, share: 0.5}]").data) == ("a", "b")
    assert choosing(load_config(TINY).data) == ()


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("synthetic", "synthetic"),
        ("/disk/cars_train.json", "cars_train"),
        ("carfusion/", "carfusion"),
        ("/disk/my cars (2)", "my-cars-2"),
        ("../..", ""),
    ],
)
def test_a_source_is_called_by_its_last_part(source: str, label: str) -> None:
    assert SourceConfig(source=source, share=1).label == label
    assert SourceConfig(source=source, share=1, name="mine").label == "mine"


def test_several_sources_survive_a_file(tmp_path: Path) -> None:
    config = mixed("[{source: synthetic, share: 0.5}, {source: b, share: 0.5, name: c, val_scenes: [d]}]")
    (tmp_path / "dump.yaml").write_text(dump_yaml(config))
    assert load_config(tmp_path / "dump.yaml") == config


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ("[{source: synthetic, share: 0}, {source: a, share: 1}]", r"data\.sources\.0\.share: .*greater than 0"),
        ("[{source: synthetic, share: -0.5}, {source: a, share: 1}]", r"data\.sources\.0\.share: .*greater than 0"),
        ("[{source: synthetic, share: 1.5}]", r"data\.sources\.0\.share: .*less than or equal to 1"),
        ("[{source: synthetic, share: 0.5}, {source: a, share: 0.4}]", r"shares of sources add up to 0\.9"),
        ("[{source: a, share: 0.5}, {source: ./a, share: 0.5}]", "sources name a twice"),
        (
            "[{source: x/a, share: 0.5}, {source: y/a.json, share: 0.5}]",
            "two sources are called 'a': give each its own name",
        ),
        ("[{source: /, share: 1}]", "source /: give it a name"),
        ("[{source: a, share: 1, name: a/b}]", r"data\.sources\.0\.name"),
        ("[{source: a, shares: 1}]", r"data\.sources\.0\.shares: no such setting; did you mean data\.sources\.share"),
        ("[{source: rendered, share: 1}]", r"rendered\.meshes must name the folder"),
        ("synthetic", "write a list"),
    ],
)
def test_sources_that_cannot_be_mixed_are_refused(sources: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mixed(sources)


def test_one_source_and_several_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="source=/disk/cars and sources are both given: leave source at 'synthetic'"):
        mixed(MIXED, "data.source=/disk/cars")


def test_rendered_cars_alone_need_meshes_and_fill_a_batch() -> None:
    with pytest.raises(ConfigError, match=r"rendered\.meshes must name"):
        load_config(TINY, ["data.source=rendered"])
    with pytest.raises(ConfigError, match=r"rendered\.num_train_cars=5 is too small for one batch"):
        load_config(TINY, ["data.source=rendered", "rendered.meshes=m", "rendered.num_train_cars=5"])
