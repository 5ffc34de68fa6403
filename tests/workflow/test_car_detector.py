"""Boxes that a detector finds: what is kept of them, and weights that are fetched, checked and kept."""

import hashlib
import subprocess
import sys
import urllib.error
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from carkp.data.issues import DataError
from carkp.workflow import car_detector
from carkp.workflow.boxes import describe_whole_picture, open_boxes
from carkp.workflow.car_detector import (
    CLASS_NAMES,
    WEIGHTS_SHA256,
    WEIGHTS_URL,
    CarDetector,
    DetectorError,
    build_net,
    find_weights,
    open_detector,
    weights_path,
)

PICTURE = np.zeros((120, 200, 3), np.uint8)
CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def stub(*found: tuple[list[float], int, float]) -> car_detector.Net:
    """A detector that finds x1, y1, x2, y2, class and score in every picture."""

    def net(pictures: list[Tensor]) -> Sequence[dict[str, Tensor]]:
        (picture,) = pictures
        assert (picture.shape, picture.dtype) == ((3, 120, 200), torch.float32)
        boxes, labels, scores = (list(column) for column in zip(*found, strict=True)) if found else ([], [], [])
        return [
            {
                "boxes": torch.tensor(boxes).reshape(-1, 4),
                "labels": torch.tensor(labels, dtype=torch.int64),
                "scores": torch.tensor(scores),
            }
        ]

    return net


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def test_vehicles_that_it_is_sure_of_are_kept_once() -> None:
    net = stub(
        ([10, 20, 60, 50], 8, 0.6),
        ([11, 20, 60, 51], 3, 0.9),
        ([100, 20, 160, 70], 6, 0.5),
        ([0, 0, 50, 50], 1, 0.99),
        ([5, 5, 30, 30], 3, 0.49),
        ([100, 60, 100, 90], 3, 0.8),
    )
    detector = CarDetector(net)
    assert detector.find("a.jpg", PICTURE) == [[11, 20, 49, 31], [100, 20, 60, 50]]
    assert detector.for_pictures(["a.jpg"]).find("a.jpg", PICTURE[:, ::-1]) == detector.find("a.jpg", PICTURE)
    assert "car, bus, truck with a confidence of 0.5 or more" in detector.notes[0]
    assert CarDetector(stub()).find("a.jpg", PICTURE) == []


def test_damaged_numbers_and_thresholds_are_refused() -> None:
    with pytest.raises(DetectorError, match="not numbers"):
        CarDetector(stub(([float("nan"), 0, 9, 9], 3, 0.9))).find("a.jpg", PICTURE)
    with pytest.raises(ValueError, match=r"min_score must be in \[0, 1\], got 2"):
        CarDetector(stub(), min_score=2)


def test_the_classes_and_the_address_are_torchvisions() -> None:
    from torchvision.models.detection import FasterRCNN_MobileNet_V3_Large_FPN_Weights  # type: ignore[import-untyped]

    weights: Any = FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1
    assert {number: weights.meta["categories"][number] for number in CLASS_NAMES} == CLASS_NAMES
    assert weights.url == WEIGHTS_URL
    assert Path(WEIGHTS_URL).stem.rsplit("-", 1)[-1] == WEIGHTS_SHA256[:8]


def test_torchvision_is_imported_when_it_is_needed() -> None:
    code = "import sys, carkp.workflow.boxes; sys.exit('torchvision.models.detection' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_a_network_the_error_says_where_a_file_can_be_put(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(url: str, timeout: float) -> Any:
        assert url == WEIGHTS_URL
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(car_detector.urllib.request, "urlopen", offline)
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        open_boxes("auto", [])
    expected = home / "torch" / "hub" / "checkpoints" / "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth"
    assert f"Download {WEIGHTS_URL} on a machine with a network, and put the file at {expected}" in str(caught.value)
    assert "Name or service not known" in str(caught.value)
    assert list(expected.parent.iterdir()) == []


def test_weights_are_fetched_once(home: Path) -> None:
    source = home / "served.pth"
    source.write_bytes(CONTENT)
    path = find_weights(source.as_uri(), DIGEST)
    assert path == weights_path()
    assert path.read_bytes() == CONTENT
    source.unlink()
    assert find_weights(source.as_uri(), DIGEST) == path
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_was_fetched_and_is_another_file_is_not_kept(home: Path) -> None:
    (home / "served.pth").write_bytes(b"an error page")
    with pytest.raises(DetectorError, match=rf"the download has the SHA-256 [0-9a-f]{{64}}, expected {DIGEST}"):
        find_weights((home / "served.pth").as_uri(), DIGEST)
    assert list(weights_path().parent.iterdir()) == []


def test_a_damaged_file_is_refused(home: Path) -> None:
    weights_path().parent.mkdir(parents=True)
    weights_path().write_bytes(CONTENT[:-1])
    with pytest.raises(DetectorError, match=r"fb6a3cc7\.pth: is damaged or another file: .* delete it"):
        open_detector()


def test_weights_that_were_put_there_are_opened(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, path = build_net(), weights_path()
    path.parent.mkdir(parents=True)
    torch.save(net.state_dict(), path)
    monkeypatch.setattr(car_detector, "find_weights", lambda: path)
    detector = open_detector()
    detector.min_score = 0.0
    picture = np.random.default_rng(0).integers(0, 256, (120, 200, 3)).astype(np.uint8)
    for x, y, width, height in detector.find("a.jpg", picture):
        assert min(x, y) >= 0
        assert x + width <= 200.001
        assert y + height <= 120.001
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(DetectorError, match=r"cannot be loaded: .*Missing key"):
        open_detector()


def test_a_picture_that_may_be_one_car_is_not_warned_of() -> None:
    assert describe_whole_picture((480, 640)) == ""
    text = describe_whole_picture((1080, 1920))
    assert "the whole picture, 1920x1080 pixels, was used as one car" in text
    assert "boxes=<file or folder>" in text
    assert "boxes=auto" in text
