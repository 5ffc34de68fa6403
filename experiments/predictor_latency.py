"""Is a whole Predictor call mostly inference, cheaper in a batch, and three times as fast in int8 as in float?

Command:  python experiments/predictor_latency.py   (after `mlflow run . -e float`; minutes)
Asks:     milliseconds of `predictor(frame, boxes)` on a decoded 1920x1080 uint8 frame, with cv2, torch and ONNX Runtime
          at one thread, in a new order in every round:
            int8_4, int8_16               4 and 16 boxes, all in one call,
            int8_4_singly, int8_16_singly the same boxes, one call each,
            float_4                       4 boxes through the float checkpoint in torch (eager, channels_last),
          and for int8_4 the parts: crops, resizing and colours before the network (prepare), the network (infer),
          decoding and mapping back after it (locate). Boxes are of training cars, drawn again in every round, moved
          and scaled from their frames to this one. The int8 model is calibrated here, for onnxruntime_cpu, with few
          images, because the time does not depend on the scales. Ratios are of runs of one round; their median comes
          with a bootstrap 95 % interval.
Expect:   (prepare + locate) / infer below 1 with 4 boxes; singly / batched above 1 with 4 and with 16 boxes;
          float / int8 with 4 boxes >= 3. Needs a CPU with int8 instructions; machines are noisy: read the ratios.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from carkp.config.schema import ExperimentConfig
from carkp.data.crops import meta_path
from carkp.data.store import Store
from carkp.deploy.cpu import cpu_features
from carkp.keypoints.codec import CODEC_KEY, codec_to_json
from carkp.measurements.record import Goal, Measurement
from carkp.predictor import Predictor, check_boxes
from carkp.quant.convert import convert
from carkp.stages.export import write_program
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import load_checkpoint
from carkp.workflow.build import build_codec, prepare_torch
from carkp.workflow.calibrating import build_calibrator
from carkp.workflow.cli import DATA, MODEL, Parameter, execute, guarded
from carkp.workflow.preparation import require_samples
from carkp.workflow.quantising import build_target
from carkp.workflow.recording import Findings, parse_study, write_record
from carkp.workflow.references import FLOAT, ModelFile, check_input_size, require_data, resolve_model
from carkp.workflow.tables import write_table

STUDY = "predictor_latency"
TARGET_NAME = "onnxruntime_cpu"
FRAME_SIZE = (1080, 1920)
FEW, MANY = 4, 16
QUANTITIES = {
    "prepare_and_locate_to_infer": "`Predictor`, 1920x1080, 4 boxes, one thread: pre- and postprocessing / inference",
    "singly_to_batched_4": "one by one / batched, 4 boxes",
    "singly_to_batched_16": "one by one / batched, 16 boxes",
    "float_to_int8_4": "float torch / int8, 4 boxes",
}
WAYS = {
    "int8_4": "a call with 4 boxes, int8",
    "int8_16": "a call with 16 boxes, int8",
    "float_4": "4 boxes, float torch",
}
NUM_IMAGES, NUM_WARM_UP, NUM_RESAMPLES = 64, 5, 2000

Times = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Contestants:
    """The two predictors to compare."""

    int8: Predictor
    float: Predictor


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios, its 95 % interval, and its goal."""

    name: str
    median: float
    low: float
    high: float
    wanted: Goal


def build(config: ExperimentConfig, store: Store, model: ModelFile, folder: Path) -> Contestants:
    quant = config.quant.model_copy(update={"num_images": NUM_IMAGES, "batch_size": 16})
    config = config.model_copy(update={"quant": quant})
    checkpoint = load_checkpoint(model.path)
    check_input_size(checkpoint.architecture, config, model.path)
    calibrator = build_calibrator(config, build_target(config, TARGET_NAME))
    net = calibrator.prepare(checkpoint)
    calibrator.calibrate(net, store, calibrator.observers(net))
    codec = codec_to_json(build_codec(config.heatmap, config.model.input_size))
    path = write_program(convert(net, {"study": STUDY, CODEC_KEY: codec}), folder).path
    return Contestants(Predictor.load(path), Predictor.load(model.path))


def load_boxes(directory: Path) -> NDArray[np.float64]:
    """Return (N, 4) boxes of training cars, scaled to the frame of this study."""
    metas = json.loads(meta_path(directory, "train").read_text()).values()
    boxes = np.array([meta["box"] for meta in metas], np.float64)
    sizes = np.array([meta["frame_size"] for meta in metas], np.float64)
    factors = np.array(FRAME_SIZE) / sizes
    return boxes * factors[:, [1, 0, 1, 0]]


def measure(found: Contestants, boxes: NDArray[np.float64], num_runs: int) -> Times:
    """Return (num_runs,) milliseconds of every way and of the parts of ``int8_4``."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (*FRAME_SIZE, 3), np.uint8)
    times: dict[str, list[float]] = {}
    for number in tqdm(range(num_runs + NUM_WARM_UP), STUDY):
        chosen = boxes[rng.permutation(len(boxes))[:MANY]]
        ways = ways_to_run(found, frame, chosen)
        for name in rng.permutation(list(ways)):
            for part, milliseconds in ways[name]().items():
                if number >= NUM_WARM_UP:
                    times.setdefault(part, []).append(milliseconds)
    return {name: np.array(values) for name, values in times.items()}


def ways_to_run(
    found: Contestants, frame: NDArray[np.uint8], boxes: NDArray[np.float64]
) -> dict[str, Callable[[], dict[str, float]]]:
    few = boxes[:FEW]

    def singly(chosen: NDArray[np.float64]) -> None:
        for box in chosen:
            found.int8(frame, box[None])

    return {
        "int8_4": lambda: {"int8_4": timed(lambda: found.int8(frame, few))},
        "int8_16": lambda: {"int8_16": timed(lambda: found.int8(frame, boxes))},
        "int8_4_singly": lambda: {"int8_4_singly": timed(lambda: singly(few))},
        "int8_16_singly": lambda: {"int8_16_singly": timed(lambda: singly(boxes))},
        "float_4": lambda: {"float_4": timed(lambda: found.float(frame, few))},
        "parts": lambda: timed_parts(found.int8, frame, few),
    }


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def timed_parts(predictor: Predictor, frame: NDArray[np.uint8], boxes: NDArray[np.float64]) -> dict[str, float]:
    """Time the steps of a call one by one."""
    start = time.perf_counter()
    inputs = predictor.prepare(frame, check_boxes(frame, boxes))
    prepared = time.perf_counter()
    heatmaps = predictor.heatmaps(inputs.images)
    inferred = time.perf_counter()
    predictor.locate(heatmaps, inputs)
    end = time.perf_counter()
    marks = np.diff([start, prepared, inferred, end]) * 1000
    return dict(zip(("prepare", "infer", "locate"), marks.tolist(), strict=True))


def ratios(times: Times) -> list[Ratio]:
    rng = np.random.default_rng(1)
    overhead = times["prepare"] + times["locate"]
    pairs = {
        "prepare_and_locate_to_infer": (overhead, times["infer"], Goal(below=1)),
        "singly_to_batched_4": (times["int8_4_singly"], times["int8_4"], Goal(above=1)),
        "singly_to_batched_16": (times["int8_16_singly"], times["int8_16"], Goal(above=1)),
        "float_to_int8_4": (times["float_4"], times["int8_4"], Goal(at_least=3)),
    }
    return [paired_ratio(name, above, below, wanted, rng) for name, (above, below, wanted) in pairs.items()]


def paired_ratio(
    name: str, above: NDArray[np.float64], below: NDArray[np.float64], wanted: Goal, rng: np.random.Generator
) -> Ratio:
    values = above / below
    chosen = rng.integers(0, len(values), (NUM_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[chosen], axis=1), [2.5, 97.5])
    return Ratio(name, float(np.median(values)), float(low), float(high), wanted)


def log(times: Times, found: list[Ratio], tracker: Tracker, out_dir: Path) -> None:
    tracker.log_metrics({f"{name}/median_ms": float(np.median(values)) for name, values in times.items()})
    for ratio in found:
        tracker.log_metrics(
            {ratio.name: ratio.median, f"{ratio.name}/low": ratio.low, f"{ratio.name}/high": ratio.high}
        )
    latencies = [{"what": name, "median_ms": float(np.median(values))} for name, values in times.items()]
    ratios_found = [asdict(ratio) | {"wanted": str(ratio.wanted)} for ratio in found]
    for file, rows in (("latency.csv", latencies), ("ratios.csv", ratios_found)):
        write_table(rows, out_dir / file)
        tracker.log_file(out_dir / file, "")


def show(times: Times, found: list[Ratio]) -> None:
    latencies = Table("what", "median ms", "10 % to 90 %", title=f"A Predictor call ({versions()})")
    for name, values in sorted(times.items()):
        low, high = np.percentile(values, [10, 90])
        latencies.add_row(name, f"{np.median(values):.2f}", f"{low:.2f} to {high:.2f}")
    shown = Table("ratio", "median", "95 % interval", "wanted")
    for ratio in found:
        shown.add_row(ratio.name, f"{ratio.median:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}", str(ratio.wanted))
    Console().print(latencies, shown)


def findings(times: Times, found: Sequence[Ratio]) -> Findings:
    """Return the findings for ``--record``."""
    measurements = [
        Measurement(
            name=ratio.name,
            quantity=QUANTITIES[ratio.name],
            value=ratio.median,
            low=ratio.low,
            high=ratio.high,
            goal=ratio.wanted,
        )
        for ratio in found
    ]
    measurements += [
        Measurement(name=f"{name}_ms", quantity=what, value=float(np.median(times[name])), unit="ms")
        for name, what in WAYS.items()
    ]
    return Findings(measurements)


def versions() -> str:
    cpu = cpu_features()
    flags = " ".join(cpu.int8_flags) or "no int8 flags"
    return (
        f"{cpu.model}, {flags}, onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, cv2 {cv2.__version__}"
    )


def main() -> int:
    parameters = [DATA, MODEL, Parameter("runs", "100", "rounds, in each of which every way runs once")]
    arguments = parse_study(STUDY, str(__doc__), parameters)
    config = arguments.config
    data = require_data(config, arguments.values["data"])
    tags = {"carkp.experiment": config.name, "carkp.data_digest": data.digest}
    model = resolve_model(arguments.values["model"], FLOAT, tags)

    def work(tracker: Tracker, out_dir: Path) -> None:
        prepare_torch(config)
        store = data.open().train
        require_samples(store, "calibration")
        tracker.set_tags({"carkp.float_model": model.reference, "carkp.versions": versions()})
        contestants = build(config, store, model, out_dir)
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        times = measure(contestants, load_boxes(data.directory), int(arguments.values["runs"]))
        found = ratios(times)
        log(times, found, tracker, out_dir)
        show(times, found)
        write_record(arguments, STUDY, findings(times, found))

    execute(STUDY, config, work)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
