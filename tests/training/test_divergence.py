"""Steps whose loss or gradient is no number: left out, named, and after some in a row the end."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from carkp.tracking.tracker import NullTracker
from carkp.training.checkpoint import load_checkpoint, weights_digest
from carkp.training.divergence import MAX_IN_A_ROW, Divergence, Origin, divergences_to_json
from carkp.training.fit import EpochResult, Trainer, fit
from carkp.workflow.training import DIVERGENCE_FILE, _divergence_log
from tests.training.nets import FixedBatches, make_dropout_net, make_net, make_settings, make_trainer


def watched(trainer: Trainer) -> list[Divergence]:
    found: list[Divergence] = []
    trainer.inputs = replace(trainer.inputs, on_divergence=found.append)
    return found


def with_a_bad_batch(trainer: Trainer) -> FixedBatches:
    """Labels of one batch are no numbers."""
    batches = trainer.inputs.batches
    assert isinstance(batches, FixedBatches)
    batches.batches[1]["points"][0, 0] = float("nan")
    return batches


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_a_bad_batch_is_left_out_and_named_and_the_training_goes_on(tmp_path: Path, grad_clip: float) -> None:
    trainer = make_trainer(make_settings(epochs=2, ema_decay=0.9, grad_clip=grad_clip))
    batches = with_a_bad_batch(trainer)
    found = watched(trainer)
    results: list[EpochResult] = []
    fit(trainer, tmp_path, results.append)
    assert [(item.epoch, item.origin, item.num_in_a_row) for item in found] == [
        (1, Origin("loss", ""), 1),
        (2, Origin("loss", ""), 1),
    ]
    assert found[0].samples == [f"square {index}" for index in batches.batches[1]["index"].tolist()]
    assert all(result.loss > 0 for result in results)
    assert trainer.num_steps_done == 8


def test_a_step_that_is_left_out_changes_nothing() -> None:
    trainer = make_trainer(make_settings(ema_decay=0.9), net=make_dropout_net())
    batches = with_a_bad_batch(trainer)
    trainer.step(batches.batches[0])
    assert trainer.average is not None
    before = [weights_digest(net.state_dict()) for net in (trainer.net, trainer.average.net)]
    loss = float(trainer.step(batches.batches[1]))
    random = torch.get_rng_state()
    trainer._report_divergence(0, batches.batches[1], loss)
    assert [weights_digest(net.state_dict()) for net in (trainer.net, trainer.average.net)] == before
    assert torch.equal(torch.get_rng_state(), random)


def test_a_corrupt_weight_ends_the_training_and_the_checkpoint_before_can_be_gone_on_from(tmp_path: Path) -> None:
    trainer = make_trainer(make_settings(epochs=3))
    found = watched(trainer)

    def corrupt(result: EpochResult) -> None:
        assert result.epoch == 1
        with torch.no_grad():
            trainer.net.get_parameter("3.weight")[0, 0, 0, 0] = float("nan")

    message = (
        r"the loss became nan in epoch 2, step 3 of 4 \(the weight 3\.weight is not finite; samples square \d+, .*…\)"
    )
    with pytest.raises(FloatingPointError, match=rf"{message}.*lower train\.lr.*{tmp_path}/last\.pt"):
        fit(trainer, tmp_path, corrupt)
    assert [item.num_in_a_row for item in found] == list(range(1, MAX_IN_A_ROW + 1))
    resumed = make_trainer(make_settings(epochs=3))
    resumed.resume(load_checkpoint(tmp_path / "last.pt"))
    whole = make_trainer(make_settings(epochs=3))
    fit(resumed, tmp_path, lambda result: None)
    fit(whole, tmp_path / "whole", lambda result: None)
    assert weights_digest(resumed.net.state_dict()) == weights_digest(whole.net.state_dict())


def test_the_layer_whose_output_overflows_first_is_named() -> None:
    net = make_net()
    with torch.no_grad():
        net.get_parameter("3.weight").fill_(3e38)
    trainer = make_trainer(make_settings(), net=net)
    found = watched(trainer)
    with pytest.raises(FloatingPointError, match="first layer whose output is not finite is 3"):
        trainer.run_epoch(lambda loss: None)
    assert {item.origin for item in found} == {Origin("output", "3")}


class Rooted(nn.Module):
    """Passes its input on; the gradient of its weight is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight.sqrt() * 0


def test_the_layer_whose_gradient_is_no_number_is_named() -> None:
    trainer = make_trainer(make_settings(), net=nn.Sequential(*make_net(), Rooted()))
    found = watched(trainer)
    with pytest.raises(FloatingPointError, match=r"gradient became nan in epoch 1, step 3 of 4 .* gradient .* is 6"):
        trainer.run_epoch(lambda loss: None)
    assert found[0].origin == Origin("gradient", "6")


def test_a_learning_rate_that_is_far_too_high_ends_the_training(tmp_path: Path) -> None:
    trainer = make_trainer(make_settings(lr=1e30))
    with pytest.raises(FloatingPointError, match=r"in the 2 steps before: lower train\.lr or set train\.grad_clip"):
        fit(trainer, tmp_path, lambda result: None)
    assert not list(tmp_path.iterdir())


def test_what_was_left_out_is_kept_in_a_file_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Kept(NullTracker):
        files: list[Path]

        def log_file(self, path: Path, folder: str) -> None:
            self.files.append(path)

    tracker = Kept()
    tracker.files = []
    item = Divergence(2, 3, 7, float("nan"), float("inf"), ["train/a/1_0"], Origin("output", "backbone.x"), 1)
    note = _divergence_log(tmp_path, tracker)
    note(item)
    note(item)
    assert tracker.files == [tmp_path / DIVERGENCE_FILE] * 2
    kept = json.loads((tmp_path / DIVERGENCE_FILE).read_text())
    assert len(kept) == 2
    assert kept[0]["samples"] == ["train/a/1_0"]
    assert (kept[0]["loss"], kept[0]["origin"]) == ("nan", {"kind": "output", "layer": "backbone.x"})
    assert json.loads(divergences_to_json([item])) == kept[:1]
    assert "warning: the loss became nan in epoch 2, step 3 of 7" in capsys.readouterr().out
