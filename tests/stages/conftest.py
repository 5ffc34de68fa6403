"""A project directory of its own in which the tiny configuration has run once."""

import importlib
import io
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path

ROOT = Path(__file__).parents[2]
TINY = "configs/tiny.yaml"


@dataclass(frozen=True)
class Outcome:
    """Exit status and what was written."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Project:
    """A checkout's files without its data and runs."""

    path: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.path / 'mlflow.db'}"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri)

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in the project, in the environment that the tests run in."""
        return subprocess.run(
            command, cwd=self.path, env=self.environment(), capture_output=True, text=True, timeout=600, check=False
        )

    def environment(self) -> dict[str, str]:
        """For processes in the project."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": self.uri}

    def stage(self, name: str, *arguments: str) -> Outcome:
        """``python -m carkp.stages.<name>`` on the tiny configuration, in this process to save the imports."""
        main = importlib.import_module(f"carkp.stages.{name}").main
        out, error = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
            patch.chdir(self.path)
            patch.setenv("MLFLOW_TRACKING_URI", self.uri)
            mlflow.set_tracking_uri(self.uri)
            status = main(["--config", TINY, *arguments])
        return Outcome(status, out.getvalue(), error.getvalue())

    def runs(self, stage: str) -> list[Run]:
        """Runs of a stage, newest first."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        query = f"tags.`carkp.stage` = '{stage}'"
        return list(self.client.search_runs(experiments, query, order_by=["attributes.start_time DESC"]))

    def finished(self, stage: str) -> list[Run]:
        """Its runs that ended well, newest first; other modules may have left some of the project that did not."""
        return [run for run in self.runs(stage) if run.info.status == "FINISHED"]

    def training(self) -> Run:
        """What ``latest`` means to the tiny configuration."""
        return next(run for run in self.finished("float") if run.data.tags["carkp.experiment"] == "tiny")

    def artifact(self, run: Run, path: str) -> Path:
        """The file itself; MLflow's client would leave a copy of it."""
        return Path(local_file_uri_to_path(run.info.artifact_uri)) / path

    def artifacts(self, run: Run, folder: str = "") -> set[str]:
        return {item.path for item in self.client.list_artifacts(run.info.run_id, folder)}


def copy_project(path: Path) -> Project:
    path.mkdir(exist_ok=True)
    shutil.copytree(ROOT / "configs", path / "configs")
    for name in ("MLproject", "python_env.yaml", "requirements.txt"):
        shutil.copy(ROOT / name, path / name)
    return Project(path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after ``float`` on a fresh clone: it made its data itself."""
    project = copy_project(tmp_path_factory.mktemp("trained") / "carkp")
    done = project.stage("float")
    assert done.returncode == 0, done.stdout + done.stderr
    return project
