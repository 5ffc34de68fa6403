"""Reader of a directory of crops: ``simple_anno/keypoints_{train,test}.json`` and the crop files named there."""

from collections.abc import Generator, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from carkp.data import jpeg
from carkp.data.coco import load_json_object
from carkp.data.crops import annotation_path, meta_path
from carkp.data.files import MAX_COORDINATE_PX, is_file, stays_below
from carkp.data.frames import SPLIT_NAMES, SPLITS
from carkp.data.issues import Issues, printable
from carkp.data.store import Record, sample_id_of
from carkp.keypoints.schema import MISSING, NUM_KEYPOINTS, OCCLUDED, VISIBLE
from carkp.progress import is_hidden

UNKNOWN_TRUNCATION = -1


def read_crops(root: Path, issues: Issues, show_progress: bool = True) -> Generator[Record, None, None]:
    """Yield the crops of all splits in the order of the JSON files; unusable entries are counted in ``issues``.

    Raises:
        DataError: a file is not a JSON object.
    """
    for split in SPLIT_NAMES:
        path = annotation_path(root, split)
        if not is_file(path):
            if split in SPLITS:
                issues.warn(f"{path} is missing: there will be no {split} data")
            continue
        meta = load_json_object(meta_path(root, split)) if meta_path(root, split).is_file() else {}
        given_twice: set[str] = set()
        entries = load_json_object(path, given_twice)
        seen: set[str] = set()
        for key in sorted(given_twice):
            del entries[key]
            issues.skip("crop is listed twice, with different labels", f"{path}, {key}")
        for key, value in tqdm(entries.items(), f"{split} crops", disable=is_hidden(not show_progress), unit="crop"):
            record = _read_crop(root, split, key, value, meta.get(key), issues)
            if record is None:
                continue
            if record.sample_id in seen:
                issues.skip("crop has the same scene and name as another one", f"{path}, {key}")
                continue
            seen.add(record.sample_id)
            yield record


def list_crop_files(root: Path) -> Iterator[Path]:
    """Yield the crop files that the annotation files name and that exist.

    Raises:
        DataError: a file is not a JSON object.
    """
    for split in SPLIT_NAMES:
        if is_file(annotation_path(root, split)):
            for key in load_json_object(annotation_path(root, split)):
                relative = _relative(root, key)
                file = _find_crop(root, split, relative) if len(relative.parts) >= 3 else None
                if file is not None:
                    yield file


def _read_crop(root: Path, split: str, key: str, value: Any, meta: Any, issues: Issues) -> Record | None:
    where = f"{annotation_path(root, split)}, {key}"
    relative = _relative(root, key)
    labels = _labels(value, where, issues)
    if labels is None:
        issues.skip(f"annotation is not {NUM_KEYPOINTS} times [x, y, validity 0, 1 or 2]", where)
        return None
    if len(relative.parts) < 3:
        issues.skip("path of a crop names no scene", where)
        return None
    file = _find_crop(root, split, relative)
    if file is None:
        issues.skip("crop file is missing", where)
        return None
    read = _read_jpeg(file, issues)
    if read is None:
        return None
    data, size = read
    scene = relative.parts[-3]
    if printable(key) != key:
        issues.skip("file name is not UTF-8", where)
        return None
    sample_id = sample_id_of(split, scene, relative.stem)
    return Record(sample_id, scene, data, *labels, size, _truncation(meta))


def _read_jpeg(file: Path, issues: Issues) -> tuple[bytes, tuple[int, int]] | None:
    """Return a crop's bytes and (height, width); None if it is not a complete image."""
    try:
        data = file.read_bytes()
    except OSError as error:
        issues.skip(f"crop file cannot be read: {error.strerror}", str(file))
        return None
    size = jpeg.read_size(data)
    if size is None or jpeg.is_cut_short(data):
        issues.skip("crop file is not a JPEG or is cut short", str(file))
        return None
    image = jpeg.decode_bgr(data)
    if image is None or image.shape[:2] != size:
        issues.skip("crop file cannot be decoded, or its size is not the stated one", str(file))
        return None
    return data, size


def _labels(value: Any, where: str, issues: Issues) -> tuple[NDArray[np.float32], NDArray[np.uint8]] | None:
    """Return points and validity; a point that is not a number or far outside becomes missing, at (0, 0)."""
    try:
        table = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if table.shape != (NUM_KEYPOINTS, 3) or not np.isin(table[:, 2], (MISSING, OCCLUDED, VISIBLE)).all():
        return None
    is_far = ~(np.abs(table[:, :2]) <= MAX_COORDINATE_PX).all(axis=1)
    if lost := int((is_far & (table[:, 2] > 0)).sum()):
        issues.skip(f"keypoint is not a number or lies more than {MAX_COORDINATE_PX:.0f} pixels away", where, lost)
    table[is_far] = 0
    return table[:, :2].astype(np.float32), table[:, 2].astype(np.uint8)


def _relative(root: Path, key: str) -> PurePosixPath:
    """Return a key as a path; a backslash is a separator, unless a file with it in its name exists."""
    exact = PurePosixPath(key)
    return exact if "\\" in key and is_file(root / exact) else PurePosixPath(key.replace("\\", "/"))


def _find_crop(root: Path, split: str, relative: PurePosixPath) -> Path | None:
    """Find a crop file. Keys are relative to ``root``; in files that HAT writes, only the end of the path is used."""
    scene, directory, name = relative.parts[-3:]
    candidates = (root / relative, root / split / scene / directory / name)
    return next((path for path in candidates if stays_below(root, path) and is_file(path)), None)


def _truncation(meta: Any) -> int:
    truncated = meta.get("truncated") if isinstance(meta, dict) else None
    return int(truncated) if isinstance(truncated, bool) else UNKNOWN_TRUNCATION
