"""Does the float stage train as fast as the network allows, and is channels_last worth it?

Command:  python experiments/training_rate.py     (after `mlflow run . -e data`; about five minutes on two cores)
Asks:     samples a second of three loops over the same network, in interleaved blocks: the stage's own with loading and
          augmentation; the bare step on one batch in memory; the bare step in the default memory format.
Expect:   stage / bare >= 0.9 and stage / default >= 2.5 on a CPU with AVX-512. Machines are noisy: read the ratios.
"""

import itertools
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from carkp.config.schema import ExperimentConfig
from carkp.data.dataset import TrainLoader, normalise
from carkp.keypoints.metrics import Scores
from carkp.stages._build import build_codec, build_fit_settings, build_model, build_train_loader, prepare_torch
from carkp.stages._cli import DATA, Parameter, execute, guarded, parse
from carkp.stages._data import PreparedData, require_data, require_samples
from carkp.tracking import Tracker
from carkp.training.distributed import ProcessContext, process_context
from carkp.training.fit import FitInputs, Trainer

STUDY = "training_rate"
STEPS_A_BLOCK = 20
SECONDS_TO_SETTLE = 1.0  # for the loader's workers to fill their queues and fall silent
LIMITS = {"stage_to_bare": 0.9, "stage_to_default_format": 2.5}

Batch = dict[str, Tensor]


def fresh_batches(loader: TrainLoader, epoch: int) -> Iterator[Batch]:
    """An epoch whose first batch is there and whose workers have nothing else in stock."""
    loader.set_epoch(epoch)
    batches = iter(loader)
    return itertools.chain([next(batches)], batches)


def make_trainer(config: ExperimentConfig, loader: TrainLoader, context: ProcessContext) -> Trainer:
    def no_validation(net: torch.nn.Module) -> Scores:
        raise NotImplementedError

    model = build_model(config)
    codec = build_codec(config.heatmap, config.model.input_size)
    inputs = FitInputs(loader, codec, normalise, no_validation, model.architecture, {})
    return Trainer(model.net, inputs, build_fit_settings(config.train, context.device), context)


def timed_block(batches: Iterator[Batch], trainer: Trainer) -> float:
    """Samples a second over one block of steps; the loss is read at every step, as in training."""
    num_samples, start = 0, time.perf_counter()
    for batch in itertools.islice(batches, STEPS_A_BLOCK):
        float(trainer.step(batch))
        num_samples += len(batch["image"])
    seconds = time.perf_counter() - start
    time.sleep(SECONDS_TO_SETTLE)
    return num_samples / seconds


def run(config: ExperimentConfig, data: PreparedData, num_blocks: int, tracker: Tracker) -> dict[str, float]:
    prepare_torch(config)
    stores = data.open()
    require_samples(stores.train, "training")
    default = config.model_copy(update={"train": config.train.model_copy(update={"channels_last": False})})
    with process_context() as context:
        loader = build_train_loader(config, stores.train, context)
        fixed = next(fresh_batches(loader, 0))
        trainers = {
            name: make_trainer(settings, loader, context)
            for name, settings in (("stage", config), ("bare", config), ("default_format", default))
        }
        rates: dict[str, list[float]] = {name: [] for name in trainers}
        for trainer in trainers.values():
            trainer.step(fixed)
        for block in tqdm(range(num_blocks), "blocks"):
            for name, trainer in trainers.items():
                batches = fresh_batches(loader, block) if name == "stage" else itertools.repeat(fixed)
                rates[name].append(timed_block(batches, trainer))
            tracker.log_metrics({f"rate/{name}": values[-1] for name, values in rates.items()}, step=block)
    found = {f"median_rate/{name}": float(np.median(values)) for name, values in rates.items()}
    stage, bare, plain = (np.array(rates[name]) for name in ("stage", "bare", "default_format"))
    found |= {
        "stage_to_bare": float(np.median(stage / bare)),
        "stage_to_default_format": float(np.median(stage / plain)),
    }
    tracker.log_metrics(found)
    return found


def show(found: dict[str, float]) -> None:
    table = Table("quantity", "value", "at least", title="Training rate (samples/s and median ratios of blocks)")
    for name, value in found.items():
        table.add_row(name, f"{value:.2f}", str(LIMITS.get(name, "")))
    Console().print(table)


def main() -> int:
    parameters = [DATA, Parameter("blocks", "4", "interleaved blocks of steps")]
    arguments = parse(STUDY, str(__doc__), parameters, None, prog=f"python experiments/{STUDY}.py")
    config = arguments.config
    data = require_data(config, arguments.values["data"])
    num_blocks = int(arguments.values["blocks"])
    execute(STUDY, config, lambda tracker, out_dir: show(run(config, data, num_blocks, tracker)))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
