"""Files of weights as people have them: state dicts and checkpoints of torch or safetensors, known by content."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
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
    if strange := strange_tensors(content):
        raise ValueError(f"{path}: {strange[0]}: no weights that can be loaded")
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
        check_archive(path)
        with path.open("rb") as file:  # by its name torch would take some files for another kind
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch advises to trust the file
        raise ValueError(
            f"{path}: not a checkpoint that can be loaded safely: it is cut short, or another program wrote it, or it "
            "holds more than tensors and plain values. Where it is whole and yours, save its tensors alone: "
            "torch.save(model.state_dict(), path)"
        ) from error
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path}: not a checkpoint that can be loaded: it is damaged, {error}; download or copy it anew"
        ) from error
    except Exception as error:  # a foreign file decides by its bytes what torch and zipfile raise
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


def check_archive(path: Path) -> None:
    """Look at what ``torch.load`` does not: checksums, and whether an archive of torch is larger than its file.

    Raises:
        BadZipFile: it is damaged, or it is compressed, which torch does not do: a few bytes can stand for gigabytes.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if sum(item.file_size for item in archive.infolist()) > path.stat().st_size:
            raise zipfile.BadZipFile("it unpacks to more than its own size, which no file of torch does")
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")


def strange_tensors(content: object) -> list[str]:
    """What is wrong with tensors of a nest of plain data: they are not dense values in memory, one for each element.

    A tensor may say that it has a billion elements, and repeat one value for them: the next copy needs the memory.
    """
    found, pending, seen = [], [content], set[int]()
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Mapping):
            pending += item.values()
        elif isinstance(item, list | tuple | set):
            pending += item
        elif isinstance(item, Tensor):
            is_plain = item.layout == torch.strided and item.device.type == "cpu" and not item.is_quantized
            if not is_plain or item.numel() > max(_num_stored(item), 1):
                found.append(f"a tensor of shape {tuple(item.shape)} has fewer values in the file, or is not dense")
    return found


def _num_stored(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // max(tensor.element_size(), 1)
