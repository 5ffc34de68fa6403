"""Names, links, encodings and numbers as people have them."""

import os
import unicodedata
from pathlib import Path, PurePosixPath

import pytest

from carkp.data.files import NameIndex, expand_path, is_clutter, parse_number, read_file, read_lines, walk_files
from carkp.data.issues import DataError


@pytest.mark.parametrize(
    "name", [".DS_Store", "._1_0001.jpg", "Thumbs.db", "@eaDir", ".Trash", "__MACOSX", ".Trash-1000"]
)
def test_clutter_is_known(name):
    assert is_clutter(name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_lines_are_the_same_in_every_encoding(tmp_path, encoding, end):
    path = tmp_path / "a.txt"
    path.write_bytes(end.join(["1,2", "", "3,4", ""]).encode(encoding))
    assert read_lines(path) == ["1,2", "", "3,4"]


def test_bytes_of_no_encoding_do_not_stop_the_reading(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"[1 2 3 4],v\xe9hicule\x85\n[5 6 7 8],car")
    assert len(read_lines(tmp_path / "a.txt")) == 2
    (tmp_path / "empty.txt").touch()
    assert read_lines(tmp_path / "empty.txt") == []


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e3", 1000.0), (" -.5 ", -0.5), ("7.", 7.0), ("+2", 2.0)]
    + [(text, None) for text in ("0x10", "1_0", "nan", "inf", "1e999", "1,5", "", "１", "1 2")],
)
def test_numbers_are_decimal_and_finite(text, number):
    assert parse_number(text) == number


def test_home_and_variables_are_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CARS", "/disk/cars")
    assert expand_path("~/x") == tmp_path / "x"
    assert expand_path("$CARS/a") == expand_path("${CARS}/a") == Path("/disk/cars/a")
    assert expand_path("cost$5.jpg") == Path("cost$5.jpg")
    with pytest.raises(DataError, match="variable NOT_SET_HERE is not set"):
        expand_path("${NOT_SET_HERE}/a")
    with pytest.raises(DataError, match="no home directory ~nobody-of-that-name"):
        expand_path("~nobody-of-that-name/x")


def test_what_is_there_literally_is_taken_literally(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("$CARS").mkdir()
    monkeypatch.setenv("CARS", "/elsewhere")
    assert expand_path("$CARS") == Path("$CARS")


def test_walking_follows_links_and_no_loops(tmp_path):
    (tmp_path / "real/below").mkdir(parents=True)
    (tmp_path / "real/below/a.txt").touch()
    (tmp_path / "real/.DS_Store").touch()
    (tmp_path / "real/below/up").symlink_to("..", target_is_directory=True)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/one").symlink_to("../real", target_is_directory=True)
    (tmp_path / "root/two").symlink_to("../real", target_is_directory=True)
    (tmp_path / "root/nowhere").symlink_to("gone")
    (tmp_path / "root/itself").symlink_to("itself")
    (tmp_path / "root/file.txt").symlink_to("../real/below/a.txt")
    found = sorted(path.relative_to(tmp_path / "root").as_posix() for path in walk_files(tmp_path / "root"))
    assert found == ["file.txt", "one/below/a.txt", "two/below/a.txt"]


def test_names_are_found_composed_otherwise_and_in_other_case(tmp_path):
    composed, taken_apart = (unicodedata.normalize(form, "Caf\u00e9") for form in ("NFC", "NFD"))
    (tmp_path / taken_apart).mkdir()
    (tmp_path / taken_apart / "1.JPG").touch()
    index = NameIndex()
    assert index.find(tmp_path, PurePosixPath(f"{composed}/1.jpg")) == tmp_path / taken_apart / "1.JPG"
    assert index.find(tmp_path, PurePosixPath(f"{composed}/2.jpg")) is None


def test_of_two_names_that_differ_in_case_none_is_guessed(tmp_path):
    for name in ("a.jpg", "A.jpg"):
        (tmp_path / name).touch()
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system takes them for one")
    assert NameIndex().find(tmp_path, PurePosixPath("a.JPG")) is None
    assert NameIndex().find(tmp_path, PurePosixPath("A.jpg")) == tmp_path / "A.jpg"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a pipe or a device"):
        read_file(tmp_path / "pipe")
    with pytest.raises(OSError, match="a pipe or a device"):
        read_file(Path("/dev/zero"))
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)
