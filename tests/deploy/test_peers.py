"""Other programs run the same network: in float they give the same, quantised by their own tools about the same."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from carkp.deploy.float_onnx import export_float_onnx
from carkp.deploy.float_tflite import save_float_tflite
from carkp.deploy.litert import LiteRtRunner, TfliteError
from carkp.deploy.openvino import WITHOUT_TELEMETRY, NncfError, OpenVinoRunner, quantise_with_nncf
from carkp.deploy.runtime import Float32Array, OnnxRunner
from carkp.deploy.static_quantisation import quantise_statically
from carkp.model.pose_net import build_pose_net
from carkp.quant.equalise import equalise
from carkp.quant.fold import fold
from tests.quant.networks import GatedNet, SmallNet, with_statistics

SIZE = (64, 64)


def images(num_images: int) -> Float32Array:
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (num_images, 3, 8, 8)).repeat(8, 2).repeat(8, 3).astype(np.float32)


APART = """
import sys, numpy
from carkp.deploy.openvino import OpenVinoRunner
runner, images = OpenVinoRunner(sys.argv[1]), numpy.load(sys.argv[2])
numpy.save(sys.argv[2], runner.run(images))
print(runner.runs_in)
"""


def run_openvino(path: Path, batch: Float32Array, folder: Path) -> Float32Array:
    """In a process of its own: one that has run OpenVINO's int8 kernels may end when it starts another program."""
    np.save(folder / "batch.npy", batch)
    command = [sys.executable, "-c", APART, str(path), str(folder / "batch.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "f32\n", done.stderr
    return np.asarray(np.load(folder / "batch.npy"), np.float32)


@pytest.fixture(scope="module")
def float_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = build_pose_net("efficientnet_lite0", "none", SIZE, head_channels=16).net.eval()
    path = tmp_path_factory.mktemp("peers") / "float.onnx"
    export_float_onnx(net, SIZE, path, {})
    save_float_tflite(fold(net, SIZE), path.with_suffix(".tflite"))
    return path


@pytest.mark.parametrize("batch", [1, 3])
def test_float_files_give_the_same_everywhere(float_onnx: Path, batch: int, tmp_path: Path) -> None:
    expected = OnnxRunner(float_onnx).run(images(batch))
    spread = expected.std()
    assert spread > 0
    litert = LiteRtRunner(float_onnx.with_suffix(".tflite")).run(images(batch))
    for found in (litert, run_openvino(float_onnx, images(batch), tmp_path)):
        assert found.shape == expected.shape
        assert abs(found - expected).max() < 1e-3 * spread


def test_strides_pads_and_clamps_come_through(tmp_path: Path) -> None:
    net = with_statistics(SmallNet()).eval()
    graph = fold(net, SIZE)
    save_float_tflite(graph, tmp_path / "small.tflite")
    batch = torch.from_numpy(images(2))
    with torch.no_grad():
        expected = graph(batch).numpy()
    assert abs(LiteRtRunner(tmp_path / "small.tflite").run(batch.numpy()) - expected).max() < 1e-4


def test_what_has_no_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(TfliteError, match="cannot be written"):
        save_float_tflite(fold(with_statistics(GatedNet()).eval(), SIZE), tmp_path / "gated.tflite")
    graph = fold(with_statistics(SmallNet()).eval(), SIZE)
    equalise(graph, [torch.from_numpy(images(2))])
    with pytest.raises(TfliteError, match="before equalisation"):
        save_float_tflite(graph, tmp_path / "equalised.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("peer", ["quantize_static", "NNCF"])
def test_peers_quantise_the_float_file(float_onnx: Path, peer: str, tmp_path: Path) -> None:
    if peer == "NNCF":
        path = tmp_path / "made" / "peer.xml"
        quantise_with_nncf(float_onnx, images(8), path)
        found = run_openvino(path, images(8), tmp_path)
        size = path.with_suffix(".bin").stat().st_size
    else:
        path = tmp_path / "made" / "peer.onnx"
        quantise_statically(float_onnx, images(8), path)
        found = OnnxRunner(path).run(images(8))
        size = path.stat().st_size
    assert size < 0.4 * float_onnx.stat().st_size
    expected = OnnxRunner(float_onnx).run(images(8))
    assert 0 < abs(found - expected).mean() < expected.std()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.8


def test_nncf_sends_no_usage_data() -> None:
    """It does so wherever it is imported without a word against it."""
    code = "import nncf.telemetry as found; print(isinstance(found.telemetry, found.wrapper.NNCFTelemetry))"
    plain = {name: value for name, value in os.environ.items() if name not in WITHOUT_TELEMETRY}
    for environment in (plain, plain | WITHOUT_TELEMETRY):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.stdout == f"{environment is plain}\n", done.stderr


def test_nncf_s_own_words_come_through(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(NncfError, match=r"NNCF could not quantise .*broken\.onnx:\n(?s:.*)Error"):
        quantise_with_nncf(tmp_path / "broken.onnx", images(1), tmp_path / "out.xml")


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx: no such model file"):
        OpenVinoRunner(tmp_path / "nothing.onnx")


def test_what_is_not_installed_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"OpenVINO is not installed: pip install -e '\.\[peers\]'"):
        OpenVinoRunner(path)
