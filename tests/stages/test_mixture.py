"""Several sources as a user mixes them: generated cars and a CarFusion tree of their own, on the tiny configuration."""

import json
from pathlib import Path

import pytest
from mlflow.entities import Run

from carkp.config.loading import load_config
from carkp.data.store import LmdbStore
from carkp.keypoints.predictions import load_predictions
from carkp.synthetic.generate import generate
from carkp.workflow.preparation import data_directory, synthetic_spec
from carkp.workflow.steps import STEPS
from tests.rendered.painted_car import write_folder
from tests.stages.conftest import ROOT, TINY, Outcome, Project, copy_project
from tests.stages.test_staleness import lose_a_car

SHORT = ("--set", "train.epochs=1", "--set", "quant.sweep=[]", "--set", "data.num_workers=1")


class Mixed:
    """A project, a tree of the user's own beside it, and the sources that mix both."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.own = folder / "own"
        spec = synthetic_spec(load_config(ROOT / TINY, ["synthetic.seed=9", "synthetic.num_train_cars=12"]))
        generate(self.own, spec, num_workers=1, show_progress=False)
        self.project: Project = copy_project(folder / "carkp")

    def sources(self, share: float = 0.25) -> tuple[str, ...]:
        drawn, own = f"{{source: synthetic, share: {1 - share}}}", f"{{source: {self.own}, share: {share}}}"
        return (*SHORT, "--set", f"data.sources=[{drawn}, {own}]")

    def stage(self, name: str, *arguments: str) -> Outcome:
        return self.project.stage(name, *self.sources(), *arguments)

    def ran(self, name: str, *arguments: str) -> Outcome:
        done = self.stage(name, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def newest(self, stage: str) -> Run:
        return self.project.runs(stage)[0]

    def num_train_cars(self) -> dict[str, int]:
        """Of each source, as its store has them."""
        stores = {path.parts[-2].rpartition("-")[0]: path for path in (self.project.path / "data").glob("*/train_lmdb")}
        return {name: len(LmdbStore(path)) for name, path in stores.items()}

    def written(self) -> dict[str, int]:
        """When the stores of each source were written."""
        paths = (self.project.path / "data").glob("*/train_lmdb/data.mdb")
        return {path.parts[-3].rpartition("-")[0]: path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    """After ``float`` on a fresh clone and ``calibration``."""
    mixed = Mixed(tmp_path_factory.mktemp("mixture") / "mixed")
    done = mixed.ran("float")
    counts = mixed.num_train_cars()
    assert f"synthetic: 6 of every batch of 8, 30 per epoch out of {counts['synthetic']} training cars" in done.stdout
    assert f"own: 2 of every batch of 8, 10 per epoch out of {counts['own']} training cars" in done.stdout
    assert "val pck, which chooses the epoch, is computed on synthetic\n" in done.stdout
    mixed.ran("calibration")
    return mixed


def test_each_source_is_prepared_as_it_would_be_alone(trained: Mixed) -> None:
    before = trained.written()
    assert set(before) == {"synthetic", "own"}
    for source in ("synthetic", str(trained.own)):
        done = trained.project.stage("data", *SHORT, "--source", source)
        assert done.returncode == 0, done.stderr
    assert trained.written() == before
    run = trained.project.runs("data")[-1]
    counts = trained.num_train_cars()
    assert run.data.metrics["data/num_train"] == sum(counts.values())
    assert {name: run.data.metrics[f"data/num_train/{name}"] for name in counts} == counts
    files = {f"data/{name}" for name in ("summary.json", "contact_sheet.jpg", "synthetic", "own")}
    assert trained.project.artifacts(run, "data") == files
    assert trained.project.artifacts(run, "data/own") == {"data/own/summary.json", "data/own/contact_sheet.jpg"}


def test_the_summary_of_the_run_is_of_all_sources(trained: Mixed) -> None:
    run = trained.project.runs("data")[-1]
    text = trained.project.artifact(run, "data/summary.json").read_text()
    assert {name.partition("/")[0] for name in json.loads(text)["scenes"]["test"]} == {"synthetic", "own"}


@pytest.mark.parametrize("stage", ["float", "calibration"])
def test_scores_are_logged_by_source(trained: Mixed, stage: str) -> None:
    metrics = trained.newest(stage).data.metrics
    assert metrics["val/pck"] == metrics["val/pck/synthetic"]
    for split in ("val", "test"):
        for metric in ("pck", "pck_hat", "mean_dist"):
            assert {f"{split}/{metric}/{name}" for name in ("synthetic", "own")} <= metrics.keys()
    path = trained.project.artifact(trained.newest(stage), "predictions/test.npz")
    predictions = load_predictions(path)
    assert predictions.of_sources(["own"]).score(0.1).pck == pytest.approx(metrics["test/pck/own"])
    assert predictions.score(0.1).pck == pytest.approx(metrics["test/pck"])


def test_evaluate_repeats_the_scores_of_every_source(trained: Mixed) -> None:
    trained.ran("evaluate", "--stage", "float")
    before, after = trained.newest("float").data.metrics, trained.newest("evaluate").data.metrics
    names = [name for name in after if name.startswith(("val/pck", "test/pck"))]
    assert {"val/pck/own", "test/pck/synthetic"} <= set(names)
    assert {name: after[name] for name in names} == {name: before[name] for name in names}


def test_prepared_sources_are_used_again_and_their_shares_are_the_trainings(trained: Mixed) -> None:
    plan = trained.ran("pipeline", "--dry_run", "true").stdout.splitlines()
    assert plan[0].startswith("data: reused, run ")
    assert plan[1].startswith("float: reused, run ")
    assert plan[2].startswith("calibration: reused, run ")
    other = trained.project.stage("pipeline", *trained.sources(0.5), "--dry_run", "true").stdout.splitlines()
    assert other[0].startswith("data: reused, run ")
    assert other[1].startswith("float: to be done (differs from run ")
    assert other[1].endswith("share of own 0.25 -> 0.5, share of synthetic 0.75 -> 0.5)")


@pytest.mark.slow
def test_only_the_source_that_changed_is_prepared_again(tmp_path: Path) -> None:
    mixed = Mixed(tmp_path)
    mixed.ran("float")
    before = mixed.written()
    lose_a_car(mixed.own)
    plan = mixed.ran("pipeline", "--dry_run", "true").stdout.splitlines()
    assert plan[0].startswith(f"data: to be done (own: the files of {mixed.own} have changed since")
    assert "warning: data=latest is used as prepared in" in mixed.ran("evaluate").stderr
    done = mixed.ran("float")
    assert f"data: prepared again, own: the files of {mixed.own} have changed since" in done.stdout
    after = mixed.written()
    assert after["synthetic"] == before["synthetic"]
    assert after["own"] > before["own"]
    second, first = mixed.project.runs("float")
    assert second.data.tags["carkp.data_digest"] != first.data.tags["carkp.data_digest"]


@pytest.mark.slow
def test_resume_finds_the_training_on_the_same_sources(trained: Mixed) -> None:
    name = ("--set", "name=resumed", "--set", "train.epochs=2")
    trained.ran("float", *name)
    whole = trained.newest("float")
    trained.project.client.set_terminated(whole.info.run_id, "FAILED")
    other = trained.project.stage("float", *trained.sources(0.5), *name, "--resume", "latest")
    assert other.returncode == 1
    assert "share of own: 0.25 -> 0.5" in other.stderr
    trained.ran("float", *name, "--resume", "latest")
    assert trained.newest("float").data.metrics["val/pck/own"] == whole.data.metrics["val/pck/own"]


def test_a_source_given_beside_several_is_refused(trained: Mixed) -> None:
    done = trained.stage("data", "--source", "synthetic")
    assert done.returncode == 1
    assert "the configuration names several in data.sources (synthetic + own): leave source empty" in done.stderr


def test_a_source_that_is_no_word_and_no_path_is_named(trained: Mixed) -> None:
    sources = "data.sources=[{source: synthetic, share: 0.5}, {source: synthetik, share: 0.5}]"
    done = trained.project.stage("data", *SHORT, "--set", sources)
    assert done.returncode == 1
    assert "synthetik: no such file or directory; set data.source" in done.stderr
    assert "to synthetic or rendered, to the directory" in done.stderr


def test_validation_of_the_sources_that_choose_is_asked_for_early(trained: Mixed) -> None:
    done = trained.stage("float", "--set", "data.val_scenes=[car_of_nowhere]")
    assert done.returncode == 1
    assert "data.val_scenes=['car_of_nowhere']: synthetic has no such training scenes" in done.stderr


def test_rendered_cars_are_a_source_whose_meshes_count_by_content(tmp_path: Path) -> None:
    meshes = write_folder(tmp_path / "meshes", "sedan_one", "van_two")
    project = copy_project(tmp_path / "carkp")
    counts = [f"rendered.num_{split}_cars={num}" for split, num in (("train", 12), ("val", 2), ("test", 2))]
    words = ["data.source=rendered", f"rendered.meshes={meshes}", *counts]
    arguments = (*SHORT, *(word for text in words for word in ("--set", text)))
    done = project.stage("data", *arguments)
    assert done.returncode == 0, done.stderr
    (run,) = project.runs("data")
    assert run.data.metrics["data/num_train"] == 12
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.path)
        config = load_config(ROOT / TINY, words)
        before = data_directory(config)
        assert (before / "summary.json").is_file()
        (meshes / "README.md").write_text("where they are from")
        assert data_directory(config) == before
        (meshes / "another.glb").write_bytes(b"a mesh")
        assert data_directory(config) != before


def test_the_report_tells_the_sources_apart(trained: Mixed) -> None:
    trained.ran("report")
    run = trained.newest("report")
    page = trained.project.artifact(run, "report/index.html").read_text()
    assert "Visibility, size, truncation, source" in page
    assert "several, whose names the scenes begin with" in page
    assert "own/car_penn1" in page


@pytest.mark.slow
def test_the_whole_pipeline_runs_on_a_mixture(trained: Mixed) -> None:
    trained.ran("pipeline")
    assert trained.ran("pipeline", "--dry_run", "true").stdout.count("reused, run ") == len(STEPS)
