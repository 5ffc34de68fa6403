"""Does training on a CUDA device do what it does on the CPU, and what does each of its settings bring?

Command:  python experiments/cuda_check.py                 (a machine with a CUDA device; two minutes)
          … -P compile=true                                (a minute more: torch.compile)
Asks:     on drawn discs, twelve colours for twelve keypoints, with the configured network from its first weights:
            float32 on the device against the CPU, bfloat16 against float32, channels_last against the default format,
            pinned against pageable batches: how far the losses differ;
            two equal trainings, and one that is resumed from last.pt (dropped paths draw from the device's generator):
            whether the weights are equal, bit for bit;
            carkp-car12 on the device against the CPU: how far its heatmaps differ;
            samples a second and peak memory of each setting.
Expect:   every line within its limit. Without a CUDA device nothing is measured, and the command says so. Several
          devices need `torchrun`; synchronised batch norms are not covered here.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig, ModelConfig
from carkp.data.dataset import normalise
from carkp.keypoints.metrics import Scores, hat_extent, labelled_extent, score
from carkp.keypoints.schema import VISIBLE
from carkp.measurements.record import Goal, Measurement, save_record
from carkp.shipped import DEFAULT_MODEL
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import load_checkpoint
from carkp.training.distributed import ProcessContext
from carkp.training.evaluate import Batch, eval_forward
from carkp.training.fit import LAST_NAME, EpochResult, FitInputs, Trainer, fit
from carkp.workflow.build import build_codec, build_fit_settings, build_model, prepare_torch
from carkp.workflow.cli import Parameter, execute, guarded
from carkp.workflow.recording import Findings, make_record, parse_study, write_record

STUDY = "cuda_check"
ALPHA = 0.1
BATCH, NUM_BATCHES, NUM_STEPS, NUM_EPOCHS, NUM_TIMED, NUM_KEYPOINTS = 32, 4, 20, 4, 60, 12
TIMED_BATCH = 128
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Line:
    """One finding; ``limit`` None: a value without a verdict."""

    name: str
    value: float
    unit: str
    limit: float | None = None

    @property
    def passed(self) -> bool:
        return self.limit is None or self.value <= self.limit


class Discs:
    """Returns the same ``number`` batches in every epoch: a coloured disc on grey noise for every keypoint."""

    def __init__(self, number: int, size: int, input_size: tuple[int, int], pinned: bool = False) -> None:
        rng = np.random.default_rng(0)
        self.batches = [_discs(size, input_size, rng, pinned) for _ in range(number)]

    def set_epoch(self, epoch: int) -> None: ...

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def sample_ids(self, number: int) -> list[str]:
        return [str(index) for index in self.batches[number]["index"].tolist()]


def _discs(size: int, input_size: tuple[int, int], rng: np.random.Generator, pinned: bool) -> Batch:
    height, width = input_size
    images = rng.integers(96, 160, (size, 3, height, width), dtype=np.uint8)
    points = rng.uniform(0.1, 0.9, (size, NUM_KEYPOINTS, 2)) * [width, height]
    colours = np.random.default_rng(1).integers(0, 256, (NUM_KEYPOINTS, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for image, own in zip(images, points, strict=True):
        for (x, y), colour in zip(own, colours, strict=True):
            image[:, (columns - x) ** 2 + (rows - y) ** 2 < (width / 25) ** 2] = colour[:, None]
    batch: Batch = {
        "image": torch.from_numpy(images),
        "points": torch.from_numpy(points.astype(np.float32)),
        "validity": torch.full(points.shape[:2], VISIBLE, dtype=torch.uint8),
        "index": torch.arange(size),
        "crop_size": torch.tensor(input_size).repeat(size, 1),
        "truncated": torch.zeros(size, dtype=torch.int8),
    }
    if pinned:
        batch = cast(Batch, {name: cast(Tensor, value).pin_memory() for name, value in batch.items()})
    return batch


@dataclass(frozen=True)
class Variant:
    """A configuration, its batches, and its device."""

    config: ExperimentConfig
    batches: Discs
    device: torch.device

    def trainer(self) -> Trainer:
        """Build a trainer with the first weights for the configuration's seed."""
        config = self.config
        prepare_torch(config)
        model = build_model(config)
        codec = build_codec(config.heatmap, config.model.input_size)
        settings = build_fit_settings(config.train, self.device, model.source.has_head)

        def validate(net: torch.nn.Module) -> Scores:
            batch = self.batches.batches[0]
            forward = eval_forward(net, normalise, config.train.channels_last)
            found = codec.decode(forward(batch["image"].to(self.device)))
            points, targets = found.points.double().cpu().numpy(), batch["points"].double().numpy()
            validity = batch["validity"].numpy()
            extents = labelled_extent(targets, validity), hat_extent(targets, config.model.input_size)
            return score(points, targets, validity, *extents, ALPHA)

        inputs = FitInputs(self.batches, codec, normalise, validate, model.architecture, {})
        return Trainer(model.net, inputs, settings, ProcessContext(rank=0, world_size=1, device=self.device))

    def losses(self) -> list[float]:
        """Return the losses of the first steps."""
        trainer = self.trainer()
        trainer.net.train()
        return [float(trainer.step(batch)) for _ in range(NUM_STEPS // len(self.batches)) for batch in self.batches]

    def rate(self) -> tuple[float, float]:
        """Return samples per second with batches in memory, and the peak of the device's memory in MiB."""
        trainer = self.trainer()
        trainer.net.train()
        batches = self.batches.batches
        for batch in batches:
            float(trainer.step(batch))
        torch.cuda.reset_peak_memory_stats(self.device)
        start = time.perf_counter()
        for number in range(NUM_TIMED):
            float(trainer.step(batches[number % len(batches)]))
        seconds = time.perf_counter() - start
        return NUM_TIMED * TIMED_BATCH / seconds, torch.cuda.max_memory_allocated(self.device) / 2**20


class _StopError(Exception):
    """Ends a training in the middle, as a kill after an epoch would."""


def trained(variant: Variant, folder: Path, stop_after: int = 0) -> dict[str, Tensor]:
    """Return the weights after all epochs; with ``stop_after``, training stops there and is resumed from its file."""

    def on_epoch(result: EpochResult) -> None:
        if result.epoch == stop_after:
            raise _StopError

    trainer = variant.trainer()
    try:
        fit(trainer, folder, on_epoch)
    except _StopError:
        trainer = variant.trainer()
        trainer.resume(load_checkpoint(folder / LAST_NAME))
        fit(trainer, folder, lambda result: None)
    return {name: value.cpu() for name, value in trainer.net.state_dict().items()}


def number_of_differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the number of weight elements that are not equal."""
    return float(sum(int((one[name] != other[name]).sum()) for name in one))


def relative(losses: Sequence[float], reference: Sequence[float], num_steps: int) -> float:
    """Return the largest relative difference of a loss within the first steps."""
    pairs = list(zip(losses, reference, strict=True))[:num_steps]
    return max(abs(own - other) / other for own, other in pairs)


def with_train(config: ExperimentConfig, **changes: Any) -> ExperimentConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def check(config: ExperimentConfig, device: torch.device, compiled: bool, folder: Path) -> Iterator[Line]:
    """Yield all lines, each as soon as it is measured."""
    size = config.model.input_size
    few = Discs(NUM_BATCHES, BATCH, size)
    exact = with_train(config, precision="float32", epochs=NUM_EPOCHS)
    here = Variant(exact, few, device)
    losses = here.losses()
    yield Line("loss, float32: device against CPU, 5 steps", relative(Variant(exact, few, CPU).losses(), losses, 5),
               "relative", 1e-2)  # fmt: skip
    half = Variant(with_train(exact, precision="bfloat16"), few, device)
    mean = float(np.mean(losses[-len(few) :]))
    late = float(np.mean(half.losses()[-len(few) :]))
    yield Line(f"loss, bfloat16 against float32, after {NUM_STEPS} steps", abs(late - mean) / mean, "relative", 0.1)
    plain = Variant(with_train(exact, channels_last=False), few, device)
    yield Line("loss, default format against channels_last, 5 steps", relative(plain.losses(), losses, 5),
               "relative", 1e-2)  # fmt: skip
    if device.type == "cuda":
        pinned = Variant(exact, Discs(NUM_BATCHES, BATCH, size, pinned=True), device)
        yield Line("loss, pinned against pageable batches", relative(pinned.losses(), losses, NUM_STEPS), "relative", 0)
    if compiled:
        compiled_losses = Variant(with_train(exact, compile=True), few, device).losses()
        yield Line("loss, compiled against eager, 5 steps", relative(compiled_losses, losses, 5), "relative", 1e-2)
    for precision in ("float32", "bfloat16"):
        yield from _repeated(with_train(exact, precision=precision), few, device, folder / precision)
    yield _shipped(device)
    if device.type == "cuda":
        yield from _rates(config, device, compiled)


def _repeated(config: ExperimentConfig, batches: Discs, device: torch.device, folder: Path) -> Iterator[Line]:
    """Compare equal trainings, undisturbed and resumed; dropped paths draw random numbers on the device."""
    dropping = config.model_copy(update={"model": config.model.model_copy(update={"drop_path_rate": 0.2})})
    variant = Variant(dropping, batches, device)
    weights = trained(variant, folder / "first")
    for title, stop in (("the same training again", 0), ("gone on from last.pt", NUM_EPOCHS // 2)):
        again = trained(variant, folder / f"again_{stop}", stop)
        name = f"weights, {config.train.precision}: {title}"
        yield Line(name, number_of_differences(weights, again), "elements differ", 0)


def _shipped(device: torch.device) -> Line:
    """Compare the model that comes with carkp on discs."""
    shipped = ExperimentConfig(model=ModelConfig(pretrained=DEFAULT_MODEL))
    images = normalise(Discs(1, BATCH, shipped.model.input_size).batches[0]["image"])
    net = build_model(shipped).net.eval()
    with torch.no_grad():
        reference = net(images)
        found = net.to(device)(images.to(device)).cpu()
    return Line(
        f"heatmaps of {DEFAULT_MODEL}: device against CPU", float((found - reference).abs().max()), "of 1", 1e-2
    )


def _rates(config: ExperimentConfig, device: torch.device, compiled: bool) -> Iterator[Line]:
    batches = Discs(2, TIMED_BATCH, config.model.input_size, pinned=True)
    changes: dict[str, dict[str, Any]] = {
        "float32": {"precision": "float32"},
        "bfloat16": {"precision": "bfloat16"},
        "bfloat16, default format": {"precision": "bfloat16", "channels_last": False},
    }
    if compiled:
        changes["bfloat16, compiled"] = {"precision": "bfloat16", "compile": True}
    for name, change in changes.items():
        rate, memory = Variant(with_train(config, **change), batches, device).rate()
        yield Line(f"rate, {name}, batch {TIMED_BATCH}", rate, "samples/s")
        yield Line(f"memory, {name}, batch {TIMED_BATCH}", memory, "MiB")


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def run(config: ExperimentConfig, device: torch.device, compiled: bool, out_dir: Path, tracker: Tracker) -> list[Line]:
    lines = []
    for line in check(config, device, compiled, out_dir / STUDY):
        print(f"{line.name}: {line.value:.4g} {line.unit}", flush=True)
        lines.append(line)
    path = out_dir / f"{STUDY}.yaml"
    save_record(make_record(STUDY, findings(lines)), path)
    tracker.log_file(path, "tables")
    return lines


def findings(lines: Sequence[Line]) -> Findings:
    """Return the findings for ``--record``."""
    measurements = [
        Measurement(
            name=f"line_{number}",
            quantity=line.name,
            value=line.value,
            unit="" if line.unit == "relative" else line.unit,
            goal=None if line.limit is None else Goal(at_most=line.limit),
            format=".4g",
        )
        for number, line in enumerate(lines, 1)
    ]
    return Findings(measurements, note=f"CUDA {torch.version.cuda}.")


def show(lines: Sequence[Line], title: str) -> None:
    table = Table("check", "found", "", "at most", "", title=title)
    for line in lines:
        limit = "" if line.limit is None else f"{line.limit:g}"
        verdict = "" if line.limit is None else "passed" if line.passed else "FAILED"
        table.add_row(line.name, f"{line.value:.4g}", line.unit, limit, verdict)
    Console(width=120).print(table)


def main(find_device: Callable[[], torch.device] = lambda: torch.device("cuda", 0)) -> int:
    parameters = [Parameter("compile", "false", "true: torch.compile too")]
    arguments = parse_study(STUDY, str(__doc__), parameters)
    if not torch.cuda.is_available() and find_device().type == "cuda":
        raise ConfigError("there is no CUDA device here: run it on a machine that has one")
    found: list[Line] = []
    compiled = arguments.values["compile"] == "true"

    def work(tracker: Tracker, out_dir: Path) -> None:
        found.extend(run(arguments.config, find_device(), compiled, out_dir, tracker))
        write_record(arguments, STUDY, findings(found))

    execute(STUDY, arguments.config, work)
    show(found, device_name(find_device()))
    return 0 if all(line.passed for line in found) else 1


if __name__ == "__main__":
    sys.exit(guarded(main))
