"""Reader of a directory of crops: ``simple_anno/keypoints_{train,test}.json`` and the crop files it names."""

from collections.abc import Generator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from carkp.data import jpeg
from carkp.data.coco import load_json_object
from carkp.data.crops import annotation_path, meta_path
from carkp.data.frames import SPLITS
from carkp.data.issues import Issues
from carkp.data.store import Record, sample_id_of
from carkp.keypoints.schema import MISSING, NUM_KEYPOINTS, OCCLUDED, VISIBLE

UNKNOWN_TRUNCATION = -1


def read_crops(root: Path, issues: Issues, show_progress: bool = True) -> Generator[Record, None, None]:
    """The crops of both splits in the order of the JSON files; what cannot be used is counted in ``issues``.

    Raises:
        DataError: a file is no JSON object.
    """
    for split in SPLITS:
        path = annotation_path(root, split)
        if not path.is_file():
            issues.warn(f"{path} is missing: there will be no {split} data")
            continue
        meta = load_json_object(meta_path(root, split)) if meta_path(root, split).is_file() else {}
        entries = load_json_object(path)
        for key, value in tqdm(entries.items(), f"{split} crops", disable=not show_progress, unit="crop"):
            record = _read_crop(root, split, key, value, meta.get(key), issues)
            if record is not None:
                yield record


def _read_crop(root: Path, split: str, key: str, value: Any, meta: Any, issues: Issues) -> Record | None:
    where = f"{annotation_path(root, split)}, {key}"
    relative = PurePosixPath(key.replace("\\", "/"))
    labels = _labels(value)
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
    data = file.read_bytes()
    size = jpeg.read_size(data)
    if size is None or jpeg.is_cut_short(data):
        issues.skip("crop file is no JPEG or is cut short", str(file))
        return None
    scene = relative.parts[-3]
    sample_id = sample_id_of(split, scene, relative.stem)
    return Record(sample_id, scene, data, *labels, size, _truncation(meta))


def _labels(value: Any) -> tuple[NDArray[np.float32], NDArray[np.uint8]] | None:
    try:
        table = np.array(value, np.float64)
    except (TypeError, ValueError):
        return None
    if table.shape != (NUM_KEYPOINTS, 3) or not np.isfinite(table).all():
        return None
    if not np.isin(table[:, 2], (MISSING, OCCLUDED, VISIBLE)).all():
        return None
    return table[:, :2].astype(np.float32), table[:, 2].astype(np.uint8)


def _find_crop(root: Path, split: str, relative: PurePosixPath) -> Path | None:
    """Keys are relative to ``root`` here, and relative to anywhere in what HAT writes: then their end counts."""
    scene, directory, name = relative.parts[-3:]
    candidates = (root / relative, root / split / scene / directory / name)
    return next((path for path in candidates if path.is_file()), None)


def _truncation(meta: Any) -> int:
    truncated = meta.get("truncated") if isinstance(meta, dict) else None
    return int(truncated) if isinstance(truncated, bool) else UNKNOWN_TRUNCATION
