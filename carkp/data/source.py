"""What kind of data a path holds, and a fingerprint of it."""

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from carkp.data import carfusion, coco
from carkp.data.carfusion import SCENE_DIRS, FrameFiles
from carkp.data.crops import ANNOTATION_DIR, annotation_path
from carkp.data.frames import SPLITS, Frame
from carkp.data.issues import DataError, Issues


class SourceKind(StrEnum):
    """The three inputs."""

    RAW = "raw"
    COCO = "coco"
    CROPS = "crops"


def detect_source_kind(path: Path) -> SourceKind:
    """Tell CarFusion's raw layout, a directory of crops and CarFusion's COCO JSON (file or directory) apart.

    A directory that is more than one of them counts as the first, but without boxes (``bb/``) raw data come last: they
    may be the pictures of the JSON beside them.

    Raises:
        DataError: there is nothing at ``path``, or nothing of the three.
    """
    if not path.exists():
        raise DataError(f"the data source {path} does not exist")
    if any(_has_scenes(path / split, ("bb",)) for split in SPLITS):
        return SourceKind.RAW
    if any(annotation_path(path, split).is_file() for split in SPLITS):
        return SourceKind.CROPS
    if coco.find_annotation_files(path):
        return SourceKind.COCO
    if any(_has_scenes(path / split) for split in SPLITS):
        return SourceKind.RAW
    raise DataError(_explain_unrecognised(path))


def list_source_frames(source: Path, kind: SourceKind, issues: Issues) -> list[FrameFiles] | list[Frame]:
    """The frames of a raw or COCO source."""
    return carfusion.list_frames(source, issues) if kind is SourceKind.RAW else coco.read_frames(source, issues)


def fingerprint(source: Path) -> str:
    """A sha256 over name, size and time of change of every file at ``source``: changes when the data do."""
    digest = hashlib.sha256()
    for path in _files(source):
        status = path.stat()
        name = path.relative_to(source).as_posix()
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(source: Path) -> Iterable[Path]:
    if source.is_file():
        # Pictures of a lone JSON file lie around it, mixed with who knows what.
        return [source]
    parts = [*SPLITS, ANNOTATION_DIR, "annotations"]
    below = [path for part in parts for path in sorted((source / part).rglob("*")) if path.is_file()]
    return [*sorted(source.glob("*.json")), *below]


def _has_scenes(split_dir: Path, any_of: tuple[str, ...] = SCENE_DIRS) -> bool:
    return split_dir.is_dir() and any((path / name).is_dir() for path in split_dir.iterdir() for name in any_of)


def _explain_unrecognised(path: Path) -> str:
    expected = (
        f"{path} is no CarFusion data: expected a directory with train/<scene>/ and test/<scene>/ that hold "
        f"images_jpg/, gt/ and bb/, or with {ANNOTATION_DIR}/keypoints_train.json and its crops, or a COCO keypoints "
        "JSON with 'train' or 'test' in its name"
    )
    if not path.is_dir():
        return expected
    if _has_scenes(path):
        return f"{expected}. Scenes lie directly in it: name it train and give its parent, {path.resolve().parent}"
    nested = [
        child for child in sorted(path.iterdir()) if child.is_dir() and any(_has_scenes(child / s) for s in SPLITS)
    ]
    return f"{expected}. Did you mean {nested[0]}?" if nested else expected
