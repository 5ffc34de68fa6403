"""The pipeline: what it runs, what it uses again, and how it goes on. Most of it with stages that only pretend."""

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mlflow.entities import Run

from carkp.config.loading import load_config
from carkp.config.schema import ExperimentConfig
from carkp.processes import process_name
from carkp.stages import pipeline
from carkp.synthetic.generate import generate
from carkp.tracking.runs import FoundRun, find_latest_run, find_run
from carkp.training.checkpoint import Checkpoint, save_checkpoint
from carkp.workflow import decisions, preparation, reuse, steps
from carkp.workflow.reuse import INPUTS_FILE, INPUTS_TAG
from carkp.workflow.source_code import SourceCode, source_code
from tests.stages.conftest import ROOT, TINY, Project, copy_project

NAMES = [step.stage for step in steps.STEPS]


def tiny(*overrides: str) -> ExperimentConfig:
    return load_config(ROOT / TINY, overrides)


@dataclass
class Pretence:
    """Stages that leave the tags and the artifact of real ones at once; ``calls`` are their command lines."""

    project: Project
    calls: list[Sequence[str]] = field(default_factory=list)
    failing: str = ""
    data_digest: str = "d"
    stale: str = ""
    metrics: dict[str, float] = field(default_factory=lambda: {"test/pck": 0.5})

    @property
    def stages(self) -> list[str]:
        return [command[2].rpartition(".")[2] for command in self.calls]

    def launch(self, command: Sequence[str], run_id: str, on_start: Callable[[int], None]) -> int:
        on_start(os.getpid())
        self.calls.append(command)
        stage = self.stages[-1]
        config = load_config(
            self.project.path / TINY, [command[i + 1] for i, word in enumerate(command) if word == "--set"]
        )
        step = next(step for step in steps.STEPS if step.stage == stage)
        words = dict(zip(command[3::2], command[4::2], strict=True))
        runs = {
            name: find_run(given.removeprefix("runs:/"))
            for parameter, names in step.needs.items()
            for name, given in zip(names, words[f"--{parameter}"].split(","), strict=True)
        }
        latest = {name: find_latest_run(name, {}) for name in step.finds}
        inputs = step.inputs(config, runs | latest)
        digest = inputs.digest
        client = self.project.client
        tags = {
            "carkp.stage": stage,
            "carkp.experiment": config.name,
            INPUTS_TAG: digest,
            "carkp.data_digest": self.data_digest,
            "carkp.model_digest": f"m{digest}",
        }
        client.log_text(run_id, inputs.to_json(), INPUTS_FILE)
        for name, value in tags.items():
            client.set_tag(run_id, name, value)
        if stage == self.failing:
            for name in ("best", "last"):
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / f"{name}.pt"
                    save_checkpoint(Checkpoint({}, {}, {}, 1, {}), path)
                    client.log_artifact(run_id, str(path), "checkpoints")
            return 1
        if stage == "data":
            client.set_tag(run_id, "carkp.data_key", preparation.data_key(config))
        client.log_text(run_id, "content", step.artifact_of(config))
        for name, number in self.metrics.items():
            client.log_metric(run_id, name, number)
        client.set_terminated(run_id, "FINISHED")
        return 0


@pytest.fixture
def pretence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretence:
    """A project of its own whose stages pretend."""
    pretence = Pretence(copy_project(tmp_path / "carkp"))
    monkeypatch.setattr(pipeline, "launch", pretence.launch)
    # nothing lies in stores that only pretend
    stores = preparation.PreparedData(tmp_path, "d")
    for module in (steps, decisions):
        monkeypatch.setattr(module, "find_data", lambda config, reference: stores)
        monkeypatch.setattr(module, "stale_reason", lambda config, prepared: pretence.stale)
    return pretence


def redone(pretence: Pretence, *arguments: str) -> list[str]:
    """The stages that a call of the pipeline runs."""
    pretence.calls.clear()
    done = pretence.project.stage("pipeline", *arguments)
    assert done.returncode == 0, done.stderr
    return pretence.stages


def test_steps_run_in_order_once_and_then_only_what_changed(pretence: Pretence) -> None:
    assert redone(pretence) == NAMES
    first = pretence.project.runs("main")[0]
    assert redone(pretence) == []
    second = pretence.project.runs("main")[0]
    for name in NAMES:
        assert second.data.tags[f"carkp.pipeline.{name}"] == first.data.tags[f"carkp.pipeline.{name}"]
    assert redone(pretence, "--set", "tracking.num_kept_crops=3") == []
    assert redone(pretence, "--overrides", "quant.percentile=99.9") == NAMES[NAMES.index("calibration") :]
    assert redone(pretence, "--set", "train.lr=0.1") == NAMES[NAMES.index("float") :]
    assert redone(pretence, "--set", "align.moved_px=0.4") == ["align", "report"]
    assert redone(pretence, "--set", "quant.target=onnxruntime_cpu") == NAMES[NAMES.index("calibration") :]
    assert redone(pretence, "--force", "true") == NAMES


def change_code(patch: pytest.MonkeyPatch, module: str = "", package: str = "") -> None:
    """From now on ``module`` has other code, or ``package`` another version."""

    def changed(roots: Sequence[str], left_out: Sequence[str] = ()) -> SourceCode:
        found = source_code(roots, left_out)
        modules = {name: "changed" if name == module else digest for name, digest in found.modules.items()}
        versions = {name: "99.0" if name == package else version for name, version in found.versions.items()}
        return SourceCode(modules, versions)

    for user in (reuse, preparation):
        patch.setattr(user, "source_code", changed)


@pytest.mark.parametrize(
    ("module", "first"),
    [
        ("carkp.training.optim", "float"),
        ("carkp.quant.sqnr", "calibration"),
        ("carkp.deploy.int8_graph", "export"),
        ("carkp.quant.simulate", "align"),
        ("carkp.deploy.perf", "compile"),
        ("carkp.report.accuracy", "report"),
        ("carkp.tracking.runs", ""),
    ],
)
def test_other_code_does_its_steps_again(
    pretence: Pretence, monkeypatch: pytest.MonkeyPatch, module: str, first: str
) -> None:
    redone(pretence)
    change_code(monkeypatch, module=module)
    plan = pretence.project.stage("pipeline", "--dry_run", "true").stdout
    assert (f"in code of {module}" in plan) == bool(first)
    assert redone(pretence)[:1] == [first] * bool(first)
    assert redone(pretence) == []


@pytest.mark.parametrize(("package", "first"), [("timm", "float"), ("onnxruntime", "float")])
def test_another_version_of_a_package_does_its_steps_again(
    pretence: Pretence, monkeypatch: pytest.MonkeyPatch, package: str, first: str
) -> None:
    redone(pretence)
    change_code(monkeypatch, package=package)
    plan = pretence.project.stage("pipeline", "--dry_run", "true").stdout
    assert f"{package} {importlib.metadata.version(package)} -> 99.0" in plan
    assert redone(pretence)[0] == first
    assert redone(pretence) == []


def test_a_dry_run_says_why_and_does_nothing(pretence: Pretence) -> None:
    first = pretence.project.stage("pipeline", "--dry_run", "true")
    assert first.returncode == 0, first.stderr
    assert "data: to be done (not done before in the experiment tiny)" in first.stdout
    assert "float: to be done (if data give another result)" in first.stdout
    assert "report: to be done (if align or check or compile give another result)" in first.stdout
    assert pretence.calls == []
    assert pretence.project.runs("main") == pretence.project.runs("dry_run") == []
    redone(pretence)
    (float_run,) = pretence.project.runs("float")
    changes = "train.lr=0.1 seed=5 quant.percentile=99"
    lines = pretence.project.stage("pipeline", "--dry_run", "true", "--overrides", changes).stdout.splitlines()
    assert lines[0].startswith("data: reused, run ")
    assert lines[0].endswith("(same settings, inputs, code and versions)")
    differing = f"differs from run {float_run.info.run_id} in seed 0 -> 5, train.lr 0.0015 -> 0.1"
    assert lines[1] == f"float: to be done ({differing})"
    assert lines[2] == "calibration: to be done (if float give another result)"
    assert len(pretence.project.runs("main")) == 1


def test_a_dry_run_of_mlflow_is_noted_in_its_run(pretence: Pretence, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = pretence.project.client.create_experiment("mine")
    run = pretence.project.client.create_run(experiment)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    assert pretence.project.stage("pipeline", "--dry_run", "true").returncode == 0
    tags = pretence.project.client.get_run(run.info.run_id).data.tags
    assert tags["carkp.stage"] == "dry_run"
    assert "nothing was done" in tags["mlflow.note.content"]


def test_the_reason_is_what_differs_from_the_nearest_run(pretence: Pretence) -> None:
    redone(pretence)
    redone(pretence, "--set", "train.lr=0.1", "--set", "seed=3")
    done = pretence.project.stage("pipeline", "--set", "train.lr=0.1")
    assert "float: to be done (differs from run" in done.stdout
    assert "in seed 3 -> 0)" in done.stdout
    forced = pretence.project.stage("pipeline", "--force", "true")
    assert "compile: to be done (force=true)" in forced.stdout


def test_stale_data_are_prepared_again_and_the_reason_is_said(pretence: Pretence) -> None:
    redone(pretence)
    pretence.stale = "the files of raw have changed since"
    done = pretence.project.stage("pipeline")
    assert "data: to be done (the files of raw have changed since)" in done.stdout
    assert pretence.stages[-1:] == ["data"]  # the same content as before: the rest still holds
    pretence.data_digest = "e"
    done = pretence.project.stage("pipeline")
    assert "in another data)" in done.stdout
    assert redone(pretence) == ["data"]


def test_data_of_other_code_are_named_with_the_module(pretence: Pretence, monkeypatch: pytest.MonkeyPatch) -> None:
    redone(pretence)
    pretence.stale = "the code that prepares data is another one since"
    change_code(monkeypatch, module="carkp.data.crops")
    plan = pretence.project.stage("pipeline", "--dry_run", "true").stdout
    assert f"data: to be done ({pretence.stale}: code of carkp.data.crops)" in plan


def test_a_run_of_before_inputs_were_recorded_is_named(pretence: Pretence) -> None:
    redone(pretence)
    (export,) = pretence.project.runs("export")
    (Path(export.info.artifact_uri.removeprefix("file://")) / INPUTS_FILE).unlink()
    plan = pretence.project.stage("pipeline", "--dry_run", "true", "--set", "eval.alpha=0.2").stdout
    assert "float: to be done (differs" in plan
    shutil.rmtree(Path(export.info.artifact_uri.removeprefix("file://")) / "onnx")
    plan = pretence.project.stage("pipeline", "--dry_run", "true").stdout
    assert f"export: to be done (run {export.info.run_id} has no record of its inputs)" in plan


def test_the_report_hangs_on_the_runs_that_it_finds(pretence: Pretence) -> None:
    redone(pretence)
    client = pretence.project.client
    for name in ("check", "compile", "align"):
        client.delete_run(pretence.project.runs(name)[0].info.run_id)
        assert redone(pretence) == [name, "report"]
    client.delete_run(pretence.project.runs("report")[0].info.run_id)
    assert redone(pretence) == ["report"]
    assert redone(pretence) == []


def test_edited_files_of_a_source_are_prepared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, step = tmp_path / "source", steps.STEPS[0]
    generate(source, preparation.synthetic_spec(tiny()), num_workers=1)
    project, override = copy_project(tmp_path / "carkp"), f"data.source={source}"
    monkeypatch.chdir(project.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.uri)
    config = tiny(override)

    def prepared() -> FoundRun | None:
        return steps.find_prepared(step, config, "")

    for _ in range(2):
        done = project.stage("data", "--set", override)
        assert done.returncode == 0, done.stderr
        found = prepared()
        assert found is not None
        assert found.run_id == project.runs("data")[0].info.run_id
        edited = next(iter(source.rglob("gt/*.txt")))
        edited.write_text(edited.read_text() + "\n")
        assert prepared() is None
    shutil.rmtree(source)
    assert prepared() is not None  # nothing to compare with, nothing to prepare


def test_a_configuration_that_is_edited_under_way_stops_the_pipeline(
    pretence: Pretence, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pretence.project.path / TINY
    text = path.read_text()

    def launch(command: Sequence[str], run_id: str, on_start: Callable[[int], None]) -> int:
        status = pretence.launch(command, run_id, on_start)
        path.write_text(f"{text}\nseed: 7\n")
        return status

    monkeypatch.setattr(pipeline, "launch", launch)
    done = pretence.project.stage("pipeline")
    assert done.returncode == 1
    assert "the configuration was edited while the pipeline ran (seed 0 -> 7)" in done.stderr
    assert pretence.stages == ["data"]


def test_a_step_of_other_inputs_than_decided_on_is_told(pretence: Pretence, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(command: Sequence[str], run_id: str, on_start: Callable[[int], None]) -> int:
        with pytest.MonkeyPatch.context() as patch:
            change_code(patch, module="carkp.quant.sqnr")
            return pretence.launch(command, run_id, on_start)

    monkeypatch.setattr(pipeline, "launch", launch)
    done = pretence.project.stage("pipeline")
    assert done.returncode == 0, done.stderr
    (warning,) = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: calibration: run ")
    assert warning.endswith("used other inputs than expected (code of carkp.quant.sqnr)")


def test_stages_get_the_configuration_and_the_runs_before_them(pretence: Pretence) -> None:
    redone(pretence, "--overrides", "seed=5 'data.val_scenes=[car_craig2, car_butler1]'")
    run = pretence.project.runs("main")[0]
    of = {name: run.data.tags[f"carkp.pipeline.{name}"] for name in NAMES}
    words = {name: list(call[3:]) for name, call in zip(NAMES, pretence.calls, strict=True)}
    common = ["--config", TINY, "--set", "seed=5", "--set", "data.val_scenes=[car_craig2, car_butler1]"]
    assert words["data"] == common
    assert words["float"] == [*common, "--data", f"runs:/{of['data']}"]
    assert words["align"] == [*common, "--data", f"runs:/{of['data']}", "--model", f"runs:/{of['export']}"]
    assert words["report"] == [*common, "--runs", of["align"]]
    for name in NAMES:
        child = pretence.project.client.get_run(of[name])
        assert child.data.tags["mlflow.parentRunId"] == run.info.run_id
        assert child.info.experiment_id == run.info.experiment_id
        assert child.info.run_name == f"{name} tiny"
    assert run.data.metrics["float/test/pck"] == 0.5
    assert "| align | done | not done before in the experiment tiny |" in run.data.tags["mlflow.note.content"]
    assert run.info.status == "FINISHED"


def test_a_failure_stops_with_the_step_s_name_and_the_next_call_goes_on(pretence: Pretence) -> None:
    pretence.failing = "align"
    done = pretence.project.stage("pipeline")
    assert done.returncode == 1
    assert "error: align failed" in done.stderr
    assert "same command again" in done.stderr
    assert "Traceback" not in done.stderr
    run = pretence.project.runs("main")[0]
    assert run.info.status == "FAILED"
    assert "align failed" in run.data.tags["mlflow.note.content"]
    assert [item.info.status for item in pretence.project.runs("align")] == ["FAILED"]
    pretence.failing = ""
    assert redone(pretence) == NAMES[NAMES.index("align") :]


def test_nothing_is_trained_where_a_split_is_empty(pretence: Pretence) -> None:
    pretence.metrics = {"data/num_train": 9, "data/num_val": 3, "data/num_test": 0}
    done = pretence.project.stage("pipeline")
    assert done.returncode == 1
    assert "data/num_test = 0" in done.stderr
    (run,) = pretence.project.runs("main")
    assert "data/num_test = 0" in run.data.tags["mlflow.note.content"]
    assert pretence.stages == ["data"]


def test_a_run_without_its_artifact_is_not_used_again(pretence: Pretence) -> None:
    redone(pretence)
    (export,) = pretence.project.runs("export")
    shutil.rmtree(Path(export.info.artifact_uri.removeprefix("file://")) / "onnx")
    assert redone(pretence) == ["export"]  # the same program again: what was made of it still holds


def test_training_goes_on_from_a_checkpoint_of_the_same_configuration_alone(pretence: Pretence) -> None:
    pretence.failing = "float"
    assert pretence.project.stage("pipeline").returncode == 1
    (unfinished,) = pretence.project.runs("float")
    pretence.failing = ""
    redone(pretence, "--set", "train.lr=0.1")
    assert "--resume" not in pretence.calls[0]
    redone(pretence, "--force", "true", "--set", "seed=0")
    assert all("--resume" not in call for call in pretence.calls)
    pretence.project.client.delete_run(pretence.project.runs("float")[0].info.run_id)
    redone(pretence)
    assert pretence.calls[0][-2:] == ["--resume", f"runs:/{unfinished.info.run_id}"]


def test_half_a_checkpoint_is_passed_over(pretence: Pretence) -> None:
    pretence.failing = "float"
    for _ in range(2):
        assert pretence.project.stage("pipeline").returncode == 1
    newer, older = pretence.project.runs("float")
    last = Path(newer.info.artifact_uri.removeprefix("file://")) / "checkpoints/last.pt"
    last.write_bytes(last.read_bytes()[:100])
    pretence.failing = ""
    redone(pretence)
    assert pretence.calls[0][-1] == f"runs:/{older.info.run_id}"


def killed(pretence: Pretence, process: str, step_process: str) -> Run:
    """A pipeline in the middle of float as a hard kill leaves it: both runs say that they run."""
    pretence.failing = "float"
    assert pretence.project.stage("pipeline").returncode == 1
    pretence.failing = ""
    run, client = pretence.project.runs("main")[0], pretence.project.client
    client.set_tag(run.info.run_id, pipeline.PROCESS_TAG, process)
    client.set_tag(run.info.run_id, pipeline.STEP_PROCESS_TAG, step_process)
    for found in (run, pretence.project.runs("float")[0]):
        client.update_run(found.info.run_id, status="RUNNING")
    return run


def gone() -> str:
    host, pid, start = process_name(os.getpid()).split()
    return f"{host} {pid} {float(start) - 100:.0f}"


def test_runs_of_a_killed_pipeline_are_ended(pretence: Pretence) -> None:
    run = killed(pretence, gone(), gone())
    (left,) = pretence.project.runs("float")
    assert redone(pretence)[0] == "float"
    assert pretence.project.client.get_run(run.info.run_id).info.status == "KILLED"
    assert pretence.project.client.get_run(left.info.run_id).info.status == "KILLED"


def test_a_step_that_outlives_its_pipeline_is_not_started_twice(pretence: Pretence) -> None:
    killed(pretence, gone(), process_name(os.getpid()))
    pretence.calls.clear()
    done = pretence.project.stage("pipeline")
    assert done.returncode == 1
    assert "still runs" in done.stderr
    assert pretence.calls == []


def test_a_pipeline_that_has_just_started_is_left_alone(pretence: Pretence) -> None:
    run = killed(pretence, gone(), gone())
    pretence.project.client.delete_tag(run.info.run_id, pipeline.PROCESS_TAG)
    redone(pretence)
    assert pretence.project.client.get_run(run.info.run_id).info.status == "RUNNING"


def test_runs_of_a_living_pipeline_are_left_alone(pretence: Pretence) -> None:
    run = killed(pretence, process_name(os.getpid()), gone())
    redone(pretence)
    assert pretence.project.client.get_run(run.info.run_id).info.status == "RUNNING"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--force", "maybe"], "force='maybe'"), (["--set", "quant.target=toaster"], "toaster.yaml: no such")],
)
def test_mistakes_end_in_one_line(pretence: Pretence, arguments: list[str], message: str) -> None:
    done = pretence.project.stage("pipeline", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert pretence.calls == []


@pytest.mark.slow
def test_the_whole_chain_with_mlflow_run_and_by_hand(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "carkp")
    assert project.stage("float").returncode == 0  # by hand, before: counts
    command = ["mlflow", "run", ".", "--env-manager", "local", "--experiment-name", "mine", "-P", f"config={TINY}"]
    done = project.call(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    run = project.runs("main")[0]
    assert run.info.status == "FINISHED"
    assert "float: reused" in done.stdout
    assert {"float/test/pck", "calibration/test/pck", "align/simulated/pck", "compile/host/latency_ratio"} <= set(
        run.data.metrics
    )
    for step in steps.STEPS[2:]:
        child = project.client.get_run(run.data.tags[f"carkp.pipeline.{step.stage}"])
        assert (child.info.status, child.info.experiment_id) == ("FINISHED", run.info.experiment_id)
        assert child.data.tags["mlflow.note.content"], step.stage
    again = project.call(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [line.split(":")[0] for line in again.stdout.splitlines() if ": reused" in line] == NAMES
