"""Do a few rates, fitted on single layers, predict how long ONNX Runtime takes for a whole int8 network?

Command:  python experiments/host_performance.py   (after `mlflow run . -e export -P target=onnxruntime_cpu`; a minute
          on an idle machine)
Asks:     microseconds of single int8 layers (convolutions of 1x1, 2x2 and 3x3, depthwise and grouped ones, additions,
          concatenations, depth to space) in sizes that the default model does not have, in ONNX Runtime with one
          thread, with weights pushed out of the second-level cache. The rates and the overhead that fit these times
          best under the performance model of carkp/deploy/perf.py; the rate of a copy in the cache is measured, not
          fitted. The prediction of that model for the exported default model, against its measured profile and a
          whole run.
          Prints the `performance` numbers to put into configs/targets/onnxruntime_cpu.yaml, each with
          `source: "measured: python experiments/host_performance.py"`.
Expect:   predicted / measured total between 1/1.5 and 1.5; rank correlation over the layers at least 0.8.
"""

import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from carkp.config.schema import ExperimentConfig
from carkp.deploy.check import judge_program, operator_name
from carkp.deploy.cpu import cpu_features
from carkp.deploy.hardware import CONV_KINDS, Efficiency, Number, Performance
from carkp.deploy.int8_onnx import load_program
from carkp.deploy.layer_cost import layer_cost
from carkp.deploy.layer_profile import layer_times, measure_program, profile_program
from carkp.deploy.perf import Comparison, compare, layer_time, predict
from carkp.deploy.runtime import Float32Array
from carkp.measurements.record import Goal, Measurement
from carkp.quant.program import Layer, QAdd, QConcat, QConv, QDepthToSpace, QProgram, QTensor
from carkp.quant.target import INPUT_SCALE, Target
from carkp.stages.compile import comparison_metrics
from carkp.tracking.tracker import Tracker
from carkp.workflow.cli import MODEL, Parameter, execute, guarded
from carkp.workflow.quantising import build_hardware, build_target
from carkp.workflow.recording import Findings, parse_study, write_record
from carkp.workflow.references import model_kind, resolve_model
from carkp.workflow.tables import write_table

STUDY, TARGET_NAME = "host_performance", "onnxruntime_cpu"
TESTED = "tested"
FLUSHED_BYTES = 8 * 2**20
"""Bytes read before every run. They push the weights out of the second-level cache, as other layers do in a network."""

CONCATS = ((40, 64, 3), (24, 64, 2), (12, 96, 4), (6, 160, 3))
COPIED_BYTES, NUM_COPIES = 2**18, 2000
NUM_PASSES = 3
CHAIN_LENGTH, CHAIN_CHANNELS, CHAIN_SIZE = 60, 32, 8
FIRST_STEP, LAST_STEP = 0.5, 0.01
GOALS = {"total_ratio": Goal(at_least=1 / 1.5, at_most=1.5), "rank_correlation": Goal(at_least=0.8)}
PARAMETERS = (
    "pointwise_gmacs_per_s",
    "dense_gmacs_per_s",
    "depthwise_gmacs_per_s",
    "grouped_gmacs_per_s",
    "requantise_gelements_per_s",
    "elementwise_gelements_per_s",
    "memory_gb_per_s",
    "layer_overhead_us",
)
START = (200.0, 200.0, 15.0, 15.0, 5.0, 5.0, 20.0, 5.0)


@dataclass(frozen=True)
class Case:
    """A single layer to measure, inside a small program."""

    program: QProgram
    layer: Layer


@dataclass(frozen=True)
class Fitted:
    """The measured time of a case, and the time of the fitted model."""

    operator: str
    input_shape: str
    output_shape: str
    macs: int
    measured_us: float
    predicted_us: float


class CaseBuilder:
    """Builds programs image -> 1x1 convolution(s) -> the layer -> 1x1 convolution, with random weights."""

    def __init__(self, target: Target, seed: int = 0) -> None:
        self.target, self.rng = target, np.random.default_rng(seed)

    def conv(
        self, name: str, source: QTensor, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> tuple[QTensor, QConv]:
        depth, height, width = source.shape
        low, high = (kernel - 1) // 2, kernel // 2
        size = [(length + low + high - kernel) // stride + 1 for length in (height, width)]
        result = QTensor(name, (channels, *size), "uint8", float(np.float32(0.05)), 0)
        shape = (channels, depth // groups, kernel, kernel)
        weight = self.rng.integers(-127, 128, shape).astype(np.int8)
        scales = np.full(channels, 1e-3, np.float32)
        bias = np.zeros(channels, np.int32)
        pads = (low, low, high, high)
        return result, QConv(
            name, (source.name,), name, weight, scales, bias, (stride,) * 2, pads, (1, 1), groups, (0, 255)
        )

    def image(self, size: int) -> QTensor:
        return QTensor("image", (3, size, size), "uint8", INPUT_SCALE, 128)

    def case(self, leads: Sequence[tuple[QTensor, QConv]], image: QTensor, result: QTensor, layer: Layer) -> Case:
        tail, last = self.conv("tail", result, 16)
        tensors = [image, *(tensor for tensor, _ in leads), result, tail]
        layers = (*(lead for _, lead in leads), layer, last)
        program = QProgram(self.target, "image", "tail", {tensor.name: tensor for tensor in tensors}, layers)
        return Case(program, layer)

    def conv_case(self, size: int, depth: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> Case:
        image = self.image(size)
        lead = self.conv("lead", image, depth)
        return self.case([lead], image, *self.conv(TESTED, lead[0], channels, kernel, stride, groups))

    def add_case(self, size: int, depth: int) -> Case:
        image = self.image(size)
        leads = [self.conv(f"lead{index}", image, depth) for index in range(2)]
        result = QTensor(TESTED, leads[0][0].shape, "uint8", float(np.float32(0.07)), 0)
        return self.case(leads, image, result, QAdd(TESTED, ("lead0", "lead1"), TESTED, (0, 255)))

    def concat_case(self, size: int, depth: int, parts: int) -> Case:
        image = self.image(size)
        leads = [self.conv(f"lead{index}", image, depth) for index in range(parts)]
        first = leads[0][0]
        result = QTensor(TESTED, (depth * parts, size, size), first.dtype, first.scale, first.zero_point)
        return self.case(leads, image, result, QConcat(TESTED, tuple(lead.name for lead, _ in leads), TESTED))

    def depth_to_space_case(self, size: int, depth: int) -> Case:
        image = self.image(size)
        lead = self.conv("lead", image, 4 * depth)
        first = lead[0]
        result = QTensor(TESTED, (depth, 2 * size, 2 * size), first.dtype, first.scale, first.zero_point)
        return self.case([lead], image, result, QDepthToSpace(TESTED, ("lead",), TESTED, 2))


def build_cases(target: Target) -> list[Case]:
    """Return cases with sizes between and beside those of EfficientNet-Lite0 at 128x128."""
    builder = CaseBuilder(target)
    sizes = ((48, 24), (24, 56), (12, 96), (12, 288), (6, 256), (6, 768))
    pointwise = [(size, depth, out) for size, depth in sizes for out in (32, 160, 512) if size * size * out < 3e5]
    # few products per weight: bound by memory
    pointwise += [(size, depth, out) for size, depth in ((1, 640), (2, 1024), (3, 448)) for out in (384, 1024)]
    dense = [(size, depth, out) for size, depth in ((40, 16), (20, 48), (12, 96), (6, 224)) for out in (32, 160)]
    depthwise = ((56, 48), (40, 64), (24, 128), (20, 256), (12, 320), (10, 576), (6, 512), (5, 960))
    return [
        *(builder.conv_case(size, depth, out, 1) for size, depth, out in pointwise),
        *(builder.conv_case(size, depth, out, kernel) for size, depth, out in dense for kernel in (2, 3)),
        *(builder.conv_case(size, 32, 64, 3, stride=2) for size in (56, 28, 14)),
        *(
            builder.conv_case(size, depth, depth, kernel, stride, groups=depth)
            for (size, depth), kernel, stride in itertools.product(depthwise, (3, 5), (1, 2))
        ),
        *(builder.conv_case(size, 64, 64, 3, groups=8) for size in (24, 12, 6)),
        *(builder.add_case(size, depth) for size, depth in ((56, 64), (48, 24), (24, 32), (12, 64), (6, 128))),
        *(builder.concat_case(size, depth, parts) for size, depth, parts in CONCATS),
        *(builder.depth_to_space_case(size, depth) for size, depth in ((40, 32), (24, 48), (12, 96), (6, 160))),
    ]


def shape_key(program: QProgram, layer: Layer) -> tuple[object, ...]:
    """Return a key that is equal for layers of equal cost."""
    shapes = [program.tensors[name].shape for name in (*layer.inputs, layer.output)]
    return (operator_name(layer), *shapes)


def measure_case(case: Case, num_runs: int, profiler_us: float) -> float:
    """Return the microseconds of the layer with weights outside the second-level cache."""
    ballast = np.ones(FLUSHED_BYTES, np.uint8)
    profile = profile_program(case.program, black_image(case.program), num_runs, before_run=ballast.max)
    return layer_times(profile.nodes, [layer.name for layer in case.program.layers], profiler_us)[TESTED]


def measure_cases(cases: Sequence[Case], num_runs: int, profiler_us: float) -> list[float]:
    """Return the minimum over some passes of all cases: other work on the machine only adds time, and not always."""
    passes = [
        [measure_case(case, -(-num_runs // NUM_PASSES), profiler_us) for case in tqdm(cases, f"pass {number + 1}")]
        for number in range(NUM_PASSES)
    ]
    return [min(times) for times in zip(*passes, strict=True)]


def measure_profiler(target: Target, num_runs: int) -> float:
    """Return the microseconds that the profiler adds to a kernel, from a long chain of small convolutions."""
    builder = CaseBuilder(target)
    image = builder.image(CHAIN_SIZE)
    chain = [builder.conv("link0", image, CHAIN_CHANNELS)]
    for index in range(1, CHAIN_LENGTH):
        chain.append(builder.conv(f"link{index}", chain[-1][0], CHAIN_CHANNELS))
    program = builder.case(chain[:-1], image, *chain[-1]).program
    return profile_program(program, black_image(program), num_runs).profiler_us


def measure_copy_gb_per_s() -> float:
    """Return the rate of bytes read and written by a copy within the second-level cache, the best of some rounds."""
    source, result = np.ones(COPIED_BYTES, np.uint8), np.empty(COPIED_BYTES, np.uint8)
    rates = []
    for _ in range(NUM_PASSES):
        start = time.perf_counter()
        for _ in range(NUM_COPIES):
            np.copyto(result, source)
        rates.append(2 * COPIED_BYTES * NUM_COPIES / (time.perf_counter() - start) / 1e9)
    return max(rates)


def black_image(program: QProgram) -> Float32Array:
    return np.zeros((1, *program.tensors[program.input].shape), np.float32)


def numbers_of(values: Mapping[str, float]) -> dict[str, float]:
    """Convert fitted parameters to numbers of a target file: the largest rate is the peak, others are shares of it."""
    rates = {kind: values[f"{kind}_gmacs_per_s"] for kind in CONV_KINDS}
    peak = max(rates.values())
    others = {name: value for name, value in values.items() if not name.endswith("_gmacs_per_s")}
    return {"peak_gmacs_per_s": peak, **{f"efficiency.{kind}": rate / peak for kind, rate in rates.items()}, **others}


def as_numbers(values: Mapping[str, float]) -> dict[str, Number]:
    source = f"measured: python experiments/{STUDY}.py"
    return {name: Number(value=value, source=source) for name, value in values.items()}


def with_values(performance: Performance, values: Mapping[str, float]) -> Performance:
    """Return ``performance`` with the fitted parameters in place of its own."""
    numbers = as_numbers(numbers_of(values))
    shares = {name.partition(".")[2]: number for name, number in numbers.items() if "." in name}
    plain = {name: number for name, number in numbers.items() if "." not in name}
    return performance.model_copy(update={**plain, "efficiency": Efficiency(**shares)})


def fit(cases: Sequence[Case], measured_us: Sequence[float], performance: Performance) -> dict[str, float]:
    """Return the parameters with the least mean |log (predicted / measured)|, found by steps along one at a time."""
    logs = np.log(START)

    def loss(candidate: np.ndarray) -> float:
        trial = with_values(performance, dict(zip(PARAMETERS, np.exp(candidate).tolist(), strict=True)))
        predicted = [layer_time(case.program, case.layer, trial).total_us for case in cases]
        return float(np.abs(np.log(np.array(predicted) / measured_us)).mean())

    best, step = loss(logs), FIRST_STEP
    while step > LAST_STEP:
        improved = False
        for index, sign in itertools.product(range(len(logs)), (1, -1)):
            candidate = logs.copy()
            candidate[index] += sign * step
            if (found := loss(candidate)) < best:
                logs, best, improved = candidate, found, True
        step = step if improved else step / 2
    return dict(zip(PARAMETERS, np.exp(logs).round(4).tolist(), strict=True))


def describe_cases(cases: Sequence[Case], measured_us: Sequence[float], performance: Performance) -> list[Fitted]:
    rows = []
    for case, measured in zip(cases, measured_us, strict=True):
        tensors, layer = case.program.tensors, case.layer
        predicted = layer_time(case.program, layer, performance).total_us
        input_shape, output_shape = (
            "x".join(map(str, tensors[name].shape)) for name in (layer.inputs[0], layer.output)
        )
        macs = layer_cost(case.program, layer).macs
        rows.append(Fitted(operator_name(layer), input_shape, output_shape, macs, measured, predicted))
    return rows


def yaml_lines(values: Mapping[str, float]) -> str:
    """Format the fitted numbers for a target file."""
    lines = {"efficiency": ["    efficiency:"]}
    for name, number in as_numbers(numbers_of(values)).items():
        section, _, kind = name.rpartition(".")
        text = f'{{value: {number.value:.4g}, source: "{number.source}"}}'
        lines.setdefault(section or name, []).append(f"{'      ' if section else '    '}{kind}: {text}")
    return "\n".join(line for section in lines.values() for line in section)


def show(values: Mapping[str, float], rows: Sequence[Fitted], comparison: Comparison) -> None:
    cases = Table("layer", "input", "output", "measured us", "predicted us", title="Single layers")
    for row in rows:
        cases.add_row(
            row.operator, row.input_shape, row.output_shape, f"{row.measured_us:.1f}", f"{row.predicted_us:.1f}"
        )
    console = Console()
    console.print(cases)
    console.print(f"for `hardware: performance:` in configs/targets/{TARGET_NAME}.yaml:")
    print(yaml_lines(values))
    errors = np.abs(np.log([row.predicted_us / row.measured_us for row in rows]))
    console.print(f"single layers: median factor {np.exp(np.median(errors)):.2f}, worst {np.exp(errors.max()):.2f}")
    console.print(
        f"default model: predicted {comparison.predicted_us:.0f} us, measured {comparison.run_us:.0f}, ratio "
        f"{comparison.total_ratio:.2f}, rank correlation {comparison.rank_correlation:.2f}; wanted: ratio "
        f"{GOALS['total_ratio']}; rank correlation {GOALS['rank_correlation']}"
    )


def measurements(rows: Sequence[Fitted], comparison: Comparison) -> list[Measurement]:
    """Return the measurements for ``--record``."""
    factor = float(np.exp(np.median(np.abs(np.log([row.predicted_us / row.measured_us for row in rows])))))
    return [
        Measurement(
            name="total_ratio",
            quantity="host performance model: predicted / measured time of the default model",
            value=comparison.total_ratio,
            goal=GOALS["total_ratio"],
        ),
        Measurement(
            name="rank_correlation",
            quantity="rank correlation of predicted and measured times over its layers",
            value=comparison.rank_correlation,
            goal=GOALS["rank_correlation"],
        ),
        Measurement(
            name="predicted_us", quantity="predicted time", value=comparison.predicted_us, unit="µs", format=".0f"
        ),
        Measurement(name="measured_us", quantity="measured time", value=comparison.run_us, unit="µs", format=".0f"),
        Measurement(name="single_layers", quantity="median factor between both, single layers", value=factor),
    ]


def run(
    config: ExperimentConfig, program: QProgram, num_runs: int, out_dir: Path, tracker: Tracker
) -> list[Measurement]:
    hardware = build_hardware(config, TARGET_NAME)
    taken = {shape_key(program, layer) for layer in program.layers}
    cases = [case for case in build_cases(program.target) if shape_key(case.program, case.layer) not in taken]
    print(f"{len(cases)} single layers; none has the kind and the shapes of one of the model's")
    profiler_us = measure_profiler(program.target, num_runs)
    measured_us = measure_cases(cases, num_runs, profiler_us)
    copied = {"onchip_gb_per_s": measure_copy_gb_per_s()}
    start = hardware.performance.model_copy(update=as_numbers(copied))
    values = fit(cases, measured_us, start) | copied
    performance = with_values(hardware.performance, values)
    fitted = hardware.model_copy(update={"performance": performance})
    rows = describe_cases(cases, measured_us, performance)
    times = min((measure_program(program, num_runs) for _ in range(NUM_PASSES)), key=lambda times: times.run_us)
    comparison = compare(predict(program, performance, judge_program(program, fitted)), times.layers_us, times.run_us)
    for name, table in (("single_layers.csv", rows), ("layers.csv", comparison.layers)):
        write_table([asdict(row) for row in table], out_dir / name)
        tracker.log_file(out_dir / name, "tables")
    tracker.log_metrics({f"fitted/{name}": value for name, value in numbers_of(values).items()})
    tracker.log_metrics({"profiler_us": profiler_us})
    tracker.log_metrics(comparison_metrics(comparison))
    tracker.set_tags({"carkp.cpu": cpu_features().model, "carkp.onnxruntime": onnxruntime.__version__})
    show(values, rows, comparison)
    return measurements(rows, comparison)


def main() -> int:
    parameters = [MODEL, Parameter("runs", "50", "profiled runs of every layer")]
    arguments = parse_study(STUDY, str(__doc__), parameters)
    config, num_runs = arguments.config, int(arguments.values["runs"])
    target = build_target(config, TARGET_NAME)
    tags = {"carkp.experiment": config.name, "carkp.target": TARGET_NAME}
    model = resolve_model(arguments.values["model"], model_kind("onnxruntime", target.name), tags)
    program = load_program(model.path)

    def work(tracker: Tracker, out_dir: Path) -> None:
        write_record(arguments, STUDY, Findings(run(config, program, num_runs, out_dir, tracker)))

    execute(STUDY, config, work)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
