"""Contact sheets that show the data."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from carkp.data.carfusion import FrameFiles, read_frame
from carkp.data.frames import Frame
from carkp.data.issues import DataError, Issues
from carkp.data.pictures import read_picture
from carkp.data.samples import sample_crops
from carkp.data.source import SourceKind, detect_source_kind, list_source_frames
from carkp.data.store import STORE_NAMES, Stores
from carkp.keypoints.sample_ids import source_of
from carkp.report.drawing import draw_keypoints, enlarge
from carkp.report.sheets import contact_sheet

NUM_FRAMES = 6
NUM_CROPS_A_SPLIT = 8
COLUMNS = 8

_FRAME_COLUMNS = 2
_DRAWN_FRAME_WIDTH = 1280
_DRAWN_CROP_EXTENT = 384
_TILE_SIZE = 160

Image = NDArray[np.uint8]


def data_sheet(raw: Path | None, stores: Stores, seed: int, boxes: str = "files") -> Image:
    """Draw frames of the source, if it has frames, above crops of each split, with keypoints. RGB.

    ``raw`` None: there are several sources, and only crops are drawn.
    """
    frames = _frame_sheet(raw, seed, boxes) if raw is not None else None
    sheets = [sheet for sheet in (frames, _crop_sheet(stores, seed)) if sheet is not None]
    width = max(sheet.shape[1] for sheet in sheets)
    padded = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in sheets]
    return np.concatenate(padded)


def _frame_sheet(raw: Path, seed: int, boxes: str) -> Image | None:
    kind = detect_source_kind(raw)
    if kind is SourceKind.CROPS:
        return None
    frames = list_source_frames(raw, kind, Issues(), boxes)
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.choice(len(frames), min(NUM_FRAMES, len(frames)), replace=False).tolist())
    drawn = [_draw_frame(frames[index]) for index in chosen]
    tiles = [tile for tile in drawn if tile is not None]
    return _grid(tiles, _FRAME_COLUMNS, COLUMNS * _TILE_SIZE // _FRAME_COLUMNS) if tiles else None


def _grid(images: Sequence[Image], columns: int, width: int) -> Image:
    """Arrange pictures in a grid with the shape of the first, each ``width`` pixels wide and at most as high."""
    height = min(max(round(width * images[0].shape[0] / images[0].shape[1]), 1), width)
    tiles = [np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8) for image in images]
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % columns)
    return np.concatenate([np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)])


def _draw_frame(source: FrameFiles | Frame) -> Image | None:
    """Draw a frame with all its cars; None if the picture cannot be read."""
    frame = read_frame(source, Issues()) if isinstance(source, FrameFiles) else source
    try:
        image = read_picture(frame.image)
    except DataError:
        return None
    scale = math.ceil(_DRAWN_FRAME_WIDTH / max(image.shape[:2]))  # a narrow width would give too large a scale
    image = enlarge(image, scale)
    for car in frame.instances:
        image = draw_keypoints(image, car.keypoints.points * scale, car.keypoints.validity, scale=1)
    return image


def _crop_sheet(stores: Stores, seed: int) -> Image | None:
    images, captions = [], []
    for split in STORE_NAMES:
        for crop in sample_crops(getattr(stores, split), NUM_CROPS_A_SPLIT, seed):
            scale = max(1, math.ceil(_DRAWN_CROP_EXTENT / max(crop.image.shape)))
            images.append(draw_keypoints(crop.image, crop.points, crop.validity, scale))
            captions.append(" ".join([split, source_of(crop.sample_id), crop.sample_id.split("/", 1)[-1]]))
    return contact_sheet(images, captions, COLUMNS, _TILE_SIZE) if images else None
