"""Files that are named in a command."""

from pathlib import Path

import pytest

from carkp.config.loading import ConfigError
from carkp.project import find_config
from carkp.workflow.targets import load_target

ROOT = Path(__file__).parents[2]


def test_home_and_variables_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MINE", str(tmp_path / "mine"))
    assert find_config("~/a.yaml") == tmp_path / "a.yaml"
    assert find_config("$MINE/a.yaml") == tmp_path / "mine/a.yaml"
    with pytest.raises(ConfigError, match="NOT_SET_HERE is not set"):
        find_config("$NOT_SET_HERE/a.yaml")


def test_targets_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_target("bpu").name == "bpu"
    (tmp_path / "mine.YAML").write_text(
        (ROOT / "configs/targets/bpu.yaml").read_text().replace("name: bpu", "name: mine")
    )
    assert load_target("mine.YAML").name == "mine"
    assert load_target(str(tmp_path / "mine.YAML")).name == "mine"
    with pytest.raises(ConfigError, match=r"did you mean bpu\.yaml"):
        load_target("bpuu")
