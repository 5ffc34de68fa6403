"""One torch thread: the networks of the tests are too small for more, and threads that wait for each other stall."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest

from carkp import shipped
from tests.tiny_models import TinyModels, build_tiny_models, ship


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """One untrained network as float checkpoint, float ONNX and int8 ONNX."""
    return build_tiny_models(tmp_path_factory.mktemp("tiny_models"))


@pytest.fixture
def shipped_folder(tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of ``carkp-car12``, in an installation that has a tiny untrained network in its place."""
    monkeypatch.setattr(shipped, "ROOT", tmp_path / "models")
    return ship(tiny_models, tmp_path / "models")
