"""The files that the documentation takes as a reader's own: generated cars in every form that its commands name."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from carkp.synthetic.generate import SyntheticSpec, generate
from carkp.synthetic.ingredients import INGREDIENTS
from tests.rendered.painted_car import write_folder

SCENE = "car_butler1"
"""Whose boxes are written as [x y w h]."""
NUM_PICTURES = 3
MESHES = ("sedan_one", "van_two")
SHELF_SPEC = SyntheticSpec(16, 3, 3, seed=1, image_size=(720, 1280), ingredients=tuple(INGREDIENTS))


@dataclass(frozen=True)
class Shelf:
    """What lies outside of a project: a set of cars in CarFusion's layout, and meshes."""

    carfusion: Path
    meshes: Path


@dataclass(frozen=True)
class Frame:
    """A picture, and the boxes of its cars as x, y, width, height."""

    path: Path
    boxes: tuple[tuple[int, int, int, int], ...]


def fill_shelf(folder: Path) -> Shelf:
    generate(folder / "carfusion", SHELF_SPEC, num_workers=1, show_progress=False)
    return Shelf(folder / "carfusion", write_folder(folder / "meshes", *MESHES))


def write_inputs(project: Path, shelf: Shelf) -> None:
    """Put pictures, videos, boxes and labels where the commands of the documentation look for them."""
    frames = _frames(shelf)
    first = frames[0]
    for name in ("photo.jpg", "frame.jpg", "street.jpg"):
        shutil.copy(first.path, project / name)
    _write_pictures(project / "frames", frames, ["photo", "street", "street2"])
    _write_pictures(project / "image_2", frames, ["000000", "000001", "000002"])
    _write_pictures(project / "JPEGImages", frames, ["street", "street2", "street3"])
    _write_pictures(project / "MOT16-02" / "img1", frames, ["000001", "000002", "000003"])
    names = ["photo.jpg", "street.jpg", "street2.jpg"]
    _write_box_lists(project, frames, names)
    for folder in ("runs/labels", "runs/detect/predict/labels"):
        _write_texts(project / folder, frames, names, _yolo_lines)
    _write_texts(project / "label_2", frames, ["000000", "000001", "000002"], _kitti_lines)
    _write_voc(project / "Annotations", frames, ["street", "street2", "street3"])
    for video in ("video.mp4", "clip.mp4", "drive.mp4", "videos/drive.mp4"):
        _write_video(project / video, frames)
    for tracks in ("det.txt", "tracks/drive.txt", "MOT16-02/gt/gt.txt"):
        _write_mot(project / tracks, frames)
    shutil.copytree(shelf.carfusion, project / "my_cars")
    shutil.copytree(shelf.meshes, project / "meshes")


def _frames(shelf: Shelf) -> list[Frame]:
    scene = shelf.carfusion / "train" / SCENE
    paths = sorted((scene / "images_jpg").glob("*.jpg"))[:NUM_PICTURES]
    while len(paths) < NUM_PICTURES:
        paths.append(paths[-1])
    return [Frame(path, _boxes(scene / "bb" / f"{path.stem}.txt")) for path in paths]


def _boxes(path: Path) -> tuple[tuple[int, int, int, int], ...]:
    rows = [re.findall(r"-?\d+", line.split("]")[0]) for line in path.read_text().splitlines()]
    return tuple((int(x), int(y), int(width), int(height)) for x, y, width, height in rows)


def _write_pictures(folder: Path, frames: Sequence[Frame], stems: Sequence[str]) -> None:
    folder.mkdir(parents=True)
    for frame, stem in zip(frames, stems, strict=True):
        shutil.copy(frame.path, folder / f"{stem}.jpg")


def _write_box_lists(project: Path, frames: Sequence[Frame], names: Sequence[str]) -> None:
    """carkp's own JSON and CSV, and COCO's two."""
    boxes = {name: [list(box) for box in frame.boxes] for name, frame in zip(names, frames, strict=True)}
    (project / "boxes.json").write_text(json.dumps(boxes))
    lines = [",".join(map(str, (name, *box))) for name, found in boxes.items() for box in found]
    (project / "boxes.csv").write_text("\n".join(["image,x,y,w,h", *lines, ""]))
    cars = [(name, box) for name, found in boxes.items() for box in found]
    ids = {name: number for number, name in enumerate(names, start=1)}
    results = [{"image_id": ids[name], "category_id": 3, "bbox": box, "score": 0.9} for name, box in cars]
    (project / "results.json").write_text(json.dumps(results))
    annotations = [
        {"id": number, "image_id": ids[name], "category_id": 3, "bbox": box}
        for number, (name, box) in enumerate(cars, start=1)
    ]
    document = {
        "images": [{"id": number, "file_name": name} for name, number in ids.items()],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "car"}],
    }
    (project / "instances.json").write_text(json.dumps(document))


def _write_texts(
    folder: Path, frames: Sequence[Frame], names: Sequence[str], lines_of: Callable[[Frame], list[str]]
) -> None:
    folder.mkdir(parents=True)
    for frame, name in zip(frames, names, strict=True):
        (folder / f"{Path(name).stem}.txt").write_text("".join(f"{line}\n" for line in lines_of(frame)))


def _yolo_lines(frame: Frame) -> list[str]:
    height, width = SHELF_SPEC.image_size
    return [
        f"2 {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} {w / width:.6f} {h / height:.6f} 0.9"
        for x, y, w, h in frame.boxes
    ]


def _kitti_lines(frame: Frame) -> list[str]:
    return [
        f"Car 0.00 0 -1.59 {x}.00 {y}.00 {x + w - 1}.00 {y + h - 1}.00 1.36 1.69 3.38 0.28 2.08 17.74 -1.58"
        for x, y, w, h in frame.boxes
    ]


def _write_voc(folder: Path, frames: Sequence[Frame], stems: Sequence[str]) -> None:
    folder.mkdir()
    height, width = SHELF_SPEC.image_size
    for frame, stem in zip(frames, stems, strict=True):
        cars = "".join(
            f"<object><name>car</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for x, y, w, h in frame.boxes
        )
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        (folder / f"{stem}.xml").write_text(f"<annotation>{size}{cars}</annotation>")


def _write_video(path: Path, frames: Sequence[Frame]) -> None:
    path.parent.mkdir(exist_ok=True)
    height, width = SHELF_SPEC.image_size
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (width, height))
    for frame in frames:
        writer.write(cv2.imread(str(frame.path)))
    writer.release()


def _write_mot(path: Path, frames: Sequence[Frame]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{number},-1,{x + 1},{y + 1},{w},{h},0.9,-1,-1,-1"
        for number, frame in enumerate(frames, start=1)
        for x, y, w, h in frame.boxes
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
