"""YAML that says something else than it seems to is refused, with its line."""

from pathlib import Path
from typing import Any

import pytest

from carkp.config.yaml_files import YamlError, parse_yaml, read_yaml

TREE = {"train": {"lr": 0.5}, "name": "Zoë"}
TEXT = "train:\n  lr: 0.5\nname: Zoë\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends_of_editors(tmp_path: Path, encoding: str, line_end: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(TEXT.replace("\n", line_end).encode(encoding))
    assert read_yaml(path) == TREE


def test_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(TEXT.encode("latin-1"))
    with pytest.raises(YamlError, match=r"line 3: not utf-8 text"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n\tlr: 0.5\n", "spaces, not with tabs"),
        ("lr: 1\nepochs: 2\nlr: 3\n", r"'lr' is given twice, in lines 1 and 3"),
        ("train: {lr: 1}\nseed: 1\ntrain: {epochs: 2}\n", r"'train' is given twice, in lines 1 and 3"),
        ("a: {b: 1, b: 2}", r"'b' is given twice"),
        ("epochs: 010", r"010: YAML reads this as another number"),
        ("epochs: 1:30", r"1:30: YAML reads this as another number"),
        ("a: 1:30.5", "another number"),
        ("on: 3", "reads as True; quote it"),
        ("1: 3", "reads as 1; quote it"),
        ("day: 2024-02-31", "cannot be read"),
        ("a: 1\n---\nb: 2\n", "single document"),
        ("[" * 3000, "nested too deeply"),
        ("a: !!python/object/apply:os.system [ls]", "constructor"),
        ("a: \x00", "not allowed"),
    ],
)
def test_what_surprises_is_refused(text: str, message: str) -> None:
    with pytest.raises(YamlError, match=message):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("1.5e+2", 150.0),
        ("0", 0),
        ("0.5", 0.5),
        ("-7", -7),
        ("'010'", "010"),
        ("yes", True),
        ("1e", "1e"),
        ("e3", "e3"),
        ("{a: &x {b: 1}, c: {<<: *x, d: 2}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("", None),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)
