"""Drawn cars in the layouts of real ones."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from carkp.keypoints.schema import CARFUSION_IDS

FRAME_SIZE = (120, 200)


def draw_frame(path: Path, seed: int = 0, size: tuple[int, int] = FRAME_SIZE) -> None:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (size[0] // 10, size[1] // 10, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC))


@dataclass(frozen=True)
class DrawnCar:
    """A car with all keypoints spread over its box (x, y, width, height); ``missing`` ones are not labelled."""

    image: str
    box: tuple[float, float, float, float] = (40.0, 30.0, 90.0, 60.0)
    hidden: Sequence[int] = ()
    missing: Sequence[int] = ()
    traits: dict[str, Any] = field(default_factory=dict)

    def rows(self) -> list[list[float]]:
        x, y, w, h = self.box
        rows = []
        for index in range(12):
            validity = 0 if index in self.missing else 1 if index in self.hidden else 2
            point = [x + w * (0.1 + 0.25 * (index % 4)), y + h * (0.1 + 0.35 * (index // 4))]
            rows.append([*(point if validity else [0, 0]), validity])
        return rows


def write_list(folder: Path, cars: Sequence[DrawnCar]) -> Path:
    """The list layout: annotations.json beside images/."""
    entries = [{"image": car.image, "box": list(car.box), "keypoints": car.rows(), **car.traits} for car in cars]
    for index, name in enumerate(dict.fromkeys(car.image for car in cars)):
        draw_frame(folder / "images" / name, index)
    (folder / "annotations.json").write_text(json.dumps(entries))
    return folder


def write_coco(folder: Path, cars: Sequence[DrawnCar], name: str = "annotations.json") -> Path:
    """A COCO keypoints JSON beside images/, under a name that says no split."""
    names = list(dict.fromkeys(car.image for car in cars))
    annotations = []
    for number, car in enumerate(cars):
        table = np.zeros((14, 3))
        table[np.array(CARFUSION_IDS) - 1] = car.rows()
        annotation = {"id": number, "image_id": names.index(car.image), "bbox": list(car.box)}
        annotations.append(annotation | {"keypoints": table.reshape(-1).tolist(), **car.traits})
    for index, image in enumerate(names):
        draw_frame(folder / "images" / image, index)
    images = [{"id": index, "file_name": f"images/{image}"} for index, image in enumerate(names)]
    (folder / name).write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder
