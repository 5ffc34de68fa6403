"""Entry point ``align``: does every execution of the int8 model give the same result? Fails if not."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.data.store import Store
from carkp.deploy.cpu import CpuFeatures, cpu_features
from carkp.deploy.int8_onnx import load_program
from carkp.deploy.litert import RULES, LiteRtRunner
from carkp.deploy.reference_onnx import has_reference, save_reference
from carkp.deploy.runtime import EXACT_PRODUCTS, OnnxRunner
from carkp.keypoints.codec import HeatmapCodec
from carkp.keypoints.paired import retention
from carkp.keypoints.predictions import Predictions
from carkp.quant.program import QProgram
from carkp.report import figures
from carkp.shipped import is_shipped
from carkp.tracking.store import TrackingError
from carkp.tracking.tracker import Tracker
from carkp.training.checkpoint import weights_digest
from carkp.training.distributed import ProcessContext, cpu_context
from carkp.training.evaluate import Forward
from carkp.workflow.alignment import (
    Comparison,
    KernelCheck,
    Pair,
    describe_differences,
    judge,
    judge_kernels,
    pairs_of,
    verdict_of,
)
from carkp.workflow.build import prepare_torch
from carkp.workflow.cli import AlignmentError, Arguments, execute, guarded, parse_stage
from carkp.workflow.executions import array_forward, onnx_forward, simulator_forward
from carkp.workflow.gate import (
    FAKE_QUANT,
    ONE_STEP,
    Gate,
    describe_gate,
    gate_metrics,
    gate_rows,
    judge_gate,
    measure_gate,
    moved_by_one_step,
)
from carkp.workflow.kernel_checks import check_kernels
from carkp.workflow.litert import is_executed_by_litert, write_tflite
from carkp.workflow.preparation import PreparedData, require_samples
from carkp.workflow.quantising import Prepared, build_target, check_target, load_prepared, quantisation_tags
from carkp.workflow.references import (
    QUANTISED_KINDS,
    ModelFile,
    check_codec,
    check_input_size,
    model_kind,
    reference_name,
    require_data,
    resolve_model,
)
from carkp.workflow.reuse import Inputs, host_digest, log_inputs, stage_inputs, target_digest
from carkp.workflow.scoring import CROPS_NAME, PREDICTIONS_DIR, Scorer, build_scorer, save_crops
from carkp.workflow.tables import write_table

EXECUTIONS = ("float", "fake_quant", "simulated", "reference", "litert", "simulated_float32", "onnxruntime")
"""Names of the executions. ``simulated`` requantises as the target does, ``simulated_float32`` as ONNX Runtime does.
Only fixed-point targets have ``reference``: the target's arithmetic in ONNX Runtime's integer operators. Only targets
that LiteRT runs with XNNPACK have ``litert``: their .tflite file in LiteRT."""


@dataclass(frozen=True)
class AlignInputs:
    """Prepared data, the exported file, and the calibrated checkpoint that it was made from."""

    data: PreparedData
    program: QProgram
    model: ModelFile
    prepared: Prepared


@dataclass(frozen=True)
class AlignResult:
    """Predictions of every execution, comparisons of pairs, the gate, checks of LiteRT's kernels, and failures.

    ``failures`` says what is out of tolerance; empty: aligned.
    """

    predictions: Mapping[str, Predictions]
    comparisons: Sequence[Comparison]
    gate: Gate
    kernels: Sequence[KernelCheck]
    failures: Sequence[str]


def run(
    config: ExperimentConfig, inputs: AlignInputs, out_dir: Path, tracker: Tracker, context: ProcessContext
) -> AlignResult:
    """Run the test split through every execution; log tables, the histogram of differences and the verdict."""
    prepare_torch(config)
    store = inputs.data.open().test
    require_samples(store, "alignment")
    scorer = build_scorer(config, context)
    output_scale = inputs.program.tensors[inputs.program.output].scale
    program = inputs.program
    tflite = write_tflite(program, out_dir)["float"] if is_executed_by_litert(program) else None
    num_steps = 1 << 8 if program.tensors[program.output].is_wide else 1
    forwards = open_executions(scorer, inputs, tflite, out_dir)
    lockstep = Lockstep(forwards, scorer.codec, output_scale, num_steps, config.seed)
    assembled = lockstep.assemble(scorer.predict(lockstep, store, "run all executions"))
    gate = measure_gate(assembled, (config.eval.alpha, config.align.loss_alpha))
    predictions = {name: assembled[name] for name in forwards}
    comparisons = [compare(config, pair, predictions, lockstep.steps[pair]) for pair in lockstep.steps]
    num_crops = config.align.num_kernel_crops
    kernels = check_kernels(program, tflite, store, num_crops, config.seed) if tflite is not None else []
    failures = [
        *judge(config.align, comparisons, num_steps),
        *judge_gate(config.align, gate),
        *judge_kernels(kernels),
    ]
    result = AlignResult(predictions, comparisons, gate, kernels, failures)
    tracker.log_dataset(config.name, inputs.data.digest, config.data.title, "evaluation")
    log_inputs(tracker, _deciding(config, inputs))
    tracker.set_tags(_tags(inputs, result))
    _log(config, result, lockstep.steps, out_dir, tracker)
    _log_predictions(scorer, store, predictions, out_dir, tracker)
    tracker.describe(_note(config, inputs, result), inputs.program.target.name)
    return result


def open_executions(scorer: Scorer, inputs: AlignInputs, tflite: Path | None, out_dir: Path) -> dict[str, Forward]:
    """Open every way to run the model. ``float`` is the calibrated network without quantisation.

    ``tflite``: the file for LiteRT, if it executes the target. This file and those written below ``out_dir`` hold
    exactly the content of the exported file.
    """
    program, num_threads = inputs.program, torch.get_num_threads()
    forwards = {
        "float": scorer.forward(inputs.prepared.net.graph),
        "fake_quant": scorer.forward(inputs.prepared.net),
        "simulated": simulator_forward(program),
        "onnxruntime": onnx_forward(OnnxRunner(inputs.model.path, num_threads)),
    }
    if not program.wide_tensors:  # ONNX Runtime's requantisation has no such tensors
        forwards["simulated_float32"] = simulator_forward(program, "float32")
    if has_reference(program):
        path = out_dir / reference_name(program.target.name)
        save_reference(program, path)
        forwards["reference"] = onnx_forward(OnnxRunner(path, num_threads))
    if tflite is not None and program.target.requantisation == RULES["xnnpack"]:
        runner = LiteRtRunner(tflite, num_threads=num_threads)
        forwards["litert"] = array_forward(runner.run)
    return {name: forwards[name] for name in EXECUTIONS if name in forwards}


class Lockstep:
    """Runs all executions on a batch; returns the heatmaps of the first and stores the results of all.

    ``steps``: for every pair, how many output elements differ by how many LSB (second - first).
    """

    def __init__(
        self, forwards: Mapping[str, Forward], codec: HeatmapCodec, output_scale: float, num_steps: int, seed: int
    ) -> None:
        """``num_steps``: the gate's one step in units of ``output_scale``; ``seed``: seed of its random changes."""
        self.forwards, self.codec, self.output_scale = forwards, codec, output_scale
        self.steps: dict[Pair, Counter[int]] = {pair: Counter() for pair in pairs_of(forwards.keys())}
        self._names = (*forwards, ONE_STEP)
        self._points: dict[str, list[Tensor]] = {name: [] for name in self._names}
        self._scores: dict[str, list[Tensor]] = {name: [] for name in self._names}
        self._one_step, self._draws = num_steps * output_scale, torch.Generator().manual_seed(seed)

    def __call__(self, images: Tensor) -> Tensor:
        heatmaps = {name: forward(images) for name, forward in self.forwards.items()}
        heatmaps[ONE_STEP] = moved_by_one_step(heatmaps[FAKE_QUANT], self._one_step, self._draws)
        for name, found in heatmaps.items():
            decoded = self.codec.decode(found)
            self._points[name].append(decoded.points)
            self._scores[name].append(decoded.scores)
        for first, second in self.steps:
            steps = torch.round((heatmaps[second] - heatmaps[first]) / self.output_scale).to(torch.int64)
            values, counts = torch.unique(steps, return_counts=True)
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                self.steps[first, second][value] += count
        return next(iter(heatmaps.values()))

    def assemble(self, first: Predictions) -> dict[str, Predictions]:
        """Return the predictions of every execution and of ``ONE_STEP``; ``first``: those of the first, with labels."""
        return {
            name: replace(
                first,
                points=torch.cat(self._points[name]).numpy().astype(np.float32),
                scores=torch.cat(self._scores[name]).numpy().astype(np.float32),
            )
            for name in self._names
        }


def compare(
    config: ExperimentConfig, pair: Pair, predictions: Mapping[str, Predictions], steps: Mapping[int, int]
) -> Comparison:
    """Compare two executions."""
    first, second = (predictions[name] for name in pair)
    moved_px = np.linalg.norm(second.points.astype(np.float64) - first.points, axis=-1)[first.validity > 0]
    return Comparison(
        *pair,
        max_lsb=max(abs(step) for step in steps),
        equal_share=steps.get(0, 0) / sum(steps.values()),
        moved_share=float((moved_px > config.align.moved_px).mean()) if moved_px.size else float("nan"),
        max_moved_px=float(moved_px.max()) if moved_px.size else float("nan"),
        pck_difference=second.score(config.eval.alpha).pck - first.score(config.eval.alpha).pck,
    )


def main(argv: Sequence[str] | None = None) -> int:
    def work() -> int:
        _execute(parse_stage("align", argv), cpu_context())
        return 0

    return guarded(work)


def _execute(arguments: Arguments, context: ProcessContext) -> None:
    config = arguments.config
    inputs = _find_inputs(arguments)

    def work(tracker: Tracker, out_dir: Path) -> None:
        features = cpu_features()
        result = run(config, inputs, out_dir, tracker, context)
        show(config, result, features)
        if result.failures:
            raise AlignmentError("; ".join(result.failures))

    execute("align", config, work)


def _find_inputs(arguments: Arguments) -> AlignInputs:
    """Find the exported file, and the checkpoint that it was made from according to its metadata."""
    config = arguments.config
    target = build_target(config, arguments.values["target"])
    data = require_data(config, arguments.values["data"])
    tags = {"carkp.experiment": config.name, "carkp.data_digest": data.digest, "carkp.target": target.name}
    if is_shipped(reference := arguments.values["model"]):
        raise ConfigError(
            f"model={reference}: align needs the calibrated network too, which does not come with carkp: run "
            f"`mlflow run . -e calibration -P model={reference}`, then export, and align the exported model"
        )
    model = resolve_model(reference, model_kind("onnxruntime", target.name), tags)
    program = load_program(model.path)
    check_target(program.target, target, model.path)
    check_input_size({"input_size": program.tensors[program.input].shape[1:]}, config, model.path)
    missing = [name for name in ("model", "stage", "model_digest") if name not in program.origin]
    if missing:
        raise TrackingError(f"{model.path}: has no record of its origin ({', '.join(missing)}): run export")
    source = resolve_model(program.origin["model"], QUANTISED_KINDS[program.origin["stage"]], {})
    prepared = load_prepared(source.path)
    if weights_digest(prepared.net.state_dict()) != program.origin["model_digest"]:
        raise TrackingError(f"{model.path}: made from another model than the one in {source.path} now: export it again")
    check_codec(prepared.codec, config, source.path)
    return AlignInputs(data, program, model, prepared)


def show(config: ExperimentConfig, result: AlignResult, features: CpuFeatures) -> None:
    """Print the tables, the CPU and the verdict."""
    console = Console()
    scores = Table(
        "execution",
        "test pck",
        "pck_hat",
        "mean dist (px)",
        "keeps of float",
        title="Executions (float: the same weights, not quantised)",
    )
    reference = result.predictions[EXECUTIONS[0]]
    for name, predictions in result.predictions.items():
        found = predictions.score(config.eval.alpha)
        kept = str(retention(reference, predictions, config.eval.alpha))
        scores.add_row(name, f"{found.pck:.4f}", f"{found.pck_hat:.4f}", f"{found.mean_dist:.3f}", kept)
    console.print(scores)
    resampled = reference.units.resampled
    console.print(f"keeps of float: with the 95 % interval of a paired bootstrap over {resampled}", markup=False)
    if resampled.warning:
        console.print(resampled.warning, markup=False)
    pairs = Table("pair", "max LSB", "equal elements", f"moved > {config.align.moved_px} px", "farthest (px)", "pck")
    for item in result.comparisons:
        pairs.add_row(
            f"{item.first} -> {item.second}",
            str(item.max_lsb),
            f"{item.equal_share:.4%}",
            f"{item.moved_share:.3%}",
            f"{item.max_moved_px:.2f}",
            f"{item.pck_difference:+.4f}",
        )
    console.print(pairs)
    for check in result.kernels:
        console.print(
            f"{check.kernels} kernels against the simulator ({check.requantisation}): {check.num_different} of "
            f"{check.num_elements} output elements differ",
            markup=False,
        )
    console.print(f"CPU: {features.model}; int8 instructions: {' '.join(features.int8_flags) or 'none'}")
    if features.lacks_exact_kernels:
        console.print(
            "note: without VNNI instructions ONNX Runtime's fast int8 kernels can saturate. carkp sets "
            f"{'='.join(EXACT_PRODUCTS)}, which selects slower, exact kernels; a program that opens the file without "
            "this setting gets different numbers on such a CPU",
            markup=False,
        )
    console.print(describe_gate(result.gate), markup=False)
    console.print(f"largest differences: {describe_differences(result.comparisons)}", markup=False)
    console.print(f"verdict: {verdict_of(result.failures)}", markup=False)


def _deciding(config: ExperimentConfig, inputs: AlignInputs) -> Inputs:
    given = {
        "data": inputs.data.digest,
        "model": inputs.program.origin["model_digest"],
        "target": target_digest(inputs.program.target),
        "host": host_digest(),
    }
    return stage_inputs("align", config, given)


def _tags(inputs: AlignInputs, result: AlignResult) -> dict[str, str]:
    return {
        **quantisation_tags(inputs.prepared),
        "carkp.data_digest": inputs.data.digest,
        "carkp.source_run": inputs.model.run_id,
        "carkp.model_digest": inputs.program.origin["model_digest"],
        "carkp.verdict": verdict_of(result.failures),
        "carkp.differences": describe_differences(result.comparisons),
    }


def _note(config: ExperimentConfig, inputs: AlignInputs, result: AlignResult) -> str:
    """Return the description of the run, in Markdown."""
    pck = {name: found.score(config.eval.alpha).pck for name, found in result.predictions.items()}
    rows = [f"| {name} | {value:.4f} |" for name, value in pck.items()]
    head = [
        f"{verdict_of(result.failures)}: test pck simulated {pck['simulated']:.4f}, ONNX Runtime "
        f"{pck['onnxruntime']:.4f}. Every execution of `{inputs.model.reference}` on the test split.",
        "",
        "| execution | test pck |",
        "|---|---|",
    ]
    differences = f"Largest differences: {describe_differences(result.comparisons)}."
    gate = f"The gate: {describe_gate(result.gate)}."
    return "\n".join([*head, *rows, "", gate, "", differences])


def _execution_rows(config: ExperimentConfig, result: AlignResult) -> list[dict[str, Any]]:
    """Return a row for each execution: its scores, and how much of float's PCK it keeps."""
    reference = result.predictions[EXECUTIONS[0]]
    rows = []
    for name, predictions in result.predictions.items():
        found = predictions.score(config.eval.alpha)
        kept = retention(reference, predictions, config.eval.alpha)
        rows.append(
            {
                "execution": name,
                "test_pck": found.pck,
                "test_pck_hat": found.pck_hat,
                "test_mean_dist": found.mean_dist,
                "retention": kept.share,
                "retention_low": kept.low,
                "retention_high": kept.high,
                "num_clusters": kept.resampled.num_clusters,
            }
        )
    return rows


def _log_predictions(
    scorer: Scorer, store: Store, predictions: Mapping[str, Predictions], out_dir: Path, tracker: Tracker
) -> None:
    """Log the predictions of every execution, and the crops with the worst results of the simulator."""
    for name, found in predictions.items():
        folder = f"{PREDICTIONS_DIR}/{name}"
        found.save(out_dir / folder / "test.npz")
        tracker.log_file(out_dir / folder / "test.npz", folder)
    crops = out_dir / PREDICTIONS_DIR / CROPS_NAME
    save_crops(scorer, store, predictions["simulated"], crops)
    tracker.log_file(crops, PREDICTIONS_DIR)


def _log(
    config: ExperimentConfig,
    result: AlignResult,
    steps: Mapping[Pair, Mapping[int, int]],
    out_dir: Path,
    tracker: Tracker,
) -> None:
    executions = _execution_rows(config, result)
    for row in executions:
        name = row["execution"]
        tracker.log_metrics({f"align/{name}/pck": row["test_pck"], f"align/{name}/retention": row["retention"]})
    tables = {
        "executions.csv": executions,
        "comparisons.csv": [asdict(item) for item in result.comparisons],
        "gate.csv": gate_rows(result.gate),
        **({"kernels.csv": [asdict(item) for item in result.kernels]} if result.kernels else {}),
        "heatmap_lsb.csv": [
            {"first": first, "second": second, "lsb": step, "elements": count}
            for (first, second), counts in steps.items()
            for step, count in sorted(counts.items())
        ],
    }
    for name, table in tables.items():
        write_table(table, out_dir / name)
        tracker.log_file(out_dir / name, "tables")
    for item in result.comparisons:
        prefix = f"align/{item.first}_to_{item.second}"
        tracker.log_metrics({f"{prefix}/max_lsb": item.max_lsb, f"{prefix}/moved_share": item.moved_share})
    tracker.log_metrics({f"align/gate/{name}": value for name, value in gate_metrics(result.gate).items()})
    shown = {f"{first} → {second}": steps[first, second] for first, second in steps}
    tracker.log_figure(figures.lsb_figure(shown, "Heatmap elements by difference"), "figures/heatmap_lsb.png")


if __name__ == "__main__":
    sys.exit(main())
