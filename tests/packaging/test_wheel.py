"""What a built package holds, and that it works where nothing else is installed."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.environments import TIMEOUT_S, Environment, create_environment

ROOT = Path(__file__).parents[2]
SOURCES = ("carkp", "configs", "docs", "tests")
NEEDED = (
    "carkp/py.typed",
    "carkp/configs/synthetic.yaml",
    "carkp/configs/search/default.yaml",
    "carkp/configs/targets/bpu.yaml",
    "carkp/models/car12/card.yaml",
    "carkp/models/car12/int8.onnx",
    "carkp/models/car12/weights.safetensors",
    "carkp/report/templates/page.html",
    "carkp/view/pages/index.html",
    "carkp/view/pages/view.css",
)
ONLY_FOR_TRAINING = {"torch", "torchvision", "timm", "mlflow", "mlflow-skinny", "lmdb", "onnx", "optuna", "pandas"}


def build(source: Path, out_dir: Path, *options: str) -> None:
    """``python -m build`` as it runs in a shell."""
    words = [sys.executable, "-m", "build", *options, "--outdir", str(out_dir), str(source)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def packaged_files(wheel: Path) -> set[str]:
    """All but the wheel's own metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: a build writes into the folder that it builds."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix in ("", ".py", ".toml", ".md", ".in", ".txt", ".yaml"):
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built after an earlier build has left a configuration behind that is no more."""
    left_over = source / "build" / "lib" / "carkp" / "configs" / "old.yaml"
    left_over.parent.mkdir(parents=True)
    left_over.write_text("name: old")
    out_dir = tmp_path_factory.mktemp("wheel")
    build(source, out_dir, "--wheel", "--no-isolation")
    return only(out_dir, "*.whl")


def test_a_wheel_holds_the_package_with_all_its_files_and_the_configurations(source: Path, wheel: Path) -> None:
    package = {path.relative_to(source).as_posix() for path in (source / "carkp").rglob("*") if path.is_file()}
    configs = {
        f"carkp/{path.relative_to(source).as_posix()}" for path in (source / "configs").rglob("*") if path.is_file()
    }
    found = packaged_files(wheel)
    assert found == package | configs
    assert set(NEEDED) <= found


@pytest.mark.slow
def test_a_wheel_of_the_source_distribution_is_the_same(source: Path, wheel: Path, tmp_path: Path) -> None:
    build(source, tmp_path)  # in isolation, the wheel out of the .tar.gz
    assert packaged_files(only(tmp_path, "*.whl")) == packaged_files(wheel)
    with tarfile.open(only(tmp_path, "*.tar.gz")) as archive:
        listed = {name.partition("/")[2] for name in archive.getnames()}
    assert {"MLproject", "configs/tiny.yaml", "docs/settings.md", "tests/conftest.py", "LICENSE"} <= listed


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("installed")
    environment = create_environment(folder / "environment")
    environment.install(str(wheel), cwd=folder)
    return environment


@pytest.mark.slow
def test_a_base_installation_has_nothing_of_training(installed: Environment, tmp_path: Path) -> None:
    found = installed.distributions(tmp_path)
    assert {"carkp", "onnxruntime"} <= found
    assert not found & ONLY_FOR_TRAINING


@pytest.mark.slow
def test_commands_work_in_a_base_installation(installed: Environment, tmp_path: Path) -> None:
    expected = {
        ("--help",): "infer",
        ("models",): "carkp-car12: comes with carkp",
        ("config", "show"): "name: synthetic",
        ("config", "show", "--config", "configs/tiny.yaml"): "name: tiny",
        ("config", "explain", "train.lr"): "train.lr",
        ("doctor",): "carkp-car12",
    }
    for words, text in expected.items():
        done = installed.run("carkp", *words, cwd=tmp_path)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        assert text in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_picture_is_inferred_in_a_base_installation(installed: Environment, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "car.png"), picture)
    done = installed.run("carkp", "infer", "car.png", "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "car.jpg").is_file()
    (by_command,) = json.loads((tmp_path / "out" / "keypoints.json").read_text())["images"]["car.png"]["cars"]
    code = """
import cv2, json, carkp
image = cv2.cvtColor(cv2.imread("car.png"), cv2.COLOR_BGR2RGB)
print(json.dumps(carkp.Predictor.load()(image).cars()))
"""
    done = installed.run("python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (in_python,) = json.loads(done.stdout)
    assert len(in_python["points"]) == 12
    assert in_python["points"] == by_command["points"]
