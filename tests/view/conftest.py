"""Models of the page, pictures and videos as people drop them on it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from carkp.data.video import VideoWriter
from carkp.predictor import Predictor
from carkp.view.limits import Limits
from carkp.view.models import ViewedModel
from carkp.view.server import create_app
from tests.tiny_models import TinyModels

HEIGHT, WIDTH, NUM_FRAMES = 240, 320, 12
LIMITS = Limits(picture_mib=1.0, video_mib=2.0, text_mib=0.01, pixels=400_000, boxes=4, sources=2)

Picture = NDArray[np.uint8]


def scene(index: int = 0) -> Picture:
    """(HEIGHT, WIDTH, 3) RGB of smooth colours; the top left corner's red says the index."""
    small = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = np.asarray(cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)
    picture[:80, :80] = (20 * index, 0, 0)
    return picture


def encoded(picture: Picture, suffix: str = ".png") -> bytes:
    return bytes(cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1])


def video(path: Path) -> Path:
    with VideoWriter(path, 10.0) as writer:
        for index in range(NUM_FRAMES):
            writer.add(scene(index))
    return path


def open_models(tiny_models: TinyModels) -> list[ViewedModel]:
    """int8 and float."""
    files = {"tiny int8": tiny_models.int8_onnx, "tiny float": tiny_models.checkpoint}
    return [ViewedModel(name, Predictor.load(path)) for name, path in files.items()]


@pytest.fixture(scope="session")
def models(tiny_models: TinyModels) -> list[ViewedModel]:
    return open_models(tiny_models)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def client(models: list[ViewedModel], temporary: Path) -> Iterator[TestClient]:
    with TestClient(create_app(models, limits=LIMITS), base_url="http://127.0.0.1:8765") as opened:
        yield opened
