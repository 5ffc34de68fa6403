"""No output takes the place of another one."""

import os
from pathlib import Path

import pytest

from carkp.workflow.output_names import artifact_names, list_sources, name_pictures, output_stems


def test_names_do_not_collide() -> None:
    paths = [Path(name) for name in ("a.jpg", "a.png", "b.jpg", "a.mp4")]
    assert output_stems(paths) == ["a.jpg", "a.png", "b", "a"]


@pytest.mark.parametrize(
    "names",
    [
        ("a.jpg", "a.png", "a.jpg.png", "a.jpg.bmp"),
        ("A.jpg", "a.JPG", "a.jpg"),
        ("Caf\u00e9.jpg", "Cafe\u0301.jpg"),
        ("x/a.jpg", "y/a.jpg", "x_a.jpg", "z/x/a.jpg"),
        ("x/a.jpg", "x/a.jpg"),
    ],
)
def test_every_picture_has_a_name_and_a_drawing_of_its_own(names: tuple[str, ...]) -> None:
    paths = [Path(name) for name in names]
    assert len(set(name_pictures(paths))) == len(names)
    stems = output_stems(paths)
    assert len({stem.casefold() for stem in stems}) == len(names)
    assert not any("/" in stem for stem in stems)


def test_folders_stand_in_names_only_where_they_are_needed() -> None:
    paths = [Path(name) for name in ("/d/x/1/a.jpg", "/d/y/1/a.jpg", "/d/z/b.jpg", "/d/z/B.jpg")]
    assert name_pictures(paths) == ["x/1/a.jpg", "y/1/a.jpg", "b.jpg", "B.jpg"]


def test_names_that_are_no_utf8_can_be_printed_and_the_file_keeps_its_name(tmp_path: Path) -> None:
    (source,) = list_sources([Path(os.fsdecode(b"caf\xe9.jpg"))], tmp_path)
    assert source.name == "caf\\udce9.jpg"
    assert os.fsencode(source.out.name) == b"caf\xe9"


def test_artifacts_have_names_that_are_safe_in_urls() -> None:
    names = [
        "car#1.jpg",
        "car%1.jpg",
        "car?1.jpg",
        "CAR_1.jpg",
        "a b.jpg",
        "\u00e4.jpg",
        "a\\b.jpg",
        "n\nl.mp4",
        "ok.jpg",
    ]
    safe = artifact_names([*names, os.fsdecode(b"\xe9.jpg")])
    assert safe[:4] == ["car_1.jpg", "car_1 (2).jpg", "car_1 (3).jpg", "CAR_1 (4).jpg"]
    assert safe[4:] == ["a b.jpg", "\u00e4.jpg", "a_b.jpg", "n_l.mp4", "ok.jpg", "_udce9.jpg"]
