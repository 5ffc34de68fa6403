"""Labelled cars in photographs for evaluating models: read from three layouts, and cropped as in data preparation.

- A list: ``annotations.json`` beside ``images/``, one entry per car: ``image``, ``box`` [x, y, width, height],
  ``keypoints`` (12 rows x, y, v in carkp's order; v 2 visible, 1 hidden but placed, 0 not annotated), and the car's
  traits (:mod:`carkp.data.traits`).
- COCO keypoints JSON, as :mod:`carkp.data.coco` reads it; here the file may have any name.
- CarFusion's raw layout, ``train/<scene>/images_jpg`` and so on.

The ids of the cars determine the clusters that :mod:`carkp.keypoints.clusters` resamples as a whole. A cluster is a
photograph, ``<folder>/…/<picture>/<i>``. If pictures are named like CarFusion's, ``<camera>_<frame>``, it is the camera
of the scene, because its frames are neighbours in a video.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from carkp.data import coco
from carkp.data.carfusion import FrameFiles
from carkp.data.crops import cut_frame
from carkp.data.files import (
    MAX_COORDINATE_PX,
    exists,
    expand_path,
    is_clutter,
    is_directory,
    is_file,
    read_file,
    stays_below,
)
from carkp.data.frames import Box, Frame, Instance, Keypoints
from carkp.data.issues import DataError, Issues, printable
from carkp.data.loose_boxes import EXACT_BOXES, BoxRule
from carkp.data.source import SourceKind, detect_source_kind, list_source_frames
from carkp.data.store import Record
from carkp.data.traits import Traits, read_traits
from carkp.keypoints.schema import MISSING, NUM_KEYPOINTS, OCCLUDED, VISIBLE

LIST_NAME = "annotations.json"
SPLIT = "test"
"""Split of frames whose layout names no split."""

_CAMERA_AND_FRAME = re.compile(r"\d+_\d+")
_LIST_START = re.compile(rb"\A(?:\xef\xbb\xbf)?\s*\[")


@dataclass(frozen=True, eq=False)
class LabelledCar:
    """A car as data preparation packs it, and its traits."""

    record: Record
    traits: Traits

    @property
    def described(self) -> dict[str, str]:
        """The traits in words, ``unknown`` if not annotated; ``truncated`` comes from the record."""
        truncated = {0: False, 1: True}.get(self.record.truncated)
        return replace(self.traits, truncated=truncated).in_words()


def read_labelled_cars(
    folders: Sequence[Path], jpeg_quality: int, issues: Issues, rule: BoxRule = EXACT_BOXES
) -> list[LabelledCar]:
    """Read the cars with a labelled keypoint from all folders, in a fixed order; count unusable data in ``issues``.

    ``rule`` gives the boxes of the crops.

    Raises:
        DataError: a folder does not exist, has none of the three layouts, or has no such car.
    """
    cars: list[LabelledCar] = []
    for name, folder in zip(_names_of(folders), folders, strict=True):
        found = list(_cut_cars(name, read_frames(folder, issues), jpeg_quality, issues, rule))
        if not found:
            why = issues.describe_skipped()
            raise DataError(f"{folder}: has no car with a labelled keypoint{f'; left out: {why}' if why else ''}")
        cars += found
    return cars


def read_frames(folder: Path, issues: Issues) -> list[FrameFiles] | list[Frame]:
    """Read the frames of one folder, or of one JSON file.

    Raises:
        DataError: the path does not exist, or has none of the three layouts.
    """
    folder = expand_path(folder)
    if (listed := _list_file(folder)) is not None:
        return _read_list(listed, issues)
    files = _files_without_split(folder)
    if files:
        return [frame for path in files for frame in coco.read_annotation_file(path, SPLIT, issues)]
    if not exists(folder):
        raise DataError(f"{folder}: no such folder of real cars")
    kind = detect_source_kind(folder)
    if kind is SourceKind.CROPS:
        raise DataError(f"{folder}: holds crops; give the original pictures, with boxes and keypoints")
    return list_source_frames(folder, kind, issues)


def _list_file(folder: Path) -> Path | None:
    """Return the file of the list layout; None if there is none."""
    path = folder / LIST_NAME if is_directory(folder) else folder
    if not is_file(path) or path.suffix.lower() != ".json":
        return None
    try:
        with path.open("rb") as file:
            return path if _LIST_START.match(file.read(64)) else None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _files_without_split(source: Path) -> list[Path]:
    """Return all COCO files if none of them names a split; return an empty list if one does."""
    if is_file(source):
        return [] if coco.find_annotation_files(source) else [source]
    if not is_directory(source) or coco.find_annotation_files(source):
        return []
    found = sorted([*source.glob("*.json"), *source.glob("annotations/*.json")])
    return [path for path in found if not is_clutter(path.name) and is_file(path) and coco.looks_like_coco(path)]


def _names_of(folders: Iterable[Path]) -> list[str]:
    """Return a unique name for each folder: its own, with a number if another folder has the same name."""
    names: list[str] = []
    for folder in folders:
        resolved = expand_path(folder).resolve()
        own = printable(resolved.stem if resolved.suffix == ".json" else resolved.name) or "cars"
        names.append(own if own not in names else f"{own}~{len(names)}")
    return names


def _cut_cars(
    name: str, frames: Iterable[FrameFiles | Frame], jpeg_quality: int, issues: Issues, rule: BoxRule
) -> Iterator[LabelledCar]:
    for frame in frames:
        for index, crop in enumerate(cut_frame(frame, jpeg_quality, issues, rule)):
            if not crop.record.validity.any():
                issues.skip("car has no labelled keypoint in its box", f"{frame.image}, car {index}")
                continue
            yield LabelledCar(replace(crop.record, sample_id=_id_of(name, frame, index)), crop.traits)


def _id_of(name: str, frame: FrameFiles | Frame, index: int) -> str:
    joint = "_" if _CAMERA_AND_FRAME.fullmatch(frame.frame_id) else "/"
    parts = [part for part in (name, frame.split, frame.scene) if part]
    return "/".join([*parts, f"{frame.frame_id}{joint}{index}"])


def _read_list(path: Path, issues: Issues) -> list[Frame]:
    """Read the frames of the list layout, in the order in which their pictures are first named."""
    cars: dict[str, list[Instance]] = {}
    for number, entry in enumerate(_load_list(path)):
        where = f"{path}, entry {number}"
        image = entry.get("image") if isinstance(entry, dict) else None
        instance = _read_entry(entry, len(cars.get(image, [])), where, issues) if isinstance(image, str) else None
        if not isinstance(image, str) or not image:
            issues.skip("entry is not an object that names an image", where)
        elif instance is not None:
            cars.setdefault(image, []).append(instance)
    frames = []
    for image, instances in cars.items():
        candidates = (path.parent / "images" / image, path.parent / image)
        file = next((found for found in candidates if stays_below(path.parent, found) and is_file(found)), None)
        if file is None:
            issues.skip("frame has labels but no image", f"{path}, {image}", len(instances))
            continue
        frame_id = printable(Path(image).with_suffix("").as_posix().replace("/", "~"))
        frames.append(Frame("", "", frame_id, file, tuple(instances)))
    return frames


def _load_list(path: Path) -> list[Any]:
    try:
        content = json.loads(read_file(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON at column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of cars, found a {type(content).__name__}")
    return content


def _read_entry(entry: dict[str, Any], index: int, where: str, issues: Issues) -> Instance | None:
    box, keypoints = coco.parse_box(entry.get("box")), _read_keypoints(entry.get("keypoints"))
    if box is None:
        issues.skip("box is empty or not four numbers", where)
        return None
    if keypoints is None:
        issues.skip(f"keypoints are not {NUM_KEYPOINTS} times [x, y, 0, 1 or 2]", where)
        return None
    return Instance(index, Box(*box), keypoints, read_traits(entry, where, issues))


def _read_keypoints(value: Any) -> Keypoints | None:
    try:
        table = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if table.shape != (NUM_KEYPOINTS, 3) or not np.isin(table[:, 2], (MISSING, OCCLUDED, VISIBLE)).all():
        return None
    is_labelled = table[:, 2] != MISSING
    if not (np.abs(table[is_labelled, :2]) <= MAX_COORDINATE_PX).all():
        return None
    points = np.where(is_labelled[:, None], table[:, :2], 0).astype(np.float32)
    return Keypoints(points, table[:, 2].astype(np.uint8))
