"""Networks in OpenVINO on the CPU, and their quantisation with NNCF, for a comparison from the same float ONNX.

It requires the extra ``carkp[peers]``.

Legend: B batch, K keypoints, H W height and width of the image, h w of the heatmaps.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from carkp.deploy.runtime import Float32Array

Precision = Literal["f32", "bf16"]

INSTALL = "pip install -e '.[peers]'"

NNCF_MODULE = "carkp.deploy.nncf_process"

WITHOUT_TELEMETRY = {"NNCF_CI": "1"}
"""Environment for NNCF: it sends usage data by default, but not from a CI job."""


class NncfError(RuntimeError):
    """NNCF could not quantise a network; the message quotes NNCF."""


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise ImportError(f"OpenVINO is not installed: {INSTALL}") from error
    return openvino


class OpenVinoRunner:
    """A model compiled for the CPU, once per batch size: normalised YUV images in, heatmaps out."""

    def __init__(self, path: Path | str, num_threads: int = 1, precision: Precision = "f32") -> None:
        """Open ``path``, an ONNX file or OpenVINO's own XML with a float interface.

        ``precision``: requested precision of layers that are not quantised; :attr:`runs_in` says which one the CPU
        uses.

        Raises:
            FileNotFoundError: there is no such file.
            ImportError: OpenVINO is not installed; the message says how to install it.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such model file")
        self._core = _openvino().Core()
        self._model = self._core.read_model(str(path))
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": num_threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": precision,
        }
        self._requests: dict[int, Any] = {}

    @property
    def runs_in(self) -> str:
        """The precision in which layers that are not quantised run."""
        compiled = self._request(1).get_compiled_model()
        return str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())

    def run(self, images: Float32Array) -> Float32Array:
        """Return heatmaps (B, K, h, w) for images (B, 3, H, W) in float32 normalised YUV; B is at least 1."""
        request = self._request(len(images))
        request.infer([images])
        heatmaps: Float32Array = np.array(request.get_output_tensor(0).data)
        return heatmaps

    def _request(self, batch: int) -> Any:
        if batch not in self._requests:
            model = self._model.clone()
            model.reshape([batch, *(size.get_length() for size in list(model.input(0).partial_shape)[1:])])
            self._requests[batch] = self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        return self._requests[batch]


def quantise_with_nncf(source: Path, images: Float32Array, path: Path) -> None:
    """Quantise an ONNX file after training, with NNCF's default settings for CPUs.

    Args:
        source: path of the float ONNX.
        images: normalised images (N, 3, H, W); all are used.
        path: path of OpenVINO's XML; the weights are written beside it.

    Raises:
        ImportError: NNCF is not installed; the message says how to install it.
        NncfError: NNCF failed.
    """
    if find_spec("nncf") is None or find_spec("openvino") is None:
        raise ImportError(f"NNCF is not installed: {INSTALL}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        images_path = Path(folder) / "images.npy"
        np.save(images_path, images)
        command = [sys.executable, "-m", NNCF_MODULE, *map(str, (source, images_path, path))]
        done = subprocess.run(
            command, env={**os.environ, **WITHOUT_TELEMETRY}, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise NncfError(f"NNCF could not quantise {source}:\n{done.stderr}")
