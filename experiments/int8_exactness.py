"""Is the integer simulator exactly what ONNX Runtime computes, and is it fast enough to score with?

Command:  python experiments/int8_exactness.py     (after `mlflow run . -e export` for both targets; two minutes)
Asks:     on 256 test crops: how many elements of the heatmaps differ between the simulator in float32 requantisation
          and ONNX Runtime, for the files with symbolic batch size and with batch size 1; by how many LSB at most
          fixed-point requantisation differs from float32 in any layer with the same input; and the ratio of the
          simulator's time on these crops to that of the float network in torch, in interleaved rounds.
Expect:   no element differs; at most 1 LSB a layer; at most 5 times the time.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from carkp.config.schema import ExperimentConfig
from carkp.data.dataset import normalise
from carkp.deploy.int8_onnx import load_program
from carkp.deploy.runtime import OnnxRunner
from carkp.measurements.record import Goal, Measurement
from carkp.quant.program import QProgram
from carkp.quant.simulate import Simulator
from carkp.tracking.runs import fetch_artifact
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import load_checkpoint, load_net
from carkp.workflow.build import build_eval_dataset, prepare_torch
from carkp.workflow.cli import DATA, Parameter, execute, guarded
from carkp.workflow.preparation import PreparedData
from carkp.workflow.recording import Findings, parse_study, write_record
from carkp.workflow.references import FLOAT, ModelFile, model_kind, require_data, resolve_model

STUDY = "int8_exactness"
BATCH = 64
ROUNDS = 5
GOALS = {
    "different_elements": Goal(at_most=0),
    "different_elements_b1": Goal(at_most=0),
    "max_lsb_a_layer": Goal(at_most=1),
    "time_to_float": Goal(at_most=5),
}
QUANTITIES = {
    "elements": "elements of heatmaps compared",
    "different_elements": "of them different: simulator / ONNX Runtime",
    "different_elements_b1": "of them different: simulator / ONNX Runtime, file with batch 1",
    "max_lsb_a_layer": "fixed-point against float32 requantisation, fed the same input: most LSB in any layer",
    "different_share_a_layer": "the same: share of the elements that differ",
    "time_to_float": "time of the simulator / float torch evaluation",
}
FORMATS = {"time_to_float": ".1f", "different_share_a_layer": ".2g"}
"""Formats of quantities that are not counts."""


def load_batches(config: ExperimentConfig, data: PreparedData, num_crops: int) -> list[Tensor]:
    dataset = build_eval_dataset(config, data.open().test)
    chosen = np.linspace(0, len(dataset) - 1, min(num_crops, len(dataset))).astype(int)
    images = normalise(torch.stack([dataset[int(index)]["image"] for index in chosen]))
    return list(torch.split(images, BATCH))


def count_different(program: QProgram, path: Path, path_b1: Path, batches: list[Tensor]) -> dict[str, float]:
    simulator = Simulator(program, "float32")
    runner, runner_b1 = OnnxRunner(path, torch.get_num_threads()), OnnxRunner(path_b1, 1)
    totals = {"different_elements": 0, "different_elements_b1": 0, "elements": 0}
    for images in tqdm(batches, f"{program.target.name}: compare"):
        expected = simulator.run(images).numpy()
        totals["elements"] += expected.size
        totals["different_elements"] += int((runner.run(images.numpy()) != expected).sum())
        singles = np.concatenate([runner_b1.run(image[None].numpy()) for image in images])
        totals["different_elements_b1"] += int((singles != expected).sum())
    return {name: float(value) for name, value in totals.items()}


def largest_lsb_a_layer(program: QProgram, batches: list[Tensor]) -> tuple[int, float]:
    """Return the largest difference and the share of different elements, over all layers with float32 inputs."""
    exact, fixed = Simulator(program, "float32"), Simulator(program, "fixed_point")
    largest, num_different, num_elements = 0, 0, 0
    for images in tqdm(batches, f"{program.target.name}: layers"):
        tensors = {program.input: exact.quantise_input(images)}
        for layer in program.layers:
            inputs = [tensors[name] for name in layer.inputs]
            tensors[layer.output] = exact.run_layer(layer, inputs)
            difference = (fixed.run_layer(layer, inputs).int() - tensors[layer.output].int()).abs()
            largest = max(largest, int(difference.max()))
            num_different += int((difference > 0).sum())
            num_elements += difference.numel()
    return largest, num_different / num_elements


def time_ratios(programs: dict[str, QProgram], float_net: torch.nn.Module, batches: list[Tensor]) -> dict[str, float]:
    """Return the median over interleaved rounds of simulator time / float time, for every target's own arithmetic."""

    def run_float(images: Tensor) -> Tensor:
        with torch.inference_mode():
            found: Tensor = float_net(images.contiguous(memory_format=torch.channels_last))
            return found

    contestants: dict[str, Callable[[Tensor], Tensor]] = {"float": run_float}
    contestants |= {name: Simulator(program).run for name, program in programs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in tqdm(range(ROUNDS + 1), "time"):
        for name, run_batch in contestants.items():
            start = time.perf_counter()
            for images in batches:
                run_batch(images)
            seconds[name].append(time.perf_counter() - start)
    rounds = {name: np.array(values[1:]) for name, values in seconds.items()}  # the first round is a warm-up
    return {name: float(np.median(rounds[name] / rounds["float"])) for name in programs}


def run(
    config: ExperimentConfig,
    data: PreparedData,
    model: ModelFile,
    files: dict[str, tuple[Path, Path]],
    num_crops: int,
    tracker: Tracker,
) -> dict[str, dict[str, float]]:
    prepare_torch(config)
    batches = load_batches(config, data, num_crops)
    programs = {target: load_program(path) for target, (path, _) in files.items()}
    net = load_net(load_checkpoint(model.path)).to(memory_format=torch.channels_last)
    ratios = time_ratios(programs, net, batches)
    found: dict[str, dict[str, float]] = {}
    for target, program in programs.items():
        found[target] = count_different(program, *files[target], batches)
        largest, share = largest_lsb_a_layer(program, batches)
        found[target] |= {"max_lsb_a_layer": largest, "different_share_a_layer": share, "time_to_float": ratios[target]}
        tracker.log_metrics({f"{target}/{name}": value for name, value in found[target].items()})
    return found


def show(found: dict[str, dict[str, float]]) -> None:
    table = Table("target", "quantity", "value", "wanted", title="Simulator against ONNX Runtime")
    for target, values in found.items():
        for name, value in values.items():
            table.add_row(target, name, f"{value:.4g}", str(GOALS.get(name, "")))
    Console().print(table)


def measurements(found: Mapping[str, Mapping[str, float]]) -> Iterator[Measurement]:
    """Yield the measurements for ``--record``, with a value for each target."""
    targets = ", ".join(f"`{target}`" for target in found)
    for name, quantity in QUANTITIES.items():
        values = [of_target[name] if name in FORMATS else int(of_target[name]) for of_target in found.values()]
        yield Measurement(
            name=name,
            quantity=f"{quantity} ({targets})",
            value=values,
            goal=GOALS.get(name),
            format=FORMATS.get(name, ",d"),
        )


def find_files(target: str, tags: dict[str, str]) -> tuple[Path, Path]:
    """Return the files of the newest export: symbolic batch size, batch size 1."""
    kind = model_kind("int_infer", target)
    file = resolve_model("latest", kind, {**tags, "carkp.target": target})
    return file.path, fetch_artifact(file.run_id, kind.artifact.replace(".onnx", "_b1.onnx"))


def main() -> int:
    parameters = [
        DATA,
        Parameter("crops", "256", "test crops"),
        Parameter("targets", "bpu onnxruntime_cpu", "targets, separated by spaces"),
    ]
    arguments = parse_study(STUDY, str(__doc__), parameters)
    config, values = arguments.config, arguments.values
    data = require_data(config, values["data"])
    tags = {"carkp.experiment": config.name, "carkp.data_digest": data.digest}
    model = resolve_model("latest", FLOAT, tags)
    files = {target: find_files(target, tags) for target in values["targets"].split()}
    num_crops = int(values["crops"])

    def work(tracker: Tracker, _: Path) -> None:
        found = run(config, data, model, files, num_crops, tracker)
        show(found)
        write_record(arguments, STUDY, Findings([*measurements(found)]))

    execute(STUDY, config, work)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
