"""The user's own cars, packed for training: unlabelled cars in pictures and videos, labelled cars in a data source."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from carkp.data import jpeg
from carkp.data.boxes import FRAME_MARK, BoxSource
from carkp.data.crops import is_truncated
from carkp.data.files import expand_path
from carkp.data.frames import Box, no_keypoints
from carkp.data.issues import DataError, Issues
from carkp.data.orientation import IGNORE
from carkp.data.pictures import Video, count_images, is_video, read_picture
from carkp.data.prepare import prepare
from carkp.data.rectangles import crop_rectangle
from carkp.data.store import (
    LmdbStore,
    Record,
    Store,
    StoreWriter,
    data_digest,
    open_stores,
    sample_id_of,
    split_sample_id,
)
from carkp.data.views import split_groups
from carkp.predictor import check_boxes
from carkp.workflow.boxes import describe_whole_picture
from carkp.workflow.output_names import Source, list_sources

NUM_FRAMES_TOGETHER = 50
"""Frames of a video that are held out or learnt from together, because neighbouring frames are alike."""

NONE = "none"
"""Digest if no cars were given."""

_SPLIT = "train"


@dataclass(frozen=True)
class TargetSources:
    """The user's sources of cars.

    Attributes:
        pictures: pictures and videos without labels.
        boxes: boxes of the cars in them; None: each whole picture is one car.
        labels: path of a data source with labels; None: no labels.
        orientation: as in :mod:`carkp.data.orientation`, for the unlabelled pictures.
    """

    pictures: Sequence[Path]
    boxes: BoxSource | None
    labels: Path | None
    orientation: str = IGNORE


@dataclass(frozen=True, eq=False)
class Slice:
    """Packed cars: indices in the store of cars to learn from, and of held-out cars."""

    store: Store
    learnt: NDArray[np.int64]
    held_out: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TargetCars:
    """The user's cars.

    Attributes:
        unlabelled, labelled: cars to learn from and held-out cars; None: not given.
        scored: other splits of the labelled source, which are not learnt from.
        digests: digests of the content of both, by the names that the stage uses.
        issues: cars that were left out, and why.
    """

    unlabelled: Slice | None
    labelled: Slice | None
    scored: Sequence[Store]
    digests: dict[str, str]
    issues: Issues


def collect_cars(
    sources: TargetSources,
    out_dir: Path,
    jpeg_quality: int,
    boxes: str,
    holdout_share: float,
    num_workers: int,
    seed: int,
) -> TargetCars:
    """Cut out the cars and pack them below ``out_dir``; hold out ``holdout_share`` of them, in whole pictures.

    For a labelled source with its own validation or test split, that split is held out instead.

    Raises:
        DataError: no cars were given, or none of them can be used.
    """
    if not sources.pictures and sources.labels is None:
        raise DataError("nothing to adapt to: give images=… (with boxes=…), labels=…, or both")
    issues = Issues()
    unlabelled, labelled, scored = None, None, list[Store]()
    digests = {"unlabelled": NONE, "labelled": NONE}
    if sources.pictures:
        store, groups = pack_unlabelled(sources, out_dir / "unlabelled", jpeg_quality, issues)
        unlabelled = Slice(store, *split_groups(groups, holdout_share, seed))
        digests["unlabelled"] = store.info.digest
    if sources.labels is not None:
        directory = out_dir / "labelled"
        summary = prepare(expand_path(str(sources.labels)), directory, (), num_workers, jpeg_quality, boxes=boxes)
        for reason, tally in summary.skipped.items():
            issues.skip(reason, tally.first, tally.count)
        stores = open_stores(directory)
        scored = [store for store in (stores.val, stores.test) if len(store) > 0]
        labelled = _labelled_slice(stores.train, sources.labels, 0.0 if scored else holdout_share, seed)
        digests["labelled"] = data_digest(stores)
    return TargetCars(unlabelled, labelled, scored, digests, issues)


def _labelled_slice(store: Store, source: Path, holdout_share: float, seed: int) -> Slice:
    if len(store) == 0:
        raise DataError(
            f"labels={source}: it has no car to train on: cars of a test or validation split are only scored. Name "
            "the split train, as in train/<scene> or car_keypoints_train.json"
        )
    ids = [store.sample_id(place) for place in range(len(store))]
    groups = ["/".join([name.rpartition("/")[0], split_sample_id(name)[1]]) for name in ids]
    return Slice(store, *split_groups(groups, holdout_share, seed))


def pack_unlabelled(
    sources: TargetSources, directory: Path, jpeg_quality: int, issues: Issues
) -> tuple[Store, list[str]]:
    """Return a store of the cars in pictures and videos, and for each car its picture or its stretch of a video.

    Pictures that cannot be read or have no boxes are left out and counted in ``issues``.

    Raises:
        DataError: no car is left.
    """
    groups: list[str] = []
    named = list_sources(sources.pictures, directory)
    book = None if sources.boxes is None else sources.boxes.for_pictures([source.place for source in named])
    is_warned = False
    bar = tqdm(total=count_images(sources.pictures), desc="cut out cars", unit="image")
    with StoreWriter(directory) as writer, bar:
        for source in named:
            for frame in _frames(source, sources.orientation, issues):
                if book is None and not is_warned:
                    is_warned = _warn_of_whole_picture(frame)
                for record in _cars(frame, book, jpeg_quality, issues):
                    writer.add(record)
                    groups.append(frame.group)
                bar.update()
        if not groups:
            raise DataError(f"no car to adapt to in {len(named)} pictures: {issues.describe_skipped()}")
    return LmdbStore(directory), groups


@dataclass(frozen=True, eq=False)
class _Frame:
    """A picture: its pixels, the names for boxes and sample ids, and the group of similar pictures."""

    image: jpeg.Image
    place: str
    scene: str
    name: str
    group: str


def _frames(source: Source, orientation: str, issues: Issues) -> Iterator[_Frame]:
    """Yield the picture, or the frames of the video."""
    scene = source.name.replace("/", "_")
    try:
        if not is_video(source.path):
            yield _Frame(read_picture(source.path, orientation), source.place, scene, "0", scene)
            return
        with Video(source.path, orientation) as video:
            for index, image in enumerate(video):
                mark = f"{FRAME_MARK}{index:06d}"
                group = f"{scene}{FRAME_MARK}{index // NUM_FRAMES_TOGETHER}"
                yield _Frame(image, source.place + mark, scene, f"{index:06d}", group)
    except (DataError, OSError, cv2.error, MemoryError) as error:
        issues.skip("picture or video cannot be read", f"{source.name}: {error}")


def _warn_of_whole_picture(frame: _Frame) -> bool:
    """Warn if the picture may be too large for one car; return whether it was necessary."""
    text = describe_whole_picture((frame.image.shape[0], frame.image.shape[1]))
    if text:
        tqdm.write(f"WARNING: {frame.place}: {text}", file=sys.stderr)
    return bool(text)


def _cars(frame: _Frame, book: BoxSource | None, jpeg_quality: int, issues: Issues) -> Iterator[Record]:
    try:
        boxes = check_boxes(frame.image, None if book is None else book.find(frame.place, frame.image))
    except (DataError, ValueError) as error:
        issues.skip("picture has no boxes that can be used", f"{frame.place}: {error}")
        return
    size = frame.image.shape[0], frame.image.shape[1]
    for number, values in enumerate(boxes.tolist()):
        box, unknown = Box(*values), no_keypoints()
        x1, y1, x2, y2 = crop_rectangle(box, size)
        yield Record(
            sample_id=sample_id_of(_SPLIT, frame.scene, f"{frame.name}_{number}"),
            scene=frame.scene,
            jpeg=jpeg.encode_bgr(np.ascontiguousarray(frame.image[y1:y2, x1:x2, ::-1]), jpeg_quality),
            points=unknown.points,
            validity=unknown.validity,
            size=(y2 - y1, x2 - x1),
            truncated=int(is_truncated(box, size)),
        )
