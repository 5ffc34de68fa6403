"""What a stage takes is of the source as it is, of the data and the target at hand, and of the heatmaps at hand."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from mlflow.entities import Run

from carkp.config.loading import ConfigError, load_config
from carkp.stages import tune
from carkp.synthetic.generate import generate
from carkp.workflow import preparation
from carkp.workflow.preparation import synthetic_spec
from carkp.workflow.source_code import SourceCode
from tests.stages.conftest import ROOT, TINY, Outcome, Project, copy_project

SHORT = ("--set", "train.epochs=1", "--set", "quant.sweep=[]")
OTHER_DATA = ("--set", "synthetic.seed=9")


def ran(project: Project, stage: str, *arguments: str) -> Outcome:
    done = project.stage(stage, *SHORT, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def refused(project: Project, stage: str, *arguments: str) -> str:
    done = project.stage(stage, *SHORT, *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A user's own CarFusion tree."""
    path = tmp_path / "source"
    generate(path, synthetic_spec(load_config(ROOT / TINY, [])), num_workers=1)
    return path


def lose_a_car(source: Path) -> None:
    """As somebody does who mends an annotation."""
    edited = next(path for path in sorted(source.rglob("gt/*.txt")) if "train" in path.parts and path.stat().st_size)
    edited.write_text("")


def digest_of(run: Run) -> str:
    return run.data.tags["carkp.data_digest"]


def test_float_prepares_a_source_anew_that_has_changed(source: Path, tmp_path: Path) -> None:
    project = copy_project(tmp_path / "carkp")
    arguments = ("--set", f"data.source={source}")
    ran(project, "float", *arguments)
    assert "prepared again" not in ran(project, "float", *arguments).stdout
    assert len(project.runs("data")) == 1
    lose_a_car(source)
    done = ran(project, "float", *arguments)
    assert f"data: prepared again, the files of {source} have changed since" in done.stdout
    after, _, before = project.runs("float")
    assert digest_of(after) == digest_of(project.runs("data")[0]) != digest_of(before)


def test_tune_prepares_a_source_anew_that_has_changed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, seen = copy_project(tmp_path / "carkp"), list[str]()

    def stop(config: object, inputs: tune.TuneInputs, *others: object) -> None:
        seen.append(inputs.spec.inputs.data.digest)
        raise ConfigError("enough")

    monkeypatch.setattr(tune, "run", stop)
    for _ in range(2):
        assert project.stage("tune", "--set", f"data.source={source}").stderr.endswith("error: enough\n")
        lose_a_car(source)
    assert seen == [digest_of(run) for run in reversed(project.runs("data"))]
    assert len(set(seen)) == 2


def test_other_stages_say_that_the_source_has_changed(source: Path, tmp_path: Path) -> None:
    project = copy_project(tmp_path / "carkp")
    arguments = ("--set", f"data.source={source}")
    ran(project, "float", *arguments)
    assert "warning" not in ran(project, "evaluate", *arguments).stderr
    lose_a_car(source)
    assert f"warning: data=latest is used as prepared in {project.path}" in ran(project, "evaluate", *arguments).stderr
    by_name = ("--data", f"runs:/{project.runs('data')[0].info.run_id}")
    assert "warning" not in ran(project, "evaluate", *arguments, *by_name).stderr
    ran(project, "data", *arguments)
    message = refused(project, "evaluate", *arguments, *by_name)
    assert f"{by_name[1]}: {project.path}" in message
    assert "was prepared again since" in message


def test_data_of_a_given_source_say_how_other_stages_take_them(source: Path, tmp_path: Path) -> None:
    project = copy_project(tmp_path / "carkp")
    done = ran(project, "data", "--source", str(source))
    (run,) = project.runs("data")
    assert (
        f"the configuration's data.source is synthetic: give --set data.source={source} to other stages" in done.stdout
    )
    assert f"or data=runs:/{run.info.run_id}" in done.stdout
    assert "give --set" not in ran(project, "data", "--set", f"data.source={source}").stdout


@pytest.mark.slow
def test_data_of_other_code_are_prepared_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = copy_project(tmp_path / "carkp")
    ran(project, "data")
    before = (project.path / "data").glob("*/summary.json")
    written = {path: path.stat().st_mtime_ns for path in before}
    ran(project, "data")
    assert {path: path.stat().st_mtime_ns for path in written} == written
    real = preparation.data_inputs

    def changed(*arguments: object) -> object:
        found = real(*arguments)
        return type(found)(found.stage, found.settings, found.given, SourceCode({"carkp.data.crops": "new"}, {}))

    monkeypatch.setattr(preparation, "data_inputs", changed)
    done = ran(project, "float")
    assert "data: prepared again, the code that prepares data" in done.stdout
    assert all(path.stat().st_mtime_ns > before for path, before in written.items())
    first, second = (digest_of(run) for run in project.runs("data")[:2])
    assert first == second  # the same content: what was made of it still holds


def test_stores_that_changed_on_the_disk_are_refused(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "carkp")
    ran(project, "data")
    (store,) = (project.path / "data").glob("*/test_lmdb")
    (path,) = store.glob("data.mdb")
    content = bytearray(path.read_bytes())
    place = content.rfind(b"\xff\xd8\xff")  # the last picture
    content[place + 400] ^= 1
    path.write_bytes(content)
    assert "is damaged" in refused(project, "float")


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """One experiment whose newest runs are on other data than the configuration's."""
    project = copy_project(tmp_path_factory.mktemp("two") / "carkp")
    for others in ((), OTHER_DATA):
        for stage in ("float", "calibration", "export"):
            ran(project, stage, *others)
    return project


@pytest.mark.parametrize("stage", ["export", "check", "compile"])
def test_latest_is_of_the_data_at_hand(two_sets: Project, stage: str) -> None:
    own_data = digest_of(two_sets.runs("float")[-1])
    assert digest_of(two_sets.runs("float")[0]) != own_data
    ran(two_sets, stage)
    (of_other, of_own) = (two_sets.client.get_run(run_id) for run_id in _sources(two_sets, stage, OTHER_DATA))
    assert digest_of(of_own) == own_data != digest_of(of_other)


def _sources(project: Project, stage: str, others: Sequence[str]) -> tuple[str, str]:
    """The runs that a stage took with ``others`` and without."""
    own = project.runs(stage)[0].data.tags["carkp.source_run"]
    ran(project, stage, *others)
    return project.runs(stage)[0].data.tags["carkp.source_run"], own


@pytest.mark.parametrize("stage", ["export", "check", "compile"])
def test_no_model_of_other_data_is_taken_in_silence(two_sets: Project, stage: str) -> None:
    third = ("--set", "synthetic.seed=10")
    ran(two_sets, "data", *third)
    maker = "calibration" if stage == "export" else "export"
    message = refused(two_sets, stage, *third)
    assert f"no finished {maker} run (experiment tiny, target bpu, data_digest " in message
    assert f"the newest of the experiment is runs:/{two_sets.runs(maker)[0].info.run_id}" in message
    unprepared = ran(two_sets, stage, "--set", "synthetic.seed=11")
    assert "warning: the data of the configuration are not prepared here" in unprepared.stderr


@pytest.mark.parametrize("stage", ["calibration", "qat", "export", "align"])
def test_a_model_of_other_heatmaps_is_refused(two_sets: Project, stage: str) -> None:
    message = refused(two_sets, stage, "--set", "heatmap.sigma=2.5", "--set", "heatmap.decoder=averaged")
    assert "heatmap.sigma 1.5, not 2.5" in message
    assert "heatmap.decoder dark, not averaged" in message
    assert "with which it was trained" in message


@pytest.mark.parametrize("kind", ["float", "calibration", "int_infer", "onnxruntime"])
def test_evaluate_says_that_it_decodes_otherwise(two_sets: Project, kind: str) -> None:
    plain = ran(two_sets, "evaluate", "--stage", kind)
    assert "decoded with other settings" not in plain.stderr
    done = ran(two_sets, "evaluate", "--stage", kind, "--set", "heatmap.decoder=averaged")
    assert "decoded with other settings than in training (heatmap.decoder dark, not averaged)" in done.stderr
    run = two_sets.runs("evaluate")[0]
    assert "heatmap.decoder dark, not averaged" in run.data.tags["carkp.decoded"]
    assert "decoded with other settings" in run.data.tags["mlflow.note.content"]


@pytest.mark.slow
def test_a_source_that_is_gone_is_used_as_it_was(source: Path, tmp_path: Path) -> None:
    project = copy_project(tmp_path / "carkp")
    arguments = ("--set", f"data.source={source}")
    ran(project, "float", *arguments)
    shutil.rmtree(source)
    assert "prepared again" not in ran(project, "float", *arguments).stdout


@pytest.fixture(scope="module")
def photograph(two_sets: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photograph") / "car.png"
    assert cv2.imwrite(str(path), np.full((64, 64, 3), 128, np.uint8))
    return path


def test_infer_says_which_model_it_takes(two_sets: Project, photograph: Path, tmp_path: Path) -> None:
    arguments = ("--image", str(photograph), "--output", str(tmp_path / "out"))
    newest, *_, oldest = (run for run in two_sets.runs("export") if run.info.status == "FINISHED")
    assert digest_of(newest) != digest_of(oldest)
    own = ran(two_sets, "infer", *arguments, "--model", "latest")
    taken = two_sets.client.get_run(two_sets.runs("infer")[0].data.tags["carkp.infer_model"].split("/")[1])
    assert digest_of(taken) == digest_of(oldest)
    assert f"model: runs:/{taken.info.run_id}/onnx/int8_bpu.onnx of 20" in own.stderr
    assert f"(experiment tiny, target bpu, data {digest_of(oldest)[:16]})" in own.stderr
    assert "warning" not in own.stderr
    named = ran(two_sets, "infer", *arguments, "--model", f"runs:/{newest.info.run_id}")
    wanted = f"data {digest_of(newest)[:16]}, not {digest_of(oldest)[:16]}"
    assert f"warning: the model does not match the configuration: {wanted}" in named.stderr


def test_infer_warns_where_it_takes_a_model_of_another_target(
    two_sets: Project, photograph: Path, tmp_path: Path
) -> None:
    arguments = ("--image", str(photograph), "--output", str(tmp_path / "out"))
    done = ran(two_sets, "infer", *arguments, "--model", "latest", "--set", "quant.target=onnxruntime_cpu")
    assert "does not match the configuration: target bpu, not onnxruntime_cpu" in done.stderr


def test_infer_takes_a_compiled_model(two_sets: Project, photograph: Path, tmp_path: Path) -> None:
    ran(two_sets, "compile")
    run_id = two_sets.runs("compile")[0].info.run_id
    arguments = ("--image", str(photograph), "--output", str(tmp_path / "out"))
    done = ran(two_sets, "infer", *arguments, "--model", f"runs:/{run_id}")
    assert f"model: runs:/{run_id}/compiled/bpu.onnx" in done.stderr
    assert "int8 ONNX" in done.stdout


@pytest.mark.parametrize(
    "stage",
    ["data", "float", "calibration", "evaluate", "qat", "align"],
)
def test_runs_are_found_by_the_data_that_they_read(two_sets: Project, stage: str) -> None:
    if not any(run.info.status == "FINISHED" for run in two_sets.runs(stage)):
        ran(two_sets, stage)
    run = next(run for run in two_sets.runs(stage) if run.info.status == "FINISHED")
    digest = digest_of(run)[:36]  # as much as MLflow keeps
    found = two_sets.client.search_runs([run.info.experiment_id], f"dataset.digest = '{digest}'")
    assert run.info.run_id in {item.info.run_id for item in found}
