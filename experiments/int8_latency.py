"""Does the exported int8 network run at least twice as fast as the float one?

Command:  python experiments/int8_latency.py   (after `mlflow run . -e float`; minutes)
Asks:     milliseconds of one run in ONNX Runtime at ORT_ENABLE_ALL. The models run in turn, in a new order in
          every round, on training crops, at batch 1 and 16 with one thread and at batch 1 with two:
            float               the float stage's ONNX,
            onnxruntime_cpu     the exported int8 ONNX of that target,
            bpu                 the exported int8 ONNX of the reference's target,
            static              the float ONNX by quantize_static: pre-processed, QDQ, uint8 activations, int8
                                weights per channel, 32 images, MinMax.
          The int8 models are calibrated here, with few images, because the time does not depend on the scales. Ratios
          float / int8 are of runs of one round; their median comes with a bootstrap 95 % interval. The time by
          operator is in profile.csv.
Expect:   float / onnxruntime_cpu >= 2.0 at batch 1 with one thread (2.3 is the goal), and faster than the static model.
          `mlflow run . -e benchmark` compares other runtimes, too; this study shows where ONNX Runtime spends its time.
          Needs a CPU with int8 instructions; machines are noisy: read the ratios.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from carkp.config.schema import ExperimentConfig
from carkp.data.store import Store
from carkp.deploy.cpu import cpu_features
from carkp.deploy.float_onnx import export_float_onnx
from carkp.deploy.latency import NUM_WARM_UP, Ratio, interleaved_times, paired_ratio
from carkp.deploy.runtime import INPUT_NAME, Float32Array, OnnxRunner, session_options
from carkp.deploy.static_quantisation import quantise_statically
from carkp.measurements.record import Cell, Column, Estimate, Goal, Measurement
from carkp.measurements.record import Table as RecordTable
from carkp.quant.convert import convert
from carkp.stages.export import write_program
from carkp.tracking.runs import fetch_artifact
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import load_checkpoint, load_net
from carkp.workflow.build import prepare_torch
from carkp.workflow.calibrating import build_calibrator
from carkp.workflow.cli import DATA, MODEL, Parameter, execute, guarded
from carkp.workflow.preparation import require_samples
from carkp.workflow.quantising import build_target
from carkp.workflow.recording import Findings, parse_study, write_record
from carkp.workflow.references import (
    FLOAT,
    FLOAT_ONNX,
    ModelFile,
    check_input_size,
    require_data,
    resolve_model,
)
from carkp.workflow.tables import write_table

STUDY = "int8_latency"
NUM_IMAGES, NUM_STATIC_IMAGES = 64, 32
NUM_PROFILED = 20
GOALS = {"float_to_onnxruntime_cpu": Goal(at_least=2.0), "static_to_onnxruntime_cpu": Goal(above=1.0)}
QUANTITIES = {
    "float_to_onnxruntime_cpu": "float / int8 latency, batch 1, one thread, ONNX Runtime",
    "bpu_to_onnxruntime_cpu": "int8 of the target `bpu` / int8",
    "static_to_onnxruntime_cpu": "`quantize_static` / int8",
}
COLUMNS = [
    Column(name="setting", heading="batch, threads"),
    Column(name="model", heading="model"),
    Column(name="median_ms", heading="median (ms)", format=".2f"),
    Column(name="float_to_model", heading="float / model", format=".2f"),
]
PROFILED = ("float", "onnxruntime_cpu", "static")


@dataclass(frozen=True)
class Setting:
    """How the models run; ``share``: part of the requested runs to make."""

    batch: int
    num_threads: int
    share: float = 1.0

    @property
    def name(self) -> str:
        return f"batch{self.batch}_threads{self.num_threads}"


SETTINGS = (Setting(1, 1), Setting(16, 1, 0.125), Setting(1, 2))


@dataclass(frozen=True)
class Latency:
    """A line of the table: a model in a setting, and float / model."""

    batch: int
    num_threads: int
    model: str
    num_runs: int
    median_ms: float
    float_to_model: float
    low: float
    high: float


@dataclass(frozen=True)
class Profiled:
    """Milliseconds that a run of a model spends in an operator."""

    model: str
    operator: str
    ms: float


@dataclass(frozen=True)
class Found:
    """All latencies, the ratios at batch 1 with one thread, and the profiles."""

    latencies: list[Latency]
    ratios: dict[str, Ratio]
    profiled: list[Profiled]


def build_models(config: ExperimentConfig, store: Store, model: ModelFile, folder: Path) -> dict[str, Path]:
    """Build the contestants' files."""
    quant = config.quant.model_copy(update={"num_images": NUM_IMAGES, "batch_size": 16})
    config = config.model_copy(update={"quant": quant})
    checkpoint = load_checkpoint(model.path)
    check_input_size(checkpoint.architecture, config, model.path)
    paths = {"float": folder / "float.onnx"}
    if model.run_id:
        paths["float"] = fetch_artifact(model.run_id, FLOAT_ONNX)
    else:
        export_float_onnx(load_net(checkpoint), config.model.input_size, paths["float"], {})
    for name in ("onnxruntime_cpu", "bpu"):
        calibrator = build_calibrator(config, build_target(config, name))
        net = calibrator.prepare(checkpoint)
        calibrator.calibrate(net, store, calibrator.observers(net))
        paths[name] = write_program(convert(net, {"study": STUDY}), folder).path
    paths["static"] = folder / "static.onnx"
    quantise_statically(paths["float"], load_images(config, store, NUM_STATIC_IMAGES), paths["static"])
    return paths


def load_images(config: ExperimentConfig, store: Store, num_images: int) -> Float32Array:
    """Return (num_images, 3, H, W), normalised, in C order; images of a smaller split repeat."""
    calibrator = build_calibrator(config, build_target(config, ""))
    batches = [batch.contiguous().numpy() for batch in calibrator.images(store, num_images)]
    images = np.concatenate(batches)
    return np.ascontiguousarray(images[np.arange(num_images) % len(images)])


def timed_runs(
    paths: Mapping[str, Path], images: Float32Array, setting: Setting, num_runs: int, rng: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    """Return (num_runs,) milliseconds of every model; in one round all models get the same images."""
    runs = {name: OnnxRunner(path, setting.num_threads).run for name, path in paths.items()}
    with tqdm(total=num_runs, desc=setting.name) as bar:
        return interleaved_times(
            runs, images, num_runs, rng, setting.batch, setting.num_threads, on_round=lambda: bar.update()
        )


def profile(path: Path, image: Float32Array, folder: Path) -> dict[str, float]:
    """Return milliseconds of a run by operator, batch 1 and one thread, longest first; profiling adds some time."""
    options = session_options(num_threads=1)
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(NUM_WARM_UP + NUM_PROFILED):
        session.run(None, {INPUT_NAME: image})
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    num_nodes = len(kernels) // (NUM_WARM_UP + NUM_PROFILED)
    spent: Counter[str] = Counter()
    for event in kernels[num_nodes * NUM_WARM_UP :]:
        spent[event["args"]["op_name"]] += event["dur"] / 1000 / NUM_PROFILED
    return dict(spent.most_common())


def measure(paths: Mapping[str, Path], images: Float32Array, num_runs: int) -> tuple[list[Latency], dict[str, Ratio]]:
    """Measure all latencies, and the ratios at batch 1 with one thread."""
    rng = np.random.default_rng(0)
    rows: list[Latency] = []
    ratios: dict[str, Ratio] = {}
    for setting in SETTINGS:
        times = timed_runs(paths, images, setting, max(round(num_runs * setting.share), 2), rng)
        for name, values in times.items():
            ratio = paired_ratio(times["float"], values, rng)
            median_ms = float(np.median(values))
            run_as = (setting.batch, setting.num_threads, name, len(values))
            rows.append(Latency(*run_as, median_ms, ratio.median, ratio.low, ratio.high))
        if setting == SETTINGS[0]:
            ours = times["onnxruntime_cpu"]
            above = [name for name in paths if name != "onnxruntime_cpu"]
            ratios = {f"{name}_to_onnxruntime_cpu": paired_ratio(times[name], ours, rng) for name in above}
    return rows, ratios


def profile_all(paths: Mapping[str, Path], image: Float32Array, folder: Path) -> list[Profiled]:
    return [
        Profiled(name, operator, milliseconds)
        for name in PROFILED
        for operator, milliseconds in profile(paths[name], image, folder).items()
    ]


def log(found: Found, tracker: Tracker, out_dir: Path) -> None:
    for row in found.latencies:
        name = f"{Setting(row.batch, row.num_threads).name}/{row.model}"
        tracker.log_metrics({f"{name}/median_ms": row.median_ms, f"{name}/float_to_model": row.float_to_model})
    for name, ratio in found.ratios.items():
        tracker.log_metrics({name: ratio.median, f"{name}/low": ratio.low, f"{name}/high": ratio.high})
    for file, rows in (("latency.csv", found.latencies), ("profile.csv", found.profiled)):
        write_table([asdict(row) for row in rows], out_dir / file)
        tracker.log_file(out_dir / file, "")


def show(found: Found) -> None:
    latencies = Table("batch", "threads", "model", "ms", "float / model", title=f"Median latency ({versions()})")
    for row in found.latencies:
        factor = f"{row.float_to_model:.2f} ({row.low:.2f} to {row.high:.2f})"
        latencies.add_row(str(row.batch), str(row.num_threads), row.model, f"{row.median_ms:.2f}", factor)
    ratios = Table("batch 1, one thread", "median", "95 % interval", "wanted")
    for name, ratio in found.ratios.items():
        interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
        ratios.add_row(name, f"{ratio.median:.3f}", interval, str(GOALS.get(name, "")))
    operators = Table("model", "operator", "ms a run", title="Where the time goes (batch 1, one thread, profiled)")
    for line in found.profiled:
        operators.add_row(line.model, line.operator, f"{line.ms:.3f}")
    Console().print(latencies, ratios, operators)


def findings(found: Found) -> Findings:
    """Return the findings for ``--record``."""
    measurements = [
        Measurement(
            name=name,
            quantity=quantity,
            value=found.ratios[name].median,
            low=found.ratios[name].low,
            high=found.ratios[name].high,
            goal=GOALS.get(name),
        )
        for name, quantity in QUANTITIES.items()
    ]
    rows: list[dict[str, Cell]] = [
        {
            "setting": f"{row.batch}, {row.num_threads}",
            "model": row.model,
            "median_ms": row.median_ms,
            "float_to_model": Estimate(value=row.float_to_model, low=row.low, high=row.high),
        }
        for row in found.latencies
    ]
    return Findings(measurements, [RecordTable(name="latency", columns=COLUMNS, rows=rows)])


def versions() -> str:
    cpu = cpu_features()
    return f"{cpu.model}, {' '.join(cpu.int8_flags) or 'no int8 flags'}, onnxruntime {onnxruntime.__version__}"


def main() -> int:
    parameters = [DATA, MODEL, Parameter("runs", "200", "interleaved runs at batch 1; an eighth of them at batch 16")]
    arguments = parse_study(STUDY, str(__doc__), parameters)
    config = arguments.config
    num_runs = int(arguments.values["runs"])
    data = require_data(config, arguments.values["data"])
    tags = {"carkp.experiment": config.name, "carkp.data_digest": data.digest}
    model = resolve_model(arguments.values["model"], FLOAT, tags)

    def work(tracker: Tracker, out_dir: Path) -> None:
        prepare_torch(config)
        store = data.open().train
        require_samples(store, "calibration")
        tracker.set_tags({"carkp.float_model": model.reference, "carkp.versions": versions()})
        paths = build_models(config, store, model, out_dir)
        images = load_images(config, store, NUM_IMAGES)
        rows, ratios = measure(paths, images, num_runs)
        found = Found(rows, ratios, profile_all(paths, images[:1], out_dir))
        log(found, tracker, out_dir)
        show(found)
        write_record(arguments, STUDY, findings(found))

    execute(STUDY, config, work)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
