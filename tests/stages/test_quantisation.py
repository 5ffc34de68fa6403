"""Calibration, QAT, export and alignment as a user runs them, on the tiny configuration."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import onnx
import pytest
import torch

from carkp.config.loading import ConfigError
from carkp.config.schema import AlignConfig
from carkp.deploy.graph_audit import require_int8_convs
from carkp.deploy.int8_onnx import load_program
from carkp.deploy.reference_onnx import reference_model
from carkp.keypoints.predictions import load_predictions
from carkp.predictor import Predictor
from carkp.quant.target import Target
from carkp.stages import align
from carkp.stages.export import write_program
from carkp.training.checkpoint import load_checkpoint
from carkp.workflow.alignment import PAIRS, Comparison, judge
from tests.deploy.programs import Net, pose_net
from tests.deploy.programs import target as target_of
from tests.stages.conftest import Project, copy_project

TARGETS = ("bpu", "onnxruntime_cpu")
HEADLINE = [f"{split}/{name}" for split in ("val", "test") for name in ("pck", "pck_hat", "mean_dist")]


def newest(project: Project, stage: str, target: str):
    return next(run for run in project.runs(stage) if run.data.tags.get("carkp.target") == target)


@pytest.fixture(scope="module")
def exported(trained: Project) -> Project:
    """Both targets calibrated and exported."""
    for target in TARGETS:
        for stage in ("calibration", "export"):
            done = trained.stage(stage, "--target", target)
            assert done.returncode == 0, done.stderr
    return trained


@pytest.mark.parametrize("target", TARGETS)
def test_calibration_logs_scores_scales_and_tables(exported: Project, target: str) -> None:
    run = newest(exported, "calibration", target)
    (float_run,) = [item for item in exported.runs("float") if item.data.tags["carkp.experiment"] == "tiny"][-1:]
    metrics = run.data.metrics
    assert {*HEADLINE, "sqnr/output_db"} <= set(metrics)
    if float_run.data.metrics["test/pck"]:
        expected = metrics["test/pck"] / float_run.data.metrics["test/pck"]
        assert metrics["test/retention"] == pytest.approx(expected)
    assert run.data.tags["carkp.model"] == "calibration"
    assert run.data.tags["carkp.float_model"] == f"runs:/{float_run.info.run_id}/checkpoints/best.pt"
    assert exported.artifacts(run) >= {"scales.json", "sqnr.csv", "percentile_sweep.csv"}
    assert exported.artifacts(run, "calibration") == {"calibration/model.pt"}
    assert {"figures/sqnr.png", "figures/percentile_sweep.png"} <= exported.artifacts(run, "figures")
    scales = json.loads(exported.artifact(run, "scales.json").read_text())
    assert scales["tensors"]["image"]["scale"] == 1 / 128
    assert scales["target"] == target
    sweep = list(csv.DictReader(exported.artifact(run, "percentile_sweep.csv").read_text().splitlines()))
    assert [float(row["percentile"]) for row in sweep] == [99.0, 99.9, 99.95, 99.975, 99.99, 99.999, 100.0]
    reference = next(row for row in sweep if row["percentile"] == "99.975")
    assert float(reference["val_pck"]) == pytest.approx(metrics["val/pck"])
    rows = list(csv.DictReader(exported.artifact(run, "sqnr.csv").read_text().splitlines()))
    assert rows[-1]["name"] == "head/final"


@pytest.mark.parametrize("target", TARGETS)
def test_export_writes_what_onnxruntime_runs_in_int8(exported: Project, target: str) -> None:
    run = newest(exported, "export", target)
    source = newest(exported, "calibration", target)
    assert run.data.tags["carkp.source_run"] == source.info.run_id
    for name, batch in ((f"int8_{target}.onnx", "batch"), (f"int8_{target}_b1.onnx", 1)):
        path = exported.artifact(run, f"onnx/{name}")
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert {item.domain for item in model.opset_import} == {""}
        dims = model.graph.input[0].type.tensor_type.shape.dim
        assert (dims[0].dim_param or dims[0].dim_value) == batch
        assert [dim.dim_value for dim in dims[1:]] == [3, 64, 64]
        program = load_program(path)
        assert require_int8_convs(path, program.num_convs).num_qlinear_convs == 49 + 3 * 4
        assert program.origin["model"] == f"runs:/{source.info.run_id}/calibration/model.pt"
        assert program.target.name == target
        metadata = {item.key: item.value for item in model.metadata_props}
        assert metadata["carkp.target"] == target
        scales = json.loads(exported.artifact(source, "scales.json").read_text())["tensors"]
        assert json.loads(metadata["carkp.scales"]) == {name: item["scale"] for name, item in scales.items()}


def test_the_int8_mlflow_model_has_a_signature_and_predicts(exported: Project) -> None:
    run = newest(exported, "export", "onnxruntime_cpu")
    mlflow.set_tracking_uri(exported.uri)
    model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    assert model.metadata.signature is not None
    (heatmaps,) = model.predict(np.zeros((3, 3, 64, 64), np.float32)).values()
    assert heatmaps.shape == (3, 12, 16, 16)


@pytest.mark.parametrize("target", TARGETS)
def test_evaluate_scores_every_execution(exported: Project, target: str) -> None:
    scores = {}
    for stage in ("calibration", "int_infer", "onnxruntime"):
        done = exported.stage("evaluate", "--stage", stage, "--target", target)
        assert done.returncode == 0, done.stderr
        run = exported.runs("evaluate")[0]
        assert run.data.tags["carkp.model"] == stage
        assert run.data.tags["carkp.target"] == target
        scores[stage] = {name: run.data.metrics[name] for name in HEADLINE}
        calibrated = newest(exported, "calibration", target).data.metrics
        assert ("test/retention" in run.data.metrics) == ("test/retention" in calibrated)
    assert scores["calibration"] == {
        name: newest(exported, "calibration", target).data.metrics[name] for name in HEADLINE
    }
    if target == "onnxruntime_cpu":
        assert scores["int_infer"] == scores["onnxruntime"]


def test_align_finds_the_executions_equal(exported: Project) -> None:
    done = exported.stage("align", "--target", "onnxruntime_cpu", "--set", "align.max_pck_difference=0.2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: aligned" in done.stdout
    assert "int8 instructions" in done.stdout
    printed = " ".join(done.stdout.split())
    assert "the simulator in float32 requantisation and ONNX Runtime: none" in printed
    assert "a paired bootstrap over 2 clusters (scene and camera)" in printed
    assert "Warning: the intervals rest on 2 clusters" in printed
    run = exported.runs("align")[0]
    assert run.data.metrics["align/simulated_float32_to_onnxruntime/max_lsb"] == 0
    rows = list(csv.DictReader(exported.artifact(run, "tables/executions.csv").read_text().splitlines()))
    assert [row["execution"] for row in rows] == [
        name for name in align.EXECUTIONS if name not in ("reference", "litert")
    ]
    assert {row["num_clusters"] for row in rows} == {"2"}
    table = exported.artifact(run, "tables/comparisons.csv").read_text().splitlines()
    compared = {row["first"]: row for row in csv.DictReader(table)}
    assert f"up to {compared['fake_quant']['max_lsb']} LSB" in run.data.tags["carkp.differences"]
    assert exported.artifacts(run, "tables") == {
        f"tables/{name}.csv" for name in ("comparisons", "executions", "gate", "heatmap_lsb")
    }
    assert "figures/heatmap_lsb.png" in exported.artifacts(run, "figures")
    assert run.data.tags["carkp.source_run"] == newest(exported, "export", "onnxruntime_cpu").info.run_id
    assert (
        run.data.tags["carkp.model_digest"]
        == newest(exported, "export", "onnxruntime_cpu").data.tags["carkp.model_digest"]
    )
    assert "test/pck" not in run.data.metrics  # it scores several
    assert [item.dataset.name for item in run.inputs.dataset_inputs] == ["tiny"]
    for row in rows:
        path = exported.artifact(run, f"predictions/{row['execution']}/test.npz")
        assert load_predictions(path).score(0.1).pck == pytest.approx(float(row["test_pck"]))
    assert "predictions/crops.zip" in exported.artifacts(run, "predictions")
    assert run.info.run_name == "align onnxruntime_cpu"
    assert run.data.tags["mlflow.note.content"].startswith("aligned: test pck simulated")


def test_the_target_s_own_arithmetic_is_executed_by_onnxruntime(exported: Project) -> None:
    run = newest(exported, "export", "bpu")
    program = load_program(exported.artifact(run, "onnx/int8_bpu.onnx"))
    written = exported.artifact(run, "onnx/int8_bpu_reference.onnx").read_bytes()
    assert written == reference_model(program).SerializeToString(deterministic=True)
    done = exported.stage("align", "--target", "bpu")
    assert "the simulator and ONNX Runtime on the reference file: none" in " ".join(done.stdout.split())
    table = exported.artifact(exported.runs("align")[0], "tables/comparisons.csv").read_text().splitlines()
    (row,) = [row for row in csv.DictReader(table) if row["second"] == "reference"]
    assert (row["first"], row["max_lsb"], float(row["equal_share"])) == ("simulated", "0", 1.0)


@pytest.mark.parametrize(("target", "own"), [("litert", "litert"), ("tflm", "simulated")])
def test_litert_executes_its_targets(exported: Project, target: str, own: str) -> None:
    for stage in ("calibration", "export"):
        done = exported.stage(stage, "--target", target, "--set", "quant.sweep=[]")
        assert done.returncode == 0, done.stderr
    run = newest(exported, "export", target)
    assert {f"onnx/int8_{target}.tflite", f"onnx/int8_{target}_int8.tflite"} <= exported.artifacts(run, "onnx")
    predictor = Predictor.load(exported.artifact(run, f"onnx/int8_{target}.tflite"))
    assert (predictor.kind, predictor.input_size) == ("int8 TFLite", (64, 64))
    done = exported.stage("align", "--target", target, "--set", "align.num_kernel_crops=5")
    assert done.returncode == 0, done.stdout + done.stderr
    run = exported.runs("align")[0]
    table = exported.artifact(run, "tables/kernels.csv").read_text().splitlines()
    assert {(row["kernels"], row["num_different"], row["num_elements"]) for row in csv.DictReader(table)} == {
        (kernels, "0", str(5 * 12 * 16 * 16)) for kernels in ("reference", "optimised", "xnnpack", "tflite-micro")
    }
    rows = list(csv.DictReader(exported.artifact(run, "tables/executions.csv").read_text().splitlines()))
    assert own in {row["execution"] for row in rows}
    if own == "litert":
        assert "the simulator and LiteRT: none" in " ".join(done.stdout.split())


@pytest.fixture
def xnnpack() -> Target:
    return target_of("uint8").model_copy(update={"requantisation": "xnnpack"})


def test_a_network_that_stays_in_float_in_parts_has_no_tflite_file(xnnpack: Target, tmp_path: Path) -> None:
    net = Net("uint8")
    stem = net.conv("stem", "image", 8)
    mean = net.float_op("mean", "ReduceMean", (stem,), (8, 1, 1), {"axes": [2, 3]}, is_positive=True)
    result = write_program(replace(net.program(mean), target=xnnpack), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in result.paths)
    assert not [path for path in result.paths if path.suffix == ".tflite"]


def test_without_litert_its_targets_say_what_to_install(
    xnnpack: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "carkp.deploy.tflite", None)
    with pytest.raises(ConfigError, match=r"target test_uint8 needs LiteRT, .*: pip install -e '\.\[litert\]'"):
        write_program(replace(pose_net("uint8"), target=xnnpack), tmp_path)


def test_align_out_of_tolerance_fails_and_keeps_its_tables(exported: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(align, "judge", lambda tolerances, comparisons, num_steps: ["too far apart"])
    done = exported.stage("align")
    assert done.returncode == 1
    assert "error: too far apart" in done.stderr
    assert "Traceback" not in done.stderr
    run = exported.runs("align")[0]
    assert run.info.status == "FAILED"
    assert run.data.tags["carkp.verdict"] == "too far apart"
    assert "tables/comparisons.csv" in exported.artifacts(run, "tables")


def comparisons(**changes) -> list[Comparison]:
    """All pairs equal but for ``changes``, which apply to the pair named by ``pair``."""
    pair = changes.pop("pair", None)
    same = [Comparison(*names, 0, 1.0, 0.0, 0.0, 0.0) for names in PAIRS]
    return [replace(item, **changes) if (item.first, item.second) == pair else item for item in same]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"pair": ("simulated_float32", "onnxruntime"), "max_lsb": 1}, "differ by up to 1 LSB"),
        ({"pair": ("simulated", "onnxruntime"), "moved_share": 0.06}, "moves 6.00% of the keypoints"),
        ({"pair": ("simulated", "onnxruntime"), "max_lsb": 33}, "differs by 33 LSB"),
        ({"pair": ("simulated", "onnxruntime"), "pck_difference": -0.006}, "-0.0060"),
        ({"pair": ("simulated", "onnxruntime"), "pck_difference": float("nan")}, "nan"),
        ({"pair": ("float", "fake_quant"), "pck_difference": -0.5}, ""),  # what calibration costs is its own business
    ],
)
def test_verdict_names_what_is_out_of_tolerance(changes: dict, words: str) -> None:
    failures = judge(AlignConfig(), comparisons(**changes))
    assert len(failures) == bool(words)
    assert words in "".join(failures)


def test_qat_trains_from_the_calibration_and_exports(exported: Project) -> None:
    done = exported.stage("qat", "--target", "onnxruntime_cpu")
    assert done.returncode == 0, done.stderr
    run = newest(exported, "qat", "onnxruntime_cpu")
    source = newest(exported, "calibration", "onnxruntime_cpu")
    assert run.data.tags["carkp.source_run"] == source.info.run_id
    assert {*HEADLINE, "train/loss"} <= set(run.data.metrics)
    assert exported.artifacts(run, "checkpoints") == {"checkpoints/best.pt", "checkpoints/last.pt"}
    assert exported.artifacts(run, "onnx") == {"onnx/float.onnx"}
    before = torch.load(exported.artifact(source, "calibration/model.pt"), weights_only=True)["weights"]
    after = torch.load(exported.artifact(run, "checkpoints/best.pt"), weights_only=True)["weights"]
    for name, value in after.items():
        if not name.startswith("graph."):  # scales, zero points and bias shifts stay as calibrated
            assert torch.equal(value, before[name]), name
    assert not torch.equal(after["graph.layers.head/final.weight"], before["graph.layers.head/final.weight"])
    done = exported.stage("export", "--target", "onnxruntime_cpu", "--stage", "qat", "--set", "name=tiny")
    assert done.returncode == 0, done.stderr
    assert exported.finished("export")[0].data.tags["carkp.source_run"] == run.info.run_id
    done = exported.stage("evaluate", "--target", "onnxruntime_cpu", "--stage", "qat")
    assert done.returncode == 0, done.stderr
    assert exported.runs("evaluate")[0].data.metrics["test/pck"] == run.data.metrics["test/pck"]


@pytest.mark.parametrize("rounding", ["nearest", "sums", "second_moments"])
def test_observers_rounding_and_bias_correction_are_chosen(exported: Project, rounding: str) -> None:
    words = (
        'quant.rules=[{tensors: "head/*", observer: mse}, {tensors: head/final, observer: minmax}]',
        "quant.bias_correction=true",
        f"quant.rounding={rounding}",
        "quant.sweep=[]",
    )
    done = exported.stage("calibration", *(word for text in words for word in ("--set", text)))
    assert done.returncode == 0, done.stderr
    run = exported.finished("calibration")[0]
    assert "percentile_sweep.csv" not in exported.artifacts(run)
    scales = json.loads(exported.artifact(run, "scales.json").read_text())["tensors"]
    oldest = exported.runs("calibration")[-1]
    before = json.loads(exported.artifact(oldest, "scales.json").read_text())["tensors"]
    assert scales["head/final"]["scale"] > before["head/final"]["scale"]
    weights = load_checkpoint(exported.artifact(run, "calibration/model.pt")).weights
    is_moved = any(bool(value.any()) for name, value in weights.items() if name.endswith(".steps"))
    assert is_moved == (rounding != "nearest")


@pytest.fixture(scope="module")
def spoilt(exported: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files that nothing can be done with, by name."""
    folder = tmp_path_factory.mktemp("spoilt")
    (float_run,) = [item for item in exported.runs("float") if item.data.tags["carkp.experiment"] == "tiny"][-1:]
    best = exported.artifact(float_run, "checkpoints/best.pt")
    content = torch.load(best, weights_only=True)
    content["architecture"]["head_channels"] = 32
    torch.save(content, folder / "other.pt")
    int8 = exported.artifact(newest(exported, "export", "bpu"), "onnx/int8_bpu.onnx")
    (folder / "cut.onnx").write_bytes(int8.read_bytes()[:20000])
    calibration = newest(exported, "calibration", "bpu")
    return {
        "FLOAT": str(best),
        "CALIBRATION_RUN": f"runs:/{calibration.info.run_id}/calibration/model.pt",
        "OTHER": str(folder / "other.pt"),
        "CUT": str(folder / "cut.onnx"),
        "FLOAT_ONNX": str(exported.artifact(float_run, "onnx/float.onnx")),
        "CALIBRATED": str(exported.artifact(newest(exported, "calibration", "bpu"), "calibration/model.pt")),
    }


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        ("calibration", ["--set", "quant.percentile=40"], "quant.percentile"),
        ("calibration", ["--set", "quant.percentile=101"], "quant.percentile"),
        ("calibration", ["--target", "toaster"], "configs/targets/toaster.yaml: no such"),
        ("calibration", ["--set", "quant.rules=[{tensors: neck/*, observer: mse}]"], "'neck/*' matches no tensor"),
        ("calibration", ["--model", "OTHER"], "contains no network of this architecture"),
        ("calibration", ["--model", "CALIBRATED"], "but a float network is needed"),
        ("calibration", ["--set", "name=other"], "mlflow run . -e float"),
        ("export", ["--model", "FLOAT"], "calibrate it first"),
        ("export", ["--model", "CALIBRATED", "--target", "onnxruntime_cpu"], "calibrated for the target bpu"),
        (
            "export",
            ["--stage", "qat", "--model", "CALIBRATION_RUN"],
            "is from a run of calibration, but qat was requested",
        ),
        ("evaluate", ["--stage", "qat", "--model", "CALIBRATION_RUN"], "give stage=calibration"),
        ("export", ["--stage", "float"], "expected one of calibration, qat"),
        ("qat", ["--set", "name=other"], "mlflow run . -e calibration"),
        ("evaluate", ["--stage", "int_infer", "--model", "CUT"], "cut.onnx"),
        ("evaluate", ["--stage", "onnxruntime", "--model", "CUT"], "cut.onnx"),
        ("evaluate", ["--stage", "int_infer", "--model", "FLOAT_ONNX"], "float.onnx"),
        ("evaluate", ["--stage", "float", "--model", "CALIBRATED"], "but a float network is needed"),
        ("evaluate", ["--stage", "calibration", "--model", "FLOAT"], "calibrate it first"),
        ("align", ["--set", "name=other"], "mlflow run . -e export"),
    ],
)
def test_mistakes_end_in_one_line_without_a_traceback(
    exported: Project, spoilt: dict[str, str], stage: str, arguments: list[str], message: str
) -> None:
    done = exported.stage(stage, *(spoilt.get(argument, argument) for argument in arguments))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert message in done.stderr[done.stderr.index("error: ") :]


def test_a_target_of_one_s_own_is_a_file(exported: Project, tmp_path: Path) -> None:
    project = copy_project(tmp_path / "own")
    text = (project.path / "configs/targets/bpu.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("name: bpu", "name: mine").replace("fixed_point", "float32"))
    done = exported.stage("calibration", "--target", str(path), "--set", "quant.sweep=[]")
    assert done.returncode == 0, done.stderr
    assert exported.finished("calibration")[0].data.tags["carkp.target"] == "mine"
    path.write_text(text.replace("accumulator_bits: 32", "accumulator_bits: 128"))
    done = exported.stage("calibration", "--target", str(path))
    assert "accumulator_bits" in done.stderr
