"""Entry point ``export``: the calibrated model as an int8 program and its ONNX files."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.deploy.float_ops import UnsupportedOperatorError
from carkp.deploy.graph_audit import require_int8_convs
from carkp.deploy.int8_onnx import save_program
from carkp.deploy.litert import RULES, TfliteError, require_delegated
from carkp.deploy.notes import ORIGIN_PREFIX, TARGET_KEY
from carkp.deploy.reference_onnx import NoReferenceError, has_reference, save_reference
from carkp.deploy.runtime import OnnxRunner
from carkp.quant.convert import convert
from carkp.quant.program import FloatOp, QProgram
from carkp.quant.target import Target
from carkp.serving import REGISTERED_NAME
from carkp.tracking.runs import LATEST
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import weights_digest
from carkp.workflow.cli import Arguments, execute, guarded, parse_stage
from carkp.workflow.litert import is_executed_by_litert, write_tflite
from carkp.workflow.quantising import Prepared, build_target, check_target, load_prepared, quantisation_tags
from carkp.workflow.references import (
    QUANTISED_KINDS,
    ModelFile,
    check_codec,
    check_stage,
    latest_tags,
    onnx_name,
    reference_name,
    resolve_model,
)
from carkp.workflow.registering import register
from carkp.workflow.reuse import log_inputs, stage_inputs, target_digest
from carkp.workflow.training import ONNX_DIR


@dataclass(frozen=True)
class ExportInputs:
    """A calibrated checkpoint, the stage that made it, the target, and the alias to register it under ("": none)."""

    model: ModelFile
    stage: str
    target: Target
    alias: str = ""


@dataclass(frozen=True)
class ExportResult:
    """The program, its ONNX files with symbolic batch size and batch size 1, and further files.

    ``others`` are files in the target's own arithmetic, if that is not ONNX Runtime's. ``version`` is the version as a
    registered model, "" if it is not registered.
    """

    program: QProgram
    path: Path
    path_b1: Path
    others: Sequence[Path] = ()
    version: str = ""

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [self.path, self.path_b1, *self.others]


def run(config: ExperimentConfig, inputs: ExportInputs, out_dir: Path, tracker: Tracker) -> ExportResult:
    """Convert the model, write the files, check the kernels that ONNX Runtime chooses, log files and MLflow model."""
    prepared = load_prepared(inputs.model.path)
    check_target(prepared.net.target, inputs.target, inputs.model.path)
    check_codec(prepared.codec, config, inputs.model.path)
    program = convert_prepared(prepared, inputs.model, inputs.stage)
    result = write_program(program, out_dir / ONNX_DIR)
    upstream = {"model": program.origin["model_digest"], "target": target_digest(inputs.target)}
    log_inputs(tracker, stage_inputs("export", config, upstream))
    tracker.set_tags(
        {
            **quantisation_tags(prepared),
            "carkp.source_run": inputs.model.run_id,
            "carkp.exported_stage": inputs.stage,
            "carkp.model_digest": program.origin["model_digest"],
        }
    )
    for path in result.paths:
        tracker.log_file(path, ONNX_DIR)
    tracker.log_metrics({"int8/num_convs": program.num_convs, "int8/onnx_bytes": result.path.stat().st_size})
    images = np.zeros((1, *program.tensors[program.input].shape), np.float32)
    tracker.log_onnx_model(result.path, "model", images, OnnxRunner(result.path).run(images))
    tracker.describe(f"{describe(result)}\n\nOf `{inputs.model.reference}` ({inputs.stage}).", inputs.target.name)
    if not inputs.alias:
        return result
    return replace(result, version=register(result.path, inputs.alias, out_dir / "registered", tracker))


def convert_prepared(prepared: Prepared, model: ModelFile, stage: str) -> QProgram:
    """Convert a calibrated network to an int8 program, which stores the checkpoint that it comes from."""
    origin = {
        **prepared.origin,
        "stage": stage,
        "model": model.reference,
        "model_digest": weights_digest(prepared.net.state_dict()),
    }
    return convert(prepared.net, origin)


def write_program(program: QProgram, folder: Path) -> ExportResult:
    """Write the ONNX files; if every layer is int8, check that ONNX Runtime runs int8 kernels.

    Raises:
        ConfigError: an operator, or the target's own arithmetic, cannot be written.
        FloatKernelError: ONNX Runtime would run a convolution in float.
    """
    path = folder / onnx_name(program.target.name)
    path_b1 = path.with_name(f"{path.stem}_b1.onnx")
    try:
        save_program(program, path)
        save_program(program, path_b1, batch=1)
        others = write_own_arithmetic(program, folder)
    except (UnsupportedOperatorError, NoReferenceError, TfliteError) as error:
        raise ConfigError(f"export: {error}") from error
    if not any(isinstance(layer, FloatOp) for layer in program.layers):
        for written in (path, path_b1):
            require_int8_convs(written, program.num_byte_convs, program.num_convs - program.num_byte_convs)
    return ExportResult(program, path, path_b1, others)


def write_own_arithmetic(program: QProgram, folder: Path) -> list[Path]:
    """Write the files that run a target's own arithmetic, if that is not ONNX Runtime's.

    Raises:
        NoReferenceError, TfliteError: the program cannot be written in this form.
        NotDelegatedError: XNNPACK would not run all of it in int8.
        ConfigError: a package for .tflite files is not installed.
    """
    name = program.target.name
    if has_reference(program):
        path = folder / reference_name(name)
        save_reference(program, path)
        return [path]
    if not is_executed_by_litert(program):
        return []
    notes = {TARGET_KEY: name, **{ORIGIN_PREFIX + key: value for key, value in program.origin.items()}}
    paths = write_tflite(program, folder, notes)
    if program.target.requantisation == RULES["xnnpack"]:
        require_delegated(paths["float"])
    return list(paths.values())


def parse_kind(name: str) -> str:
    """Check the name of a stage whose model can be exported.

    Raises:
        ConfigError: the stage has no such model.
    """
    if name not in QUANTISED_KINDS:
        raise ConfigError(f"stage={name!r}: expected one of {', '.join(QUANTISED_KINDS)}")
    return name


def parse_alias(name: str) -> str:
    """Check an alias for MLflow, or "".

    Raises:
        ConfigError: MLflow does not accept it.
    """
    if name and (not re.fullmatch(r"[A-Za-z][\w-]{0,254}", name) or re.fullmatch(r"(?i)latest|v\d+", name)):
        raise ConfigError(f"alias={name!r}: expected letters, digits, - and _, but not latest or a version (v1)")
    return name


def main(argv: Sequence[str] | None = None) -> int:
    def work() -> int:
        _execute(parse_stage("export", argv))
        return 0

    return guarded(work)


def _execute(arguments: Arguments) -> None:
    config = arguments.config
    stage = parse_kind(arguments.values["stage"])
    alias = parse_alias(arguments.values["alias"])
    target = build_target(config, arguments.values["target"])
    reference = arguments.values["model"]
    tags = latest_tags(config, target.name) if reference == LATEST else {}
    model = resolve_model(reference, QUANTISED_KINDS[stage], tags)
    check_stage(model, stage)
    inputs = ExportInputs(model, stage, target, alias)

    def work(tracker: Tracker, out_dir: Path) -> None:
        result = run(config, inputs, out_dir, tracker)
        print(describe(result))  # noqa: T201
        if result.version:
            print(f"registered as models:/{REGISTERED_NAME}@{alias}, version {result.version}")  # noqa: T201

    execute("export", config, work)


def describe(result: ExportResult) -> str:
    """Describe the result in a few lines, for a person."""
    num_float = sum(isinstance(layer, FloatOp) for layer in result.program.layers)
    audit = f"{num_float} layers stay in float" if num_float else "ONNX Runtime runs all of them as int8 kernels"
    if num_wide := result.program.num_convs - result.program.num_byte_convs:
        audit = f"{num_wide} of them touch 16-bit tensors, which ONNX Runtime runs in float"
    size = result.path.stat().st_size / 2**20
    own = f"; in the target's own arithmetic: {', '.join(path.name for path in result.others)}" if result.others else ""
    return (
        f"{result.path.name} and {result.path_b1.name}: target {result.program.target.name}, "
        f"{result.program.num_convs} convolutions, {audit}, {size:.1f} MiB{own}"
    )


if __name__ == "__main__":
    sys.exit(main())
