"""How much faster is our calibration than ONNX Runtime's, and does its memory grow with the images?

Command:  python experiments/calibration_cost.py   (after `mlflow run . -e float`; minutes on two cores, gigabytes)
Asks:     seconds from the model's file to the scales: 200 training images, percentile observers, two threads on the
          same two cores, every measurement in a fresh process, the contestants in turn:
            ours       load the float checkpoint, fold, observe, choose thresholds, weight scales; for the
                       configuration's target,
            same       onnxruntime.quantization.quantize_static on the float ONNX of that checkpoint, made to observe
                       only the tensors that ours observes,
            default    quantize_static unchanged: it also observes the image and the tensors before activations.
          For quantize_static, both the whole call and only its calibration are timed: open the model, run it, count,
          find thresholds, without quantising weights or writing a model. It gets the batch size that is faster for
          it: 1, or about that of ours. Decoding JPEG, exporting ONNX and compiling kernels are not timed, and
          packages are imported before, except what they load late. Both read float32 images from one file in the page
          cache.
          The float ONNX, not that of the folded graph, makes the tensors the same: the 12 phases of our three
          transposed convolutions share three histograms, of values that a ConvTranspose puts into one tensor. For
          both, the numbers of histograms and of counted values are reported, and the difference of the thresholds
          (sorted, because the names differ).
          Peak memory is VmHWM of those processes (getrusage's ru_maxrss would include the parent's). For ours it is
          also measured with ten times the images, for quantize_static with a quarter and a half of them. "growth" is
          the peak minus the memory of the imports before the clock started. If the split has too few images, they
          repeat.
Expect:   same / ours >= 6 for the calibration alone, 10 is the goal; ours at 2,000 images <= 1.2 times the memory at
          200. Machines are noisy: read the ratios.
"""

import contextlib
import io
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.calibrate import PercentileCalibrater, TensorData, TensorsData
from tqdm import tqdm

from carkp.deploy.runtime import INPUT_NAME
from carkp.measurements.record import Goal, Measurement

if TYPE_CHECKING:
    from carkp.config.schema import ExperimentConfig
    from carkp.quant.target import Target
    from carkp.tracking.tracker import Tracker
    from carkp.workflow.preparation import PreparedData
    from carkp.workflow.references import ModelFile

# Other modules are imported where they are needed: the processes of quantize_static import this module too, and their
# memory must not include torch.

STUDY = "calibration_cost"
NUM_THREADS = 2
MORE_IMAGES = 10  # factor on the images, for the memory of ours
ACTIVATIONS = ("Relu", "Clip")
MOVING = ("Concat", "DepthToSpace", "Reshape", "Transpose", "Identity")
GOALS = {
    "default_calibration_to_ours": Goal(at_least=10.0),
    "same_calibration_to_ours": Goal(at_least=6.0),
    "our_peak_more_images_to_images": Goal(at_most=1.2),
}
QUANTITIES = {
    "default_calibration_to_ours": "calibration, `quantize_static` as it comes / ours, from model load to scales",
    "same_calibration_to_ours": "the same, `quantize_static` made to observe our tensors alone",
    "our_peak_more_images_to_images": "peak memory of our calibration, ten times the images / the images",
    "ours/median_calibration_s": "ours",
    "default/median_calibration_s": "`quantize_static` as it comes",
    "same/median_calibration_s": "`quantize_static`, our tensors alone",
}


@dataclass(frozen=True)
class Images:
    """Normalised float32 images (N, 3, H, W) in a file without a header; ``num_images`` of them are read in batches."""

    path: Path
    shape: tuple[int, int, int, int]
    num_images: int
    batch_size: int

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """Yield new arrays: pages of a mapped file would count as this process's memory. Images repeat at the end."""
        image_values = math.prod(self.shape[1:])
        with self.path.open("rb", buffering=0) as stream:
            for start in range(0, self.num_images, self.batch_size):
                indices = np.arange(start, min(start + self.batch_size, self.num_images)) % self.shape[0]
                batch = np.empty((len(indices), *self.shape[1:]), np.float32)
                for image, index in zip(batch, indices, strict=True):
                    stream.seek(int(index) * image_values * image.itemsize)
                    stream.readinto(image)  # type: ignore[arg-type]
                yield batch


@dataclass(frozen=True)
class OurJob:
    """Inputs of one measurement of ours."""

    config: "ExperimentConfig"
    target: "Target"
    checkpoint: Path
    images: Images


@dataclass(frozen=True)
class OrtJob:
    """Inputs of one measurement of quantize_static; ``is_same``: observe only the tensors that ours observes."""

    model: Path
    percentile: float
    images: Images
    is_same: bool


@dataclass(frozen=True)
class Measured:
    """One calibration. ``calibration_s`` excludes quantising weights and writing a model; ours does neither.

    ``imported_mib`` is the memory before the clock started, ``peak_mib`` the peak. ``thresholds`` are sorted.
    """

    seconds: float
    calibration_s: float
    imported_mib: float
    peak_mib: float
    num_histograms: int
    num_values: int
    thresholds: tuple[float, ...]


def measure_ours(job: OurJob) -> Measured:
    """Measure ours; call this in a fresh process."""
    import torch

    from carkp.quant.calibrate import choose_thresholds, observe
    from carkp.quant.graph import ConvLayer
    from carkp.training.checkpoint import load_checkpoint
    from carkp.workflow.build import prepare_torch
    from carkp.workflow.calibrating import build_calibrator

    config = job.config
    use_two_cores()
    prepare_torch(config.model_copy(update={"train": config.train.model_copy(update={"num_threads": NUM_THREADS})}))
    memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
    imported_mib, start = memory_mib("VmRSS"), time.perf_counter()
    calibrator = build_calibrator(config, job.target)
    net = calibrator.prepare(load_checkpoint(job.checkpoint))
    images = (torch.from_numpy(batch).contiguous(memory_format=memory_format) for batch in job.images.batches())
    histograms = observe(net.graph, images, NUM_THREADS)
    thresholds = choose_thresholds(histograms, net.num_levels, calibrator.observers(net))
    net.set_thresholds(thresholds)
    for step, layer in net.graph.items():
        if isinstance(layer, ConvLayer):
            net.weight_scales(step, layer)
    seconds = time.perf_counter() - start
    num_values = sum(histogram.count for histogram in histograms.values())
    found = tuple(sorted(thresholds.values()))
    return Measured(seconds, seconds, imported_mib, memory_mib("VmHWM"), len(histograms), num_values, found)


def measure_ort(job: OrtJob) -> Measured:
    """Measure quantize_static with our ``WatchedCalibrater``; call this in a fresh process."""
    use_two_cores()
    made: list[WatchedCalibrater] = []

    def make(*args: Any, calibrate_method: object, providers: object, extra_options: Any, **kwargs: Any) -> Any:
        """Replace onnxruntime's create_calibrator; ``symmetric`` is its default for percentiles: of |x|."""
        del calibrate_method, providers
        settings = {"num_bins": 2048, "symmetric": True, **extra_options}
        calibrater = WatchedCalibrater(*args, is_same=job.is_same, **kwargs, **settings)
        made.append(calibrater)
        calibrater.augment_graph()
        calibrater.create_inference_session()
        return calibrater

    logging.disable(logging.WARNING)
    imported_mib, start = memory_mib("VmRSS"), time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(quantize_static.__globals__, create_calibrator=make),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        quantize_static(
            job.model,
            Path(folder) / "int8.onnx",
            Reader(job.images),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": job.percentile},
        )
    seconds = time.perf_counter() - start
    counted = {name: int(found[0].sum()) for name, found in made[0].collector.histogram_dict.items()}
    found = tuple(sorted(made[0].thresholds))
    calibration_s, peak_mib = made[0].calibration_s, memory_mib("VmHWM")
    return Measured(seconds, calibration_s, imported_mib, peak_mib, len(counted), sum(counted.values()), found)


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Batches of images in the form that quantize_static reads."""

    def __init__(self, images: Images) -> None:
        self.batches = images.batches()

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT_NAME: batch}


class WatchedCalibrater(PercentileCalibrater):  # type: ignore[misc]
    """ONNX Runtime's calibrater with two threads and a clock, and optionally another choice of tensors.

    It is a subclass because quantize_static has no setting for any of these.
    """

    def __init__(self, *args: Any, is_same: bool, **kwargs: Any) -> None:
        self.start = time.perf_counter()
        self.is_same = is_same
        super().__init__(*args, **kwargs)

    def create_inference_session(self) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = NUM_THREADS
        self.infer_session = onnxruntime.InferenceSession(
            self.augmented_model_path, options, providers=self.execution_providers
        )

    def select_tensors_to_calibrate(self, model: ModelProto) -> tuple[set[str], dict[str, Any]]:
        tensors, infos = super().select_tensors_to_calibrate(model)
        self.left_out = tensors - set(tensors_like_ours(model)) if self.is_same else set()
        return tensors - self.left_out, infos

    def compute_data(self) -> TensorsData:
        """Add a range for tensors that were left out, because quantising the model needs one for every tensor."""
        found = super().compute_data()
        self.calibration_s = time.perf_counter() - self.start
        # a threshold beyond the smallest or largest value is moved to it, and the other end keeps the threshold
        self.thresholds = [max(-float(found[name].lowest), float(found[name].highest)) for name in found]
        unit = np.float32(1)
        found.data.update(dict.fromkeys(self.left_out, TensorData(lowest=-unit, highest=unit)))
        return found


def tensors_like_ours(model: ModelProto) -> list[str]:
    """Return the output of every layer after its activation, without the image and tensors that are only moved."""
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)

    def is_before_activation(name: str) -> bool:
        return len(readers.get(name, [])) == 1 and readers[name][0] in ACTIVATIONS

    makers = [node for node in model.graph.node if node.op_type not in MOVING]
    return [name for node in makers for name in node.output if not is_before_activation(name)]


def use_two_cores() -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:NUM_THREADS])


def memory_mib(field: str) -> float:
    """Return memory of this process from Linux: VmRSS is the present value, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def in_fresh_process(job: OurJob | OrtJob) -> Measured:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        begun = pool.submit(measure_ours, job) if isinstance(job, OurJob) else pool.submit(measure_ort, job)
        return begun.result()


def with_images(job: Any, num_images: int, batch_size: int | None = None) -> Any:
    size = job.images.batch_size if batch_size is None else batch_size
    return replace(job, images=replace(job.images, num_images=num_images, batch_size=size))


def faster_batch(job: OrtJob, num_images: int, batch_size: int) -> int:
    """Return 1 or ``batch_size``, whichever is faster in one calibration each."""
    seconds = {size: in_fresh_process(with_images(job, num_images, size)).seconds for size in (1, batch_size)}
    return min(seconds, key=seconds.__getitem__)


def measure(ours: OurJob, ort: OrtJob, num_images: int, num_rounds: int, tracker: "Tracker") -> dict[str, float]:
    """Measure seconds, memory and ratios. ``ort.images`` has the batch size to try."""
    quarter = num_images // 4
    in_fresh_process(with_images(ours, ours.images.batch_size))  # compiles our kernels if necessary
    ort = with_images(ort, num_images, faster_batch(ort, quarter, ort.images.batch_size))
    jobs: dict[str, OurJob | OrtJob] = {"ours": ours, "same": ort, "default": replace(ort, is_same=False)}
    rounds: dict[str, list[Measured]] = {name: [] for name in jobs}
    for number in tqdm(range(num_rounds), "rounds"):
        for name, job in jobs.items():
            rounds[name].append(in_fresh_process(job))
            seconds = {f"{name}/seconds": rounds[name][-1].seconds}
            tracker.log_metrics(seconds | {f"{name}/calibration_s": rounds[name][-1].calibration_s}, step=number)
    more = in_fresh_process(with_images(ours, MORE_IMAGES * num_images))
    fewer = {count: in_fresh_process(with_images(jobs["default"], count)) for count in (quarter, 2 * quarter)}
    found = summarise(rounds)
    found["ort_batch_size"] = float(ort.images.batch_size)
    found[f"ours/peak_mib_{MORE_IMAGES * num_images}_images"] = more.peak_mib
    found["our_peak_more_images_to_images"] = more.peak_mib / found["ours/peak_mib"]
    found["our_growth_more_images_to_images"] = (more.peak_mib - more.imported_mib) / found["ours/growth_mib"]
    found |= {f"default/peak_mib_{count}_images": measured.peak_mib for count, measured in fewer.items()}
    tracker.log_metrics(found)
    return found


def summarise(rounds: dict[str, list[Measured]]) -> dict[str, float]:
    """Return medians of the rounds, and medians of the ratios within a round."""

    def values(name: str, field: str) -> NDArray[np.float64]:
        return np.array([getattr(measured, field) for measured in rounds[name]], dtype=np.float64)

    found: dict[str, float] = {}
    for name, measured in rounds.items():
        found |= {
            f"{name}/median_seconds": float(np.median(values(name, "seconds"))),
            f"{name}/median_calibration_s": float(np.median(values(name, "calibration_s"))),
            f"{name}/peak_mib": float(np.median(values(name, "peak_mib"))),
            f"{name}/growth_mib": float(np.median(values(name, "peak_mib") - values(name, "imported_mib"))),
            f"{name}/histograms": measured[0].num_histograms,
            f"{name}/values_counted": measured[0].num_values,
        }
    ours_s = values("ours", "seconds")
    for name in ("same", "default"):
        found[f"{name}_calibration_to_ours"] = float(np.median(values(name, "calibration_s") / ours_s))
        found[f"{name}_whole_to_ours"] = float(np.median(values(name, "seconds") / ours_s))
    found["largest_threshold_difference"] = threshold_difference(rounds["ours"][0], rounds["same"][0])
    return found


def threshold_difference(ours: Measured, theirs: Measured) -> float:
    """Return the largest relative difference; NaN if the numbers of tensors differ."""
    if len(ours.thresholds) != len(theirs.thresholds):
        return float("nan")
    first, second = np.array(ours.thresholds), np.array(theirs.thresholds)
    return float((np.abs(first - second) / np.maximum(first, second)).max())


def make_jobs(
    config: "ExperimentConfig", data: "PreparedData", model: "ModelFile", num_images: int, folder: Path
) -> tuple[OurJob, OrtJob]:
    """Write the images and the float ONNX; return the inputs of all processes."""
    from carkp.deploy.float_onnx import export_float_onnx
    from carkp.training.checkpoint import load_checkpoint, load_net
    from carkp.workflow.calibrating import build_calibrator
    from carkp.workflow.preparation import require_samples
    from carkp.workflow.quantising import build_target
    from carkp.workflow.references import check_input_size

    store = data.open().train
    require_samples(store, "calibration")
    path, num_written = folder / "images.f32", 0
    with path.open("wb") as stream:
        for batch in build_calibrator(config, build_target(config, "")).images(store, num_images):
            num_written += len(batch)
            stream.write(batch.contiguous().numpy().tobytes())  # C order, whatever the memory format
    checkpoint = load_checkpoint(model.path)
    check_input_size(checkpoint.architecture, config, model.path)
    export_float_onnx(load_net(checkpoint), config.model.input_size, folder / "float.onnx", {})
    images = Images(path, (num_written, 3, *config.model.input_size), num_images, config.quant.batch_size)
    # onnxruntime stacks what it keeps, so all its batches must have one size
    ort_images = replace(images, batch_size=largest_divisor(num_images // 4, config.quant.batch_size))
    ours = OurJob(config, build_target(config, ""), model.path, images)
    return ours, OrtJob(folder / "float.onnx", config.quant.percentile, ort_images, is_same=True)


def largest_divisor(number: int, at_most: int) -> int:
    return next(size for size in range(min(at_most, number), 0, -1) if number % size == 0)


def show(found: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("quantity", "value", "wanted", title=f"Calibration cost ({versions()}, {NUM_THREADS} threads)")
    for name, value in found.items():
        is_count = name.endswith(("histograms", "values_counted", "batch_size"))
        shown = f"{value:,.0f}" if is_count else f"{value:.4f}" if name.endswith("difference") else f"{value:,.2f}"
        table.add_row(name, shown, str(GOALS.get(name, "")))
    Console().print(table)


def measurements(found: Mapping[str, float]) -> list[Measurement]:
    """Return the measurements for ``--record``."""
    return [
        Measurement(
            name=name.replace("/", "_"),
            quantity=quantity,
            value=found[name],
            unit="s" if name.endswith("_s") else "",
            goal=GOALS.get(name),
        )
        for name, quantity in QUANTITIES.items()
    ]


def versions() -> str:
    import torch

    from carkp.deploy.cpu import cpu_features

    return f"{cpu_features().model}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"


def main() -> int:
    from carkp.config.loading import ConfigError
    from carkp.tracking.tracker import Tracker
    from carkp.workflow.calibrating import as_reference
    from carkp.workflow.cli import DATA, MODEL, Parameter, execute
    from carkp.workflow.recording import Findings, parse_study, write_record
    from carkp.workflow.references import FLOAT, require_data, resolve_model

    parameters = [
        DATA,
        MODEL,
        Parameter("images", "200", "to calibrate with; a multiple of 4"),
        Parameter("rounds", "3", "interleaved rounds"),
    ]
    arguments = parse_study(STUDY, str(__doc__), parameters)
    config = as_reference(arguments.config)  # quantize_static only has percentiles to compare with
    num_images, num_rounds = int(arguments.values["images"]), int(arguments.values["rounds"])
    if num_images < 4 or num_images % 4:
        raise ConfigError(f"images={num_images}: must be a multiple of 4, for quantize_static is also run on a quarter")
    data = require_data(config, arguments.values["data"])
    tags = {"carkp.experiment": config.name, "carkp.data_digest": data.digest}
    model = resolve_model(arguments.values["model"], FLOAT, tags)

    def work(tracker: Tracker, out_dir: Path) -> None:
        tracker.set_tags({"carkp.float_model": model.reference, "carkp.versions": versions()})
        ours, ort = make_jobs(config, data, model, num_images, out_dir)
        found = measure(ours, ort, num_images, num_rounds, tracker)
        show(found)
        write_record(arguments, STUDY, Findings(measurements(found), note=f"{num_images} images, two threads."))

    execute(STUDY, config, work)
    return 0


if __name__ == "__main__":
    from carkp.workflow.cli import guarded

    sys.exit(guarded(main))
