"""The study of what transfers, on tiny trainings: each once, and taken up again."""

import io
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import yaml

from carkp.config.loading import load_config
from carkp.config.schema import AugmentConfig
from carkp.measurements.record import RecordError, load_record
from carkp.workflow.cli import USER_ERRORS, guarded
from carkp.workflow.real_cars import load_real_cars
from tests.real_cars import DrawnCar, write_list
from tests.stages.conftest import ROOT, TINY, Outcome, Project, copy_project

STUDY = runpy.run_path(str(ROOT / "experiments" / "transfer.py"), run_name="transfer")
CARS = [DrawnCar("a.png", traits={"kind": "suv", "heading": "rear"}), DrawnCar("b.png", traits={"kind": "bus"})]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return copy_project(tmp_path_factory.mktemp("transfer") / "carkp")


def study(project: Project, folder: Path, *arguments: str) -> Outcome:
    """The command, in this process."""
    out, error = io.StringIO(), io.StringIO()
    words = ["transfer.py", str(folder), "--config", TINY, "--set", "train.epochs=1", *arguments]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.chdir(project.path)
        patch.setenv("MLFLOW_TRACKING_URI", project.uri)
        patch.setattr(sys, "argv", words)
        mlflow.set_tracking_uri(project.uri)
        status = guarded(STUDY["main"])
    return Outcome(status, out.getvalue(), error.getvalue())


@pytest.mark.slow
def test_finished_trainings_are_kept_with_their_difference_whichever_was_first(
    project: Project, tmp_path: Path
) -> None:
    folder = write_list(tmp_path / "cars", CARS)
    done = study(project, folder, "--steps", "+ augmentation")
    assert done.returncode == 0, done.stderr
    assert len(project.runs("float")) == 1
    record = project.path / "reports" / "measurements" / "transfer.yaml"
    assert not record.exists()
    done = study(project, folder, "--steps", "plain, + augmentation", "--record")
    assert done.returncode == 0, done.stderr
    assert len(project.runs("float")) == 2
    kept = yaml.safe_load((project.path / "runs" / "transfer" / "trainings.yaml").read_text())["trainings"]
    recorded = load_record(record)
    given = STUDY["Study"](ROOT / TINY, ["train.epochs=1"], load_real_cars([str(folder)]))
    assert STUDY["Results"](tmp_path / "elsewhere", record, given).rows == recorded.details["trainings"]
    other = replace(given, given=["train.epochs=2"])
    assert STUDY["Results"](tmp_path / "elsewhere", record, other).rows == []
    (table,) = recorded.tables
    assert [(row["step"], row["seed"], row["difference"] is not None) for row in table.rows] == [
        ("+ augmentation", 0, True),
        ("plain", 0, False),
    ]
    assert [(row["step"], row["against"], row["seed"], row["num_cars"]) for row in kept] == [
        ("+ augmentation", "plain", 0, 2),
        ("plain", "", 0, 2),
    ]
    assert [sorted(row["difference"]) for row in kept] == [["0.05", "0.1"], []]
    (newest, *_) = project.runs("float")
    assert kept[1]["generated_pck"]["test"] == round(newest.data.metrics["test/pck"], 4)
    assert (project.path / "runs" / "transfer" / "augmentation_0.pt").is_file()
    done = study(project, folder, "--steps", "plain", "--name", "other", "--record")
    assert done.returncode == 0, done.stderr
    assert len(project.runs("float")) == 3
    assert [row["step"] for row in load_record(record.with_name("other.yaml")).details["trainings"]] == ["plain"]
    assert len(load_record(record).details["trainings"]) == 2
    for changed in (["--set", "train.lr=1e-4"], ["--seeds", "1", "--set", "augment.gamma=0.1"]):
        done = study(project, folder, *changed)
        assert done.returncode == 1
        assert "has trainings with other settings or other real cars: + augmentation (seed 0)" in done.stderr
    done = study(project, write_list(tmp_path / "fewer", CARS[:1]))
    assert "has trainings with other settings or other real cars" in done.stderr
    assert len(project.runs("float")) == 3


def test_a_record_that_cannot_be_read_is_named(project: Project, tmp_path: Path) -> None:
    record = tmp_path / "transfer.yaml"
    record.write_text("trainings: []\n")
    with pytest.raises(
        RecordError, match=r"transfer\.yaml: name: Field required; correct the entry, or write the file"
    ):
        STUDY["Results"](tmp_path / "none", record, None)
    assert RecordError in USER_ERRORS


def test_a_student_without_a_teacher_is_refused(project: Project, tmp_path: Path) -> None:
    done = study(project, write_list(tmp_path / "cars", CARS), "--steps", "+ distillation")
    assert done.returncode == 1
    assert "+ distillation is taught by teacher, which comes first" in done.stderr


def test_every_step_is_held_against_one_before_it() -> None:
    before: list[str] = []
    for step in STUDY["steps"]():
        assert step.against in before or (step.name, step.against) == ("plain", "")
        assert not step.teacher or step.teacher in before
        before.append(step.name)
    assert len(set(before)) == len(before)


def test_steps_are_named_in_the_error(project: Project, tmp_path: Path) -> None:
    done = study(project, write_list(tmp_path / "cars", CARS), "--steps", "magic")
    assert done.returncode == 1
    assert "no step is called magic; there are: plain, + augmentation" in done.stderr


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", ""])
def test_a_name_that_is_no_file_name_is_refused(project: Project, tmp_path: Path, name: str) -> None:
    done = study(project, write_list(tmp_path / "cars", CARS), "--name", name)
    assert done.returncode == 1
    assert "give letters, digits, _ and -" in done.stderr


def test_first_weights_that_know_cars_are_refused(project: Project, tmp_path: Path) -> None:
    done = study(project, write_list(tmp_path / "cars", CARS), "--set", "model.pretrained=carkp-car12")
    assert done.returncode == 1
    assert "model.pretrained=carkp-car12 knows cars already" in done.stderr


def test_the_plain_step_has_no_other_augmentation_than_the_reference_and_colour_jitter() -> None:
    plain = STUDY["split_overrides"](STUDY["PLAIN_AUGMENTATION"])
    config = load_config(ROOT / "configs" / "shipped.yaml", plain)
    assert config.augment == AugmentConfig(color_jitter=0.3)


def test_the_longer_step_has_three_times_the_epochs_of_the_configuration(tmp_path: Path) -> None:
    found = {
        step.name: step.config(ROOT / TINY, ["train.epochs=5", "rendered.meshes=meshes"], 0).train.epochs
        for step in STUDY["steps"]()
        if not step.teacher
    }
    assert found.pop("+ three times as long") == 15
    assert set(found.values()) == {5}
