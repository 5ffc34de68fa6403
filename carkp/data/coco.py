"""Reader of the COCO keypoints JSON that is made from CarFusion: 14 keypoints, COCO visibility codes, hull boxes.

The usual files are ``annotations/car_keypoints_{train,test}.json`` beside ``train/`` and ``test/``; file names are
relative to the split's directory (``car_craig1/images_jpg/1_00001.jpg``), sometimes with backslashes, and frame sizes
are not to be trusted.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from carkp.data.carfusion import IMAGE_DIRS, NUM_RAW_IDS
from carkp.data.frames import SPLITS, Box, Frame, Instance, Keypoints
from carkp.data.issues import DataError, Issues
from carkp.keypoints.schema import CARFUSION_IDS, MISSING, OCCLUDED, VISIBLE

Json = dict[str, Any]

_KEPT = np.array(CARFUSION_IDS) - 1
_COCO_VISIBILITIES = (MISSING, OCCLUDED, VISIBLE)  # COCO's 0, 1, 2 happen to be our validity


def find_annotation_files(source: Path) -> dict[str, Path]:
    """Split -> COCO JSON file, from a file or a directory (itself or its ``annotations/``); empty where none is."""
    if source.is_file():
        candidates = [source] if source.suffix.lower() == ".json" else []
    else:
        candidates = [*sorted(source.glob("*.json")), *sorted(source.glob("annotations/*.json"))]
    found: dict[str, Path] = {}
    for path in candidates:
        split = next((split for split in SPLITS if split in path.stem.lower()), None)
        if split and split not in found and _looks_like_coco(path):
            found[split] = path
    return found


def read_frames(source: Path, issues: Issues) -> list[Frame]:
    """The frames of every annotation file of ``source`` that have a picture and a car.

    Raises:
        DataError: no annotation file, or one that is no COCO keypoints JSON.
    """
    files = find_annotation_files(source)
    if not files:
        raise DataError(f"{source} holds no COCO keypoints JSON with 'train' or 'test' in its name")
    for split in SPLITS:
        if split not in files:
            issues.warn(f"{source} has no COCO JSON with '{split}' in its name: there will be no {split} data")
    return [frame for split, path in files.items() for frame in _read_file(split, path, issues)]


def _read_file(split: str, path: Path, issues: Issues) -> Iterator[Frame]:
    content = load_json_object(path)
    images, annotations = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise DataError(f"{path} is no COCO keypoints JSON: it needs the lists 'images' and 'annotations'")
    cars: dict[Any, list[Json]] = defaultdict(list)
    for annotation in annotations:
        if isinstance(annotation, dict):
            cars[_hashable(annotation.get("image_id"))].append(annotation)
        else:
            issues.skip("COCO annotation is no object", str(path))
    seen: set[tuple[str, str]] = set()
    for image in images:
        frame = _read_image(split, path, image, cars, issues)
        if frame is None:
            continue
        if (frame.scene, frame.frame_id) in seen:
            issues.skip("frame is listed twice in a COCO file", f"{path}, {frame.image}")
            continue
        seen.add((frame.scene, frame.frame_id))
        yield frame
    if orphans := sum(len(rest) for rest in cars.values()):
        issues.skip("COCO annotation belongs to no listed image", str(path), orphans)


def _read_image(split: str, path: Path, image: Any, cars: dict[Any, list[Json]], issues: Issues) -> Frame | None:
    name = image.get("file_name") if isinstance(image, dict) else None
    if not isinstance(name, str) or not name:
        issues.skip("COCO image has no file_name", str(path))
        return None
    annotations = cars.pop(_hashable(image.get("id")), [])
    where = f"{path}, {name}"
    if not annotations:
        issues.skip("frame has an image and no labels", where)
        return None
    relative = PurePosixPath(name.replace("\\", "/"))
    file = find_image(path, split, relative)
    if file is None:
        issues.skip("frame has labels and no image", where)
        return None
    read = (parse_annotation(index, annotation, where, issues) for index, annotation in enumerate(annotations))
    instances = tuple(instance for instance in read if instance is not None)
    return Frame(split, scene_of(relative), relative.stem, file, instances)


def parse_annotation(index: int, annotation: Json, where: str, issues: Issues) -> Instance | None:
    """A car; None, counted in ``issues``, where the annotation cannot be used."""
    where = f"{where}, annotation {annotation.get('id')}"
    box = _numbers(annotation.get("bbox"), 4)
    if box is None or box[2] <= 0 or box[3] <= 0:
        issues.skip("COCO box is empty or not four numbers", where)
        return None
    values = _numbers(annotation.get("keypoints"), 3 * NUM_RAW_IDS)
    if values is None:
        issues.skip(f"COCO annotation does not hold {NUM_RAW_IDS} keypoints", where)
        return None
    table = np.array(values).reshape(NUM_RAW_IDS, 3)[_KEPT]
    is_known = np.isin(table[:, 2], _COCO_VISIBILITIES)
    if not is_known.all():
        issues.skip("COCO visibility is not 0, 1 or 2", where, int((~is_known).sum()))
    validity = np.where(is_known, table[:, 2], MISSING).astype(np.uint8)
    points = np.where(validity[:, None] > 0, table[:, :2], 0).astype(np.float32)
    return Instance(index, Box(*box), Keypoints(points, validity))


def scene_of(file_name: PurePosixPath) -> str:
    """The directory above the picture's, where that is ``images_jpg`` or ``images``; else the picture's own."""
    parents = [part for part in file_name.parts[:-1] if part not in (".", "..", "/")]
    if parents and parents[-1] in IMAGE_DIRS:
        parents.pop()
    return parents[-1] if parents and parents[-1] not in SPLITS else "unnamed"


def find_image(annotation_file: Path, split: str, file_name: PurePosixPath) -> Path | None:
    """The picture, looked for beside the JSON file and above it, with and without the split's name; None if nowhere."""
    here = annotation_file.parent
    bases = [here.parent / split, here / split, here.parent, here]
    candidates = [base / file_name for base in bases]
    return next((path for path in candidates if path.is_file()), None)


def load_json_object(path: Path) -> Json:
    """The object of a JSON file.

    Raises:
        DataError: unreadable, not JSON (with line and column), or not an object.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON at column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not JSON: not UTF-8 at byte {error.start}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    return content


def _looks_like_coco(path: Path) -> bool:
    """Whether the file names COCO's lists near its start or its end, without parsing tens of megabytes."""
    with path.open("rb") as file:
        head = file.read(2**16)
        file.seek(max(0, path.stat().st_size - 2**16))
        text = head + file.read()
    return b'"annotations"' in text or b'"images"' in text


def _numbers(values: Any, count: int) -> list[float] | None:
    if not isinstance(values, list) or len(values) != count:
        return None
    is_number = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    return [float(v) for v in values] if is_number else None


def _hashable(image_id: Any) -> Any:
    return image_id if isinstance(image_id, int | str) else repr(image_id)
