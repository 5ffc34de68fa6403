"""The registered model where nothing is installed but what it asks for, away from every checkout."""

import base64
import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest

from carkp.predictor import Predictor
from carkp.tracking.tracker import tracked_run
from carkp.workflow.registering import register
from tests.environments import Environment, create_environment
from tests.model_server import JSON, post, serving, tracking_store
from tests.tiny_models import TinyModels

BOXES = [[5, 5, 60, 40], [20.5, 10, 30, 30]]
PARQUET = "application/vnd.apache.parquet"
BUILD_TIMEOUT_S = 900
NOT_SERVING = {"carkp", "mlflow", "torch", "torchvision", "timm", "lmdb", "onnx", "matplotlib", "scipy", "optuna"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the registered model, as downloaded from the tracking server."""
    folder = tmp_path_factory.mktemp("registry")
    with tracking_store(folder):
        with tracked_run("export", "tiny", 10.0) as tracker:
            register(tiny_models.int8_onnx, "champion", folder / "out", tracker)
        path = mlflow.artifacts.download_artifacts("models:/carkp@champion", dst_path=str(folder / "downloaded"))
    return Path(path)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """(80, 120, 3) BGR."""
    image = np.random.default_rng(0).integers(0, 256, (80, 120, 3)).astype(np.uint8)
    return cv2.GaussianBlur(image, (0, 0), 3)


@pytest.fixture(scope="module")
def expected(model: Path, picture: np.ndarray) -> dict[str, Any]:
    """What the predictor finds here."""
    cars = Predictor.load(model)(np.ascontiguousarray(picture[..., ::-1]), BOXES).cars()
    return {"width": 120, "height": 80, "cars": cars}


def requests_of(picture: np.ndarray) -> dict[str, tuple[bytes, str]]:
    """The same picture and boxes in every form that the documentation names: body and content type."""
    image = base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode()
    row = {"image": image, "boxes": BOXES}
    table = io.BytesIO()
    pd.DataFrame([row]).to_parquet(table)
    forms: dict[str, object] = {
        "records": {"dataframe_records": [row]},
        "split": {"dataframe_split": {"columns": ["image", "boxes"], "data": [[image, BOXES]]}},
        "inputs, list": {"inputs": [row]},
        "inputs, columns": {"inputs": {"image": [image], "boxes": [BOXES]}},
        "instances": {"instances": [row]},
    }
    bodies = {name: (json.dumps(form).encode(), JSON) for name, form in forms.items()}
    return {**bodies, "Parquet": (table.getvalue(), PARQUET)}


def assert_answers(address: str, picture: np.ndarray, expected: dict[str, Any]) -> None:
    for name, (body, content_type) in requests_of(picture).items():
        assert (name, *post(address, body, content_type)) == (name, 200, {"predictions": [expected]})


@pytest.fixture(scope="module")
def fresh(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """An environment with the model's requirements, by hand."""
    folder = tmp_path_factory.mktemp("fresh")
    environment = create_environment(folder / "environment")
    environment.install("-r", str(model / "requirements.txt"), cwd=folder)
    yield environment
    shutil.rmtree(environment.folder)


def test_requirements_bring_nothing_of_training(fresh: Environment, tmp_path: Path) -> None:
    found = fresh.distributions(tmp_path)
    assert {"mlflow-skinny", "onnxruntime"} <= found
    assert not found & NOT_SERVING


def test_mlflow_predicts_in_a_fresh_environment(
    fresh: Environment, model: Path, picture: np.ndarray, expected: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "request.json").write_bytes(requests_of(picture)["records"][0])
    words = ("models", "predict", "-m", str(model), "--env-manager", "local", "-i", "request.json", "-o", "answer.json")
    done = fresh.run("mlflow", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "answer.json").read_text()) == {"predictions": [expected]}


def test_mlflow_serves_in_a_fresh_environment(
    fresh: Environment, model: Path, picture: np.ndarray, expected: dict[str, Any], tmp_path: Path
) -> None:
    with serving(["-m", str(model), "--env-manager", "local"], fresh.variables, tmp_path) as address:
        assert_answers(address, picture, expected)


@pytest.mark.skipif(shutil.which("pyenv") is None, reason="MLflow builds environments with pyenv")
def test_mlflow_builds_the_environment_and_serves(
    model: Path, picture: np.ndarray, expected: dict[str, Any], tmp_path: Path
) -> None:
    here = Environment(Path(sys.prefix))
    environment = {**here.variables, "MLFLOW_ENV_ROOT": str(tmp_path / "environments")}
    words = ["-m", str(model), "--env-manager", "virtualenv"]
    with serving(words, environment, tmp_path, BUILD_TIMEOUT_S) as address:
        assert_answers(address, picture, expected)
    shutil.rmtree(tmp_path / "environments")
