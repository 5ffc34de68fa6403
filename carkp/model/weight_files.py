"""Files of weights as people have them: state dicts and checkpoints of torch or safetensors, known by content."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

StateDict = dict[str, Tensor]

CHECKPOINT_KEYS = ("model", "net", "state_dict", "weights")
"""Entries under which checkpoints keep their state dict."""

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and modules of Lightning put before every name."""

_LENGTH_BYTES = 8
"""Of the header of a safetensors file, which is JSON and follows."""

_START_BYTES = 64


def read_state_dict(path: Path) -> StateDict:
    """Tensors of a safetensors file, a state dict, or a checkpoint that contains one, without prefixes of wrappers.

    Raises:
        ValueError: something else, a damaged file, or weights that are no numbers.
    """
    content = _read(path)
    for key in CHECKPOINT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: expected a state dict, or one under {', '.join(CHECKPOINT_KEYS)}")
    broken = [name for name, value in content.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise ValueError(
            f"{path}: {broken[0]} holds values that are NaN or infinite ({len(broken)} of {len(content)} tensors do): "
            "the training that wrote it diverged; take an earlier checkpoint"
        )
    return _unwrapped(content)


def _unwrapped(state: Mapping[str, Tensor]) -> StateDict:
    names = list(state)
    while prefix := next((found for found in WRAPPERS if all(name.startswith(found) for name in names)), ""):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if foreign := _foreign_kind(start):
        raise ValueError(f"{path}: {foreign}")
    try:
        if start[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{":
            return load_file(path)
        _check_sums(path)
        with path.open("rb") as file:  # by its name torch would take some files for another kind
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch advises to trust the file
        raise ValueError(
            f"{path}: not a checkpoint that can be loaded safely: it is cut short, or another program wrote it, or it "
            "holds more than tensors and plain values. Where it is whole and yours, save its tensors alone: "
            "torch.save(model.state_dict(), path)"
        ) from error
    except (RuntimeError, EOFError, OSError, SafetensorError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a checkpoint that can be loaded: {error}; download or copy it anew") from error


def _foreign_kind(start: bytes) -> str:
    """What else lies where people expect weights; "" for none of it."""
    text = start.lstrip().lower()
    if not start:
        return "the file is empty: download or copy it anew"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the weights: fetch them with `git lfs pull`"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not weights: the download went wrong, look at it in a browser"
    return ""


def _check_sums(path: Path) -> None:
    """Of an archive of torch, whose checksums ``torch.load`` does not look at."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"it is damaged, the checksum of {damaged} is wrong")
