"""Cutting cars out of frames: HAT's crop rule, crop files, ``simple_anno``, and a sidecar file with more data."""

import contextlib
import errno
import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from carkp import disk
from carkp.data import geometry, jpeg
from carkp.data.carfusion import FrameFiles, read_frame
from carkp.data.files import read_file
from carkp.data.frames import SPLIT_NAMES, SPLITS, Box, Frame, Instance, Keypoints
from carkp.data.issues import DataError, Issues, explain_write_errors
from carkp.data.loose_boxes import EXACT_BOXES, BoxRule
from carkp.data.parallel import map_ordered
from carkp.data.pictures import decode_picture
from carkp.data.rectangles import MIN_CROP_EXTENT_PX, CropRectangle, crop_rectangle
from carkp.data.store import Record, sample_id_of
from carkp.data.traits import Traits
from carkp.keypoints.schema import MISSING
from carkp.progress import is_hidden

ANNOTATION_DIR = "simple_anno"
CROP_DIR = "crop_imgs"

DECIMALS = 3
"""Decimals of coordinates in ``simple_anno`` and in stores, so that both ways to a store give the same bytes."""

MAX_CROP_EXTENT_PX = 65_500
"""Largest extent of a crop: JPEG does not support larger images."""

TRUNCATION_TOLERANCE_PX = 2


Meta = dict[str, list[int] | list[float] | bool | str]
"""Data of a crop in the sidecar file."""


@dataclass(frozen=True)
class Crop:
    """A written crop.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        key: path below the output directory, with forward slashes.
        record: record for a store.
        meta: frame size (height, width), box [x, y, width, height], crop rectangle [x1, y1, x2, y2], truncated, and
            the known values of ``traits``.
        traits: traits of the car.
    """

    split: str
    key: str
    record: Record
    meta: Meta
    traits: Traits


@dataclass(frozen=True)
class CroppedFrame:
    """The result of a worker for one frame."""

    crops: list[Crop] = field(default_factory=list)
    issues: Issues = field(default_factory=Issues)


def move_keypoints(car: Keypoints, rectangle: CropRectangle) -> Keypoints:
    """Convert keypoints to crop pixels, rounded to 1/1000.

    A keypoint outside of all pixels of the crop becomes missing, but keeps its coordinates.
    """
    moved = car.points.astype(np.float64) - (rectangle.x1, rectangle.y1)
    points = np.round(moved, DECIMALS).astype(np.float32)
    is_inside = geometry.is_inside(points, (rectangle.y2 - rectangle.y1, rectangle.x2 - rectangle.x1))
    return Keypoints(points, np.where(is_inside, car.validity, MISSING).astype(np.uint8))


def is_truncated(box: Box, frame_size: tuple[int, int]) -> bool:
    """Return whether the box touches the border of the (height, width) frame."""
    height, width = frame_size
    low, tolerance = min(box.x, box.y), TRUNCATION_TOLERANCE_PX
    return low <= tolerance or box.x + box.width >= width - tolerance or box.y + box.height >= height - tolerance


def write_crops(
    frames: Sequence[FrameFiles | Frame],
    out_dir: Path,
    jpeg_quality: int,
    num_workers: int,
    issues: Issues,
    show_progress: bool = True,
    rule: BoxRule = EXACT_BOXES,
) -> Generator[Record, None, None]:
    """Write the crops of all frames and ``simple_anno/{keypoints,meta}_{train,test}.json``; yield records for stores.

    Each file gets its name only when it is complete; the JSON files get theirs after the last record. A second run
    writes the same files again. Close the generator if it is not used to its end. Files for ``val`` are written if
    there are frames of this split. ``rule`` gives the boxes of the crops.

    Raises:
        DataError: a file cannot be written.
    """
    work = partial(crop_frame, out_dir=out_dir, jpeg_quality=jpeg_quality, rule=rule)
    splits = {*SPLITS, *(frame.split for frame in frames)}
    _remove_unused_annotations(out_dir, splits)
    with contextlib.ExitStack() as stack:
        writers = {s: stack.enter_context(AnnotationWriter(out_dir, s)) for s in SPLIT_NAMES if s in splits}
        results = map_ordered(work, frames, num_workers)
        stack.callback(results.close)
        for cropped in tqdm(results, "frames", len(frames), disable=is_hidden(not show_progress), unit="frame"):
            issues.merge(cropped.issues)
            for crop in cropped.crops:
                writers[crop.split].add(crop)
                yield crop.record


def crop_frame(
    source: FrameFiles | Frame, out_dir: Path, jpeg_quality: int, rule: BoxRule = EXACT_BOXES
) -> CroppedFrame:
    """Decode a frame once and write the crops of all its cars."""
    cropped = CroppedFrame()
    for crop in cut_frame(source, jpeg_quality, cropped.issues, rule):
        if _write_crop(out_dir / crop.key, crop.record.jpeg):
            cropped.crops.append(crop)
        else:
            cropped.issues.skip("name of the frame is too long for the name of a crop", f"{source.image}, {crop.key}")
    return cropped


def cut_frame(
    source: FrameFiles | Frame, jpeg_quality: int, issues: Issues, rule: BoxRule = EXACT_BOXES
) -> Iterator[Crop]:
    """Decode a frame once and cut out all its cars, without writing files."""
    frame = read_frame(source, issues) if isinstance(source, FrameFiles) else source
    image = _decode_frame(frame, issues) if frame.instances else None
    if image is None:
        return
    for instance in frame.instances:
        box = rule.box_of(instance.box, frame.split, frame.scene, f"{frame.frame_id}_{instance.instance_id}")
        rectangle = crop_rectangle(box, image.shape[:2])
        if problem := _problem_of_rectangle(rectangle):
            issues.skip(problem, f"{frame.image}, instance {instance.instance_id}")
        else:
            yield _cut(image, frame, instance, rectangle, jpeg_quality)


def remove_leftovers(out_dir: Path) -> None:
    """Delete partly written crops and annotations of killed processes. The caller must hold the directory's lock."""
    crop_dirs = (out_dir / split for split in SPLIT_NAMES)
    for directory in (out_dir, out_dir / ANNOTATION_DIR, *(d for s in crop_dirs for d in s.glob(f"*/{CROP_DIR}"))):
        disk.remove_leftovers(disk.short_name_beside(directory / "any"))


def _remove_unused_annotations(out_dir: Path, splits: set[str]) -> None:
    """Remove annotation files of splits that this source does not have; they are from an earlier source."""
    for split in SPLIT_NAMES.keys() - splits:
        for path in (annotation_path(out_dir, split), meta_path(out_dir, split)):
            disk.remove(path)


def _write_crop(path: Path, data: bytes) -> bool:
    """Write a crop; return False if its name is too long for the file system."""
    try:
        disk.write_atomic(path, data, is_synced=False)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        with explain_write_errors(path):
            raise
    return True


def _problem_of_rectangle(rectangle: CropRectangle) -> str:
    extents = rectangle.x2 - rectangle.x1, rectangle.y2 - rectangle.y1
    if min(extents) < MIN_CROP_EXTENT_PX:
        return "box lies outside the frame or is smaller than two pixels"
    return "crop is too large for a JPEG" if max(extents) > MAX_CROP_EXTENT_PX else ""


class AnnotationWriter:
    """Streams the two JSON files of a split, one entry per line; they get their names if there was no error."""

    def __init__(self, out_dir: Path, split: str) -> None:
        self._directory = out_dir / ANNOTATION_DIR
        self._paths = annotation_path(out_dir, split), meta_path(out_dir, split)
        self._partials = tuple(disk.partial_path(disk.short_name_beside(path)) for path in self._paths)
        self._files: list[TextIO] = []
        self._count = 0

    def __enter__(self) -> Self:
        """Open the files; raise DataError if they cannot be written."""
        with contextlib.ExitStack() as stack, explain_write_errors(self._directory):
            stack.callback(self._discard)
            self._directory.mkdir(parents=True, exist_ok=True)
            for path in self._partials:
                self._files.append(path.open("w", encoding="utf-8"))
            stack.pop_all()
        return self

    def add(self, crop: Crop) -> None:
        opening = ",\n" if self._count else "{\n"
        annotation = _annotation(crop.record.points, crop.record.validity)
        with explain_write_errors(self._paths[0]):
            for file, value in zip(self._files, (annotation, crop.meta), strict=True):
                file.write(f"{opening}{json.dumps(crop.key)}: {json.dumps(value)}")
        self._count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with explain_write_errors(self._paths[0]):
                    self._finish()
        finally:
            self._discard()

    def _finish(self) -> None:
        for file in self._files:
            file.write("\n}\n" if self._count else "{}\n")
            file.close()
        for partial_path, path in zip(self._partials, self._paths, strict=True):
            disk.publish(partial_path, path)

    def _discard(self) -> None:
        for file in self._files:
            with contextlib.suppress(OSError):  # closing writes buffered data, which may fail on a full disk
                file.close()
        for path in self._partials:
            disk.remove(path)


def annotation_path(root: Path, split: str) -> Path:
    return root / ANNOTATION_DIR / f"keypoints_{split}.json"


def meta_path(root: Path, split: str) -> Path:
    return root / ANNOTATION_DIR / f"meta_{split}.json"


def _decode_frame(frame: Frame, issues: Issues) -> jpeg.Image | None:
    try:
        data = read_file(frame.image)
    except OSError as error:
        issues.skip(f"image cannot be read: {error.strerror}", str(frame.image))
        return None
    if jpeg.is_cut_short(data):
        issues.skip("image file is cut short", str(frame.image))
        return None
    image = jpeg.decode_bgr(data) if data.startswith(jpeg.START) else _decode_other(data)
    if image is None:
        issues.skip("image cannot be decoded", str(frame.image))
    return image


def _decode_other(data: bytes) -> jpeg.Image | None:
    """Decode an image other than JPEG with the common rules for images; OpenCV alone would turn a TIFF upright."""
    try:
        image = decode_picture(data)
    except DataError:
        return None
    return np.ascontiguousarray(image[..., ::-1])


def _cut(image: jpeg.Image, frame: Frame, instance: Instance, rectangle: CropRectangle, jpeg_quality: int) -> Crop:
    x1, y1, x2, y2 = rectangle
    height, width = image.shape[:2]
    keypoints = move_keypoints(instance.keypoints, rectangle)
    said = instance.traits.truncated  # the annotator saw the whole image; this frame may be a part of it
    truncated = is_truncated(instance.box, (height, width)) if said is None else said
    name = f"{frame.frame_id}_{instance.instance_id}"
    record = Record(
        sample_id=sample_id_of(frame.split, frame.scene, name),
        scene=frame.scene,
        jpeg=jpeg.encode_bgr(image[y1:y2, x1:x2], jpeg_quality),
        points=keypoints.points,
        validity=keypoints.validity,
        size=(y2 - y1, x2 - x1),
        truncated=int(truncated),
    )
    meta: Meta = {
        "frame_size": [height, width],
        "box": [round(float(value), DECIMALS) for value in instance.box],
        "crop": list(rectangle),
        "truncated": truncated,
        **instance.traits.known(),
    }
    return Crop(frame.split, f"{frame.split}/{frame.scene}/{CROP_DIR}/{name}.jpg", record, meta, instance.traits)


def _annotation(points: NDArray[np.float32], validity: NDArray[np.uint8]) -> list[list[float]]:
    """Return [x, y, validity] for each of the K keypoints."""
    rows = zip(points.tolist(), validity.tolist(), strict=True)
    return [[round(x, DECIMALS), round(y, DECIMALS), valid] for (x, y), valid in rows]
