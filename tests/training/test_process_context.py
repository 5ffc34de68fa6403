"""Variables that schedulers, containers and earlier launchers leave behind make no process group."""

import pytest

from carkp.training.distributed import ProcessError, is_under_torchrun, process_context

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
