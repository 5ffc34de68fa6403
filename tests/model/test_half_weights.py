"""Weights as they are shipped: what is written is read, to the precision of float16, and foreign files are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from carkp.file_kinds import is_safetensors
from carkp.model.half_weights import (
    HalfWeights,
    encode_half_weights,
    read_half_weights,
    round_to_half,
)
from carkp.training.checkpoint import CheckpointError, load_checkpoint, load_net
from tests.tiny_models import TinyModels

WEIGHTS = {"b.weight": torch.linspace(-3, 3, 12).reshape(3, 4), "a.num_batches": torch.tensor(70_001)}
CONTENT = HalfWeights({"name": "net"}, {"seed": 3}, 5, {"commit": "abc", "codec": "{}"}, WEIGHTS)


def written(path: Path, content: HalfWeights) -> Path:
    path.write_bytes(encode_half_weights(content))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors", CONTENT)
    found = read_half_weights(path)
    assert replace(found, weights={}) == replace(CONTENT, weights={})
    assert found.weights["b.weight"].dtype == torch.float32
    torch.testing.assert_close(found.weights["b.weight"], WEIGHTS["b.weight"], rtol=2**-11, atol=0)
    assert not torch.equal(found.weights["b.weight"], WEIGHTS["b.weight"])  # or nothing was rounded
    assert torch.equal(found.weights["a.num_batches"], WEIGHTS["a.num_batches"])


def test_rounded_weights_are_what_the_file_holds(tmp_path: Path) -> None:
    rounded = round_to_half(WEIGHTS)
    found = read_half_weights(written(tmp_path / "w.safetensors", CONTENT)).weights
    assert all(torch.equal(found[name], rounded[name]) for name in WEIGHTS)
    assert written(tmp_path / "again", replace(CONTENT, weights=found)).read_bytes() == encode_half_weights(CONTENT)


def test_values_that_float16_cannot_hold_are_refused() -> None:
    weights = {**WEIGHTS, "c.running_var": torch.tensor([1.0, 70_000.0])}
    with pytest.raises(ValueError, match=r"c\.running_var holds values that float16 cannot hold \(1 of 3"):
        encode_half_weights(replace(CONTENT, weights=weights))


def test_a_trained_network_comes_back(tiny_models: TinyModels, shipped_folder: Path) -> None:
    checkpoint = load_checkpoint(shipped_folder / "weights.safetensors")
    exact = load_checkpoint(tiny_models.checkpoint)
    assert (checkpoint.architecture, checkpoint.epoch) == (exact.architecture, exact.epoch)
    assert checkpoint.config == tiny_models.config.model_dump(mode="json")
    images = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = tiny_models.net(images), load_net(checkpoint)(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01 * float(expected.abs().max()))


def test_other_files_are_refused(tmp_path: Path, tiny_models: TinyModels) -> None:
    assert not is_safetensors(tiny_models.checkpoint)
    save_file(WEIGHTS, tmp_path / "alone.safetensors")
    whole = written(tmp_path / "whole", CONTENT).read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-3])
    (tmp_path / "new").write_bytes(whole.replace(rb"\"format\": 1", rb"\"format\": 7"))
    cases = {
        "alone.safetensors": "weights without the description of their network: give them as model.pretrained",
        "cut": "cannot be read as safetensors",
        "new": "format 7, this version of carkp reads 1",
    }
    for name, message in cases.items():
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path / name)
