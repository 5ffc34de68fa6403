"""What a checkpoint must share with the training that goes on from it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from carkp.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from carkp.training.fit import Trainer, fit
from carkp.training.resume import load_resumable
from tests.training.nets import make_settings, make_trainer
from tests.training.test_random_state import as_earlier_version

BASE = {"epochs": 3, "lr": 3e-3, "weight_decay": 0.01, "warmup_epochs": 0.5, "grad_clip": 1.0, "ema_decay": 0.9}


@pytest.fixture
def last(tmp_path: Path) -> Path:
    """``last.pt`` after one epoch of three, with ``best.pt`` beside it."""
    return train_one_epoch(tmp_path / "checkpoints")


def train_one_epoch(folder: Path) -> Path:
    class StopError(Exception):
        pass

    def stop(result: object) -> None:
        raise StopError

    with pytest.raises(StopError):
        fit(make_trainer(make_settings(**BASE)), folder, stop)
    return folder / "last.pt"


def make_old(path: Path, **changes: object) -> Path:
    """Rewrite a ``last.pt`` as an earlier version wrote it."""
    save_checkpoint(replace(as_earlier_version(load_checkpoint(path)), **changes), path)
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 1e-3),
        ("weight_decay", 0.0),
        ("epochs", 5),
        ("warmup_epochs", 0.0),
        ("grad_clip", 0.0),
        ("ema_decay", 0.0),
    ],
)
def test_another_setting_is_refused_by_name(last: Path, name: str, value: float) -> None:
    trainer = make_trainer(make_settings(**{**BASE, name: value}))
    before = {key: tensor.clone() for key, tensor in trainer.net.state_dict().items()}
    with pytest.raises(ValueError, match=rf"\n  {name}: {BASE[name]} -> {value}\n"):
        trainer.resume(load_checkpoint(last))
    assert all(
        torch.equal(tensor, before[key]) for key, tensor in trainer.net.state_dict().items()
    )  # nothing was loaded
    assert trainer.epoch == 0


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [("weight_decay", 0.0, "weight_decay"), ("lr", 1e-3, "learning rate"), ("epochs", 5, "learning rate")],
)
def test_of_an_earlier_version_the_optimiser_and_the_schedule_tell(
    last: Path, name: str, value: float, named: str
) -> None:
    checkpoint = load_resumable(make_old(last))
    with pytest.raises(ValueError, match=rf"{named}.* -> "):
        make_trainer(make_settings(**{**BASE, name: value})).resume(checkpoint)
    make_trainer(make_settings(**BASE)).resume(checkpoint)


def with_betas(trainer: Trainer, betas: tuple[float, float]) -> Trainer:
    trainer.optimizer = torch.optim.AdamW(trainer.net.parameters(), lr=3e-3, weight_decay=0.01, betas=betas)
    return trainer


def test_hyper_parameters_of_the_optimiser_are_compared_and_never_overwritten(last: Path) -> None:
    with pytest.raises(ValueError, match=r"optimiser betas, group 0: \(0\.9, 0\.999\) -> \(0\.8, 0\.9\)"):
        with_betas(make_trainer(make_settings(**BASE)), (0.8, 0.9)).resume(load_checkpoint(last))
    trainer = with_betas(make_trainer(make_settings(**BASE)), (0.9, 0.999))
    own = {name: value for name, value in trainer.optimizer.param_groups[0].items() if name != "params"}
    assert load_checkpoint(last).training_state["optimizer"]["param_groups"][0]["fused"] != own["fused"]
    trainer.resume(load_checkpoint(last))
    assert {name: value for name, value in trainer.optimizer.param_groups[0].items() if name != "params"} == own
    moments = [state["exp_avg"] for state in trainer.optimizer.state.values()]
    assert any(bool(moment.any()) for moment in moments)


@pytest.mark.parametrize("name", ["weights", "optimizer", "random", "num_steps_done", "best_epoch", "history"])
def test_a_training_state_that_lacks_something_is_refused(last: Path, name: str) -> None:
    checkpoint = load_checkpoint(last)
    state = {key: value for key, value in checkpoint.training_state.items() if key != name}
    with pytest.raises(ValueError, match=f"the training state lacks {name}"):
        make_trainer(make_settings(**BASE)).resume(replace(checkpoint, training_state=state))


def test_weights_that_do_not_fit_are_refused(last: Path) -> None:
    checkpoint = load_checkpoint(last)
    weights = {name: value for name, value in checkpoint.training_state["weights"].items() if name != "0.weight"}
    odd = replace(checkpoint, training_state={**checkpoint.training_state, "weights": weights})
    with pytest.raises(ValueError, match=r"do not fit the network: .*\n.*0\.weight"):
        make_trainer(make_settings(**BASE)).resume(odd)


def test_the_entry_of_another_network_is_named(last: Path) -> None:
    with pytest.raises(ValueError, match=r"another network:\n  name: large -> small$"):
        make_trainer(make_settings(**BASE)).resume(replace(load_checkpoint(last), architecture={"name": "large"}))


def test_the_best_epoch_comes_out_of_last_pt_alone(last: Path) -> None:
    best = load_checkpoint(last.with_name("best.pt"))
    last.with_name("best.pt").unlink()
    trainer = make_trainer(make_settings(**BASE))
    trainer.resume(load_resumable(last))
    kept = trainer.best_checkpoint()
    assert (kept.epoch, kept.training_state) == (best.epoch, {})
    assert all(torch.equal(kept.weights[name], value) for name, value in best.weights.items())


def test_the_best_of_an_earlier_version_lies_beside_it(last: Path) -> None:
    best = load_checkpoint(last.with_name("best.pt"))
    found = load_resumable(make_old(last)).training_state["best_weights"]
    assert all(torch.equal(found[name], value) for name, value in best.weights.items())
    last.with_name("best.pt").unlink()
    with pytest.raises(CheckpointError, match=r"best\.pt: no such checkpoint"):
        load_resumable(last)


@pytest.mark.parametrize("change", [{"epoch": 7}, {"config": {"seed": 3}}, {"architecture": {"name": "large"}}])
def test_a_best_of_another_run_beside_it_is_refused(last: Path, change: dict[str, object]) -> None:
    make_old(last)
    beside = last.with_name("best.pt")
    save_checkpoint(replace(load_checkpoint(beside), **change), beside)
    with pytest.raises(CheckpointError, match=r"best\.pt belongs to another training than last\.pt beside it"):
        load_resumable(last)


def test_a_best_that_a_kill_left_one_epoch_ahead_is_of_the_same_run(last: Path) -> None:
    make_old(last)
    beside = last.with_name("best.pt")
    save_checkpoint(replace(load_checkpoint(beside), epoch=2), beside)
    assert load_resumable(last).epoch == 1


def test_a_file_of_weights_alone_is_refused(tmp_path: Path) -> None:
    save_checkpoint(Checkpoint({}, {}, {}, 1, {}), tmp_path / "best.pt")
    with pytest.raises(
        CheckpointError, match=r"best\.pt: contains only weights \(is it best\.pt\?\); resume from last\.pt"
    ):
        load_resumable(tmp_path / "best.pt")
