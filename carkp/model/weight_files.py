"""Files of weights from other programs: state dicts and checkpoints of torch or safetensors, detected by content."""

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
"""Keys under which checkpoints store their state dict."""

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""Prefixes that DataParallel, torch.compile and Lightning modules add to every name."""

_LENGTH_BYTES = 8
"""Length of the number at the start of a safetensors file, which gives the size of the JSON header after it."""

_START_BYTES = 64


def read_state_dict(path: Path) -> StateDict:
    """Read the tensors of a safetensors file, a state dict, or a checkpoint with one; remove prefixes of wrappers.

    Raises:
        ValueError: the file has another kind or is damaged, or weights are NaN or infinite.
    """
    content = _read(path)
    for key in CHECKPOINT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: expected a state dict, or one under {', '.join(CHECKPOINT_KEYS)}")
    if strange := strange_tensors(content):
        raise ValueError(f"{path}: {strange[0]}: not weights that can be loaded")
    broken = [name for name, value in content.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise ValueError(
            f"{path}: {broken[0]} has values that are NaN or infinite ({len(broken)} of {len(content)} tensors do): "
            "its training diverged; use an earlier checkpoint"
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
        with path.open("rb") as file:  # given the path, torch would mistake some files for another kind
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message suggests to trust the file
        raise ValueError(
            f"{path}: not a checkpoint that can be loaded safely: it is truncated, or written by another program, or "
            "contains more than tensors and plain values. If it is complete and yours, save only its tensors: "
            "torch.save(model.state_dict(), path)"
        ) from error
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path}: not a checkpoint that can be loaded: it is damaged, {error}; download or copy it again"
        ) from error
    except Exception as error:  # torch and zipfile raise many kinds of errors for a file of another kind
        raise ValueError(f"{path}: not a checkpoint that can be loaded: {error}; download or copy it again") from error


def _foreign_kind(start: bytes) -> str:
    """Return a message if a file's first bytes are of another kind that is often mistaken for weights, else ""."""
    text = start.lstrip().lower()
    if not start:
        return "the file is empty: download or copy it again"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the weights: fetch them with `git lfs pull`"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not weights: the download failed, open it in a browser"
    return ""


def check_archive(path: Path) -> None:
    """Check what ``torch.load`` does not: checksums, and whether an archive of torch unpacks to more than its size.

    Raises:
        BadZipFile: the archive is damaged or compressed. torch does not compress, and a few compressed bytes can expand
            to gigabytes.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if sum(item.file_size for item in archive.infolist()) > path.stat().st_size:
            raise zipfile.BadZipFile("it unpacks to more than its own size, unlike every torch file")
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")


def strange_tensors(content: object) -> list[str]:
    """Return a message for each tensor in nested plain data that does not store one dense value per element.

    A tensor can claim a billion elements and repeat one value for all of them. A copy of it would need the memory.
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
