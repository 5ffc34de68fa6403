import pickle
from pathlib import Path

import pytest
import torch

from carkp.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint


def make_checkpoint() -> Checkpoint:
    return Checkpoint({"name": "x"}, {"w": torch.arange(3.0)}, {"train": {"lr": 0.1}}, 4, {"best_pck": 0.5})


def test_round_trip(tmp_path: Path) -> None:
    save_checkpoint(make_checkpoint(), tmp_path / "a" / "last.pt")
    loaded = load_checkpoint(tmp_path / "a" / "last.pt")
    assert (loaded.architecture, loaded.config, loaded.epoch) == ({"name": "x"}, {"train": {"lr": 0.1}}, 4)
    assert torch.equal(loaded.weights["w"], torch.arange(3.0))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["last.pt"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(make_checkpoint(), path)
    broken = Checkpoint({}, {}, {}, 5, {"cannot be pickled": lambda: None})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(broken, path)
    assert load_checkpoint(path).epoch == 4
    assert [item.name for item in tmp_path.iterdir()] == ["last.pt"]


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    save_checkpoint(make_checkpoint(), tmp_path / "cut.pt")
    data = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.pt: not a readable checkpoint"):
        load_checkpoint(tmp_path / "cut.pt")
    torch.save({"w": torch.zeros(1)}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="not a carkp checkpoint"):
        load_checkpoint(tmp_path / "foreign.pt")
    torch.save({"format_version": 99, **vars(make_checkpoint())}, tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match="checkpoint format 99"):
        load_checkpoint(tmp_path / "new.pt")
