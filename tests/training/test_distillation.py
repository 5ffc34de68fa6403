"""A teacher's heatmaps as a further target."""

from dataclasses import replace

import pytest
import torch

from carkp.keypoints.loss import weighted_heatmap_loss
from carkp.training.checkpoint import weights_digest
from carkp.training.distillation import Distillation, frozen_heatmaps
from carkp.training.evaluate import Batch
from carkp.training.fit import Trainer
from tests.training.nets import CODEC, INPUT_SIZE, FixedBatches, make_net, make_settings, make_trainer


def images_of(seed: int = 0) -> torch.Tensor:
    return torch.randn(4, 3, *INPUT_SIZE, generator=torch.Generator().manual_seed(seed))


def taught_by(seed: int, weight: float = 1.0) -> Distillation:
    return Distillation(make_net(seed).eval(), CODEC, weight, None)


def term(distillation: Distillation, heatmaps: torch.Tensor, batch: Batch | None = None) -> float:
    given = batch or FixedBatches().batches[0]
    return float(distillation(given, images_of(), heatmaps, make_net()))  # type: ignore[arg-type]


def test_who_knows_what_the_teacher_knows_learns_nothing_of_it() -> None:
    distillation = taught_by(1)
    assert term(distillation, frozen_heatmaps(distillation.teacher, images_of(), None)) == 0
    assert term(distillation, frozen_heatmaps(make_net(2).eval(), images_of(), None)) > 0


def test_the_term_is_the_weighted_loss_times_its_weight() -> None:
    heatmaps = torch.zeros(4, 12, 8, 8)
    targets = frozen_heatmaps(make_net(1).eval(), images_of(), None)
    near = targets > torch.exp(torch.tensor(-2.0))
    expected = weighted_heatmap_loss(heatmaps, targets, torch.where(near, 1.0, CODEC.background_weight))
    assert 0 < near.float().mean() < 1
    assert term(taught_by(1), heatmaps) == pytest.approx(float(expected))
    assert term(taught_by(1, 0.25), heatmaps) == pytest.approx(float(expected) / 4)


def test_a_teacher_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="evaluation mode"):
        frozen_heatmaps(make_net().train(), images_of(), None)


def taught_trainer(weight: float, epochs: int = 1) -> tuple[Trainer, Distillation]:
    distillation = taught_by(5, weight)
    trainer = make_trainer(make_settings(epochs))
    trainer.inputs = replace(trainer.inputs, extra_loss=distillation)
    return trainer, distillation


def test_the_student_comes_nearer_to_its_teacher_and_the_teacher_stays_as_it_is() -> None:
    trainer, distillation = taught_trainer(weight=50.0)
    before = weights_digest(distillation.teacher.state_dict())
    images = trainer.inputs.normalise(FixedBatches().batches[0]["image"])
    target = frozen_heatmaps(distillation.teacher, images, None)

    def distance() -> float:
        return float((frozen_heatmaps(trainer.net.eval(), images, None) - target).square().mean())

    start = distance()
    for _ in range(4):
        trainer.run_epoch(lambda loss: None)
    assert distance() < 0.5 * start
    assert weights_digest(distillation.teacher.state_dict()) == before
    assert all(parameter.grad is None for parameter in distillation.teacher.parameters())


def test_both_terms_are_in_the_loss_that_is_shown() -> None:
    alone, (taught, distillation) = make_trainer(make_settings(1)), taught_trainer(1.0)
    batch = FixedBatches().batches[0]
    images = taught.inputs.normalise(batch["image"])
    heatmaps = taught.net.train()(images).detach()
    expected = float(alone.step(batch)) + float(distillation(batch, images, heatmaps, taught.net))  # type: ignore[arg-type]
    assert float(taught.step(batch)) == pytest.approx(expected, rel=1e-5)  # type: ignore[arg-type]
