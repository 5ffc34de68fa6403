"""Running ONNX files with ONNX Runtime.

Legend: B batch, K keypoints, H W height and width of the image, h w of the heatmaps.
"""

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from carkp.deploy.cpu import cpu_features

Float32Array = NDArray[np.float32]

INPUT_NAME, OUTPUT_NAME = "image", "heatmaps"

EXACT_PRODUCTS = ("session.x64quantprecision", "1")
"""Setting of a session for exact results. On x86 without VNNI, the kernels for unsigned activations and signed weights
add two products in 16 bits, which can saturate. With this setting the session makes the weights unsigned, and the
kernels are slower but exact. ONNX Runtime applies it on every x86 CPU: where the fast kernels are exact (VNNI, AMX), it
only costs two thirds of the speed.
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "When and why do I need to try U8U8?"
"""


def session_options(num_threads: int) -> onnxruntime.SessionOptions:
    """Return options for a session with the same int8 results on every CPU; ``num_threads``: threads per operator."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = 3
    if cpu_features().lacks_exact_kernels:
        options.add_session_config_entry(*EXACT_PRODUCTS)
    return options


class OnnxRunError(ValueError):
    """A network can be opened but fails when it runs, because it is inconsistent."""


class OnnxRunner:
    """A session on the CPU: normalised YUV images in, heatmaps out."""

    def __init__(self, path: Path | str, num_threads: int = 1) -> None:
        """Open ``path``.

        Args:
            path: path of a model with one float32 input (B, 3, H, W) and one float32 output (B, K, h, w).
            num_threads: number of threads of one operator; at least 1.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a readable ONNX file or has other inputs or outputs, or ``num_threads`` is
                below 1.
        """
        if num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {num_threads}")
        self.path = Path(path)
        self._session = _open_session(self.path, num_threads)
        _check_interface(self.path, self._session)
        image = self._session.get_inputs()[0]
        self.image_shape: tuple[int | str, ...] = tuple(image.shape)
        self.heatmaps_shape: tuple[int | str, ...] = tuple(self._session.get_outputs()[0].shape)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        height, width = self.image_shape[2:]
        return int(height), int(width)

    def run_all(self, images: Float32Array) -> Float32Array:
        """Run any number of images; a file with a fixed batch runs several times, and the last batch is padded."""
        batch = self.image_shape[0]
        if not isinstance(batch, int):
            return self.run(images)
        padded = np.pad(images, ((0, -len(images) % batch), (0, 0), (0, 0), (0, 0)))
        parts = [self.run(padded[start : start + batch]) for start in range(0, len(padded), batch)]
        return np.concatenate(parts)[: len(images)]

    def run(self, images: Float32Array) -> Float32Array:
        """Return heatmaps (B, K, h, w) for images (B, 3, H, W) in float32 normalised YUV.

        Raises:
            ValueError: the images have another type or shape than the model's input.
            OnnxRunError: the network fails when it runs.
        """
        expected = self.image_shape
        fits = images.ndim == len(expected) and all(
            isinstance(want, str) or want == got for want, got in zip(expected, images.shape, strict=True)
        )
        if images.dtype != np.float32 or not fits:
            raise ValueError(
                f"{self.path}: expected float32 images of shape {expected}, got {images.dtype} {images.shape}"
            )
        try:
            heatmaps: Float32Array = self._session.run(None, {self._session.get_inputs()[0].name: images})[0]
        except Exception as error:  # as in _open_session
            raise OnnxRunError(f"{self.path}: ONNX Runtime cannot run the network: {error}") from error
        return heatmaps


def _open_session(path: Path, num_threads: int) -> onnxruntime.InferenceSession:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such ONNX file")
    options = session_options(num_threads)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the only common base class of onnxruntime's exceptions is Exception
        raise ValueError(f"{path}: not a readable ONNX file (truncated, or another format): {error}") from error


def _check_interface(path: Path, session: onnxruntime.InferenceSession) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    is_ours = (
        len(inputs) == 1
        and len(outputs) == 1
        and inputs[0].type == "tensor(float)"
        and outputs[0].type == "tensor(float)"
        and len(inputs[0].shape) == len(outputs[0].shape) == 4
        and inputs[0].shape[1] == 3
        and all(isinstance(length, int) for length in inputs[0].shape[2:])
    )
    if not is_ours:
        found = ", ".join(f"{value.name} {value.type} {value.shape}" for value in [*inputs, *outputs])
        raise ValueError(
            f"{path}: expected one float input (batch, 3, height, width) of fixed size and one float output "
            f"(batch, keypoints, height, width), found {found}"
        )
