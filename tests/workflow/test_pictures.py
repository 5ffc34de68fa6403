"""What the data look like."""

from pathlib import Path

import cv2
import numpy as np

from carkp.data.prepare import prepare
from carkp.data.store import open_stores
from carkp.workflow.pictures import data_sheet


def test_a_narrow_frame_does_not_fill_the_memory(tmp_path: Path) -> None:
    scene = tmp_path / "source/train/car_a"
    picture = cv2.imencode(".jpg", np.zeros((6000, 3, 3), np.uint8))[1].tobytes()
    for folder, name, content in (
        ("images_jpg", "1_1.jpg", picture),
        ("gt", "1_1.txt", b"1,2000,1,0,1\n1,4000,2,0,1\n"),
        ("bb", "1_1.txt", b"[0 0 3 6000],car\n"),
    ):
        (scene / folder).mkdir(parents=True)
        (scene / folder / name).write_bytes(content)
    prepare(tmp_path / "source", tmp_path / "out", (), 1, 90, False)
    sheet = data_sheet(tmp_path / "source", open_stores(tmp_path / "out"), 0)
    assert max(sheet.shape[:2]) < 4000
