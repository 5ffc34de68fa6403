import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from carkp.training.checkpoint import CheckpointError, load_checkpoint
from carkp.training.fit import EpochResult, Trainer, fit
from tests.training.nets import FixedBatches, make_net, make_settings, make_trainer, normalise, score


def test_training_learns_to_place_corners(tmp_path: Path) -> None:
    before = score(make_net(), FixedBatches()).mean_dist
    results: list[EpochResult] = []
    outcome = fit(make_trainer(make_settings(epochs=25)), tmp_path, results.append)
    assert results[-1].loss < 0.5 * results[0].loss
    assert results[-1].scores.mean_dist < 0.5 * before
    assert outcome.best_pck == max(result.scores.pck for result in results)


def test_best_checkpoint_holds_the_weights_that_scored_best(tmp_path: Path) -> None:
    outcome = fit(make_trainer(make_settings(epochs=6)), tmp_path, lambda result: None)
    checkpoint = load_checkpoint(tmp_path / "best.pt")
    net = make_net(seed=9)
    net.load_state_dict(checkpoint.weights)
    assert checkpoint.epoch == outcome.best_epoch
    assert score(net, FixedBatches()).pck == outcome.best_pck


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, ema_decay: float) -> None:
    whole: list[EpochResult] = []
    fit(make_trainer(make_settings(epochs=4, ema_decay=ema_decay)), tmp_path / "whole", whole.append)

    class KilledError(Exception):
        pass

    def kill_after_two(result: EpochResult) -> None:
        if result.epoch == 2:
            raise KilledError

    with pytest.raises(KilledError):
        fit(make_trainer(make_settings(epochs=4, ema_decay=ema_decay)), tmp_path / "cut", kill_after_two)
    resumed = make_trainer(make_settings(epochs=4, ema_decay=ema_decay))
    resumed.resume(load_checkpoint(tmp_path / "cut" / "last.pt"))
    rest: list[EpochResult] = []
    fit(resumed, tmp_path / "cut", rest.append)
    assert [result.epoch for result in rest] == [3, 4]
    assert [result.loss for result in rest] == [result.loss for result in whole[2:]]
    assert len(resumed.history) == 4
    whole_weights = load_checkpoint(tmp_path / "whole" / "last.pt").weights
    rest_weights = load_checkpoint(tmp_path / "cut" / "last.pt").weights
    assert all(torch.equal(whole_weights[name], rest_weights[name]) for name in whole_weights)


def test_same_seed_gives_identical_losses(tmp_path: Path) -> None:
    losses = []
    for name in ("a", "b"):
        results: list[EpochResult] = []
        fit(make_trainer(make_settings()), tmp_path / name, results.append)
        losses.append([result.loss for result in results])
    assert losses[0] == losses[1]


def test_gradient_clip_bounds_the_step() -> None:
    trainer = make_trainer(make_settings(grad_clip=1e-3))
    trainer.step(FixedBatches().batches[0])
    norms = [parameter.grad.norm() for parameter in trainer.net.parameters() if parameter.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_the_learning_rate_reaches_zero_at_the_last_step() -> None:
    settings = make_settings(epochs=2)
    trainer = make_trainer(settings)
    for _ in range(2):
        trainer.run_epoch(lambda loss: None)
    assert trainer.lr == pytest.approx(0.0, abs=1e-9)


def test_moving_average_is_what_is_validated_and_saved(tmp_path: Path) -> None:
    trainer = make_trainer(make_settings(epochs=2, ema_decay=0.99))
    fit(trainer, tmp_path, lambda result: None)
    saved = load_checkpoint(tmp_path / "last.pt").weights
    assert trainer.average is not None
    assert all(torch.equal(saved[name], value) for name, value in trainer.average.net.state_dict().items())
    assert not torch.equal(saved["0.weight"], trainer.net.state_dict()["0.weight"])


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    trainer = make_trainer(make_settings(lr=1e30))
    with pytest.raises(FloatingPointError, match=r"lower train\.lr"):
        fit(trainer, tmp_path, lambda result: None)


def test_resume_refuses_what_does_not_fit(tmp_path: Path) -> None:
    fit(make_trainer(make_settings(epochs=1)), tmp_path, lambda result: None)
    with pytest.raises(ValueError, match=r"resume from last\.pt"):
        make_trainer(make_settings()).resume(load_checkpoint(tmp_path / "best.pt"))
    with pytest.raises(ValueError, match="steps per epoch"):
        make_trainer(make_settings(), FixedBatches(num_batches=2)).resume(load_checkpoint(tmp_path / "last.pt"))


def test_a_pck_of_nan_ends_the_training_by_name_and_leaves_no_other_best(tmp_path: Path) -> None:
    trainer = make_trainer(make_settings())
    scores = trainer.inputs.validate(trainer.net)
    trainer.inputs = replace(trainer.inputs, validate=lambda net: replace(scores, pck=float("nan")))
    with pytest.raises(FloatingPointError, match=r"validation PCK is NaN: no car .* two labelled keypoints"):
        fit(trainer, tmp_path, lambda result: None)
    assert list(tmp_path.iterdir()) == []


def ruin(trainer: Trainer, name: str) -> Callable[[float], None]:
    """Make a value of the network NaN at the last step of epoch 2: the loss of that step does not show it."""
    num_steps = 0

    def on_step(loss: float) -> None:
        nonlocal num_steps
        num_steps += 1
        if num_steps == 2 * len(trainer.inputs.batches):
            trainer.net.state_dict()[name].view(-1)[0] = float("nan")

    return on_step


@pytest.mark.parametrize("name", ["5.weight", "1.running_var"])
def test_weights_that_are_not_finite_never_become_the_last_checkpoint(tmp_path: Path, name: str) -> None:
    trainer = make_trainer(make_settings(ema_decay=0.9))
    with pytest.raises(
        FloatingPointError, match=r"in epoch 2: lower train\.lr.*last\.pt of the previous epoch is complete"
    ):
        fit(trainer, tmp_path, lambda result: None, ruin(trainer, name))
    last = load_checkpoint(tmp_path / "last.pt")
    assert last.epoch == 1
    assert all(bool(value.isfinite().all()) for value in last.weights.values())
    assert all(bool(value.isfinite().all()) for value in last.training_state["weights"].values())


def test_a_loss_of_nan_in_a_later_epoch_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    trainer = make_trainer(make_settings())

    def on_epoch(result: EpochResult) -> None:
        trainer.inputs = replace(trainer.inputs, normalise=lambda images: images.float() * float("nan"))

    with pytest.raises(FloatingPointError, match=rf"became nan in epoch 2.*{tmp_path}/last\.pt of the previous epoch"):
        fit(trainer, tmp_path, on_epoch)
    assert load_checkpoint(tmp_path / "last.pt").epoch == 1


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_checkpoints_of_another_training_are_neither_overwritten_nor_used(tmp_path: Path, name: str) -> None:
    fit(make_trainer(make_settings(epochs=1)), tmp_path, lambda result: None)
    for other in {"best.pt", "last.pt"} - {name}:
        (tmp_path / other).unlink()
    before = (tmp_path / name).read_bytes()
    with pytest.raises(CheckpointError, match=rf"holds {name} of an earlier training.*resume="):
        fit(make_trainer(make_settings(epochs=1)), tmp_path, lambda result: None)
    assert (tmp_path / name).read_bytes() == before


def test_the_average_has_batch_norm_that_fits_its_weights() -> None:
    """Averaged as the weights are, they are nearly those that the averaged weights would gather themselves."""
    trainer, batches = make_trainer(make_settings(15, ema_decay=0.9)), FixedBatches()
    for _ in range(15):
        trainer.run_epoch(lambda loss: None)
    assert trainer.average is not None
    averaged = trainer.average.net
    exact = copy.deepcopy(averaged)
    for module in exact.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # all batches count the same
            module.train()
    with torch.no_grad():
        for batch in batches.batches:
            exact(normalise(batch["image"]))
        images = normalise(batches.batches[0]["image"])
        expected, found = exact.eval()(images), averaged(images)
    assert float((found - expected).norm() / expected.norm()) < 0.03  # with those of the first weights it is 0.5


def test_the_last_epoch_counts_as_the_best_where_it_is_shipped(tmp_path: Path) -> None:
    trainer = make_trainer(make_settings(3, ships_last=True))
    falling = iter((0.9, 0.5, 0.7))
    real = trainer.inputs.validate
    trainer.inputs = replace(trainer.inputs, validate=lambda net: replace(real(net), pck=next(falling)))
    result = fit(trainer, tmp_path, lambda result: None)
    assert (result.best_epoch, result.best_pck) == (3, 0.7)
    assert load_checkpoint(tmp_path / "best.pt").epoch == 3


class NormedNet(nn.Module):
    """A backbone and a head with a batch norm each."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(16, 12, 3, 2, 1), nn.BatchNorm2d(12))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        heatmaps: torch.Tensor = self.head(self.backbone(images))
        return heatmaps


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_frozen_backbone_keeps_its_statistics_and_learns_all_the_same(is_frozen: bool) -> None:
    net = NormedNet()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trainer = make_trainer(make_settings(epochs=2, freeze_batch_norm=is_frozen), net=net)
    for _ in range(2):
        trainer.run_epoch(lambda loss: None)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    statistics = {f"backbone.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert changed & statistics == (set() if is_frozen else statistics)
    assert {"backbone.1.weight", "backbone.0.weight", "head.1.running_mean"} <= changed
