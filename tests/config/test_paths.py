"""Paths as people write them."""

from pathlib import Path

import pytest

from carkp.config.paths import expand


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("CARS", "/disk/cars")
    monkeypatch.setenv("EMPTY", "")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~/x", "/home/ann/x"),
        ("~", "/home/ann"),
        ("$CARS/a", "/disk/cars/a"),
        ("${CARS}/a", "/disk/cars/a"),
        ("$HOME/$CARS", "/home/ann//disk/cars"),
        ("a~b", "a~b"),
        ("cost$5.jpg", "cost$5.jpg"),
        ("synthetic", "synthetic"),
    ],
)
def test_home_and_variables_are_filled_in(text: str, path: str) -> None:
    assert expand(text) == path


@pytest.mark.parametrize("name", ["$CARS", "~ann", "${CARS}"])
def test_a_file_of_that_very_name_is_meant(name: str) -> None:
    Path(name).touch()
    assert expand(name) == name


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("$NOT_SET_HERE/a", "NOT_SET_HERE"),
        ("${NOT_SET_HERE}/a", "NOT_SET_HERE"),
        ("$EMPTY/a", "EMPTY"),  # it would be /a
        ("~nobody_of_that_name/a", "~nobody_of_that_name"),
    ],
)
def test_what_cannot_be_filled_in_is_named(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        expand(text)
