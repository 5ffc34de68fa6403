"""What every batch of an adaptation is made of, how it trains, and when its model is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from carkp.config.loading import ConfigError, load_config
from carkp.config.schema import AugmentConfig, ExperimentConfig
from carkp.data.issues import Issues
from carkp.data.store import LmdbStore, Stores
from carkp.keypoints.metrics import Scores
from carkp.tracking.tracker import NullTracker
from carkp.training.mean_teacher import Consistency
from carkp.workflow.adaptation import REFUSED_NAME, build_adapt_settings, build_batches, refuse_worse
from carkp.workflow.cli import AdaptationError
from carkp.workflow.judging import Measured
from carkp.workflow.target_cars import Slice, TargetCars
from tests.data.test_views import store_of
from tests.stages.conftest import ROOT, TINY

NOTHING = np.array([], np.int64)


def tiny(*overrides: str) -> ExperimentConfig:
    return load_config(ROOT / TINY, ["train.num_workers=0", *overrides])


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    folder = tmp_path_factory.mktemp("stores")
    return Stores(*(store_of(folder / name, 12) for name in ("train", "val", "test")))


def cars_of(unlabelled: LmdbStore | None, labelled: LmdbStore | None) -> TargetCars:
    slices = (None if store is None else Slice(store, np.array([1, 3]), NOTHING) for store in (unlabelled, labelled))
    return TargetCars(*slices, scored=[], digests={}, issues=Issues())


@pytest.mark.parametrize(
    ("has_unlabelled", "has_labelled", "expected"),
    [(True, False, (4, 4)), (False, True, (0, 8)), (True, True, (2, 6))],
)
def test_half_of_every_batch_is_the_users(
    stores: Stores, has_unlabelled: bool, has_labelled: bool, expected: tuple[int, int]
) -> None:
    """Cars without labels have no validity; those learnt are the two of the slice."""
    cars = cars_of(stores.val if has_unlabelled else None, stores.test if has_labelled else None)
    loader = build_batches(tiny("adapt.steps_per_epoch=4"), stores, cars, pin_memory=False)
    batches = list(loader)
    assert len(batches) == 4
    for batch in batches:
        is_unlabelled = (batch["validity"] == 0).all(dim=1)
        assert (int(is_unlabelled.sum()), int((~is_unlabelled).sum())) == expected
        assert ("views" in batch) is has_unlabelled
        assert set(batch["index"][is_unlabelled].tolist()) <= {1, 3}


def test_a_smaller_share_leaves_more_to_the_data_that_it_came_from(stores: Stores) -> None:
    config = tiny("adapt.steps_per_epoch=4", "adapt.target_share=0.25")
    for batch in build_batches(config, stores, cars_of(stores.val, None), pin_memory=False):
        assert (len(batch["image"]), len(batch["views"]["rows"])) == (8, 2)


def test_it_begins_with_a_trained_model_and_ships_the_last_one() -> None:
    settings = build_adapt_settings(tiny("train.ema_decay=0.5", "train.compile=true"), torch.device("cpu"))
    adapt = tiny().adapt
    assert (settings.trusts_start, settings.ships_last, settings.compile) == (True, True, False)
    assert (settings.ema_decay, settings.lr, settings.epochs) == (adapt.ema_decay, adapt.lr, adapt.epochs)


def test_a_part_of_the_strong_augmentation_can_be_set_without_losing_the_rest() -> None:
    found = tiny("adapt.augment.max_rotation_deg=30").adapt.augment
    assert (found.max_rotation_deg, found.min_scale, found.erase_probability) == (30, 0.75, 0.2)
    assert AugmentConfig().erase_probability == 0
    with pytest.raises(ConfigError, match=r"adapt\.min_confidence"):
        tiny("adapt.min_confidence=2")


def measured(pck: float, agreement: float = 0.5) -> Measured:
    nothing = np.zeros(12)
    scores = Scores(pck, pck, 1.0, nothing, nothing, 12, 0)
    return Measured(scores, Consistency(agreement, 0.5, 0.5, 3), replace(scores, pck=0.25))


def test_what_is_logged_of_a_measurement() -> None:
    found = measured(0.75).metrics()
    assert (found["val/pck"], found["holdout/agreement"], found["labelled/pck"]) == (0.75, 0.5, 0.25)
    assert not any(name.startswith("holdout") for name in replace(measured(0.75), holdout=None).metrics())


@pytest.mark.parametrize(("after", "allowed", "is_refused"), [
    (0.88, "0.01", True), (0.895, "0.01", False), (0.95, "0", False), (0.899, "0", True), (0.5, "0.5", False),
])  # fmt: skip
def test_a_model_that_lost_more_than_is_allowed_is_refused(
    tmp_path: Path, after: float, allowed: str, is_refused: bool
) -> None:
    best = tmp_path / "checkpoints" / "best.pt"
    best.parent.mkdir()
    best.write_bytes(b"weights")
    config = tiny(f"adapt.max_loss_on_generated={allowed}")
    if not is_refused:
        refuse_worse(config, measured(0.9, 0.9), measured(after, 0.1), tmp_path, NullTracker())
        assert best.exists()
        return
    with pytest.raises(AdaptationError, match=rf"0\.9000 before, {after:.4f} after.*{REFUSED_NAME}"):
        refuse_worse(config, measured(0.9), measured(after), tmp_path, NullTracker())
    assert not best.exists()
    assert best.with_name(REFUSED_NAME).read_bytes() == b"weights"
