"""The compiled file for a target: for ONNX Runtime, the optimised graph that it makes from the int8 ONNX file.

``ORT_ENABLE_EXTENDED`` leaves out layout changes that only fit the machine that made them, so that the file also runs
on other machines.
"""

from pathlib import Path

import numpy as np
import onnxruntime
from onnx import helper

from carkp.deploy.cpu import CpuFeatures
from carkp.deploy.graph_audit import optimised_graph
from carkp.deploy.notes import COMPILED_PREFIX, PROGRAM_KEY
from carkp.deploy.runtime import OnnxRunner
from carkp.disk import file_digest, write_atomic

LEVEL = "ORT_ENABLE_EXTENDED"
PREFIX = COMPILED_PREFIX


class CompiledMismatchError(ValueError):
    """A compiled file does not compute the same as its source file."""


def compile_for_onnxruntime(source: Path, path: Path, cpu: CpuFeatures) -> None:
    """Write the optimised graph of ``source`` to ``path``, with metadata on the compiler, the source and the CPU.

    The program is not copied from the metadata of ``source``, because the optimised graph is not the graph of the
    program. All other notes are copied, for example the target, by which readers recognise an int8 file, and the codec,
    by which they decode the heatmaps.

    Raises:
        FileNotFoundError: there is no ``source``.
        ValueError: ``source`` is not a readable ONNX file.
    """
    model = optimised_graph(source, LEVEL)
    kept = {str(item.key): str(item.value) for item in model.metadata_props if item.key != PROGRAM_KEY}
    made = {
        "onnxruntime": onnxruntime.__version__,
        "level": LEVEL,
        "cpu": cpu.model,
        "cpu_int8": " ".join(cpu.int8_flags),
        "source": source.name,
        "source_sha256": file_digest(source),
    }
    helper.set_model_props(model, kept | {PREFIX + name: value for name, value in made.items()})
    write_atomic(path, model.SerializeToString(deterministic=True))


def require_same_outputs(first: Path, second: Path, num_images: int = 4, seed: int = 0) -> None:
    """Run both files on random images, with batches of one and of several images, and compare the outputs.

    Raises:
        CompiledMismatchError: an element of the output differs.
    """
    runners = [OnnxRunner(path) for path in (first, second)]
    shape = (num_images, 3, *runners[0].input_size)
    images = ((np.random.default_rng(seed).integers(0, 256, shape) - 128) / 128).astype(np.float32)
    for batch in (images[:1], images):
        expected, found = (runner.run(batch) for runner in runners)
        num_different = int((expected != found).sum())
        if num_different:
            raise CompiledMismatchError(
                f"{second}: {num_different} of {expected.size} output elements differ from those of {first}"
            )
