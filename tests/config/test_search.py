from pathlib import Path

import pytest

from carkp.config.loading import ConfigError, load_yaml
from carkp.config.search import SearchConfig

SEARCHES = Path(__file__).parents[2] / "configs" / "search"


@pytest.mark.parametrize("path", sorted(SEARCHES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_search_loads(path: Path) -> None:
    assert load_yaml(path, SearchConfig).num_trials >= 1


def test_an_empty_range_is_named(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text("space:\n  sigma: {low: 2.0, high: 1.0}\n  lr: {low: 0.1, high: 0.2}\n  q: {low: 2.0, high: 3.0}\n")
    with pytest.raises(ConfigError, match=r"space\.sigma: .*low must be below high"):
        load_yaml(path, SearchConfig)
