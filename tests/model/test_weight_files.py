"""Files of weights as people bring them: whole ones load, whoever wrapped them; others are refused by what they are."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from carkp.model.weight_files import read_state_dict

WEIGHTS = {"conv.weight": torch.arange(4.0), "norm.bias": torch.ones(2), "norm.num": torch.tensor(3)}


def same(found: dict[str, Tensor]) -> bool:
    return set(found) == set(WEIGHTS) and all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.module."])
@pytest.mark.parametrize("key", ["", "state_dict", "model"])
def test_wrappers_and_checkpoints_are_unpacked(tmp_path: Path, prefix: str, key: str) -> None:
    state = {f"{prefix}{name}": value for name, value in WEIGHTS.items()}
    torch.save({key: state, "epoch": 3, "optimizer_states": [{}]} if key else state, tmp_path / "a.ckpt")
    assert same(read_state_dict(tmp_path / "a.ckpt"))


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_the_content_decides_and_not_the_name(tmp_path: Path, name: str) -> None:
    save_file(WEIGHTS, tmp_path / name)
    assert same(read_state_dict(tmp_path / name))
    torch.save(WEIGHTS, tmp_path / name)
    assert same(read_state_dict(tmp_path / name))


def test_a_prefix_of_some_names_is_a_part_of_them(tmp_path: Path) -> None:
    torch.save({**WEIGHTS, "module.conv.weight": torch.zeros(4)}, tmp_path / "a.pt")
    assert set(read_state_dict(tmp_path / "a.pt")) == {*WEIGHTS, "module.conv.weight"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b"weights", "cannot|can be loaded safely"),
    ],
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_other_files_are_named(tmp_path: Path, content: bytes, message: str, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_state_dict(tmp_path / name)
    assert "weights_only" not in str(error.value)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(WEIGHTS, path)
    content = bytearray(path.read_bytes())
    place = content.index(WEIGHTS["conv.weight"].numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        read_state_dict(path)


def test_what_holds_more_than_tensors_says_how_to_save_them(tmp_path: Path) -> None:
    torch.save({"state_dict": WEIGHTS, "args": Namespace(lr=1)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="save only its tensors"):
        read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    torch.save({**WEIGHTS, "conv.weight": torch.full((4,), value)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"conv\.weight has values that are NaN or infinite"):
        read_state_dict(tmp_path / "a.pt")
