"""Adaptation on the tiny configuration: it runs, what it logs, what takes its model, and when it refuses to ship."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import Run
from torch import nn

from carkp.config.loading import load_config
from carkp.training.checkpoint import load_checkpoint, load_net, weights_digest
from carkp.workflow import judging
from carkp.workflow.adaptation import REFUSED_NAME
from carkp.workflow.judging import Measured
from carkp.workflow.references import FLOAT, resolve_model
from carkp.workflow.report.sources import find_family
from tests.stages.conftest import ROOT, TINY, Project

QUICK = ("--set", "train.num_workers=0", "--set", "data.num_workers=1", "--set", "quant.sweep=[]")
SURE = ("--set", "adapt.min_confidence=0")  # an untrained network is sure of nothing
FORGETFUL = ("--set", "adapt.max_loss_on_generated=1")  # the few keypoints that it finds, it may lose


def raw_of(project: Project) -> Path:
    """The generated frames, as a user has pictures of his own."""
    return next(project.path.glob("data/*/raw"))


def unlabelled_of(project: Project) -> list[str]:
    scenes = sorted((raw_of(project) / "train").iterdir())
    scene = max(scenes, key=lambda path: len(list((path / "images_jpg").iterdir())))  # one picture cannot be held out
    return ["--images", str(scene / "images_jpg"), "--boxes", str(scene / "bb")]


@pytest.fixture(scope="module")
def adapted(trained: Project) -> Run:
    words = [*unlabelled_of(trained), "--labels", str(raw_of(trained))]
    done = trained.stage("adapt", *QUICK, *SURE, *FORGETFUL, *words)
    assert done.returncode == 0, done.stderr
    assert "pck on generated validation: " in done.stdout
    assert "pck on labelled cars held out: " in done.stdout
    return trained.runs("adapt")[0]


def artifact(run: Run, path: str) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://")) / path


def test_a_run_says_what_it_was_worth_before_and_is_worth_after(trained: Project, adapted: Run) -> None:
    metrics = adapted.data.metrics
    for name in ("val/pck", "holdout/agreement", "holdout/trusted", "labelled/pck"):
        assert 0 <= metrics[name] <= 1
        assert 0 <= metrics[f"before/{name}"] <= 1
    assert metrics["before/val/pck"] == pytest.approx(trained.training().data.metrics["val/pck"])
    assert metrics["train/trusted"] > 0
    assert metrics["data/num_unlabelled_held_out"] > 0
    assert metrics["data/num_labelled_scored"] == 8  # the test cars of the source itself
    assert {"test/pck", "onnx/max_abs_difference"} <= set(metrics)


def test_what_is_logged_is_the_model_that_learnt(trained: Project, adapted: Run) -> None:
    float_run = next(run for run in trained.runs("float") if run.info.run_id == adapted.data.tags["carkp.source_run"])
    best = load_checkpoint(artifact(adapted, "checkpoints/best.pt"))
    assert weights_digest(best.weights) == adapted.data.tags["carkp.model_digest"]
    assert adapted.data.tags["carkp.model_digest"] != float_run.data.tags["carkp.model_digest"]
    assert load_net(best).training is False
    assert best.epoch == 2  # the last one, whatever validation said
    assert {"onnx/float.onnx", "predictions/test.npz"} <= {
        *trained.artifacts(adapted, "onnx"),
        *trained.artifacts(adapted, "predictions"),
    }
    assert "pictures/unlabelled.jpg" in trained.artifacts(adapted, "pictures")
    assert trained.artifacts(adapted, "checkpoints") == {"checkpoints/best.pt"}
    assert not (trained.path / "runs" / adapted.info.run_id).exists()


def test_its_model_is_calibrated_where_it_is_named_and_latest_stays_float(
    trained: Project, adapted: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = trained.stage("calibration", *QUICK, "--model", f"runs:/{adapted.info.run_id}")
    assert done.returncode == 0, done.stderr
    named = trained.finished("calibration")[0]
    assert named.data.tags["carkp.float_model"] == f"runs:/{adapted.info.run_id}/checkpoints/best.pt"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    family = find_family(load_config(ROOT / TINY, []), named.info.run_id, "bpu")
    assert family.runs["float"].run_id == adapted.info.run_id
    latest = resolve_model("latest", FLOAT, {"carkp.experiment": "tiny"})
    assert latest.run_id == adapted.data.tags["carkp.source_run"]


def test_it_predicts_and_can_be_adapted_again(trained: Project, adapted: Run, tmp_path: Path) -> None:
    reference = f"runs:/{adapted.info.run_id}"
    images, boxes = unlabelled_of(trained)[1::2]
    words = ["--image", images, "--boxes", boxes, "--output", str(tmp_path), "--model", reference, "--no-track"]
    done = trained.stage("infer", *words)
    assert done.returncode == 0, done.stderr
    done = trained.stage(
        "adapt", *QUICK, *FORGETFUL, "--labels", str(raw_of(trained)), "--model", reference, "--set", "adapt.epochs=1"
    )
    assert done.returncode == 0, done.stderr
    again = trained.runs("adapt")[0]
    assert again.data.tags["carkp.source_run"] == adapted.info.run_id
    assert again.data.tags["carkp.unlabelled_digest"] == "none"
    assert "train/trusted" not in again.data.metrics
    assert "holdout/agreement" not in again.data.metrics


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every measurement finds less than the one before."""
    real: Callable[[judging.Judge, nn.Module], Measured] = judging.Judge.measure
    worth = iter((0.9, 0.85))

    def measure(judge: judging.Judge, net: nn.Module) -> Measured:
        found = real(judge, net)
        return replace(found, val=replace(found.val, pck=next(worth)))

    monkeypatch.setattr(judging.Judge, "measure", measure)


@pytest.mark.usefixtures("forgetful")
def test_a_model_that_forgets_is_refused_and_kept_under_another_name(trained: Project) -> None:
    done = trained.stage("adapt", *QUICK, *unlabelled_of(trained), "--set", "adapt.epochs=1")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "it lost 0.0500 of PCK" in done.stderr
    assert "0.9000 before, 0.8500 after" in done.stderr
    assert "adapt.max_loss_on_generated=0.01 is allowed" in done.stderr
    run = trained.runs("adapt")[0]
    assert run.info.status == "FAILED"
    assert trained.artifacts(run, "checkpoints") == {f"checkpoints/{REFUSED_NAME}"}
    assert load_checkpoint(artifact(run, f"checkpoints/{REFUSED_NAME}")).epoch == 1
    assert run.data.metrics["before/val/pck"] == pytest.approx(0.9)
    done = trained.stage("calibration", "--model", f"runs:/{run.info.run_id}")
    assert "has no artifact checkpoints/best.pt" in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "nothing to adapt to: give images"),
        (("--boxes", "boxes.json"), "boxes are given without images"),
        (("--images", "nowhere"), "no such picture, video or folder"),
        (("--labels", "nowhere"), "the data source nowhere does not exist"),
        (("--labels", "configs", "--model", "nowhere.pt"), "nowhere.pt: no such file"),
        (("--images", "configs", "--set", "adapt.target_share=1"), "adapt.target_share"),
        (("--images", "configs", "--set", "adapt.warmup_epochs=9"), "warmup_epochs=9 must not be more than epochs=2"),
    ],
)
def test_what_cannot_be_done_is_refused(trained: Project, words: tuple[str, ...], text: str) -> None:
    done = trained.stage("adapt", *words)
    assert done.returncode == 1
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_model_is_refused_before_data_are_made(trained: Project) -> None:
    before = len(trained.runs("data"))
    done = trained.stage("adapt", *QUICK, "--labels", "configs", "--set", "name=untrained", "--set", "synthetic.seed=9")
    assert done.returncode == 1
    assert "no finished float run (experiment untrained)" in done.stderr
    assert "or give carkp-car12" in done.stderr
    assert len(trained.runs("data")) == before
