"""The runtimes that ``benchmark`` compares, each with its own form of the same network.

If a runtime lacks something that it needs, its rows are left out, with a sentence that says why.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.data.store import Store
from carkp.deploy.float_onnx import export_float_onnx
from carkp.deploy.int8_onnx import save_program
from carkp.deploy.litert import INSTALL as INSTALL_LITERT
from carkp.deploy.litert import LiteRtRunner, NotDelegatedError, TfliteError, require_delegated
from carkp.deploy.openvino import NncfError, OpenVinoRunner, Precision, quantise_with_nncf
from carkp.deploy.runtime import Float32Array, OnnxRunner
from carkp.deploy.static_quantisation import quantise_statically
from carkp.quant.convert import convert
from carkp.quant.fold import fold
from carkp.quant.program import QProgram
from carkp.report.runtime_data import runtime_label
from carkp.training.checkpoint import Checkpoint, load_net
from carkp.workflow.calibrating import Calibrator, build_calibrator
from carkp.workflow.quantising import build_target

Run = Callable[[Float32Array], Float32Array]
"""Normalised images (B, 3, H, W) -> heatmaps (B, K, h, w)."""

ONNXRUNTIME, LITERT, OPENVINO = "ONNX Runtime", "LiteRT", "OpenVINO"
FLOAT32, BFLOAT16, INT8 = "float32", "bfloat16", "int8"

BASELINE = "onnxruntime_float32"
"""Name of the contestant that the others are compared with."""


@dataclass(frozen=True)
class Contestant:
    """A network in the form of one runtime.

    Attributes:
        name: unique name for metrics and tables.
        runtime: name of the runtime for people.
        numbers: number format of most of the computation.
        made_by: tool that quantised it; "" for float.
        files: files that would be shipped.
        open: number of threads -> function that runs the network.
    """

    name: str
    runtime: str
    numbers: str
    made_by: str
    files: tuple[Path, ...]
    open: Callable[[int], Run]

    @property
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    @property
    def label(self) -> str:
        return runtime_label(self.runtime, self.numbers, self.made_by)


@dataclass(frozen=True)
class Field:
    """The contestants that run here, baseline first, and sentences about those that cannot run."""

    contestants: Sequence[Contestant]
    left_out: Sequence[str]


@dataclass(frozen=True)
class Material:
    """Material for the contestants: a float network, crops for calibration, and a folder for the files."""

    config: ExperimentConfig
    checkpoint: Checkpoint
    store: Store
    folder: Path

    @property
    def float_onnx(self) -> Path:
        path = self.folder / "float.onnx"
        if not path.exists():
            export_float_onnx(load_net(self.checkpoint), self.config.model.input_size, path, {})
        return path

    @cached_property
    def images(self) -> Float32Array:
        """(N, 3, H, W), normalised: the images of carkp's own calibration."""
        calibrator = self._calibrator("onnxruntime_cpu")
        batches = calibrator.images(self.store, self.config.quant.num_images)
        return np.ascontiguousarray(np.concatenate([batch.numpy() for batch in batches]))

    def program(self, target: str) -> QProgram:
        """Return the program, calibrated as configured."""
        calibrator = self._calibrator(target)
        net = calibrator.prepare(self.checkpoint)
        calibrator.calibrate(net, self.store, calibrator.observers(net))
        return convert(net, {})

    def _calibrator(self, target: str) -> Calibrator:
        settings = self.config.quant.model_copy(update={"int16": ()})
        config = self.config.model_copy(update={"quant": settings})
        return build_calibrator(config, build_target(config, target))


def build_field(material: Material) -> Field:
    """Build all contestants that are possible on this machine; note why others are not."""
    contestants = [_onnxruntime(BASELINE, FLOAT32, "", material.float_onnx)]
    left_out: list[str] = []
    for name, build in BUILDERS.items():
        try:
            contestants.append(build(material))
        except (ImportError, TfliteError, NotDelegatedError, NncfError, ConfigError) as error:
            left_out.append(f"{name}: {error}")
    return Field(contestants, left_out)


def _onnxruntime(name: str, numbers: str, made_by: str, path: Path) -> Contestant:
    return Contestant(name, ONNXRUNTIME, numbers, made_by, (path,), lambda threads: OnnxRunner(path, threads).run)


def _onnxruntime_int8(material: Material) -> Contestant:
    path = material.folder / "onnxruntime_cpu.onnx"
    save_program(material.program("onnxruntime_cpu"), path)
    return _onnxruntime("onnxruntime_int8", INT8, "carkp", path)


def _onnxruntime_static(material: Material) -> Contestant:
    path = material.folder / "quantize_static.onnx"
    quantise_statically(material.float_onnx, material.images, path)
    return _onnxruntime("onnxruntime_static", INT8, "quantize_static", path)


def _litert(name: str, numbers: str, made_by: str, path: Path) -> Contestant:
    return Contestant(
        name, LITERT, numbers, made_by, (path,), lambda threads: LiteRtRunner(path, num_threads=threads).run
    )


def _litert_float(material: Material) -> Contestant:
    try:
        from carkp.deploy.float_tflite import save_float_tflite
    except ImportError as error:
        raise ImportError(f"LiteRT is not installed: {INSTALL_LITERT}") from error
    path = material.folder / "float.tflite"
    save_float_tflite(fold(load_net(material.checkpoint), material.config.model.input_size), path)
    return _litert("litert_float32", FLOAT32, "", path)


def _litert_int8(material: Material) -> Contestant:
    try:
        from carkp.deploy.tflite import save_tflite
    except ImportError as error:
        raise ImportError(f"LiteRT is not installed: {INSTALL_LITERT}") from error
    path = material.folder / "litert.tflite"
    save_tflite(material.program("litert"), path)
    require_delegated(path)
    return _litert("litert_int8", INT8, "carkp", path)


def _openvino(
    name: str, numbers: str, made_by: str, files: tuple[Path, ...], precision: Precision = "f32"
) -> Contestant:
    return Contestant(
        name, OPENVINO, numbers, made_by, files, lambda threads: OpenVinoRunner(files[0], threads, precision).run
    )


def _openvino_float(material: Material) -> Contestant:
    OpenVinoRunner(material.float_onnx)
    return _openvino("openvino_float32", FLOAT32, "", (material.float_onnx,))


def _openvino_bfloat16(material: Material) -> Contestant:
    runs_in = OpenVinoRunner(material.float_onnx, precision="bf16").runs_in
    if runs_in != "bf16":
        raise ConfigError(f"this CPU has no instructions for it, OpenVINO computes in {runs_in} instead")
    return _openvino("openvino_bfloat16", BFLOAT16, "", (material.float_onnx,), "bf16")


def _openvino_int8(material: Material) -> Contestant:
    path = material.folder / "nncf.xml"
    quantise_with_nncf(material.float_onnx, material.images, path)
    return _openvino("openvino_int8", INT8, "NNCF", (path, path.with_suffix(".bin")))


BUILDERS: Mapping[str, Callable[[Material], Contestant]] = {
    "ONNX Runtime int8, carkp": _onnxruntime_int8,
    "ONNX Runtime int8, quantize_static": _onnxruntime_static,
    "LiteRT float32": _litert_float,
    "LiteRT int8, carkp": _litert_int8,
    "OpenVINO float32": _openvino_float,
    "OpenVINO bfloat16": _openvino_bfloat16,
    "OpenVINO int8, NNCF": _openvino_int8,
}
"""Builders of all contestants except the baseline."""
