"""Reader of CarFusion's raw layout: ``{train,test}/<scene>/{images_jpg,gt,bb}/<camera>_<frame>.{jpg,txt,txt}``.

A directory ``val`` (also ``valid``, ``validation``) beside ``train`` is the validation split.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from carkp.data.files import (
    MAX_COORDINATE_PX,
    fold_name,
    is_clutter,
    is_directory,
    is_file,
    is_utf8,
    list_directory,
    parse_number,
    read_lines,
)
from carkp.data.frames import (
    IMAGE_SUFFIXES,
    SPLIT_NAMES,
    SPLITS,
    Box,
    Frame,
    Instance,
    Keypoints,
    hull_box,
    no_keypoints,
)
from carkp.data.issues import DataError, Issues
from carkp.keypoints.schema import CARFUSION_IDS, OCCLUDED, VISIBLE

KNOWN_SCENES: dict[str, tuple[str, ...]] = {
    "train": (
        "car_butler1",
        "car_butler2",
        "car_craig1",
        "car_craig2",
        "car_fifth1",
        "car_fifth2",
        "car_morewood1",
        "car_morewood2",
    ),
    "test": ("car_penn1", "car_penn2"),
}
IMAGE_DIRS: tuple[str, ...] = ("images_jpg", "images")
SCENE_DIRS: tuple[str, ...] = (*IMAGE_DIRS, "gt", "bb")

NUM_RAW_IDS = 14
VALIDITY_OF_VISIBILITY: dict[int, int] = {1: VISIBLE, 2: OCCLUDED, 3: VISIBLE}
"""CarFusion's visibility -> carkp's validity; 3 is undocumented and treated as visible."""

NO_BOXES_REMEDY = (
    "set data.boxes=hull to compute each car's box from its keypoints, or give the COCO JSON made from these data"
)

CONTAINMENT_TOLERANCE_PX = 2.0
MAX_INSTANCE_ID = 10**6
"""Largest id of an instance: no frame has so many lines of boxes."""

_BOX_LINE = re.compile(r"^\s*\[?([^\[\]]*)\]\s*(?:,.*)?$")
_INDEX_OF_ID = {carfusion_id: index for index, carfusion_id in enumerate(CARFUSION_IDS)}


@dataclass(frozen=True)
class FrameFiles:
    """The files of a frame; ``boxes`` or ``keypoints`` is None if there is no such file.

    ``are_boxes_hulls``: whether boxes are computed from the keypoints, and the box file is ignored.
    """

    split: str
    scene: str
    frame_id: str
    image: Path
    boxes: Path | None
    keypoints: Path | None
    are_boxes_hulls: bool = False


class BoxReadings(NamedTuple):
    """The box as a line is written, and the box with width and height exchanged."""

    spelled: Box
    exchanged: Box


def is_scene_dir(path: Path) -> bool:
    return not is_clutter(path.name) and any(is_directory(path / name) for name in SCENE_DIRS)


def split_dirs(root: Path) -> dict[str, Path]:
    """Return the directory of each split below ``root``, in the order train, val, test.

    Raises:
        DataError: a split has several directories.
    """
    found: dict[str, Path] = {}
    for split, names in SPLIT_NAMES.items():
        own = [root / name for name in names if is_directory(root / name)]
        if len(own) > 1:
            listed = ", ".join(path.name for path in own)
            raise DataError(f"{root} has several directories for the {split} split ({listed}): keep only one of them")
        if own:
            found[split] = own[0]
    return found


def list_frames(root: Path, issues: Issues, boxes: str = "files") -> list[FrameFiles]:
    """List the frames under ``root`` that have a picture and at least one label file, in a fixed order.

    ``boxes``: ``files`` reads boxes from files; ``hull`` gives each car the smallest box around its labelled keypoints.

    Raises:
        DataError: ``root`` has neither ``train`` nor ``test``.
    """
    splits = split_dirs(root)
    if not any(split in splits for split in SPLITS):
        raise DataError(f"{root} has neither train/ nor test/: give the directory that contains them")
    frames: list[FrameFiles] = []
    for split, split_dir in splits.items():
        for scene_dir in _scene_dirs(split_dir, issues):
            frames += _scene_frames(split, scene_dir, issues, are_boxes_hulls=boxes == "hull")
    _warn_of_absent_scenes(root, splits, issues)
    if boxes != "hull":
        _warn_of_absent_boxes(frames, issues)
    return frames


def read_frame(files: FrameFiles, issues: Issues) -> Frame:
    """Read the cars of a frame that have a box; everything else is counted in ``issues``."""
    keypoints = parse_keypoints(files.keypoints, issues) if files.keypoints else {}
    if files.are_boxes_hulls:
        instances = _hull_instances(files, keypoints, issues)
    else:
        instances = _boxed_instances(files, keypoints, issues)
    return Frame(files.split, files.scene, files.frame_id, files.image, tuple(instances))


def _boxed_instances(files: FrameFiles, keypoints: dict[int, Keypoints], issues: Issues) -> list[Instance]:
    boxes = parse_boxes(files.boxes, issues) if files.boxes else {}
    instances = []
    for instance_id, readings in boxes.items():
        car = keypoints.pop(instance_id, None) or no_keypoints()
        box = choose_box(readings, car)
        if box != readings.spelled:
            issues.correct(
                "box width and height exchanged to contain the keypoints", f"{files.boxes}:{instance_id + 1}"
            )
        instances.append(Instance(instance_id, box, car))
    if keypoints:
        reason = "car has keypoints but no box"
        issues.skip(reason, f"{files.keypoints}, instance {min(keypoints)}", len(keypoints))
    return instances


def _hull_instances(files: FrameFiles, keypoints: dict[int, Keypoints], issues: Issues) -> list[Instance]:
    instances = []
    for instance_id, car in sorted(keypoints.items()):
        box = hull_box(car)
        if box is None:
            issues.skip("car's keypoints span no box", f"{files.keypoints}, instance {instance_id}")
        else:
            instances.append(Instance(instance_id, box, car))
    return instances


def parse_boxes(path: Path, issues: Issues) -> dict[int, BoxReadings]:
    """Read a box file; return line number (from 0, including blank lines) -> box, for every line with a box."""
    boxes: dict[int, BoxReadings] = {}
    name = str(path)
    for index, line in enumerate(_read(path, issues)):
        where = f"{name}:{index + 1}"
        if not line.strip():
            issues.skip("blank line in a box file", where)
            continue
        readings = parse_box(line)
        if readings is None:
            issues.skip("box line does not hold four numbers in brackets", where)
        elif readings.spelled.width <= 0 or readings.spelled.height <= 0:
            issues.skip("box is empty", where)
        elif max(map(abs, readings.spelled)) > MAX_COORDINATE_PX:
            issues.skip(f"box reaches more than {MAX_COORDINATE_PX:.0f} pixels away", where)
        else:
            boxes[index] = readings
    return boxes


def parse_box(line: str) -> BoxReadings | None:
    """Read ``[x y w h],car`` or ``[x, y, h, w],car``; return None if the line is neither."""
    match = _BOX_LINE.match(line)
    if match is None:
        return None
    text = match.group(1)
    parts = text.split(",") if "," in text else text.split()
    numbers = _finite_numbers(parts)
    if numbers is None or len(numbers) != 4:
        return None
    x, y, third, fourth = numbers
    as_width_height, as_height_width = Box(x, y, third, fourth), Box(x, y, fourth, third)
    return (
        BoxReadings(as_height_width, as_width_height) if "," in text else BoxReadings(as_width_height, as_height_width)
    )


def choose_box(readings: BoxReadings, car: Keypoints) -> Box:
    """Return the box as written, unless the exchanged one contains more of the labelled keypoints."""
    inside_spelled = _num_contained(readings.spelled, car)
    inside_exchanged = _num_contained(readings.exchanged, car)
    return readings.exchanged if inside_exchanged > inside_spelled else readings.spelled


def parse_keypoints(path: Path, issues: Issues) -> dict[int, Keypoints]:
    """Read a keypoint file; return instance id -> keypoints, for every car with at least one usable line."""
    cars: dict[int, Keypoints] = {}
    name = str(path)
    for index, line in enumerate(_read(path, issues)):
        _parse_keypoint_line(line, f"{name}:{index + 1}", cars, issues)
    return cars


def _parse_keypoint_line(line: str, where: str, cars: dict[int, Keypoints], issues: Issues) -> None:
    if not line.strip():
        issues.skip("blank line in a keypoint file", where)
        return
    numbers = _finite_numbers(line.strip().rstrip(",").split(","))
    if numbers is None or len(numbers) < 5:
        issues.skip("keypoint line does not hold five numbers", where)
        return
    if len(numbers) > 5:  # with commas for decimal points, x would be read as x, y
        issues.skip("keypoint line holds more than five numbers (decimal commas?)", where)
        return
    x, y = numbers[:2]
    problem = _problem_of_keypoint(x, y, *numbers[2:5])
    if problem is not None:
        issues.skip(problem, where)
        return
    instance_id = int(numbers[3])
    if instance_id not in cars:
        cars[instance_id] = no_keypoints()
    car = cars[instance_id]
    keypoint = _INDEX_OF_ID[int(numbers[2])]
    if car.validity[keypoint]:
        issues.correct("keypoint labelled twice: the last line is used", where)
    car.points[keypoint] = x, y
    car.validity[keypoint] = VALIDITY_OF_VISIBILITY[int(numbers[4])]


def _problem_of_keypoint(x: float, y: float, keypoint: float, instance: float, visibility: float) -> str | None:
    if keypoint not in range(1, NUM_RAW_IDS + 1):
        return f"keypoint id is not an integer from 1 to {NUM_RAW_IDS}"
    if keypoint not in _INDEX_OF_ID:
        return "keypoint is the exhaust (9) or the centre (14), which are not used"
    if instance < 0 or not instance.is_integer():
        return "instance id is not an integer of at least 0"
    if instance > MAX_INSTANCE_ID:
        return f"instance id is larger than {MAX_INSTANCE_ID}"
    if visibility not in VALIDITY_OF_VISIBILITY:
        return "visibility is not 1, 2 or 3"
    if x == 0 and y == 0:
        return "keypoint at (0, 0), which means never labelled"
    if max(abs(x), abs(y)) > MAX_COORDINATE_PX:
        return f"keypoint lies more than {MAX_COORDINATE_PX:.0f} pixels away"
    return None


def _num_contained(box: Box, car: Keypoints) -> int:
    low = np.array([box.x, box.y]) - CONTAINMENT_TOLERANCE_PX
    high = np.array([box.x + box.width, box.y + box.height]) + CONTAINMENT_TOLERANCE_PX
    is_inside = ((car.points >= low) & (car.points <= high)).all(axis=1)
    return int((is_inside & (car.validity > 0)).sum())


def _finite_numbers(parts: list[str]) -> list[float] | None:
    numbers = [parse_number(part) for part in parts]
    return None if None in numbers else [number for number in numbers if number is not None]


def _read(path: Path, issues: Issues) -> list[str]:
    try:
        return read_lines(path)
    except OSError as error:
        issues.skip(f"label file cannot be read: {error.strerror}", str(path))
        return []


def _scene_dirs(split_dir: Path, issues: Issues) -> Iterator[Path]:
    for path in list_directory(split_dir, issues):
        if is_scene_dir(path) and not is_utf8(path.name):
            issues.skip("name of a scene's directory is not UTF-8", str(path))
        elif is_scene_dir(path):
            yield path
        elif is_directory(path):
            issues.skip(_problem_of_scene(path), str(path))


def _problem_of_scene(path: Path) -> str:
    try:
        next(path.iterdir(), None)
        (path / SCENE_DIRS[0]).is_dir()
    except OSError as error:
        return f"directory cannot be read: {error.strerror}"
    return f"directory has none of {', '.join(SCENE_DIRS)}"


def _scene_frames(split: str, scene_dir: Path, issues: Issues, are_boxes_hulls: bool) -> list[FrameFiles]:
    images: dict[str, Path] = {}
    for name in reversed(IMAGE_DIRS):  # if both contain a frame, the first of IMAGE_DIRS counts
        images |= _files_by_stem(scene_dir / name, IMAGE_SUFFIXES, issues)
    boxes = _files_by_stem(scene_dir / "bb", (".txt",), issues)
    keypoints = _files_by_stem(scene_dir / "gt", (".txt",), issues)
    frames, folded = [], set[str]()
    for name in sorted(images.keys() | boxes.keys() | keypoints.keys()):
        frame_id = images[name].stem if name in images else name
        where = f"{scene_dir}, frame {frame_id}"
        if not is_utf8(frame_id):
            issues.skip("file name is not UTF-8", where)
        elif name not in images:
            issues.skip("frame has labels but no image", where)
        elif name not in boxes and name not in keypoints:
            issues.skip("frame has an image but no labels", where)
        else:
            paths = images[name], boxes.get(name), keypoints.get(name)
            unique_id = unique_frame_id(frame_id, folded, where, issues)
            frames.append(FrameFiles(split, scene_dir.name, unique_id, *paths, are_boxes_hulls))
    return frames


def unique_frame_id(frame_id: str, taken: set[str], where: str, issues: Issues) -> str:
    """Return ``frame_id``, with a number added if ``taken`` has an equivalent name, so that no crop overwrites another.

    Some file systems do not distinguish upper and lower case, or different Unicode compositions of a letter.
    """
    unique, number = frame_id, 2
    while fold_name(unique) in taken:
        unique, number = f"{frame_id}~{number}", number + 1
    if unique != frame_id:
        issues.correct("frame has the name of another one, or differs only in case: a number was added", where)
    taken.add(fold_name(unique))
    return unique


def _files_by_stem(directory: Path, suffixes: tuple[str, ...], issues: Issues) -> dict[str, Path]:
    """Map stems in composed Unicode to files: names of labels and of pictures may be composed differently."""
    if not is_directory(directory):
        return {}
    found: dict[str, Path] = {}
    for path in list_directory(directory, issues):
        if path.suffix.lower() not in suffixes or not is_file(path):
            continue
        name, chosen = unicodedata.normalize("NFC", path.stem), path
        if name in found:
            chosen, other = sorted((found[name], path), key=lambda p: suffixes.index(p.suffix.lower()))
            issues.skip("frame has two files of one kind: one is used", f"{other}, not {chosen.name}")
        found[name] = chosen
    return found


def _warn_of_absent_boxes(frames: list[FrameFiles], issues: Issues) -> None:
    boxed = {(frame.split, frame.scene) for frame in frames if frame.boxes}
    scenes = {(frame.split, frame.scene) for frame in frames} - boxed
    if scenes:
        listed = ", ".join("/".join(scene) for scene in sorted(scenes))
        issues.warn(f"there are no box files (bb/) for {listed}: {NO_BOXES_REMEDY}")


def _warn_of_absent_scenes(root: Path, splits: dict[str, Path], issues: Issues) -> None:
    for split in SPLITS:
        if split not in splits:
            issues.warn(f"{root} has no {split}/: there will be no {split} data")
    known = {
        split: {scene for scene in scenes if split in splits and is_directory(splits[split] / scene)}
        for split, scenes in KNOWN_SCENES.items()
    }
    if not any(known.values()):
        return  # another data set with CarFusion's layout
    if "val" in splits:  # scenes of train may have been moved there
        known["train"] |= {scene for scene in KNOWN_SCENES["train"] if is_directory(splits["val"] / scene)}
    for split, scenes in KNOWN_SCENES.items():
        if absent := [scene for scene in scenes if scene not in known[split]]:
            issues.warn(f"CarFusion's {split} scenes {', '.join(absent)} are not in {root / split}")
