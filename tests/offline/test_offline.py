"""Without a network everything works that does not ask for weights, and what does says what is missing."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.offline import blocked_sockets
from tests.stages.conftest import ROOT, copy_project

PREDICTION = """
import numpy as np
import carkp
print(carkp.Predictor.load()(np.zeros((64, 96, 3), np.uint8), [[8, 8, 80, 48]]).points.shape)
"""
QUIET = ("PYTEST", "CI", "GITHUB_", "GITLAB_", "JENKINS_", "TRAVIS", "TF_BUILD", "BUILDKITE", "TEAMCITY", "CODEBUILD")
"""Variables by which MLflow knows tests and hosted checks, and tells its makers nothing."""

TELEMETRY = """
from carkp.tracking import tracker
from mlflow.telemetry import get_telemetry_client
print(get_telemetry_client())
"""
TRIAL = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"


class Offline:
    """Commands in a folder whose processes have no network."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.attempts = folder, folder / "attempts.txt"

    def call(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(ROOT / "tests" / "offline"), str(ROOT)])
        left_out = ("MLFLOW_", "HF_", "TORCH_HOME", *QUIET)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        names = {"PYTHONPATH": path, "CARKP_TEST_ATTEMPTS": str(self.attempts), **environment}
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env={**kept, **names},
            capture_output=True,
            text=True,
            check=False,
        )

    def tried(self) -> str:
        """Who tried to reach whom."""
        return self.attempts.read_text() if self.attempts.exists() else ""


def test_the_process_of_the_tests_keeps_its_network() -> None:
    assert socket.socket.connect is not blocked_sockets.connect
    assert socket.getaddrinfo is not blocked_sockets.getaddrinfo


@pytest.fixture
def offline(tmp_path: Path) -> Offline:
    return Offline(tmp_path)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """In this process; the file that says who tried."""
    attempts = tmp_path / "attempts.txt"
    for name, value in (
        ("CARKP_TEST_ATTEMPTS", str(attempts)),
        ("TORCH_HOME", str(tmp_path)),
        ("HF_HOME", str(tmp_path)),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("socket.socket.connect", blocked_sockets.connect)
    monkeypatch.setattr("socket.socket.connect_ex", blocked_sockets.connect_ex)
    monkeypatch.setattr("socket.getaddrinfo", blocked_sockets.getaddrinfo)
    return attempts


def test_the_network_is_really_away(offline: Offline) -> None:
    done = offline.call("-c", TRIAL)
    assert "Network is unreachable: 192.0.2.1" in done.stderr
    assert offline.tried().startswith("192.0.2.1")


def test_import_and_prediction_need_no_network(offline: Offline) -> None:
    done = offline.call("-c", PREDICTION)
    assert done.stdout.strip() == "(1, 12, 2)", done.stderr
    assert offline.tried() == ""


def test_mlflow_tells_its_makers_nothing(offline: Offline) -> None:
    done = offline.call("-c", TELEMETRY)
    assert done.stdout.strip() == "None", done.stdout + done.stderr
    told = offline.call("-c", TELEMETRY, MLFLOW_DISABLE_TELEMETRY="false")
    assert "TelemetryClient" in told.stdout  # whoever wants to may


@pytest.mark.slow
def test_data_training_calibration_and_export_need_no_network(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "carkp")
    offline = Offline(project.path)
    for stage in ("data", "float", "calibration", "export"):
        words = ("-m", "carkp.command.main", stage, "--config", "configs/tiny.yaml")
        done = offline.call(*words, MLFLOW_TRACKING_URI=project.uri)
        assert done.returncode == 0, done.stdout + done.stderr
    assert offline.tried() == ""


@pytest.mark.slow  # huggingface_hub tries again and again for most of a minute
def test_weights_of_the_hub_are_asked_for_and_missed(no_network: Path) -> None:
    from carkp.model.pose_net import build_pose_net

    with pytest.raises(RuntimeError, match="timm"):
        build_pose_net("tf_efficientnet_lite0", "timm", (64, 64))
    assert no_network.read_text()


def test_without_the_hub_the_package_serves(no_network: Path) -> None:
    from carkp.model.pose_net import build_pose_net

    assert build_pose_net("tf_efficientnet_lite0", "auto", (64, 64)).source.kind == "package"


def test_random_weights_ask_nobody(no_network: Path) -> None:
    from carkp.model.pose_net import build_pose_net

    assert build_pose_net("tf_efficientnet_lite0", "none", (64, 64)).source.kind == "none"
    assert not no_network.exists()


def test_the_detector_s_weights_are_asked_for_and_missed(no_network: Path) -> None:
    from carkp.workflow.car_detector import DetectorError, find_weights

    with pytest.raises(DetectorError, match=r"could not be downloaded \(.*Network is unreachable.*put the file at"):
        find_weights()
    assert no_network.read_text().startswith("download.pytorch.org")
