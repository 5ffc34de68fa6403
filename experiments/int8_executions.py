"""Does every program that executes int8 files give the numbers of the simulator, whatever the layer?

Command:  python experiments/int8_executions.py            (needs the extra carkp[litert]; a minute on two cores)
          … --elements 1000000                             (a tenth of the elements)
Asks:     random layers of every kind (dense, pointwise, depthwise, strided, phases of an upsampling, sums of two
          tensors), on inputs and weights over their whole range, some with scales that put sums on ties and some that
          saturate most outputs: how many elements of each execution differ from the simulator under the same
          requantisation rule. ONNX Runtime runs the int8 file and the reference file of fixed-point targets, LiteRT
          its three kinds of kernels, tflite-micro the .tflite file. The reference file is run a second time with
          tensors of 16 bits as input of the layer, as output, or both.
Expect:   no element differs; 10,000,000 elements an execution.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from carkp.config.schema import ExperimentConfig
from carkp.deploy.int8_onnx import save_program
from carkp.deploy.litert import LiteRtRunner, TfliteMicroRunner
from carkp.deploy.reference_onnx import save_reference
from carkp.deploy.runtime import OnnxRunner
from carkp.deploy.tflite import save_tflite
from carkp.measurements.record import Cell, Column
from carkp.measurements.record import Table as RecordTable
from carkp.quant.program import Layer, QAdd, QConv, QProgram, QTensor
from carkp.quant.simulate import Simulator
from carkp.quant.target import INPUT_SCALE, RANGES, WIDE, ActivationDtype, Dtype, Requantisation, Target
from carkp.tracking.tracker import Tracker
from carkp.workflow.build import prepare_torch
from carkp.workflow.cli import Parameter, execute, guarded
from carkp.workflow.recording import Findings, parse_study, write_record

STUDY = "int8_executions"
CHANNELS, SIZE = 40, (24, 40)
"""Shape of random tensors, except the input with 3 channels.

40 channels leave a rest after fast kernels' vectors of 16 or 32.
"""

COLUMNS = [
    Column(name="execution", heading="execution"),
    Column(name="rule", heading="rule of requantisation"),
    Column(name="elements", heading="elements compared", format=",d"),
    Column(name="different", heading="different (0 wanted)", format=",d"),
]

Float32Array = NDArray[np.float32]
Runner = Callable[[Float32Array], Float32Array]


@dataclass(frozen=True)
class Execution:
    """A program that runs files, its requantisation rule, and functions that save and load its file.

    ``is_wide``: layers read or write tensors of 16 bits.
    """

    name: str
    rule: Requantisation
    save: Callable[[QProgram, Path], None]
    load: Callable[[Path], Runner]
    is_wide: bool = False


EXECUTIONS = (
    Execution("ONNX Runtime, int8 file", "float32", save_program, lambda path: OnnxRunner(path, 2).run),
    Execution("ONNX Runtime, reference file", "fixed_point", save_reference, lambda p: OnnxRunner(p, 2).run),
    Execution("ONNX Runtime, reference file, 16 bits", "fixed_point", save_reference,
              lambda p: OnnxRunner(p, 2).run, is_wide=True),
    Execution("LiteRT, reference kernels", "tflite_reference", save_tflite,
              lambda path: LiteRtRunner(path, "reference").run),
    Execution("LiteRT, optimised kernels", "tflite_optimised", save_tflite,
              lambda path: LiteRtRunner(path, "optimised").run),
    Execution("LiteRT, XNNPACK", "xnnpack", save_tflite, lambda path: LiteRtRunner(path, "xnnpack").run),
    Execution("tflite-micro", "tflite_reference", save_tflite, lambda path: TfliteMicroRunner(path).run),
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A kind of convolution: kernel, stride, groups, and pads (top, left, bottom, right)."""

    kernel: int
    stride: int = 1
    groups: int = 1
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)


CONVOLUTIONS: Mapping[str, Shape] = {
    "dense": Shape(3, pads=(1, 1, 1, 1)),
    "pointwise": Shape(1),
    "depthwise": Shape(5, groups=CHANNELS, pads=(2, 2, 2, 2)),
    "strided": Shape(3, stride=2, pads=(0, 0, 1, 1)),
    "strided depthwise": Shape(3, stride=2, groups=CHANNELS, pads=(1, 1, 1, 1)),
    "phase": Shape(2, pads=(1, 0, 0, 1)),
}
SUM = "sum"
LAYERS = (*CONVOLUTIONS, SUM)
EDGES = ("plain", "ties", "saturated")
WIDE_PAIRS: tuple[tuple[Dtype, Dtype], ...] = (("int8", WIDE), (WIDE, "int8"), (WIDE, WIDE))


class RandomProgram:
    """Builds a program around one layer to test.

    ``dtypes``: dtype of the tensors that the layer reads, and of the tensor that it writes.
    """

    def __init__(
        self, rule: Requantisation, dtype: ActivationDtype, rng: np.random.Generator, dtypes: Sequence[Dtype] = ()
    ) -> None:
        self.dtype, self.rng = dtype, rng
        self.dtypes = tuple(dtypes) or (dtype, dtype)
        self.target = Target(
            name=STUDY,
            description="",
            activation_dtype=dtype,
            per_channel_weights=True,
            accumulator_bits=32,
            requantisation=rule,
        )
        self.tensors: dict[str, QTensor] = {}
        self.layers: list[Layer] = []
        self._tensor("image", (3, *SIZE), INPUT_SCALE, dtype)
        self.source = self._conv("source", "image", Shape(1), "plain")

    def of_layer(self, kind: str, edge: str) -> QProgram:
        """Build the program for ``kind`` of ``LAYERS`` and ``edge`` of ``EDGES``."""
        output = self._sum(edge) if kind == SUM else self._conv("last", self.source, CONVOLUTIONS[kind], edge)
        return QProgram(self.target, "image", output, self.tensors, tuple(self.layers))

    def _tensor(self, name: str, shape: tuple[int, ...], scale: float, dtype: Dtype) -> QTensor:
        zero_point = 128 if dtype == "uint8" else 0
        self.tensors[name] = QTensor(name, shape, dtype, float(np.float32(scale)), zero_point)
        return self.tensors[name]

    def _dtype_of(self, name: str) -> Dtype:
        """Return the dtype of a tensor; ``last`` is the layer's output."""
        return self.dtypes[name == "last"]

    def _conv(self, name: str, source: str, shape: Shape, edge: str) -> str:
        given = self.tensors[source]
        top, left, bottom, right = shape.pads
        height, width = (
            (length + pad - shape.kernel) // shape.stride + 1
            for length, pad in zip(SIZE, (top + bottom, left + right), strict=True)
        )
        depth = given.shape[0] // shape.groups
        weight = self.rng.integers(-127, 128, (CHANNELS, depth, shape.kernel, shape.kernel)).astype(np.int8)
        dtype = self._dtype_of(name)
        # a sum of this many products of uniform numbers has a spread of 73 * 73 * sqrt(number)
        spread = 73 * 73 * np.sqrt(weight[0].size) * steps_a_byte(given.dtype)
        # the wanted spread in steps of the output
        steps = {"plain": 60.0, "ties": 60.0, "saturated": 1000.0}[edge] * steps_a_byte(dtype)
        ratio = steps / spread * self.rng.uniform(0.5, 2, CHANNELS)
        scale = self.rng.uniform(0.005, 0.05)
        if edge == "ties":  # powers of two: sums lie halfway between two steps
            ratio, scale = 2.0 ** np.rint(np.log2(ratio)), given.scale
        result = self._tensor(name, (CHANNELS, height, width), scale, dtype)
        weight_scale = (ratio * result.scale / given.scale).astype(np.float32)
        bias = np.rint(self.rng.integers(-20, 20, CHANNELS) / ratio).astype(np.int32)
        strides = (shape.stride, shape.stride)
        self.layers.append(
            QConv(name, (source,), name, weight, weight_scale, bias, strides, shape.pads, (1, 1), shape.groups,
                  self._clamp(dtype))
        )  # fmt: skip
        return name

    def _sum(self, edge: str) -> str:
        first, second = (self._conv(name, self.source, Shape(1), "plain") for name in ("first", "second"))
        if edge == "ties":
            self.tensors[second] = replace(self.tensors[second], scale=self.tensors[first].scale)
        share = {"plain": self.rng.uniform(0.7, 2.5), "ties": 2.0, "saturated": 0.1}[edge]
        given, made = self.dtypes
        share *= steps_a_byte(given) / steps_a_byte(made)
        scale = share * max(self.tensors[name].scale for name in (first, second))
        self._tensor("last", (CHANNELS, *SIZE), scale, made)
        self.layers.append(QAdd("last", (first, second), "last", self._clamp(made)))
        return "last"

    def _clamp(self, dtype: Dtype) -> tuple[int, int]:
        """Return the whole range or, at random, the range after a ReLU."""
        low, high = RANGES[dtype]
        return (low, high) if self.rng.random() < 0.5 else (128 if dtype == "uint8" else 0, high)


def steps_a_byte(dtype: Dtype) -> int:
    """Return how many steps of a tensor equal one step of a tensor of 8 bits."""
    return 256 if dtype == WIDE else 1


def images_for(rng: np.random.Generator, number: int) -> Float32Array:
    """Return random values of an 8-bit tensor as normalised pictures."""
    return ((rng.integers(0, 256, (number, 3, *SIZE)) - 128) * INPUT_SCALE).astype(np.float32)


def draws(num_elements: int, is_wide: bool) -> Iterator[tuple[str, str, tuple[Dtype, Dtype], int]]:
    """Yield layer, edge, dtypes and number of images; all together give the wanted elements and a few more."""
    byte_pairs = [(dtype, dtype) for dtype in get_args(ActivationDtype)]
    pairs: list[tuple[Dtype, Dtype]] = [*WIDE_PAIRS] if is_wide else byte_pairs
    cases = [(layer, edge, pair) for layer in LAYERS for edge in EDGES for pair in pairs]
    smallest = CHANNELS * (SIZE[0] // 2) * (SIZE[1] // 2)  # the output of a strided layer
    for layer, edge, pair in cases:
        elements = smallest if "strided" in layer else 4 * smallest
        yield layer, edge, pair, -(-num_elements // len(cases) // elements)


def count_different(execution: Execution, num_elements: int, seed: int, folder: Path) -> dict[str, tuple[int, int]]:
    """Return layer -> number of compared elements, number of different elements."""
    found = dict.fromkeys(LAYERS, (0, 0))
    cases = list(draws(num_elements, execution.is_wide))
    for number, (layer, edge, pair, num_images) in enumerate(tqdm(cases, execution.name, unit="layer")):
        rng = np.random.default_rng((seed, number))
        dtype: Literal["int8", "uint8"] = "uint8" if pair[0] == "uint8" else "int8"
        program = RandomProgram(execution.rule, dtype, rng, pair).of_layer(layer, edge)
        path = folder / f"{number}.file"
        execution.save(program, path)
        images = images_for(rng, num_images)
        expected = Simulator(program).run(torch.from_numpy(images)).numpy()
        different = execution.load(path)(images) != expected
        before = found[layer]
        found[layer] = (before[0] + different.size, before[1] + int(different.sum()))
        path.unlink()
    return found


def run(config: ExperimentConfig, num_elements: int, tracker: Tracker) -> RecordTable:
    prepare_torch(config)
    rows: list[dict[str, Cell]] = []
    table = Table("execution", "rule", *LAYERS, "elements", "different", title="Executions against the simulator")
    for execution in EXECUTIONS:
        with tempfile.TemporaryDirectory() as folder:
            found = count_different(execution, num_elements, config.seed, Path(folder))
        elements, different = (sum(counts[place] for counts in found.values()) for place in (0, 1))
        name = execution.name.lower().replace(", ", "_").replace(" ", "_").replace("-", "_")
        tracker.log_metrics({f"{name}/elements": elements, f"{name}/different": different})
        by_layer = [f"{counts[1]:,}" for counts in found.values()]
        table.add_row(execution.name, execution.rule, *by_layer, f"{elements:,}", f"{different:,}")
        rows.append(
            {
                "execution": execution.name,
                "rule": f"`{execution.rule}`",
                "elements": elements,
                "different": different,
            }
        )
    Console(width=160).print(table)
    return RecordTable(name="executions", columns=COLUMNS, rows=rows)


def main() -> int:
    parameters = [Parameter("elements", "10000000", "elements an execution")]
    arguments = parse_study(STUDY, str(__doc__), parameters)
    num_elements = int(arguments.values["elements"])

    def work(tracker: Tracker, _: Path) -> None:
        table = run(arguments.config, num_elements, tracker)
        write_record(arguments, STUDY, Findings(tables=[table], packages=("ai-edge-litert", "tflite-micro")))

    execute(STUDY, arguments.config, work)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
