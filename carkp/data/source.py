"""Detection of the kind of data at a path, and a fingerprint of the data."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

from carkp.data import annotations, carfusion, coco
from carkp.data.carfusion import SCENE_DIRS, FrameFiles
from carkp.data.crops import ANNOTATION_DIR, annotation_path
from carkp.data.files import exists, expand_path, is_clutter, is_directory, is_file, walk_files
from carkp.data.frames import SPLIT_NAMES, SPLITS, Frame
from carkp.data.issues import DataError, Issues

__all__ = ["SourceKind", "detect_source_kind", "expand_path", "fingerprint", "list_source_frames", "require_apart"]


class SourceKind(StrEnum):
    """The three kinds of data sources."""

    RAW = "raw"
    COCO = "coco"
    CROPS = "crops"


def detect_source_kind(path: Path) -> SourceKind:
    """Distinguish CarFusion's raw layout, a directory of crops and CarFusion's COCO JSON (file or directory).

    If a directory matches several kinds, the first of these counts. But raw data without boxes (``bb/``) come last,
    because they may be the pictures for a JSON file beside them.

    Raises:
        DataError: ``path`` does not exist, or is none of the three kinds.
    """
    if not exists(path):
        raise DataError(_explain_absence(path))
    if any(_has_scenes(path / split, ("bb",)) for split in SPLITS):
        return SourceKind.RAW
    if any(is_file(annotation_path(path, split)) for split in SPLITS):
        return SourceKind.CROPS
    if coco.find_annotation_files(path):
        return SourceKind.COCO
    if any(_has_scenes(path / split) for split in SPLITS):
        return SourceKind.RAW
    raise DataError(_explain_unrecognised(path))


def list_source_frames(
    source: Path, kind: SourceKind, issues: Issues, boxes: str = "files"
) -> list[FrameFiles] | list[Frame]:
    """List the frames of a raw or COCO source; ``boxes`` is ``files`` or ``hull``."""
    if kind is SourceKind.RAW:
        return carfusion.list_frames(source, issues, boxes)
    return coco.read_frames(source, issues, boxes)


def fingerprint(source: Path) -> str:
    """Return a SHA-256 of the name, size and modification time of every file of ``source``; it changes with the data.

    Symbolic links are followed. Pictures and crops that JSON files name are included, wherever they are.

    Raises:
        DataError: a JSON file of the source cannot be read.
    """
    digest = hashlib.sha256()
    for path in _files(source):
        try:
            status = path.stat()
        except OSError:
            continue  # deleted since it was listed
        name = _name_in(source, path)
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def require_apart(source: Path, out_dir: Path) -> None:
    """Refuse an output directory that would change the source.

    Raises:
        DataError: the output directory is the source itself, or is inside a directory of its data.
    """
    root, out = source.resolve(), out_dir.resolve()
    parts = {part.resolve() for part in _parts(source)}
    if out == root or any(part == out or part in out.parents for part in parts):
        raise DataError(
            f"{out_dir} lies within the data source {source}: preparing the data there would change the source; "
            "choose another directory (data.root)"
        )


def _files(source: Path) -> Iterable[Path]:
    """Return the files of the source, each once, in a fixed order."""
    if is_file(source):
        # Other files may be beside a single JSON file, so only the pictures that it names count.
        return [source, *sorted(set(_named_files(source)))]
    below = [path for part in _parts(source) for path in sorted(walk_files(part))]
    known = set(below)
    named = sorted({path for path in _named_files(source) if path not in known})
    at_top = [path for path in sorted(source.glob("*.json")) if not is_clutter(path.name)]
    return [*at_top, *below, *named]


def _parts(source: Path) -> list[Path]:
    """Return the directories with a source's data; those of other split names come after CarFusion's own."""
    others = [name for names in SPLIT_NAMES.values() for name in names if name not in SPLITS]
    return [source / part for part in (*SPLITS, ANNOTATION_DIR, "annotations", *others)]


def _named_files(source: Path) -> Iterator[Path]:
    """Yield the pictures or crops that the source's JSON files name."""
    try:
        kind = detect_source_kind(source)
    except DataError:
        return
    if kind is SourceKind.COCO:
        yield from coco.list_images(source)
    elif kind is SourceKind.CROPS:
        yield from annotations.list_crop_files(source)


def _name_in(source: Path, path: Path) -> str:
    if path.is_relative_to(source):
        return path.relative_to(source).as_posix()
    return os.path.relpath(path, source if is_directory(source) else source.parent)


def _has_scenes(split_dir: Path, any_of: tuple[str, ...] = SCENE_DIRS) -> bool:
    if not is_directory(split_dir):
        return False
    try:
        scenes = [path for path in split_dir.iterdir() if not is_clutter(path.name)]
    except OSError as error:
        raise DataError(f"{split_dir} cannot be read: {error.strerror}; have its permissions changed") from error
    return any(is_directory(path / name) for path in scenes for name in any_of)


def _explain_absence(path: Path) -> str:
    try:
        if path.is_symlink():
            return f"the data source {path} is a symbolic link that leads nowhere: {os.readlink(path)}"  # noqa: PTH115
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        pass
    except OSError as error:  # no permission, a name that is too long
        return f"the data source {path} cannot be read: {error.strerror}"
    return f"the data source {path} does not exist"


def _explain_unrecognised(path: Path) -> str:
    expected = (
        f"{path} is not CarFusion data: expected a directory with train/<scene>/ and test/<scene>/ that contain "
        f"images_jpg/, gt/ and bb/, or with {ANNOTATION_DIR}/keypoints_train.json and its crops, or a COCO keypoints "
        "JSON with the word 'train' or 'test' in its name"
    )
    expected = ". ".join([expected, *coco.survey_annotation_files(path).left_out])
    if not is_directory(path):
        return expected
    if _has_scenes(path):
        return (
            f"{expected}. It contains scenes directly: rename it to train and give its parent, {path.resolve().parent}"
        )
    nested = [
        child for child in sorted(path.iterdir()) if is_directory(child) and any(_has_scenes(child / s) for s in SPLITS)
    ]
    return f"{expected}. Did you mean {nested[0]}?" if nested else expected
