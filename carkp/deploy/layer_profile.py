"""Measured times of a program's layers on this machine: ONNX Runtime's profile, one thread, batch 1.

The profiler adds microseconds to every kernel, as much as a small kernel takes itself. So each profiled run is paired
with a run without the profiler. The extra time of all kernels together is subtracted from them in equal parts.
"""

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from carkp.deploy.int8_onnx import save_program
from carkp.deploy.perf import INPUT_ROW, OUTPUT_ROW
from carkp.deploy.runtime import INPUT_NAME, OUTPUT_NAME, Float32Array, session_options
from carkp.quant.program import QProgram

KERNEL_SUFFIX = "_kernel_time"
NUM_WARM_UP = 5
LEAST_KERNEL_US = 0.1
"""Time assigned to a kernel that takes less time than the profiler."""


@dataclass(frozen=True)
class NodeTime:
    """A kernel of the optimised graph, and its median profiled time in microseconds."""

    name: str
    operator: str
    us: float


@dataclass(frozen=True)
class Profile:
    """The kernels of a file in order of execution, and the median time of a whole run without a profiler."""

    nodes: Sequence[NodeTime]
    run_us: float

    @property
    def profiler_us(self) -> float:
        """Time that the profiler adds to each kernel; 0 if it seems to add nothing."""
        return max(0.0, (sum(node.us for node in self.nodes) - self.run_us) / len(self.nodes))


@dataclass(frozen=True)
class HostTimes:
    """Microseconds, without the profiler's own time, of each layer and conversion, and of a whole run.

    Conversions are named as in carkp.deploy.perf.
    """

    layers_us: dict[str, float]
    run_us: float


def measure_program(program: QProgram, num_runs: int, seed: int = 0) -> HostTimes:
    """Return median times over ``num_runs`` runs of one random image."""
    bytes_ = np.random.default_rng(seed).integers(0, 256, (1, *program.tensors[program.input].shape))
    profile = profile_program(program, ((bytes_ - 128) / 128).astype(np.float32), num_runs)
    names = [layer.name for layer in program.layers]
    return HostTimes(layer_times(profile.nodes, names, profile.profiler_us), profile.run_us)


def profile_program(
    program: QProgram, image: Float32Array, num_runs: int, before_run: Callable[[], object] = bool
) -> Profile:
    """Write a program for batch 1 and call :func:`profile_file`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.onnx"
        save_program(program, path, batch=1)
        return profile_file(path, image, num_runs, before_run)


def profile_file(
    path: Path | str, image: Float32Array, num_runs: int, before_run: Callable[[], object] = bool
) -> Profile:
    """Run a file alternately without and with the profiler.

    Args:
        path: path of a file with one input.
        image: the input.
        num_runs: number of counted runs of each kind; some warm-up runs come before.
        before_run: function called before every run, outside of the measured time.

    Raises:
        ValueError: ``num_runs`` is below 1.
    """
    if num_runs < 1:
        raise ValueError(f"num_runs must be at least 1, got {num_runs}")
    with tempfile.TemporaryDirectory() as folder:
        plain = _open_session(path)
        profiled = _open_session(path, str(Path(folder) / "profile"))
        feed = {plain.get_inputs()[0].name: image}
        times_us = []
        for _ in range(NUM_WARM_UP + num_runs):
            before_run()
            start = time.perf_counter()
            plain.run(None, feed)
            times_us.append(1e6 * (time.perf_counter() - start))
            before_run()
            profiled.run(None, feed)
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event["name"].endswith(KERNEL_SUFFIX)]
    return Profile(_medians(kernels, num_runs), statistics.median(times_us[NUM_WARM_UP:]))


def layer_times(nodes: Sequence[NodeTime], layers: Sequence[str], profiler_us: float) -> dict[str, float]:
    """Return microseconds of each layer and of the conversions at both ends.

    ``profiler_us`` is subtracted from every kernel. Nodes are named after their layers (see
    :mod:`carkp.deploy.int8_graph`). A node that ONNX Runtime added belongs to the layer of the node before it.
    """
    times: defaultdict[str, float] = defaultdict(float)
    owner = INPUT_ROW
    for node in nodes:
        owner = _owner(node.name, layers) or owner
        times[owner] += max(node.us - profiler_us, LEAST_KERNEL_US)
    return dict(times)


def _open_session(path: Path | str, profile_prefix: str = "") -> onnxruntime.InferenceSession:
    options = session_options(num_threads=1)
    if profile_prefix:
        options.enable_profiling, options.profile_file_prefix = True, profile_prefix
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _medians(kernels: Sequence[dict[str, Any]], num_runs: int) -> list[NodeTime]:
    num_nodes = len(kernels) // (NUM_WARM_UP + num_runs)
    counted = kernels[num_nodes * NUM_WARM_UP :]
    return [
        NodeTime(
            first["name"].removesuffix(KERNEL_SUFFIX),
            first["args"]["op_name"],
            statistics.median(event["dur"] for event in counted[index::num_nodes]),
        )
        for index, first in enumerate(counted[:num_nodes])
    ]


def _owner(node: str, layers: Sequence[str]) -> str | None:
    if node.startswith(OUTPUT_NAME):
        return OUTPUT_ROW
    if node.startswith(f"{INPUT_NAME}.q"):
        return INPUT_ROW
    owners = [name for name in layers if node.startswith(f"{name}.")]
    return max(owners, key=len, default=None)
