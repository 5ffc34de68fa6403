"""The accuracy report as a user makes it, on the tiny configuration: found runs, files, numbers, mistakes."""

import re
from pathlib import Path

import pytest
from mlflow.entities import Run

from carkp.workflow.report import content
from tests.stages.conftest import Project, copy_project

TARGET = "bpu"
SETTINGS = ("--set", "quant.sweep=[99.0,99.5]", "--set", "quant.percentile=99.5")
"""Unlike those of other tests, which share the project: their runs are of other models."""

ROUNDED = 5.001e-5
"""Half of the last digit of a share that is shown as 12.34 %."""


@pytest.fixture(scope="module")
def quantised(trained: Project) -> Project:
    """One target calibrated, exported, aligned and scored in both ways."""
    for stage in ("calibration", "export", "align"):
        done = trained.stage(stage, "--target", TARGET, *SETTINGS)
        assert done.returncode == 0 or stage == "align", done.stderr
    for executed in ("int_infer", "onnxruntime"):
        done = trained.stage("evaluate", "--stage", executed, "--target", TARGET)
        assert done.returncode == 0, done.stderr
    return trained


@pytest.fixture(scope="module")
def reported(quantised: Project) -> Project:
    anchor = quantised.runs("calibration")[0].info.run_id
    done = quantised.stage("report", "--runs", f"runs:/{anchor}", "--name", "whole")
    assert done.returncode == 0, done.stderr
    return quantised


def finished(project: Project, stage: str) -> list[Run]:
    """Newest first, without what other tests made fail."""
    return [run for run in project.runs(stage) if run.info.status == "FINISHED"]


def float_run_of(project: Project) -> Run:
    """The float run that the newest calibration started from."""
    reference = project.finished("calibration")[0].data.tags["carkp.float_model"]
    return project.client.get_run(reference.removeprefix("runs:/").partition("/")[0])


def headline(folder: Path) -> dict[str, list[str]]:
    lines = (folder / "report.md").read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("| model |")) + 2
    rows = {}
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[cells[0]] = cells[1:]
    return rows


def percent(cell: str) -> float:
    return float(cell.split(" %")[0]) / 100


@pytest.mark.parametrize(
    ("scores", "float_pck"),
    [
        ([("0.0", "0.0"), ("0.45", "0.9")], 0.5),
        ([("0.4", "0.8"), ("0.0", "0.0")], 0.5),
        ([("0.0", "0.0")], None),
        ([("0.0", "nan"), ("0.1", "nan")], None),  # float has nothing right
    ],
)
def test_float_of_a_sweep_comes_from_a_row_that_kept_some(
    scores: list[tuple[str, str]], float_pck: float | None
) -> None:
    rows = [{"val_pck": pck, "val_retention": kept} for pck, kept in scores]
    assert content.swept_float_pck(rows) == (None if float_pck is None else pytest.approx(float_pck))


def test_report_lies_in_its_folder_and_in_the_run(reported: Project) -> None:
    folder = reported.path / "reports" / "whole"
    assert {path.name for path in folder.iterdir()} == {"index.html", "report.md", "pictures"}
    run = reported.runs("report")[0]
    assert run.info.status == "FINISHED"
    assert "carkp.model" not in run.data.tags
    assert run.data.tags["carkp.report"] == "whole"
    assert reported.artifacts(run, "report") == {"report/index.html", "report/report.md", "report/pictures"}
    pictures = {path.name for path in (folder / "pictures").iterdir()}
    assert reported.artifacts(run, "report/pictures") == {f"report/pictures/{name}" for name in pictures}
    linked = set(re.findall(r"\]\(pictures/([^)]+)\)", (folder / "report.md").read_text()))
    assert linked == pictures
    assert {"headline.png", "samples_1.jpg", "worst_0_00.jpg", "median_0_00.jpg", "sqnr_0.png"} <= pictures


def test_numbers_are_those_that_the_runs_logged(reported: Project) -> None:
    rows = headline(reported.path / "reports" / "whole")
    assert list(rows) == ["float", "calibrated (bpu)", "simulated int8 (bpu)", "ONNX Runtime int8 (bpu)"]
    calibration = reported.finished("calibration")[0]
    float_run = float_run_of(reported)
    scored = {run.data.tags["carkp.model"]: run for run in reversed(finished(reported, "evaluate"))}
    sources = [float_run, calibration, scored["int_infer"], scored["onnxruntime"]]
    for cells, run in zip(rows.values(), sources, strict=True):
        metrics = run.data.metrics
        assert percent(cells[0]) == pytest.approx(metrics["test/pck"], abs=ROUNDED)
        assert percent(cells[1]) == pytest.approx(metrics["test/pck_hat"], abs=ROUNDED)
        assert float(cells[2].split("<br>")[0]) == pytest.approx(metrics["test/mean_dist"], abs=100 * ROUNDED)
    assert percent(rows["calibrated (bpu)"][3]) == pytest.approx(
        calibration.data.metrics["test/retention"], abs=ROUNDED
    )


def test_differences_and_limits_are_said_with_their_size(reported: Project) -> None:
    text = (reported.path / "reports" / "whole" / "report.md").read_text()
    align = reported.runs("align")[0]
    assert f"Largest differences: {align.data.tags['carkp.differences']}." in text
    assert "over 2 clusters (scene and camera)" in text
    assert "> Warning: the intervals rest on 2 clusters" in text
    assert "Warning: the intervals rest on 2 clusters" in reported.runs("report")[-1].data.tags["mlflow.note.content"]


def test_commands_are_for_another_machine(reported: Project) -> None:
    text = (reported.path / "reports" / "whole" / "report.md").read_text()
    commands = text[text.index("### Commands") :]
    listed = commands.split("```")[1]
    assert "-e calibration" in listed
    assert "config=configs/tiny.yaml" in listed or "overrides=" in listed
    for run in (float_run_of(reported), *reported.runs("calibration"), *reported.runs("align")):
        assert run.info.run_id not in listed
    assert str(reported.path) not in commands
    assert "runs:/" not in listed


def test_page_is_one_file_and_names_its_runs(reported: Project) -> None:
    page = (reported.path / "reports" / "whole" / "index.html").read_text()
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert str(reported.path) not in page
    for run in (float_run_of(reported), *reported.runs("calibration")[:1], *finished(reported, "data")[:1]):
        assert run.info.run_id in page
    assert "mlflow run . -e qat -P target=bpu" in page  # not run
    assert "mlflow run . -e compile -P target=bpu" in page
    assert "99.5 (used)" in page


@pytest.mark.parametrize("stage", ["float", "export", "align", "evaluate", "calibration"])
def test_every_run_of_a_family_stands_for_it(reported: Project, stage: str) -> None:
    run_id = (float_run_of(reported) if stage == "float" else reported.runs(stage)[0]).info.run_id
    done = reported.stage("report", "--runs", run_id, "--name", f"by-{stage}", "--set", f"quant.target={TARGET}")
    assert done.returncode == 0, done.stderr
    assert headline(reported.path / "reports" / f"by-{stage}") == headline(reported.path / "reports" / "whole")


def test_a_pipeline_run_stands_for_the_family_that_it_names(reported: Project) -> None:
    client, align = reported.client, reported.runs("align")[0]
    tags = {"carkp.stage": "main", "carkp.pipeline.align": align.info.run_id, "carkp.pipeline.process": "host 1 2"}
    pipeline = client.create_run(align.info.experiment_id, tags=tags)
    client.set_terminated(pipeline.info.run_id)
    done = reported.stage("report", "--runs", f"runs:/{pipeline.info.run_id}", "--name", "by-main")
    assert done.returncode == 0, done.stderr
    assert headline(reported.path / "reports" / "by-main") == headline(reported.path / "reports" / "whole")


def test_what_was_not_run_is_said_with_its_command(reported: Project) -> None:
    float_id = float_run_of(reported).info.run_id
    done = reported.stage("report", "--runs", float_id, "--set", "quant.target=jetson_orin_nano_int8")
    assert done.returncode == 0, done.stderr
    folder = reported.path / "reports" / "tiny-jetson_orin_nano_int8"
    assert list(headline(folder)) == ["float"]
    assert "`mlflow run . -e calibration -P target=jetson_orin_nano_int8`" in (folder / "report.md").read_text()


@pytest.mark.slow
def test_several_runs_make_one_report_and_the_same_family_is_not_shown_twice(reported: Project) -> None:
    float_id, calibration_id = float_run_of(reported).info.run_id, reported.finished("calibration")[0].info.run_id
    done = reported.stage("report", "--runs", f"{float_id}, {calibration_id}", "--set", "quant.target=cortex_m_class",
                          "--name", "two")  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (reported.path / "reports" / "two" / "report.md").read_text()
    assert "Models compared with each other" in text
    assert len(headline(reported.path / "reports" / "two")) == 5
    done = reported.stage("report", "--runs", f"{calibration_id},runs:/{calibration_id}", "--name", "once")
    assert done.returncode == 0, done.stderr
    assert len(headline(reported.path / "reports" / "once")) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "0123456789abcdef"], "no such run"),
        (["--runs", " , "], "runs is empty"),
        (["--name", "../elsewhere"], "name='../elsewhere'"),
        (["--set", "name=never_run"], "mlflow run . -e float"),
        (["--runs", "DATA"], "belongs to no float model"),
    ],
)
def test_mistakes_end_in_one_line(reported: Project, arguments: list[str], message: str) -> None:
    names = {"DATA": reported.runs("data")[0].info.run_id}
    done = reported.stage("report", *(names.get(argument, argument) for argument in arguments))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert message in done.stderr


def test_a_server_without_runs_says_what_to_run(tmp_path: Path) -> None:
    done = copy_project(tmp_path / "fresh").stage("report")
    assert done.returncode == 1
    assert "mlflow run . -e float" in done.stderr
