"""The settings that MLflow hands to the backend, and its place in pyproject.toml."""

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import ExecutionException
from mlflow.projects.backend.abstract_backend import AbstractBackend

from carkp.cluster.mlflow_backend import SlurmBackend, read_config
from carkp.config.loading import ConfigError

ROOT = Path(__file__).parents[2]
MLFLOW_S_OWN = {"ENV_MANAGER": "local", "SYNCHRONOUS": False, "build_image": False, "docker_auth": None}


def test_the_entry_point_leads_to_the_backend() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["mlflow.project_backend"]["carkp-slurm"].partition(":")
    found = getattr(import_module(module), name)
    assert found is SlurmBackend
    assert issubclass(found, AbstractBackend)


def test_settings_come_from_the_file_and_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("{partition: gpu, cpus: 8, setup: [module load cuda]}\n")
    found = read_config({**MLFLOW_S_OWN, "file": str(path), "cpus": 2, "wait": False})
    assert (found.partition, found.cpus, found.setup, found.time_min) == ("gpu", 2, ("module load cuda",), 60)


def test_without_settings_the_project_s_file_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert read_config(MLFLOW_S_OWN).time_min == 240


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"partitoin": "gpu"}, "no such setting: partitoin; account, constraint, cpus"),
        ({"cpus": 0}, "cpus: Input should be greater than 0"),
        ({"file": "configs/backend/slrum.yaml"}, "did you mean slurm.yaml"),
    ],
)
def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=message):
        read_config({**MLFLOW_S_OWN, **given})


def test_a_project_elsewhere_is_refused() -> None:
    with pytest.raises(ExecutionException, match="a folder that all nodes can read"):
        SlurmBackend().run("https://example.org/project", "data", {}, None, MLFLOW_S_OWN, "", "0")
