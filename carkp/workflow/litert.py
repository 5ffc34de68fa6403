"""The .tflite files of targets that LiteRT executes."""

from collections.abc import Mapping
from pathlib import Path

from carkp.config.loading import ConfigError
from carkp.deploy.litert import INSTALL, RULES
from carkp.quant.program import FloatOp, QProgram
from carkp.workflow.references import tflite_names


def is_executed_by_litert(program: QProgram) -> bool:
    """Return whether a .tflite file computes exactly the program: in its target's arithmetic, without floats."""
    return program.target.requantisation in RULES.values() and not any(
        isinstance(layer, FloatOp) for layer in program.layers
    )


def write_tflite(program: QProgram, folder: Path, notes: Mapping[str, str] | None = None) -> dict[str, Path]:
    """Write the .tflite files of a program; return them by interface, ``float`` and ``int8``.

    Raises:
        TfliteError: TensorFlow Lite cannot express a layer.
        ConfigError: a required package is not installed.
    """
    name = program.target.name
    try:
        from carkp.deploy.tflite import save_tflite
    except ImportError as error:
        raise ConfigError(f"target {name} needs LiteRT, which is not installed: {INSTALL}") from error
    paths = {interface: folder / file for interface, file in tflite_names(name).items()}
    save_tflite(program, paths["float"], "float", notes)
    save_tflite(program, paths["int8"], "int8", notes)
    return paths
