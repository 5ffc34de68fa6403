"""The registered model has with it all that it needs, and lists no more."""

import ast
import importlib.metadata
import json
import os
import re
import sys
from pathlib import Path

import pytest

from carkp.predictor import Predictor
from carkp.serving.model import REQUIREMENTS
from carkp.workflow.registering import copy_served_code
from tests.test_light_runtime import run_without
from tests.tiny_models import TinyModels

NOT_SERVING = ("torch", "torchvision", "timm", "lmdb", "onnx", "matplotlib", "numba", "optuna", "sklearn", "trimesh")
ONLY_FOR_MLFLOW = {"pyarrow"}
"""Which MLflow imports for requests in Parquet, and carkp never."""

ANSWER = """
import json, sys
import numpy as np, pandas as pd
import carkp
from carkp.predictor import Predictor
from carkp.serving import KeypointModel, example_row
model = KeypointModel()
model.predictor = Predictor.load({path!r})
cars = model.predict(None, pd.DataFrame([example_row()]))[0]["cars"]
image = np.full((64, 96, 3), 128, np.uint8)
modules = [str(module.__file__) for name, module in sys.modules.items() if name.partition(".")[0] == "carkp"]
print(json.dumps(dict(cars=cars, modules=modules, root=carkp.__file__)))
"""


@pytest.fixture(scope="module")
def answered(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A request answered by the code that a registered model has, without the packages that training takes."""
    folder = tmp_path_factory.mktemp("code")
    package = copy_served_code(folder)
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}  # not the working directory
    done = run_without(ANSWER.format(path=str(tiny_models.int8_onnx)), NOT_SERVING, environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    assert found["root"] == str(package / "__init__.py")
    return found


def normalised(name: str) -> str:
    """A distribution's name as indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_packages(path: Path) -> set[str]:
    """Top-level names that a module imports where it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {item.name.partition(".")[0] for item in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found - {*sys.stdlib_module_names, "carkp"}


def test_the_copied_code_answers_as_the_predictor_does(answered: dict[str, object], tiny_models: TinyModels) -> None:
    from carkp.data import jpeg
    from carkp.serving import example_row
    from carkp.serving.request import picture_bytes

    row = example_row()
    image = jpeg.decode_rgb(picture_bytes(row["image"]))
    assert image is not None
    assert answered["cars"] == Predictor.load(tiny_models.int8_onnx)(image, row["boxes"]).cars()


def test_requirements_are_what_the_served_code_imports(answered: dict[str, object]) -> None:
    modules = answered["modules"]
    assert isinstance(modules, list)
    names = set().union(*(imported_packages(Path(module)) for module in modules))
    assert {"onnxruntime", "mlflow", "pandas"} <= names
    required = {normalised(name) for name in REQUIREMENTS}
    providers = importlib.metadata.packages_distributions()
    provided = {name: {normalised(found) for found in providers[name]} & required for name in names}
    assert not [name for name, found in provided.items() if not found], "not in REQUIREMENTS"
    assert required - set().union(*provided.values()) == ONLY_FOR_MLFLOW


def test_requirements_hold_nothing_of_training() -> None:
    providers = importlib.metadata.packages_distributions()
    of_training = {normalised(found) for name in NOT_SERVING for found in providers.get(name, [])}
    assert "torch" in of_training
    assert not of_training & {normalised(name) for name in REQUIREMENTS}
