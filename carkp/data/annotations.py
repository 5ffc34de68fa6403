"""Reader of a directory of crops: ``simple_anno/keypoints_{train,test}.json`` and the crop files it names."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carkp.data.coco import load_json_object
from carkp.data.crops import annotation_path, meta_path
from carkp.data.issues import Issues
from carkp.keypoints.schema import MISSING, NUM_KEYPOINTS, OCCLUDED, VISIBLE

UNKNOWN_TRUNCATION = -1


@dataclass(frozen=True, eq=False)
class CropEntry:
    """A crop file with its labels.

    Attributes:
        file: where the JPEG is.
        sample_id: ``<split>/<scene>/<frame>_<i>``.
        scene: the scene's name.
        frame_id: the frame's name.
        points: (K, 2) float32 in crop pixels.
        validity: (K,) uint8.
        truncated: 1 cut by the frame, 0 whole, -1 unknown.
    """

    file: Path
    sample_id: str
    scene: str
    frame_id: str
    points: NDArray[np.float32]
    validity: NDArray[np.uint8]
    truncated: int


def read_entries(root: Path, split: str, issues: Issues) -> Iterator[CropEntry]:
    """The entries of a split in the order of its JSON file; nothing where the file is missing.

    Raises:
        DataError: a file is no JSON object.
    """
    path = annotation_path(root, split)
    if not path.is_file():
        issues.warn(f"{path} is missing: there will be no {split} data")
        return
    meta = load_json_object(meta_path(root, split)) if meta_path(root, split).is_file() else {}
    for key, value in load_json_object(path).items():
        where = f"{path}, {key}"
        labels = _labels(value)
        if labels is None:
            issues.skip(f"annotation is not {NUM_KEYPOINTS} times [x, y, validity 0, 1 or 2]", where)
            continue
        relative = PurePosixPath(key.replace("\\", "/"))
        if len(relative.parts) < 3:
            issues.skip("path of a crop names no scene", where)
            continue
        scene, stem = relative.parts[-3], relative.stem
        file = _find_crop(root, split, relative)
        if file is None:
            issues.skip("crop file is missing", where)
            continue
        sample_id = f"{split}/{scene}/{stem}"
        yield CropEntry(file, sample_id, scene, stem.rpartition("_")[0] or stem, *labels, _truncation(meta.get(key)))


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
