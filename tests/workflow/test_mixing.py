"""Training on several sources: what is logged of each, which of them choose the epoch, and going on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from carkp.config.loading import ConfigError, load_config
from carkp.config.schema import ExperimentConfig
from carkp.data.issues import DataError
from carkp.data.mixture import open_data, write_mixture
from carkp.data.store import Stores
from carkp.keypoints.predictions import Predictions
from carkp.keypoints.sample_ids import id_in
from carkp.tracking.tracker import NullTracker
from carkp.training.checkpoint import CheckpointError, load_checkpoint, weights_digest
from carkp.training.distributed import cpu_context
from carkp.training.fit import EpochResult, FitResult
from carkp.workflow import training
from carkp.workflow.build import build_fit_settings, build_model
from carkp.workflow.preparation import PreparedData
from carkp.workflow.quantising import origin_of, retention_metrics
from carkp.workflow.references import ModelFile
from carkp.workflow.scoring import build_scorer, describe_scores, headline_metrics
from carkp.workflow.training import Training, predict_all, require_labels, train
from tests.keypoints.test_breakdown import spread
from tests.workflow.test_training import ALL, NONE, ROOT, record, stores

SHORT = ("train.num_workers=0", "train.batch_size=4", "eval.batch_size=32", "train.num_samples=8")
NAMES = "[{source: synthetic, share: 0.75}, {source: /disk/own, share: 0.25}]"


def configured(*overrides: str, sources: str = NAMES) -> ExperimentConfig:
    return load_config(ROOT / "configs" / "tiny.yaml", [*SHORT, f"data.sources={sources}", *overrides])


class Metrics(NullTracker):
    """Keeps what is logged, by name and step."""

    def __init__(self) -> None:
        self.logged: dict[str, dict[int, float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.logged.setdefault(name, {})[step or 0] = value


@pytest.fixture
def mixture(tmp_path: Path) -> Stores:
    """Eight cars a split and source."""
    names = ("synthetic", "own")
    for name in names:
        stores(tmp_path / name)
    write_mixture(tmp_path / "mixture", {name: tmp_path / name for name in names})
    return open_data(tmp_path / "mixture")


def run(
    config: ExperimentConfig,
    data: Stores,
    out_dir: Path,
    tracker: NullTracker | None = None,
    resume: Path | None = None,
    stop_after: int = 0,
) -> FitResult:
    """``stop_after``: the epoch after which the training is killed; 0: none."""

    def on_epoch(result: EpochResult) -> None:
        if result.epoch == stop_after:
            raise KeyboardInterrupt

    model = build_model(config)
    settings = build_fit_settings(config.train, torch.device("cpu"), trusts_start=False)
    wanted = Training(model.net, model.architecture, settings, resume)
    scorer = build_scorer(config, cpu_context())
    return train(config, wanted, data, out_dir, tracker or NullTracker(), scorer, on_epoch)


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """What each validation finds: name of a source -> how far its points are off, in pixels."""
    errors: list[dict[str, float]] = []

    def made_up(forward: object, split: object, codec: object, context: object) -> Predictions:
        return predictions_of(errors.pop(0))

    monkeypatch.setattr(training, "predict", made_up)
    return errors


def predictions_of(errors_px: dict[str, float]) -> Predictions:
    """Ten cars a source, 90 px long, whose keypoints are all off by as much."""
    exact = spread(10 * len(errors_px))
    names = np.repeat(list(errors_px), 10)
    ids = [id_in(name, f"train/scene/{car}_0001_0") for car, name in enumerate(names)]
    moved = np.repeat(list(errors_px.values()), 10)[:, None, None] * np.array([1.0, 0.0])
    points = (exact.targets + moved).astype(np.float32)
    return replace(exact, sample_ids=np.array(ids), points=points, lengths=np.full(len(ids), 90, np.float32))


def test_generated_cars_alone_choose_the_epoch(
    mixture: Stores, predicted: list[dict[str, float]], tmp_path: Path
) -> None:
    predicted += [{"synthetic": 1.0, "own": 50.0}, {"synthetic": 50.0, "own": 1.0}]
    tracker = Metrics()
    fitted = run(configured(), mixture, tmp_path / "out", tracker)
    assert (fitted.best_epoch, fitted.best_pck) == (1, 1.0)
    assert tracker.logged["val/pck"] == tracker.logged["val/pck/synthetic"] == {1: 1.0, 2: 0.0}
    assert tracker.logged["val/pck/own"] == {1: 0.0, 2: 1.0}
    assert tracker.logged["val/mean_dist"] == pytest.approx({1: 1.0, 2: 50.0})


def test_real_cars_choose_where_there_are_no_others(
    mixture: Stores, predicted: list[dict[str, float]], tmp_path: Path
) -> None:
    predicted += [{"synthetic": 1.0, "own": 50.0}, {"synthetic": 1.0, "own": 1.0}]
    real = configured(sources="[{source: /a, share: 0.75, name: synthetic}, {source: /b, share: 0.25, name: own}]")
    assert run(real, mixture, tmp_path / "out").best_epoch == 2


def test_a_split_is_scored_as_a_whole_and_by_source() -> None:
    scorer = build_scorer(configured(), cpu_context())
    found = predictions_of({"synthetic": 1.0, "own": 50.0})
    test, val = scorer.score(found, "test"), scorer.score(found, "val")
    assert (test.pck, val.pck) == (0.5, 1.0)
    for scores in (test, val):
        assert {name: part.pck for name, part in scores.by_source.items()} == {"synthetic": 1.0, "own": 0.0}
    assert headline_metrics("test", test)["test/pck/own"] == 0
    assert headline_metrics("val", val)["val/mean_dist/own"] == pytest.approx(50)
    assert "val, own: pck 0.0000" in describe_scores({"val": val})
    alone = build_scorer(configured("data.sources=[]"), cpu_context())
    assert alone.score(found, "val").pck == 0.5  # data that are given by name may be of sources that are not configured
    assert not alone.score(spread(4), "val").by_source


def test_what_is_kept_of_float_is_of_the_same_cars(mixture: Stores, tmp_path: Path) -> None:
    model, data = ModelFile(tmp_path, "", "a"), PreparedData(tmp_path, "d")
    config = configured()
    scorers = {name: build_scorer(made, cpu_context()) for name, made in
               {"mixed": config, "other": configured("data.sources=[]")}.items()}  # fmt: skip
    scores = {"val": scorers["mixed"].score(predictions_of({"synthetic": 1.0, "own": 50.0}), "val")}
    origin = origin_of("e", scorers["mixed"], model, "m", data, scores)
    assert retention_metrics(scorers["mixed"], origin, data, scores) == {"val/retention": 1.0}
    assert retention_metrics(scorers["other"], origin, data, scores) == {}
    earlier = {name: value for name, value in origin.items() if name != "val_sources"}
    assert retention_metrics(scorers["other"], earlier, data, scores) == {"val/retention": 1.0}


def test_data_of_other_sources_than_configured_are_refused(mixture: Stores, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"are from own, synthetic, but data\.sources .* names a single source"):
        run(configured("data.sources=[]"), mixture, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"are from a single source, but data\.sources .* names own, synthetic"):
        run(configured(), stores(tmp_path / "alone"), tmp_path / "out")


def test_sources_that_choose_must_be_scorable(tmp_path: Path) -> None:
    stores(tmp_path / "synthetic", val=[record(number, NONE) for number in range(3)])
    stores(tmp_path / "own", val=[record(number, ALL) for number in range(3)])
    write_mixture(tmp_path / "mixture", {name: tmp_path / name for name in ("synthetic", "own")})
    data = open_data(tmp_path / "mixture")
    with pytest.raises(DataError, match="no car of the validation split of synthetic has two"):
        require_labels(data, ("synthetic",))
    require_labels(data, ("synthetic", "own"))


def test_predictions_name_their_sources(mixture: Stores) -> None:
    config = configured()
    net = build_model(config).net.eval()
    found = predict_all(build_scorer(config, cpu_context()), mixture, net)
    assert found["test"].sources.tolist() == ["synthetic"] * 8 + ["own"] * 8


@pytest.fixture
def stopped(mixture: Stores, tmp_path: Path) -> Path:
    """The ``last.pt`` of a training of two epochs that was killed after the first."""
    with pytest.raises(KeyboardInterrupt):
        run(configured(), mixture, tmp_path / "stopped", stop_after=1)
    return tmp_path / "stopped" / "checkpoints" / "last.pt"


def test_a_training_on_several_sources_goes_on_as_if_it_had_not_stopped(
    mixture: Stores, stopped: Path, tmp_path: Path
) -> None:
    whole, resumed = Metrics(), Metrics()
    run(configured(), mixture, tmp_path / "whole", whole)
    run(configured(), mixture, tmp_path / "resumed", resumed, resume=stopped)
    weights = [load_checkpoint(tmp_path / name / "checkpoints" / "last.pt").weights for name in ("whole", "resumed")]
    assert weights_digest(weights[0]) == weights_digest(weights[1])
    for name in ("train/loss", "val/pck", "val/pck/synthetic", "val/pck/own"):
        assert resumed.logged[name] == whole.logged[name]


def test_other_shares_are_another_training(mixture: Stores, stopped: Path, tmp_path: Path) -> None:
    other = configured(sources=NAMES.replace("0.75", "0.5").replace("0.25", "0.5"))
    with pytest.raises(CheckpointError, match=r"share of synthetic: 0\.75 -> 0\.5\n  share of own: 0\.25 -> 0\.5\n"):
        run(other, mixture, tmp_path / "resumed", resume=stopped)
    moved = configured(sources=NAMES.replace("/disk/own", "/elsewhere/own"))
    run(moved, mixture, tmp_path / "moved", resume=stopped)
