"""Random states: one a rank, of the CPU and of CUDA."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from carkp.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from carkp.training.distributed import ProcessContext
from carkp.training.fit import fit
from carkp.training.random_state import get_random_state, read_random_states, set_random_state
from carkp.workflow.process import run_under_torchrun
from tests.training.nets import make_dropout_net, make_settings, make_trainer

ROOT = Path(__file__).parents[2]


def test_every_rank_goes_on_with_its_own_random_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes of the project's launcher, stopped in the middle of an epoch."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert run_under_torchrun("tests.training.interrupted_ranks", [str(tmp_path)], 2) == 0
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["whole_draws"] != second["whole_draws"]  # else the state of one rank would do for both
    for report in (first, second):
        assert report["resumed_draws"] == report["whole_draws"]
        assert report["resumed_weights"] == report["whole_weights"]
        assert report["stopped_in_epoch"] == 3
        assert report["epochs_after_resume"] == [3, 4]


def test_a_dropout_net_resumes_bit_for_bit(tmp_path: Path) -> None:
    settings = make_settings(epochs=3)
    torch.manual_seed(5)
    whole = make_trainer(settings, net=make_dropout_net())
    fit(whole, tmp_path / "whole", lambda result: None)

    class StopError(Exception):
        pass

    def stop(result: object) -> None:
        raise StopError

    torch.manual_seed(5)
    with pytest.raises(StopError):
        fit(make_trainer(settings, net=make_dropout_net()), tmp_path / "cut", stop)
    torch.manual_seed(77)
    resumed = make_trainer(settings, net=make_dropout_net())
    resumed.resume(load_checkpoint(tmp_path / "cut" / "last.pt"))
    fit(resumed, tmp_path / "cut", lambda result: None)
    ours, theirs = resumed.net.state_dict(), whole.net.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class PretendedCuda:
    """The two functions of ``torch.cuda`` that keep random states; ``states`` are those of the devices."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states = {index: torch.full((16,), index, dtype=torch.uint8) for index in range(2)}
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: self.states[device.index].clone())
        monkeypatch.setattr(torch.cuda, "set_rng_state", self.set)

    def set(self, state: torch.Tensor, device: torch.device) -> None:
        self.states[device.index] = state.clone()


def test_the_state_of_the_own_cuda_device_is_kept_and_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CUDA: a trainer on the CPU is told that it computes on a device of each of two ranks."""
    cuda = PretendedCuda(monkeypatch)
    ranks = [ProcessContext(rank, 2, torch.device("cuda", rank)) for rank in range(2)]
    states = [get_random_state(context.device) for context in ranks]
    trainer = make_trainer(make_settings())
    trainer.run_epoch(lambda loss: None)
    save_checkpoint(trainer.last_checkpoint(states), tmp_path / "last.pt")
    cuda.states = {index: torch.full((16,), 99, dtype=torch.uint8) for index in range(2)}
    for context in ranks:
        resumed = make_trainer(make_settings())
        resumed.context = context
        resumed.resume(load_checkpoint(tmp_path / "last.pt"))
    assert [cuda.states[index].unique().tolist() for index in range(2)] == [[0], [1]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_dropout_on_cuda_goes_on_where_it_was() -> None:
    device = torch.device("cuda", 0)
    state = get_random_state(device)
    expected = torch.rand(8, device=device)
    torch.rand(3, device=device)
    set_random_state(state, device)
    assert torch.equal(torch.rand(8, device=device), expected)


def test_states_of_other_ranks_or_devices_are_refused() -> None:
    cpu = [{"cpu": torch.get_rng_state()}]
    with pytest.raises(ValueError, match="trained by 1 processes, now there are 2"):
        read_random_states(cpu, 2, torch.device("cpu"))
    with pytest.raises(ValueError, match="trained on the CPU, this process trains on CUDA"):
        read_random_states(cpu, 1, torch.device("cuda", 0))
    both = [{**cpu[0], "cuda": torch.zeros(16, dtype=torch.uint8)}]
    with pytest.raises(ValueError, match="trained on CUDA, this process trains on the CPU"):
        read_random_states(both, 1, torch.device("cpu"))


@pytest.mark.parametrize("epochs_done", [1, 2])
def test_a_training_that_cuda_finished_is_scored_on_the_cpu(tmp_path: Path, epochs_done: int) -> None:
    settings = make_settings(epochs=2)
    trained = make_trainer(settings)
    fit(trained, tmp_path, lambda result: None)
    last = load_checkpoint(tmp_path / "last.pt")
    random = [{"cpu": torch.get_rng_state(), "cuda": torch.get_rng_state()}]
    last = replace(last, epoch=epochs_done, training_state={**last.training_state, "random": random})
    resumed = make_trainer(settings)
    if epochs_done < settings.epochs:
        with pytest.raises(ValueError, match="trained on CUDA, this process trains on the CPU"):
            resumed.resume(last)
    else:
        resumed.resume(last)
        assert fit(resumed, tmp_path, lambda result: None).best_epoch == trained.best_epoch
        ours, theirs = resumed.eval_net.state_dict(), trained.eval_net.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_state_of_an_earlier_version_does_for_one_process_on_the_cpu_and_warns_elsewhere() -> None:
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (only,) = read_random_states(state, 1, torch.device("cpu"))
    assert torch.equal(only["cpu"], state)
    for num_ranks, device in ((2, torch.device("cpu")), (1, torch.device("cuda", 0))):
        with pytest.warns(UserWarning, match="has no random states of CUDA and of each process"):
            assert len(read_random_states(state, num_ranks, device)) == num_ranks


def test_a_checkpoint_of_an_earlier_version_resumes_bit_for_bit(tmp_path: Path) -> None:
    settings = make_settings(epochs=3)
    whole = make_trainer(settings, net=make_dropout_net())
    cut = make_trainer(settings, net=make_dropout_net())
    torch.manual_seed(5)
    cut.run_epoch(lambda loss: None)
    kept = as_earlier_version(cut.last_checkpoint([get_random_state(torch.device("cpu"))]))
    save_checkpoint(kept, tmp_path / "last.pt")
    torch.manual_seed(5)
    for _ in range(3):
        whole.run_epoch(lambda loss: None)
    resumed = make_trainer(settings, net=make_dropout_net())
    loaded = load_checkpoint(tmp_path / "last.pt")
    resumed.resume(replace(loaded, training_state={**loaded.training_state, "best_weights": cut.best_weights}))
    for _ in range(2):
        resumed.run_epoch(lambda loss: None)
    assert resumed.history == [
        {**mine, "samples_per_s": theirs["samples_per_s"]}
        for mine, theirs in zip(whole.history, resumed.history, strict=True)
    ]


def as_earlier_version(checkpoint: Checkpoint) -> Checkpoint:
    """As carkp 0.x wrote it: the random state of rank 0 alone, no settings, no best weights."""
    new = ("settings", "decided", "best_weights")
    state = {name: value for name, value in checkpoint.training_state.items() if name not in new}
    return replace(checkpoint, training_state={**state, "random": checkpoint.training_state["random"][0]["cpu"]})
