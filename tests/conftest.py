"""One torch thread: the networks of the tests are too small for more, and threads that wait for each other stall."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.tiny_models import TinyModels, build_tiny_models


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """One untrained network as float checkpoint, float ONNX and int8 ONNX."""
    return build_tiny_models(tmp_path_factory.mktemp("tiny_models"))
