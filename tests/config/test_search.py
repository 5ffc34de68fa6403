from pathlib import Path

import pytest

from carkp.config import schema
from carkp.config.loading import ConfigError, load_yaml
from carkp.config.search import SearchConfig
from carkp.keypoints import codec
from carkp.model import backbone

SEARCHES = Path(__file__).parents[2] / "configs" / "search"


@pytest.mark.parametrize("path", sorted(SEARCHES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_search_loads(path: Path) -> None:
    assert load_yaml(path, SearchConfig, "search").num_trials >= 1


def test_an_empty_range_is_named(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text("space:\n  sigma: {low: 2.0, high: 1.0}\n  lr: {low: 0.1, high: 0.2}\n  q: {low: 2.0, high: 3.0}\n")
    with pytest.raises(ConfigError, match=r"space\.sigma: .*low must be below high"):
        load_yaml(path, SearchConfig, "search")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("sigma: {low: 0.1, high: 1.0}", r"sigma\.low must be at least 0\.25"),
        ("sigma: {low: .nan, high: 1.0}", "finite"),
        ("q: {low: 0.2, high: 3.0}", r"q\.low must be above 0\.301"),
        ("lrr: {low: 0.2, high: 3.0}", r"did you mean space\.lr\?"),
    ],
)
def test_what_trials_could_not_use_is_refused(tmp_path: Path, space: str, message: str) -> None:
    ranges = {"sigma": "{low: 1.0, high: 2.0}", "lr": "{low: 0.1, high: 0.2}", "q": "{low: 2.0, high: 3.0}"}
    name, _, value = space.partition(": ")
    path = tmp_path / "search.yaml"
    path.write_text("space:\n" + "".join(f"  {key}: {text}\n" for key, text in {**ranges, name: value}.items()))
    with pytest.raises(ConfigError, match=message):
        load_yaml(path, SearchConfig, "search")


def test_the_schema_knows_the_strides_of_network_and_codec() -> None:
    # the configuration imports neither and refuses sizes by numbers of its own
    assert (schema.STRIDE, schema.HEATMAP_STRIDE) == (backbone.STRIDE, codec.HEATMAP_STRIDE)
