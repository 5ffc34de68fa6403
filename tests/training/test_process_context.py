"""Variables that schedulers, containers and earlier launchers leave behind make no process group."""

import pytest
import torch

from carkp.training.distributed import ProcessContext, ProcessError, is_under_torchrun, process_context

ALL = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALL:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "left_over",
    [
        {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"},
        {"WORLD_SIZE": "4"},
        {"WORLD_SIZE": ""},
        {"WORLD_SIZE": "many", "RANK": "x", "MASTER_ADDR": "here"},
        {"RANK": "3", "LOCAL_RANK": "7"},
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "3", "SLURM_LOCALID": "3"},
        {"TORCHELASTIC_RUN_ID": "none"},
    ],
    ids=str,
)
def test_this_process_stands_alone(monkeypatch: pytest.MonkeyPatch, left_over: dict[str, str]) -> None:
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    assert not is_under_torchrun()
    with process_context() as context:
        assert (context.rank, context.world_size, context.is_main) == (0, 1, True)
        assert context.device.index in (None, 0)


def test_a_group_of_another_launcher_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "node0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProcessError, match=r"WORLD_SIZE=2, RANK=1 and MASTER_ADDR=node0.*torchrun"), process_context():
        pass
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert is_under_torchrun()


@pytest.mark.parametrize(
    "message",
    [
        "Application timeout caused pair closure",
        "[/third_party/gloo/gloo/transport/tcp/pair.cc:525] Connection closed by peer [10.0.0.2]:29400",
        "Timed out waiting 20000ms for recv operation to complete",
    ],
)
def test_a_lost_process_is_named_whatever_torch_says(message: str) -> None:
    context = ProcessContext(rank=1, world_size=2, device=torch.device("cpu"))
    with pytest.raises(ProcessError, match="process 1 of 2 has lost the connection"), context.naming_lost_peers():
        raise RuntimeError(message)


def test_another_error_is_not_taken_for_a_lost_process() -> None:
    context = ProcessContext(rank=1, world_size=2, device=torch.device("cpu"))
    with pytest.raises(RuntimeError, match="shape"), context.naming_lost_peers():
        raise RuntimeError("shape '[2]' is invalid for input of size 3")
