"""Networks in OpenVINO on the CPU, and its own quantisation, NNCF's: what a peer makes of the same float ONNX.

Takes the extra ``carkp[peers]``.

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
"""Environment: NNCF sends usage data home unasked, but not from a CI job."""


class NncfError(RuntimeError):
    """NNCF could not quantise a network; the message is its own."""


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise ImportError(f"OpenVINO is not installed: {INSTALL}") from error
    return openvino


class OpenVinoRunner:
    """A model compiled for the CPU, once a batch size: normalised YUV images in, heatmaps out."""

    def __init__(self, path: Path | str, num_threads: int = 1, precision: Precision = "f32") -> None:
        """Opens ``path``, an ONNX file or OpenVINO's own XML with a float interface.

        ``precision``: of what is not quantised. It is a wish: :attr:`runs_in` says what the CPU made of it.

        Raises:
            FileNotFoundError: there is no such file.
            ImportError: OpenVINO is not installed; the message says how.
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
        """The precision of what is not quantised."""
        compiled = self._request(1).get_compiled_model()
        return str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())

    def run(self, images: Float32Array) -> Float32Array:
        """Heatmaps (B, K, h, w) of images (B, 3, H, W), float32 normalised YUV; B is at least 1."""
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
    """Post-training quantisation of an ONNX file with NNCF's settings for CPUs, as they come.

    Args:
        source: the float ONNX.
        images: (N, 3, H, W), normalised: all are used.
        path: OpenVINO's XML; the weights come to lie beside it.

    Raises:
        ImportError: NNCF is not installed; the message says how.
        NncfError: it failed.
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
