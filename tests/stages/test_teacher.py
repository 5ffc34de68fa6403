"""Float training with a teacher: counted by its content, refused where the student could not learn from it."""

from pathlib import Path

import pytest
from mlflow.entities import Run

from carkp.workflow.reuse import INPUTS_TAG
from tests.stages.conftest import Project

SHORT = ("--set", "train.epochs=1", "--set", "name=taught")


def taught(project: Project, reference: str, *words: str) -> Run:
    done = project.stage("float", *SHORT, "--set", f"train.teacher={reference}", *words)
    assert done.returncode == 0, done.stderr
    return project.finished("float")[0]


def refused(project: Project, reference: str, *words: str) -> str:
    done = project.stage("float", *SHORT, "--set", f"train.teacher={reference}", *words)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.slow
def test_a_teacher_counts_by_its_content_whatever_names_it(trained: Project, tmp_path: Path) -> None:
    teacher = trained.training()
    best = Path(teacher.info.artifact_uri.removeprefix("file://")) / "checkpoints" / "best.pt"
    copy = tmp_path / "teacher.pt"
    copy.write_bytes(best.read_bytes())
    by_run, by_file = (taught(trained, reference) for reference in (f"runs:/{teacher.info.run_id}", str(copy)))
    for run in (by_run, by_file):
        assert run.data.tags["carkp.teacher_digest"] == teacher.data.tags["carkp.model_digest"]
    assert by_run.data.tags[INPUTS_TAG] == by_file.data.tags[INPUTS_TAG]
    assert by_run.data.tags["carkp.model_digest"] == by_file.data.tags["carkp.model_digest"]
    alone = trained.stage("float", *SHORT)
    assert alone.returncode == 0
    untaught = trained.finished("float")[0]
    assert untaught.data.tags[INPUTS_TAG] != by_run.data.tags[INPUTS_TAG]
    assert untaught.data.tags["carkp.model_digest"] != by_run.data.tags["carkp.model_digest"]


def test_the_newest_model_of_another_experiment_can_be_the_teacher(trained: Project) -> None:
    teacher = trained.training()
    assert taught(trained, "latest:tiny").data.tags["carkp.teacher_digest"] == teacher.data.tags["carkp.model_digest"]


@pytest.mark.parametrize(
    ("reference", "words", "text"),
    [
        ("latest", (), "would soon be the student itself"),
        ("latest:nobody", (), "no finished float run (experiment nobody)"),
        ("nowhere.pt", (), "no such file"),
        ("latest:tiny", ("--set", "heatmap.sigma=2"), "heatmap.sigma 1.5, not 2.0"),
        ("latest:tiny", ("--set", "model.input_size=[64,96]"), "the network's input size is (64, 64) (height, width)"),
    ],
)
def test_a_teacher_of_no_use_is_refused_before_anything_is_done(
    trained: Project, reference: str, words: tuple[str, ...], text: str
) -> None:
    assert text in refused(trained, reference, *words)
