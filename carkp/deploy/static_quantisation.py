"""ONNX Runtime's own static quantisation of a float ONNX, for a comparison with the same network."""

from pathlib import Path
from tempfile import TemporaryDirectory

from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from carkp.deploy.quiet import quiet
from carkp.deploy.runtime import INPUT_NAME, Float32Array


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Returns images one by one, as quantize_static needs them."""

    def __init__(self, images: Float32Array) -> None:
        self.images = iter(images)

    def get_next(self) -> dict[str, Float32Array] | None:
        image = next(self.images, None)
        return None if image is None else {INPUT_NAME: image[None]}


def quantise_statically(source: Path, images: Float32Array, path: Path) -> None:
    """Run ``quantize_static`` with the settings that its documentation recommends for x86.

    These are pre-processing, QDQ, weights per channel, and uint8 activations with min-max calibration.

    Args:
        source: path of the float ONNX.
        images: normalised images (N, 3, H, W); all are used.
        path: path of the int8 ONNX.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet(), TemporaryDirectory() as folder:
        prepared = Path(folder) / source.name
        quant_pre_process(str(source), str(prepared))
        quantize_static(
            prepared,
            path,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
