"""Check and compile as a user runs them, on the tiny configuration; the tables and the page that they leave."""

import csv
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from carkp.deploy.compiled import PREFIX, CompiledMismatchError, require_same_outputs
from carkp.deploy.int8_onnx import PROGRAM_KEY, Int8OnnxError, load_program
from carkp.deploy.runtime import OnnxRunner
from carkp.predictor import Predictor
from carkp.stages import compile as compile_stage
from tests.stages.conftest import ROOT, Project

TARGETS = ("bpu", "onnxruntime_cpu")


@pytest.fixture(scope="module")
def exported(trained: Project) -> Project:
    """Both targets calibrated and exported."""
    for target in TARGETS:
        for stage in ("calibration", "export"):
            done = trained.stage(stage, "--target", target, "--set", "quant.sweep=[]")
            assert done.returncode == 0, done.stderr
    return trained


def rows_of(project: Project, run, path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(project.artifact(run, path).read_text().splitlines()))


def small_limit(folder: Path, change: tuple[str, str]) -> Path:
    """The target bpu with one word changed."""
    path = folder / "strict.yaml"
    text = (ROOT / "configs/targets/bpu.yaml").read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    return path


@pytest.mark.parametrize(
    ("target", "verdict", "num_limits"),
    [
        ("bpu", "fits, by assumed limits (12 of 12 are assumed)", 12),
        ("onnxruntime_cpu", "fits: the target's file gives no limits", 0),
    ],
)
def test_check_of_an_export_fits_and_says_by_which_limits(
    exported: Project, target: str, verdict: str, num_limits: int
) -> None:
    done = exported.stage("check", "--target", target)
    assert done.returncode == 0, done.stderr
    assert f"verdict: {verdict}" in done.stdout
    run = exported.runs("check")[0]
    assert run.data.tags["carkp.verdict"] == verdict
    assert run.data.metrics["check/num_limits"] == run.data.metrics["check/num_assumed_limits"] == num_limits
    assert run.data.metrics["check/int8_mac_share"] == 1
    rows = rows_of(exported, run, "tables/check.csv")
    assert len(rows) == run.data.metrics["check/num_int8"]
    assert {row["verdict"] for row in rows} == {"int8"}


def test_check_judges_a_network_before_its_training(trained: Project) -> None:
    changes = ["--set", "model.backbone=efficientnet_b0", "--set", "name=fresh"]
    done = trained.stage("check", "--target", "bpu", "--model", "config", *changes)
    assert done.returncode == 0, done.stderr
    assert "untrained" in done.stdout
    assert "squeeze-and-excitation" in done.stdout
    run = trained.runs("check")[0]
    assert run.data.metrics["check/num_fallback"] > 50
    rows = rows_of(trained, run, "tables/check.csv")
    assert {"Silu (float)", "Sigmoid (float)", "Mul (float)"} <= {row["operator"] for row in rows}


def test_check_fails_on_impossible_layers_and_keeps_its_table(trained: Project, tmp_path: Path) -> None:
    path = small_limit(tmp_path, ("unsupported: fallback", "unsupported: impossible"))
    path.write_text(path.read_text().replace("depthwise: {max_kernel: {value: 7", "depthwise: {max_kernel: {value: 3"))
    done = trained.stage("check", "--target", str(path), "--model", "config")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"error: \d+ of \d+ layers cannot run on bpu", done.stderr)
    run = trained.runs("check")[0]
    assert run.info.status == "FAILED"
    assert "are impossible" in run.data.tags["carkp.verdict"]
    (limit,) = {row["limit"] for row in rows_of(trained, run, "tables/check.csv")} - {""}
    assert limit == "depthwise kernel"


def test_check_takes_checkpoints_and_says_whose_arithmetic_a_program_has(exported: Project) -> None:
    float_run = exported.training()
    best = exported.artifact(float_run, "checkpoints/best.pt")
    done = exported.stage("check", "--target", "cortex_m_class", "--model", str(best))
    assert done.returncode == 1  # 1 MB of flash
    assert "weights so far" in done.stdout
    int8 = exported.finished("export")[0]
    path = exported.artifact(int8, "onnx/int8_onnxruntime_cpu.onnx")
    done = exported.stage("check", "--target", "jetson_orin_nano_int8", "--model", str(path))
    assert done.returncode == 0, done.stderr
    assert "arithmetic is that of onnxruntime_cpu" in " ".join(done.stdout.split())


def test_compile_for_the_host_gives_a_file_that_computes_the_same(exported: Project) -> None:
    done = exported.stage("compile", "--target", "onnxruntime_cpu")
    assert done.returncode == 0, done.stderr
    run = exported.runs("compile")[0]
    assert {"host/total_ratio", "host/rank_correlation", "perf/frames_per_s"} <= set(run.data.metrics)
    compiled = exported.artifact(run, "compiled/onnxruntime_cpu.onnx")
    export = next(item for item in exported.runs("export") if item.data.tags["carkp.target"] == "onnxruntime_cpu")
    source = exported.artifact(export, "onnx/int8_onnxruntime_cpu.onnx")
    images = ((np.random.default_rng(5).integers(0, 256, (2, 3, 64, 64)) - 128) / 128).astype(np.float32)
    assert np.array_equal(OnnxRunner(compiled).run(images), OnnxRunner(source).run(images))
    assert any(node.op_type == "QLinearConv" for node in onnx.load(compiled).graph.node)
    metadata = OnnxRunner(compiled).metadata
    assert {f"{PREFIX}{name}" for name in ("onnxruntime", "cpu", "cpu_int8", "source_sha256")} <= set(metadata)
    assert PROGRAM_KEY not in metadata
    opened = Predictor.load(compiled)
    assert (opened.kind, opened.codec) == ("int8 ONNX", Predictor.load(source).codec)
    with pytest.raises(Int8OnnxError, match="no longer contains its program; give the export"):
        load_program(compiled)


def test_compile_leaves_a_page_of_its_own_with_every_number_s_origin(exported: Project) -> None:
    done = exported.stage("compile", "--target", "bpu")
    assert done.returncode == 0, done.stderr
    run = exported.runs("compile")[0]
    page = exported.artifact(run, "performance.html").read_text()
    assert "<svg" in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    for word in (
        "assumed",
        "Overview of Journey 5",
        "head/final",
        "peak of activations",
        "performance.memory_gb_per_s",
        "measured with",
        "fits, by assumed limits (12 of 12 are assumed)",
        "numbers of the hardware are assumed",
    ):
        assert word in page
    rows = rows_of(exported, run, "tables/performance.csv")
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1)
    assert sum(float(row["predicted_us"]) for row in rows) == pytest.approx(run.data.metrics["perf/predicted_us"])
    assert {row["bound"] for row in rows} <= {"compute", "memory", "overhead"}
    assert all(row["source"] for row in rows_of(exported, run, "tables/hardware.csv"))
    assert exported.artifacts(run, "figures") == {"figures/roofline.png"}
    metrics = run.data.metrics
    assert metrics["host/float_ms"] > 0 < metrics["host/int8_ms"]
    assert metrics["host/latency_ratio_low"] <= metrics["host/latency_ratio"] <= metrics["host/latency_ratio_high"]
    assert run.data.tags["carkp.model_digest"] == exported.runs("export")[1].data.tags["carkp.model_digest"]
    assert "float / int8" in run.data.tags["mlflow.note.content"]
    compiled = exported.artifact(run, "compiled/bpu.onnx")
    assert load_program(compiled).target.name == "bpu"


def test_compile_without_the_float_run_says_what_was_not_measured(
    exported: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_stage, "FLOAT_ONNX", "onnx/gone.onnx")
    done = exported.stage("compile", "--target", "bpu")
    assert done.returncode == 0, done.stderr
    assert "not measured: the float run" in done.stdout
    assert "measured with" not in done.stdout
    assert "int8 instructions" not in done.stdout
    assert "host/latency_ratio" not in exported.runs("compile")[0].data.metrics


def test_files_that_differ_are_noticed(exported: Project) -> None:
    paths = [
        exported.artifact(run, f"onnx/int8_{run.data.tags['carkp.target']}.onnx") for run in exported.runs("export")[:2]
    ]
    with pytest.raises(CompiledMismatchError, match="output elements differ"):
        require_same_outputs(*paths)


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        ("check", ["--target", "jetson_orin_nano_int8"], "model=config"),
        ("check", ["--target", "toaster"], "configs/targets/toaster.yaml: no such"),
        ("check", ["--target", "bpu", "--model", "nowhere.onnx"], "no such file"),
        ("compile", ["--target", "cortex_m_class"], "mlflow run . -e export"),
        ("compile", ["--target", "bpu", "--model", "INT8_CPU"], "calibrated for the target onnxruntime_cpu"),
    ],
)
def test_mistakes_end_in_one_line(exported: Project, stage: str, arguments: list[str], message: str) -> None:
    export = next(item for item in exported.runs("export") if item.data.tags["carkp.target"] == "onnxruntime_cpu")
    names = {"INT8_CPU": str(exported.artifact(export, "onnx/int8_onnxruntime_cpu.onnx"))}
    done = exported.stage(stage, *(names.get(argument, argument) for argument in arguments))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert message in done.stderr[done.stderr.index("error: ") :]


def test_a_target_without_hardware_says_so(trained: Project, tmp_path: Path) -> None:
    text = (ROOT / "configs/targets/bpu.yaml").read_text()
    path = tmp_path / "plain.yaml"
    path.write_text(text[: text.index("hardware:")])
    done = trained.stage("check", "--target", str(path), "--model", "config")
    assert done.returncode == 1
    assert "does not describe its hardware" in done.stderr
