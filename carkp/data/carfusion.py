"""Reader of CarFusion's raw layout: ``{train,test}/<scene>/{images_jpg,gt,bb}/<camera>_<frame>.{jpg,txt,txt}``."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from carkp.data.frames import IMAGE_SUFFIXES, SPLITS, Box, Frame, Instance, Keypoints, no_keypoints
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
"""CarFusion's visibility -> ours; 3 is undocumented and treated as visible."""

CONTAINMENT_TOLERANCE_PX = 2.0
_BOX_LINE = re.compile(r"^\s*\[?([^\[\]]*)\]\s*(?:,.*)?$")
_INDEX_OF_ID = {carfusion_id: index for index, carfusion_id in enumerate(CARFUSION_IDS)}


@dataclass(frozen=True)
class FrameFiles:
    """Where the parts of a frame are; ``boxes`` or ``keypoints`` is None where there is no such file."""

    split: str
    scene: str
    frame_id: str
    image: Path
    boxes: Path | None
    keypoints: Path | None


class BoxReadings(NamedTuple):
    """The box that the spelling of a line says, and the one with width and height exchanged."""

    spelled: Box
    exchanged: Box


def is_scene_dir(path: Path) -> bool:
    return any((path / name).is_dir() for name in SCENE_DIRS)


def list_frames(root: Path, issues: Issues) -> list[FrameFiles]:
    """Every frame under ``root`` that has a picture and at least one label file, in a fixed order.

    Raises:
        DataError: ``root`` has neither ``train`` nor ``test``.
    """
    splits = [split for split in SPLITS if (root / split).is_dir()]
    if not splits:
        raise DataError(f"{root} has neither train/ nor test/: give the directory that holds them")
    frames: list[FrameFiles] = []
    for split in splits:
        for scene_dir in _scene_dirs(root / split, issues):
            frames += _scene_frames(split, scene_dir, issues)
    _warn_of_absent_scenes(root, issues)
    return frames


def read_frame(files: FrameFiles, issues: Issues) -> Frame:
    """The cars of a frame that have a box; everything else is counted in ``issues``."""
    keypoints = parse_keypoints(files.keypoints, issues) if files.keypoints else {}
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
        reason = "car has keypoints and no box"
        issues.skip(reason, f"{files.keypoints}, instance {min(keypoints)}", len(keypoints))
    return Frame(files.split, files.scene, files.frame_id, files.image, tuple(instances))


def parse_boxes(path: Path, issues: Issues) -> dict[int, BoxReadings]:
    """Line number (0-based, blank lines counted) -> box, for every line that holds one."""
    boxes: dict[int, BoxReadings] = {}
    name = str(path)
    for index, line in enumerate(_lines(path)):
        where = f"{name}:{index + 1}"
        if not line.strip():
            issues.skip("blank line in a box file", where)
            continue
        readings = parse_box(line)
        if readings is None:
            issues.skip("box line does not hold four numbers in brackets", where)
        elif readings.spelled.width <= 0 or readings.spelled.height <= 0:
            issues.skip("box is empty", where)
        else:
            boxes[index] = readings
    return boxes


def parse_box(line: str) -> BoxReadings | None:
    """Read ``[x y w h],car`` or ``[x, y, h, w],car``; None where the line is neither."""
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
    """The spelled reading, unless the exchanged one contains more of the labelled keypoints."""
    inside_spelled = _num_contained(readings.spelled, car)
    inside_exchanged = _num_contained(readings.exchanged, car)
    return readings.exchanged if inside_exchanged > inside_spelled else readings.spelled


def parse_keypoints(path: Path, issues: Issues) -> dict[int, Keypoints]:
    """Instance id -> keypoints, for every car with at least one usable line."""
    cars: dict[int, Keypoints] = {}
    name = str(path)
    for index, line in enumerate(_lines(path)):
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
        issues.correct("keypoint labelled twice: the last line counts", where)
    car.points[keypoint] = x, y
    car.validity[keypoint] = VALIDITY_OF_VISIBILITY[int(numbers[4])]


def _problem_of_keypoint(x: float, y: float, keypoint: float, instance: float, visibility: float) -> str | None:
    if keypoint not in range(1, NUM_RAW_IDS + 1):
        return f"keypoint id is not an integer from 1 to {NUM_RAW_IDS}"
    if keypoint not in _INDEX_OF_ID:
        return "keypoint is the exhaust (9) or the centre (14), which are not kept"
    if instance < 0 or not instance.is_integer():
        return "instance id is not an integer from 0"
    if visibility not in VALIDITY_OF_VISIBILITY:
        return "visibility is not 1, 2 or 3"
    if x == 0 and y == 0:
        return "keypoint at (0, 0), which stands for never labelled"
    return None


def _num_contained(box: Box, car: Keypoints) -> int:
    low = np.array([box.x, box.y]) - CONTAINMENT_TOLERANCE_PX
    high = np.array([box.x + box.width, box.y + box.height]) + CONTAINMENT_TOLERANCE_PX
    is_inside = ((car.points >= low) & (car.points <= high)).all(axis=1)
    return int((is_inside & (car.validity > 0)).sum())


def _finite_numbers(parts: list[str]) -> list[float] | None:
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        return None
    # "1_0" is a float to Python and a typing error to everybody else.
    is_clean = all(math.isfinite(number) for number in numbers) and not any("_" in part for part in parts)
    return numbers if is_clean else None


def _lines(path: Path) -> list[str]:
    return path.read_bytes().decode("utf-8-sig", errors="replace").splitlines()


def _scene_dirs(split_dir: Path, issues: Issues) -> Iterator[Path]:
    for path in sorted(split_dir.iterdir()):
        if is_scene_dir(path):
            yield path
        elif path.is_dir() and not path.name.startswith("."):
            issues.skip(f"directory has none of {', '.join(SCENE_DIRS)}", str(path))


def _scene_frames(split: str, scene_dir: Path, issues: Issues) -> list[FrameFiles]:
    images: dict[str, Path] = {}
    for name in reversed(IMAGE_DIRS):  # where both hold a frame, the first of IMAGE_DIRS counts
        images |= _files_by_stem(scene_dir / name, IMAGE_SUFFIXES)
    boxes = _files_by_stem(scene_dir / "bb", (".txt",))
    keypoints = _files_by_stem(scene_dir / "gt", (".txt",))
    frames = []
    for frame_id in sorted(images.keys() | boxes.keys() | keypoints.keys()):
        where = f"{scene_dir}, frame {frame_id}"
        if frame_id not in images:
            issues.skip("frame has labels and no image", where)
        elif frame_id not in boxes and frame_id not in keypoints:
            issues.skip("frame has an image and no labels", where)
        else:
            paths = images[frame_id], boxes.get(frame_id), keypoints.get(frame_id)
            frames.append(FrameFiles(split, scene_dir.name, frame_id, *paths))
    return frames


def _files_by_stem(directory: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    if not directory.is_dir():
        return {}
    paths = (path for path in directory.iterdir() if path.suffix.lower() in suffixes)
    return {path.stem: path for path in paths if not path.name.startswith(".")}


def _warn_of_absent_scenes(root: Path, issues: Issues) -> None:
    for split in SPLITS:
        if not (root / split).is_dir():
            issues.warn(f"{root} has no {split}/: there will be no {split} data")
    known = {
        split: {scene for scene in scenes if (root / split / scene).is_dir()} for split, scenes in KNOWN_SCENES.items()
    }
    if not any(known.values()):
        return  # another data set in CarFusion's layout
    for split, scenes in KNOWN_SCENES.items():
        if absent := [scene for scene in scenes if scene not in known[split]]:
            issues.warn(f"CarFusion's {split} scenes {', '.join(absent)} are not in {root / split}")
