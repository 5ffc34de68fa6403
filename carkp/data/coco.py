"""Reader of the COCO keypoints JSON that is made from CarFusion: 14 keypoints, COCO visibility codes, hull boxes.

The usual files are ``annotations/car_keypoints_{train,test}.json`` beside ``train/`` and ``test/``. File names in them
are relative to the directory of the split (``car_craig1/images_jpg/1_00001.jpg``), sometimes with backslashes. The
frame sizes in them are unreliable. The split is a word in the name of the file: ``keypoints_train2017``, ``val``,
``testSet``. A file for ``val`` (``valid``, ``validation``) is used as the validation split. An annotation may also hold
traits of the car (:mod:`carkp.data.traits`): ``kind``, ``heading``, ``occluded``, ``truncated``, ``source``.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from carkp.data.carfusion import IMAGE_DIRS, NUM_RAW_IDS, unique_frame_id
from carkp.data.files import (
    MAX_COORDINATE_PX,
    NameIndex,
    exists,
    fold_name,
    is_file,
    parse_number,
    read_file,
    stays_below,
)
from carkp.data.frames import SPLIT_NAMES, SPLITS, Box, Frame, Instance, Keypoints, hull_box
from carkp.data.issues import DataError, Issues, printable
from carkp.data.traits import read_traits
from carkp.keypoints.schema import CARFUSION_IDS, MISSING, OCCLUDED, VISIBLE

Json = dict[str, Any]

_NO_IMAGE = "frame has labels but no image"
_KEPT = np.array(CARFUSION_IDS) - 1
_SPLIT_DIRS = frozenset(name for names in SPLIT_NAMES.values() for name in names)
_COCO_VISIBILITIES = (MISSING, OCCLUDED, VISIBLE)  # COCO's 0, 1, 2 are equal to carkp's validity


class AnnotationFiles(NamedTuple):
    """The JSON files of a source by split, and sentences about files that are left out."""

    chosen: dict[str, Path]
    left_out: list[str]


@dataclass
class _Content:
    """The lists of a file, and ids that several images share or that have been read."""

    path: Path
    images: list[Any]
    cars: dict[Any, list[Json]]
    shared_ids: set[Any] = field(default_factory=set)
    read_ids: set[Any] = field(default_factory=set)


def find_annotation_files(source: Path) -> dict[str, Path]:
    """Return split -> COCO JSON file, for a file or a directory (or its ``annotations/``); empty if there is none."""
    return survey_annotation_files(source).chosen


def survey_annotation_files(source: Path) -> AnnotationFiles:
    """Find the annotation files, and say which are left out.

    Of several files for a split, the first one with ``keypoints`` in its name is chosen, else the first one.
    """
    chosen: dict[str, Path] = {}
    left_out: list[str] = []
    for path in sorted(_candidates(source), key=lambda path: "keypoints" not in _words(path.stem)):
        if not is_file(path):
            why = "is a directory, a pipe or a device" if exists(path) else "is a symbolic link that leads nowhere"
            left_out.append(f"{path} {why}: it is not used")
            continue
        splits = _splits_of(path)
        if not splits or not looks_like_coco(path):
            continue
        if len(splits) > 1:
            left_out.append(f"{path} names the splits {' and '.join(splits)}: it is not used; name only one")
        elif splits[0] in chosen:
            left_out.append(f"{path} is not used: {chosen[splits[0]]} is the {splits[0]} split")
        else:
            chosen[splits[0]] = path
    return AnnotationFiles({split: chosen[split] for split in SPLIT_NAMES if split in chosen}, left_out)


def _candidates(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.suffix.lower() == ".json" else []
    found = [*sorted(source.glob("*.json")), *sorted(source.glob("annotations/*.json"))]
    return [path for path in found if not path.name.startswith(".")]


def _words(stem: str) -> list[str]:
    """Split a name into words: ``carKeypoints_train2017`` -> car, keypoints, train."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", stem)]


def _splits_of(path: Path) -> list[str]:
    words = _words(path.stem)
    found = [split for split, names in SPLIT_NAMES.items() if any(word in names for word in words)]
    return ["train"] if found == ["train", "val"] else found  # COCO's trainval is train


def read_frames(source: Path, issues: Issues, boxes: str = "files") -> list[Frame]:
    """Read the frames with a picture and a label from every annotation file of ``source``.

    ``boxes``: ``files`` reads boxes from files; ``hull`` gives each car the smallest box around its labelled keypoints.

    Raises:
        DataError: there is no annotation file, or one is not a COCO keypoints JSON.
    """
    files, left_out = survey_annotation_files(source)
    for sentence in left_out:
        issues.warn(sentence)
    if not files:
        reasons = "".join(f"; {sentence}" for sentence in left_out)
        raise DataError(
            f"{source} holds no COCO keypoints JSON with the word 'train' or 'test' in its name (as in "
            f"car_keypoints_train.json){reasons}"
        )
    for split in SPLITS:
        if split not in files:
            issues.warn(f"{source} has no COCO JSON with '{split}' in its name: there will be no {split} data")
    contents = {split: _load(path, issues) for split, path in files.items()}
    names = SceneNames.of(_file_names(content) for content in contents.values())
    return [
        frame
        for split, content in contents.items()
        for frame in _frames_of(split, content, names, issues, are_boxes_hulls=boxes == "hull")
    ]


def read_annotation_file(path: Path, split: str, issues: Issues) -> list[Frame]:
    """Read the frames of one COCO keypoints JSON of any name as frames of ``split``.

    Raises:
        DataError: the file is not a COCO keypoints JSON.
    """
    content = _load(path, issues)
    names = SceneNames.of(iter([_file_names(content)]))
    return list(_frames_of(split, content, names, issues, are_boxes_hulls=False))


def list_images(source: Path) -> Iterator[Path]:
    """Yield the pictures that the annotation files of ``source`` name and that exist.

    Raises:
        DataError: an annotation file cannot be read.
    """
    index = NameIndex()
    for split, path in find_annotation_files(source).items():
        images = load_json_object(path).get("images")
        for image in images if isinstance(images, list) else []:
            name = _file_name(image)
            file = find_image(path, split, name, index) if name else None
            if file is not None:
                yield file


def _load(path: Path, issues: Issues) -> _Content:
    given_twice: set[str] = set()
    content = load_json_object(path, given_twice)
    if both := sorted(given_twice & {"images", "annotations"}):
        raise DataError(f"{path}: {' and '.join(both)} occur twice (were two files joined?): join the lists")
    images, annotations = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise DataError(f"{path} is not a COCO keypoints JSON: it needs the lists 'images' and 'annotations'")
    cars: dict[Any, list[Json]] = defaultdict(list)
    for annotation in annotations:
        if isinstance(annotation, dict):
            cars[_id(annotation.get("image_id"))].append(annotation)
        else:
            issues.skip("COCO annotation is not an object", str(path))
    if without := len(cars.pop(None, [])):
        issues.skip("COCO annotation has no image_id", str(path), without)
    return _Content(path, images, cars, _shared_ids(images))


def _shared_ids(images: list[Any]) -> set[Any]:
    """Return the ids that several pictures have: the labels of such an id cannot be assigned to a picture."""
    names: dict[Any, set[str]] = defaultdict(set)
    for image in images:
        name = _file_name(image)
        if name:
            names[_id(image.get("id"))].add(str(_relative(name)))
    return {image_id for image_id, of_id in names.items() if image_id is not None and len(of_id) > 1}


def _frames_of(
    split: str, content: _Content, names: "SceneNames", issues: Issues, are_boxes_hulls: bool
) -> Iterator[Frame]:
    index = NameIndex()
    seen: set[Path] = set()
    taken: dict[str, set[str]] = defaultdict(set)
    for image in content.images:
        frame = _read_image(split, content, image, names, index, issues)
        if frame is None:
            continue
        annotations = content.cars.pop(_id(image.get("id")))
        content.read_ids.add(_id(image.get("id")))
        where = f"{content.path}, {frame.image}"
        if frame.image in seen:
            issues.skip("frame is listed twice in a COCO file", where)
            continue
        seen.add(frame.image)
        cars = _read_cars(annotations, where, issues, are_boxes_hulls)
        frame_id = unique_frame_id(frame.frame_id, taken[fold_name(frame.scene)], where, issues)
        yield Frame(split, frame.scene, frame_id, frame.image, cars)
    left = [image_id for image_id in content.cars if image_id not in content.shared_ids]
    if orphans := sum(len(content.cars[image_id]) for image_id in left):
        issues.skip("COCO annotation belongs to no listed image", str(content.path), orphans)


def _read_image(
    split: str, content: _Content, image: Any, names: "SceneNames", index: NameIndex, issues: Issues
) -> Frame | None:
    """Return the frame without its cars; None if it cannot be used, which is counted in ``issues``."""
    name, where = _file_name(image), str(content.path)
    if not name:
        issues.skip("COCO image has no file_name", where)
        return None
    where, image_id = f"{where}, {name}", _id(image.get("id"))
    if image_id is None:
        issues.skip("COCO image has no id", where)
        return None
    if image_id in content.shared_ids:
        issues.skip("two pictures have the same COCO image id: it is unknown which one the labels belong to", where)
        return None
    if image_id in content.read_ids:
        issues.skip("frame is listed twice in a COCO file", where)
        return None
    if not content.cars.get(image_id):
        issues.skip("frame has an image but no labels", where)
        return None
    file = find_image(content.path, split, name, index)
    if file is None:
        content.cars.pop(image_id)
        is_outside = leads_out(content.path, name)
        issues.skip(
            "picture lies outside the data directory: link it into the directory" if is_outside else _NO_IMAGE, where
        )
        return None
    _report_renamed(file, name, where, issues)
    scene, frame_id = names.name(_relative(name))
    if printable(scene + frame_id) != scene + frame_id:
        content.cars.pop(image_id)
        issues.skip("file name is not UTF-8", where)
        return None
    return Frame(split, scene, frame_id, file, ())


def _report_renamed(file: Path, name: str, where: str, issues: Issues) -> None:
    spellings = [PurePosixPath(name), _relative(name)]
    is_same = any(file.parts[-len(path.parts) :] == path.parts or path.is_absolute() for path in spellings)
    if not is_same and ".." not in name:
        issues.correct("file name differs from that on disk in case or spelling: the file on disk is used", where)


def _read_cars(annotations: list[Json], where: str, issues: Issues, are_boxes_hulls: bool) -> tuple[Instance, ...]:
    instances: list[Instance] = []
    seen: set[str] = set()
    for index, annotation in enumerate(annotations):
        content = repr((annotation.get("bbox"), annotation.get("keypoints")))
        if content in seen:
            issues.skip("COCO annotation is listed twice", f"{where}, annotation {annotation.get('id')}")
            continue
        seen.add(content)
        if _number(annotation.get("iscrowd", 0)) == 1 or annotation.get("iscrowd") is True:
            issues.skip(
                "COCO annotation is a crowd (iscrowd), not a single car", f"{where}, annotation {annotation.get('id')}"
            )
            continue
        instance = parse_annotation(index, annotation, where, issues, are_boxes_hulls)
        if instance is not None:
            instances.append(instance)
    return tuple(instances)


def parse_annotation(
    index: int, annotation: Json, where: str, issues: Issues, are_boxes_hulls: bool = False
) -> Instance | None:
    """Return a car; None if the annotation cannot be used, which is counted in ``issues``."""
    where = f"{where}, annotation {annotation.get('id')}"
    keypoints = _parse_keypoints(annotation.get("keypoints"), where, issues)
    box = parse_box(annotation.get("bbox"))
    if are_boxes_hulls and keypoints is not None:
        box = hull_box(keypoints)
    if box is None:
        reason = "car's keypoints span no box" if are_boxes_hulls else "COCO box is empty or not four numbers"
        issues.skip(reason, where)
        return None
    if keypoints is None:
        issues.skip(f"COCO annotation does not hold {NUM_RAW_IDS} keypoints", where)
        return None
    return Instance(index, box, keypoints, read_traits(annotation, where, issues))


def parse_box(value: Any) -> Box | None:
    """Return a box; None if it is not a list of four numbers, is empty, or is far outside of any picture."""
    numbers = [_number(item) for item in value] if isinstance(value, list) else []
    if len(numbers) != 4 or not all(abs(number) <= MAX_COORDINATE_PX for number in numbers):
        return None
    box = Box(*numbers)
    return box if box.width > 0 and box.height > 0 else None


def _parse_keypoints(values: Any, where: str, issues: Issues) -> Keypoints | None:
    """Return the keypoints; None if the list has a wrong length.

    A keypoint that is not a number, at (0, 0) or far outside becomes missing.
    """
    if not isinstance(values, list) or len(values) != 3 * NUM_RAW_IDS:
        return None
    table = np.array([_number(value) for value in values]).reshape(NUM_RAW_IDS, 3)[_KEPT]
    is_known = np.isin(table[:, 2], _COCO_VISIBILITIES)
    if not is_known.all():
        issues.skip("COCO visibility is not 0, 1 or 2", where, int((~is_known).sum()))
    is_labelled = is_known & (table[:, 2] != MISSING)
    is_near = (np.abs(table[:, :2]) <= MAX_COORDINATE_PX).all(axis=1)  # False for NaN
    if lost := int((is_labelled & ~is_near).sum()):
        reason = f"COCO keypoint is not a number or lies more than {MAX_COORDINATE_PX:.0f} pixels away"
        issues.skip(reason, where, lost)
    is_nowhere = is_labelled & (table[:, :2] == 0).all(axis=1)
    if unplaced := int(is_nowhere.sum()):
        issues.skip("COCO keypoint at (0, 0), which means never labelled", where, unplaced)
    is_kept = is_labelled & is_near & ~is_nowhere
    validity = np.where(is_kept, table[:, 2], MISSING).astype(np.uint8)
    points = np.where(is_kept[:, None], table[:, :2], 0).astype(np.float32)
    return Keypoints(points, validity)


@dataclass(frozen=True)
class SceneNames:
    """Determines the scene and the name of a frame from its path.

    The directory of the pictures is the scene. If several scenes have directories with the same name
    (``<scene>/<camera>/<frame>.jpg``), the directory above is the scene and ``<camera>_<frame>`` the name of the frame.
    """

    has_cameras: bool

    @staticmethod
    def of(paths_of_files: Iterator[list[PurePosixPath]]) -> "SceneNames":
        above: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        for paths in paths_of_files:
            for parents in {_parents_of(path) for path in paths}:
                if parents:
                    above[parents[-1]].add(parents[:-1])
        return SceneNames(any(len(directories) > 1 for directories in above.values()))

    def name(self, path: PurePosixPath) -> tuple[str, str]:
        parents = _parents_of(path)
        if self.has_cameras and len(parents) > 1:
            return parents[-2], f"{parents[-1]}_{path.stem}"
        return scene_of(path), path.stem


def scene_of(file_name: PurePosixPath) -> str:
    """Return the directory of the picture, or the one above it if it is ``images_jpg`` or ``images``."""
    parents = _parents_of(file_name)
    return parents[-1] if parents else "unnamed"


def _parents_of(file_name: PurePosixPath) -> tuple[str, ...]:
    """Return the directories that distinguish pictures: without that of the split and without ``images_jpg``."""
    parents = [part for part in file_name.parts[:-1] if part not in (".", "..", "/")]
    if parents and parents[-1] in IMAGE_DIRS:
        parents.pop()
    if parents and parents[-1] in _SPLIT_DIRS:
        return ()
    return tuple(part for part in parents if part not in _SPLIT_DIRS)


def find_image(
    annotation_file: Path, split: str, file_name: PurePosixPath | str, index: NameIndex | None = None
) -> Path | None:
    """Find a picture beside the JSON file or above it, with or without the name of the split; None if there is none.

    A name that leads out of the directory above the JSON file finds nothing.

    If no file has exactly this name, a file is taken whose name differs only in Unicode composition or in case.
    """
    here = annotation_file.parent
    names = SPLIT_NAMES.get(split, (split,))
    places = here.parent, here, here.parent / "images", here / "images"
    directories = (split, *names, *(f"{name}2017" for name in names))
    bases = list(dict.fromkeys([*(place / name for name in directories for place in places), *places]))
    candidates = _existing(bases, file_name, index or NameIndex())
    return next((path for path in candidates if stays_below(here.parent, path)), None)


def leads_out(annotation_file: Path, file_name: str) -> bool:
    """Return whether a name leads to an existing file that is not below the directory above the annotations."""
    places = annotation_file.parent.parent, annotation_file.parent
    found = [place / spelling for place in places for spelling in (file_name, _relative(file_name))]
    return any(is_file(path) and not stays_below(places[0], path) for path in found)


def _existing(bases: list[Path], file_name: PurePosixPath | str, index: NameIndex) -> Iterator[Path]:
    """Yield the files that may be meant, the most likely first."""
    exact = str(file_name)
    relatives = dict.fromkeys([PurePosixPath(exact), _relative(exact)])  # a backslash may be part of a name
    yield from (base / relative for relative in relatives for base in bases if is_file(base / relative))
    found_loosely = (index.find(base, relative) for relative in relatives for base in bases if exists(base))
    yield from (path for path in found_loosely if path is not None)


def _file_names(content: _Content) -> list[PurePosixPath]:
    return [_relative(name) for name in map(_file_name, content.images) if name]


def _file_name(image: Any) -> str:
    name = image.get("file_name") if isinstance(image, dict) else None
    return name if isinstance(name, str) else ""


def _relative(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))


def load_json_object(path: Path, given_twice: set[str] | None = None) -> Json:
    """Return the object of a JSON file; keys that occur twice with different values are added to ``given_twice``.

    Raises:
        DataError: the file cannot be read, is not JSON (with line and column), or is not an object.
    """
    try:
        hook = None if given_twice is None else partial(_keep_first, given_twice)
        content = json.loads(read_file(path), object_pairs_hook=hook)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON at column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        encoding = error.encoding.upper()
        raise DataError(f"{path} is not JSON: no valid {encoding} at byte {error.start}; save it as UTF-8") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists nested a thousand deep
        raise DataError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    return content


def _keep_first(given_twice: set[str], pairs: list[tuple[str, Any]]) -> Json:
    """Keep the first value of each key; ``given_twice`` is of the last completed object, at the end the outermost."""
    content: Json = {}
    different = {key for key, value in pairs if content.setdefault(key, value) is not value and content[key] != value}
    given_twice.clear()
    given_twice.update(different)
    return content


def looks_like_coco(path: Path) -> bool:
    """Return whether the file has COCO's lists near its start or its end, without parsing tens of megabytes.

    The result is True for a file that cannot be opened: reading it later reports the reason.
    """
    try:
        with path.open("rb") as file:
            head = file.read(2**16)
            file.seek(max(0, path.stat().st_size - 2**16))
            text = (head + file.read()).replace(b"\0", b"")  # UTF-16 has zeros between the letters
    except OSError:
        return True
    return b'"annotations"' in text or b'"images"' in text


def _number(value: Any) -> float:
    """Convert a number, or text with a number; NaN for anything else, infinity for numbers that are too large."""
    if isinstance(value, str):
        number = parse_number(value)
        return float("nan") if number is None else number
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _id(value: Any) -> Any:
    """Return an id that can be compared: 1, 1.0 and "1" become equal; None if there is no id."""
    if value is None or value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        match = re.fullmatch(r"(-?(?:0|[1-9][0-9]{0,18}))(?:\.0+)?", value.strip())
        return int(match.group(1)) if match else value
    return value if isinstance(value, int) and not isinstance(value, bool) else repr(value)
