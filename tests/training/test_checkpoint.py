import pickle
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from carkp.model.pose_net import build_pose_net
from carkp.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, load_net, save_checkpoint


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


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from carkp.training.checkpoint import Checkpoint, CheckpointError, save_checkpoint
path = Path(sys.argv[1])
save_checkpoint(Checkpoint({}, {}, {}, 1, {}), path)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(Checkpoint({}, {"w": torch.zeros(1_000_000)}, {}, 2, {}), path)
except CheckpointError as error:
    print(error)
"""


def test_a_disk_that_is_full_in_the_middle_of_a_file_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}: the checkpoint cannot be written: File too large. ")
    assert "MiB are free" in done.stdout
    assert "free some space" in done.stdout
    assert load_checkpoint(path).epoch == 1
    assert [item.name for item in tmp_path.iterdir()] == ["last.pt"]


def test_what_a_killed_process_left_of_a_checkpoint_is_removed(tmp_path: Path) -> None:
    (tmp_path / f".unfinished.{socket.gethostname()}.999999999.00000000.partial").write_bytes(b"half")
    save_checkpoint(make_checkpoint(), tmp_path / "last.pt")
    assert [item.name for item in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(make_checkpoint(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"last\.pt: not a readable checkpoint \(it is truncated, or"):
        load_checkpoint(path)


def test_a_flipped_bit_among_the_weights_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    save_checkpoint(Checkpoint({}, {"w": torch.full((1000,), 0.1)}, {}, 1, {}), path)
    data = bytearray(path.read_bytes())
    place = data.index(torch.full((10,), 0.1).numpy().tobytes())
    data[place + 1] ^= 1
    path.write_bytes(data)
    assert not torch.equal(torch.load(path)["weights"]["w"], torch.full((1000,), 0.1))  # torch alone sees nothing
    with pytest.raises(CheckpointError, match=r"damaged: the checksum of .* is wrong"):
        load_checkpoint(path)


class Foreign:
    """What another program pickles."""


def test_files_of_other_programs_are_refused_by_name(tmp_path: Path) -> None:
    made = {
        "text": b"epoch: 3",
        "html": b"<!DOCTYPE html><html>404</html>",
        "zeros": bytes(5000),
        "bytes": bytes(range(256)),
    }
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("readme.txt", "no tensors")
    torch.save(Foreign(), tmp_path / "object")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"model": Foreign()}))
    torch.save([torch.zeros(1)], tmp_path / "list")
    torch.save(torch.nn.Linear(1, 1).state_dict(), tmp_path / "state_dict")
    (tmp_path / "directory").mkdir()
    for path in tmp_path.iterdir():
        with pytest.raises(CheckpointError, match=rf"{path.name}: .*(not a|a directory)") as caught:
            load_checkpoint(path)
        assert "weights_only" not in str(caught.value)  # torch's advice would be to trust the file


@pytest.mark.parametrize("name", ["architecture", "weights", "config", "epoch"])
def test_a_missing_or_foreign_entry_is_named(tmp_path: Path, name: str) -> None:
    content = {"format_version": 1, **vars(make_checkpoint())}
    torch.save({**content, name: "text"}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=f"not a carkp checkpoint: {name} is str"):
        load_checkpoint(tmp_path / "odd.pt")
    del content[name]
    torch.save(content, tmp_path / "short.pt")
    with pytest.raises(CheckpointError, match=f"it lacks {name}$"):
        load_checkpoint(tmp_path / "short.pt")


def test_a_network_of_no_numbers_is_refused() -> None:
    built = build_pose_net("tf_efficientnet_lite0", "none", (64, 64), head_channels=16)
    weights = dict(built.net.state_dict())
    weights["head.final.weight"] = torch.full_like(weights["head.final.weight"], float("nan"))
    checkpoint = Checkpoint(built.architecture, weights, {}, 1, {})
    with pytest.raises(CheckpointError, match=r"head\.final\.weight is the first of 1 such tensors"):
        load_net(checkpoint)
