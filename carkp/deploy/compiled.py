"""The file that goes onto a target: for ONNX Runtime the graph that it made of the int8 ONNX, once and for all.

``ORT_ENABLE_EXTENDED`` leaves out the layout changes that only fit the machine that made them, so that the file runs
on other ones too.
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
    """A compiled file computes something else than the file that it was made of."""


def compile_for_onnxruntime(source: Path, path: Path, cpu: CpuFeatures) -> None:
    """Writes the optimised graph of ``source`` to ``path``; its metadata say what made it, of what, and where.

    The program itself stays with ``source``: the optimised graph is no longer the one that it gives. All other notes
    come along: the target, by which a reader knows an int8 file, and the codec, by which it reads the heatmaps.

    Raises:
        FileNotFoundError: there is no ``source``.
        ValueError: it is not a readable ONNX file.
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
    """Run both files on random bytes, one image and several at a time.

    Raises:
        CompiledMismatchError: an element differs.
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
