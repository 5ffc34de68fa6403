"""Tiny data sets in CarFusion's layouts, made of noise pictures."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from carkp.data.store import LmdbStore, Record, Store, StoreWriter
from carkp.keypoints.schema import CARFUSION_IDS

FRAME_SIZE = (90, 160)


def smooth_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture that survives JPEG: noise at a tenth of the size, scaled up."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(2, height // 10), max(2, width // 10), 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def keypoint_lines(box: tuple[float, float, float, float], instance: int = 0, visibility: int = 1) -> str:
    """All twelve keypoints of a car spread over its box (x, y, w, h)."""
    x, y, w, h = box
    lines = [
        f"{x + w * (0.1 + 0.8 * i / 11):.0f},{y + h * (0.1 + 0.8 * (i % 2)):.0f},{raw_id},{instance},{visibility}\n"
        for i, raw_id in enumerate(CARFUSION_IDS)
    ]
    return "".join(lines)


@dataclass
class RawLayout:
    """Writes CarFusion's raw layout below ``root``; a None leaves the file out."""

    root: Path

    def add(
        self,
        split: str = "train",
        scene: str = "car_a",
        frame: str = "1_00001",
        gt: str | None = "",
        bb: str | None = "",
        image: bytes | None = b"draw",
        image_dir: str = "images_jpg",
        size: tuple[int, int] = FRAME_SIZE,
    ) -> Path:
        scene_dir = self.root / split / scene
        if image == b"draw":
            image = cv2.imencode(".jpg", smooth_picture(*size))[1].tobytes()
        for name, suffix, content in ((image_dir, ".jpg", image), ("gt", ".txt", gt), ("bb", ".txt", bb)):
            if content is not None:
                (scene_dir / name).mkdir(parents=True, exist_ok=True)
                raw = content if isinstance(content, bytes) else content.encode()
                (scene_dir / name / f"{frame}{suffix}").write_bytes(raw)
        return scene_dir

    def add_car(self, split: str = "train", scene: str = "car_a", frame: str = "1_00001", visibility: int = 1) -> None:
        """One ordinary frame with one fully labelled car."""
        box = (40.0, 30.0, 60.0, 40.0)
        self.add(split, scene, frame, keypoint_lines(box, visibility=visibility), "[40 30 60 40],car\n")


@pytest.fixture
def raw(tmp_path: Path) -> RawLayout:
    return RawLayout(tmp_path / "raw")


@pytest.fixture
def lines_of() -> Callable[..., str]:
    return keypoint_lines


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    return smooth_picture


@pytest.fixture
def coco_source(tmp_path: Path) -> Path:
    """A COCO source with one frame of one car in train: six keypoints visible, six occluded, two never labelled."""
    root = tmp_path / "coco"
    image = root / "train/car_a/images_jpg/1_00001.jpg"
    image.parent.mkdir(parents=True)
    cv2.imwrite(str(image), smooth_picture(*FRAME_SIZE))
    keypoints: list[int] = []
    for raw_id in range(1, 15):
        is_kept = raw_id in CARFUSION_IDS
        keypoints += [40 + 3 * raw_id, 40 + raw_id, 1 + raw_id % 2] if is_kept else [0, 0, 0]
    content = {
        "images": [{"id": 7, "file_name": "car_a\\images_jpg\\1_00001.jpg", "width": 1920, "height": 1080}],
        "annotations": [{"id": 1, "image_id": 7, "bbox": [40, 30, 60, 40], "keypoints": keypoints}],
        "categories": [{"id": 1, "name": "car"}],
    }
    path = root / "annotations/car_keypoints_train.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    return root


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Thirteen crops of different sizes, three of them much larger than a 64x64 input."""
    path = tmp_path / "train_lmdb"
    rng = np.random.default_rng(0)
    with StoreWriter(path) as writer:
        for i in range(13):
            size = (300, 500) if i % 5 == 0 else (40 + i, 60 + 2 * i)
            data = cv2.imencode(".jpg", smooth_picture(*size, seed=i))[1].tobytes()
            points = rng.uniform(0, size[0], (12, 2)).astype(np.float32)
            validity = rng.integers(0, 3, 12).astype(np.uint8)
            writer.add(Record(f"train/car_a/1_{i}", "car_a", data, points, validity, size, i % 3 - 1))
    return LmdbStore(path)
