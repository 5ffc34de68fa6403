"""The runtimes side by side as a user sees them: in the terminal, the run, the report and the page of compile."""

import csv
import subprocess
import sys

import pytest

from carkp.report.runtime_data import SETTINGS
from carkp.workflow.benchmark import parse_rows, table_row
from tests.stages.conftest import TINY, Project

FAST = ("quant.num_images=8", "benchmark.num_rounds=2", "benchmark.max_seconds=0.1")
NAMES = [
    "onnxruntime_float32",
    "onnxruntime_int8",
    "onnxruntime_static",
    "litert_float32",
    "litert_int8",
    "openvino_float32",
    "openvino_bfloat16",  # where the CPU has instructions for it
    "openvino_int8",
]


WITHOUT = """
import sys
for name in {names}:
    sys.modules[name] = None
from carkp.stages.benchmark import main
sys.exit(main(sys.argv[1:]))
"""


def benchmark(project: Project, *not_installed: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: one that has run OpenVINO's int8 kernels may end when it starts another program."""
    model = f"runs:/{project.training().info.run_id}"
    words = ["--config", TINY, "--model", model, *(word for item in FAST for word in ("--set", item))]
    return project.call(sys.executable, "-c", WITHOUT.format(names=not_installed), *words)


def lines_of(project: Project) -> list[dict[str, str]]:
    run = project.finished("benchmark")[0]
    path = project.artifact(run, "tables/runtimes.csv")
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def benchmarked(trained: Project) -> Project:
    done = benchmark(trained)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ONNX Runtime" in done.stdout
    return trained


def test_every_runtime_is_in_the_table(benchmarked: Project) -> None:
    lines = lines_of(benchmarked)
    rows = parse_rows(lines)
    assert [row.name for row in rows if row.name != "openvino_bfloat16"] == [
        name for name in NAMES if name != "openvino_bfloat16"
    ]
    float_row = rows[0]
    for row in rows:
        assert set(row.latencies) <= set(SETTINGS)
        assert all(found.median_ms > 0 and found.speedup.value > 0 for found in row.latencies.values())
        assert (row.size_bytes < 0.6 * float_row.size_bytes) == (row.numbers == "int8")
        if row.numbers == "float32":
            assert row.shift_px < 1  # an untrained network has peaks of almost the same height
        if row.numbers == "int8":
            assert row.shift_px > 0
    assert [{name: str(value) for name, value in table_row(row).items()} for row in rows] == lines


def test_the_run_holds_figure_metrics_and_predictions(benchmarked: Project) -> None:
    run = benchmarked.finished("benchmark")[0]
    assert "figures/runtimes.png" in benchmarked.artifacts(run, "figures")
    assert "predictions/litert_int8/test.npz" in benchmarked.artifacts(run, "predictions/litert_int8")
    assert run.data.metrics["benchmark/onnxruntime_int8/batch1_threads1_ms"] > 0
    assert run.data.tags["carkp.float_model"].startswith(f"runs:/{benchmarked.training().info.run_id}")
    bfloat16 = "OpenVINO bfloat16: this CPU has no instructions for it"
    has_bfloat16 = any(line["name"] == "openvino_bfloat16" for line in lines_of(benchmarked))
    assert (bfloat16 in run.data.tags["carkp.left_out"]) != has_bfloat16


def test_the_report_shows_it(benchmarked: Project) -> None:
    done = benchmarked.stage("report", "--runs", benchmarked.training().info.run_id, "--name", "runtimes")
    assert done.returncode == 0, done.stderr
    page = (benchmarked.path / "reports" / "runtimes" / "report.md").read_text()
    assert "## Runtimes side by side" in page
    assert "| LiteRT int8, carkp |" in page
    assert "Runtimes not compared" not in page
    assert (benchmarked.path / "reports" / "runtimes" / "pictures" / "runtimes.png").is_file()


@pytest.mark.slow
def test_runtimes_that_are_not_installed_are_left_out_and_named(benchmarked: Project) -> None:
    done = benchmark(benchmarked, "openvino", "nncf", "ai_edge_litert")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line["name"] for line in lines_of(benchmarked)] == NAMES[:3]
    assert "left out: OpenVINO int8, NNCF: NNCF is not installed: pip install -e '.[peers]'" in done.stdout
    assert "left out: LiteRT int8, carkp: LiteRT is not installed: pip install -e '.[litert]'" in done.stdout
