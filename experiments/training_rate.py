"""Does the float stage train as fast as the network allows, and what does each setting bring?

Command:  python experiments/training_rate.py     (after `mlflow run . -e data`; about six minutes on two cores)
Asks:     samples a second, in interleaved blocks, of
            stage           the stage's own loop with loading and augmentation,
            bare            its step alone on one batch in memory,
            compiled        the same under torch.compile (train.compile),
            default_format  the bare step in the default memory format instead of channels_last,
            plain           a plain loop: default memory format, samples loaded between the steps, neither the
                            allocator nor the threads tuned (in a separate process).
Expect:   stage / bare >= 0.9. The goal for stage / plain is >= 2.5; docs/measurements.md says what was reached and
          what limits it.
          Machines are noisy: read the ratios.
"""

import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from carkp.config.schema import ExperimentConfig
from carkp.data.dataset import TrainLoader, normalise
from carkp.keypoints.metrics import Scores
from carkp.measurements.record import Goal, Measurement
from carkp.tracking.tracker import Tracker
from carkp.training.distributed import ProcessContext, process_context
from carkp.training.evaluate import Batch
from carkp.training.fit import FitInputs, Trainer
from carkp.workflow.build import build_codec, build_fit_settings, build_model, build_train_loader, prepare_torch
from carkp.workflow.cli import DATA, Parameter, execute, guarded
from carkp.workflow.preparation import PreparedData, open_prepared, require_samples
from carkp.workflow.recording import Findings, parse_study, write_record
from carkp.workflow.references import require_data

STUDY = "training_rate"
STEPS_A_BLOCK = 20
SECONDS_TO_SETTLE = 1.0  # for the loader's workers to fill their queues and become idle
GOALS = {"stage_to_bare": Goal(at_least=0.9), "stage_to_plain": Goal(at_least=2.5)}
QUANTITIES = {
    "stage_to_bare": "training rate: stage with data loading / bare step on a batch in memory",
    "stage_to_plain": "training rate: stage / plain loop in the default memory format, nothing tuned",
    "bare_to_default_format": "bare step: `channels_last` / default memory format",
    "compiled_to_bare": "bare step: `torch.compile` / eager",
}
RATES = {
    "stage": "samples/s: stage",
    "bare": "samples/s: bare step",
    "compiled": "samples/s: bare step under `torch.compile`",
    "default_format": "samples/s: bare step in the default memory format",
    "plain": "samples/s: plain loop",
}


def fresh_batches(loader: TrainLoader, epoch: int) -> Iterator[Batch]:
    """Return an epoch whose first batch is loaded and whose workers have no other batches ready."""
    loader.set_epoch(epoch)
    batches = iter(loader)
    return itertools.chain([next(batches)], batches)


def make_trainer(config: ExperimentConfig, loader: TrainLoader, context: ProcessContext) -> Trainer:
    def no_validation(net: torch.nn.Module) -> Scores:
        raise NotImplementedError

    model = build_model(config)
    codec = build_codec(config.heatmap, config.model.input_size)
    inputs = FitInputs(loader, codec, normalise, no_validation, model.architecture, {})
    settings = build_fit_settings(config.train, context.device, model.source.has_head)
    return Trainer(model.net, inputs, settings, context)


def timed_block(batches: Iterator[Batch], trainer: Trainer) -> float:
    """Return the samples per second over one block of steps; the loss is read at every step, as in training."""
    num_samples, start = 0, time.perf_counter()
    for batch in itertools.islice(batches, STEPS_A_BLOCK):
        float(trainer.step(batch))
        num_samples += len(batch["image"])
    seconds = time.perf_counter() - start
    time.sleep(SECONDS_TO_SETTLE)
    return num_samples / seconds


def serve_plain_loop(connection: Connection, config: ExperimentConfig, directory: Path) -> None:
    """In a separate process, time one block of the plain loop for every message, until None arrives."""
    context = ProcessContext(rank=0, world_size=1, device=torch.device("cpu"))
    loader = build_train_loader(with_train(config, num_workers=0), open_prepared(directory).open().train, context)
    trainer = make_trainer(with_train(config, channels_last=False), loader, context)
    trainer.step(next(fresh_batches(loader, 0)))
    while (epoch := connection.recv()) is not None:
        loader.set_epoch(epoch)
        connection.send(timed_block(iter(loader), trainer))


@contextmanager
def plain_loop(config: ExperimentConfig, directory: Path) -> Iterator[Connection]:
    """Start ``serve_plain_loop`` without the thread settings of this process; yield the connection to it."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve_plain_loop, args=(theirs, config, directory), daemon=True
    )
    spin = os.environ.pop("GOMP_SPINCOUNT", None)
    process.start()
    if spin is not None:
        os.environ["GOMP_SPINCOUNT"] = spin
    yield ours
    ours.send(None)
    process.join()


def with_train(config: ExperimentConfig, **changes: Any) -> ExperimentConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def run(config: ExperimentConfig, data: PreparedData, num_blocks: int, tracker: Tracker) -> dict[str, float]:
    prepare_torch(config)
    stores = data.open()
    require_samples(stores.train, "training")
    variants = {
        "stage": config,
        "bare": config,
        "compiled": with_train(config, compile=True),
        "default_format": with_train(config, channels_last=False),
    }
    rates: dict[str, list[float]] = {name: [] for name in (*variants, "plain")}
    with process_context() as context, plain_loop(config, data.directory) as plain:
        loader = build_train_loader(config, stores.train, context)
        fixed = next(fresh_batches(loader, 0))
        trainers = {name: make_trainer(settings, loader, context) for name, settings in variants.items()}
        for trainer in trainers.values():
            trainer.step(fixed)
        for block in tqdm(range(num_blocks), "blocks"):
            for name, trainer in trainers.items():
                batches = fresh_batches(loader, block) if name == "stage" else itertools.repeat(fixed)
                rates[name].append(timed_block(batches, trainer))
            plain.send(block)
            rates["plain"].append(plain.recv())
            tracker.log_metrics({f"rate/{name}": values[-1] for name, values in rates.items()}, step=block)
    found = summarise(rates)
    tracker.log_metrics(found)
    return found


def summarise(rates: dict[str, list[float]]) -> dict[str, float]:
    """Return median rates, and the medians of the ratios of neighbouring blocks."""

    def ratio(above: str, below: str) -> float:
        return float(np.median(np.array(rates[above]) / np.array(rates[below])))

    return {f"median_rate/{name}": float(np.median(values)) for name, values in rates.items()} | {
        "stage_to_bare": ratio("stage", "bare"),
        "stage_to_plain": ratio("stage", "plain"),
        "bare_to_default_format": ratio("bare", "default_format"),
        "compiled_to_bare": ratio("compiled", "bare"),
    }


def show(found: dict[str, float]) -> None:
    table = Table("quantity", "value", "wanted", title="Training rate (samples/s and median ratios of blocks)")
    for name, value in found.items():
        table.add_row(name, f"{value:.2f}", str(GOALS.get(name, "")))
    Console().print(table)


def measurements(found: Mapping[str, float]) -> list[Measurement]:
    """Return the measurements for ``--record``."""
    ratios = [
        Measurement(name=name, quantity=quantity, value=found[name], goal=GOALS.get(name))
        for name, quantity in QUANTITIES.items()
    ]
    rates = [
        Measurement(name=f"rate_{name}", quantity=quantity, value=found[f"median_rate/{name}"], format=".1f")
        for name, quantity in RATES.items()
    ]
    return ratios + rates


def main() -> int:
    parameters = [DATA, Parameter("blocks", "4", "interleaved blocks of steps")]
    arguments = parse_study(STUDY, str(__doc__), parameters)
    config = arguments.config
    data = require_data(config, arguments.values["data"])
    num_blocks = int(arguments.values["blocks"])

    def work(tracker: Tracker, _: Path) -> None:
        found = run(config, data, num_blocks, tracker)
        show(found)
        write_record(arguments, STUDY, Findings(measurements(found)))

    execute(STUDY, config, work)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
