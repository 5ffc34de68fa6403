"""Comparable digests of a project's files: times, ids and paths are left out.

Weights, metrics and predictions are compared bit by bit, whatever file holds them.
"""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import yaml

from carkp.data.store import LmdbStore
from carkp.disk import file_digest
from carkp.training.checkpoint import load_checkpoint, weights_digest

TEMPORARY = re.compile(r"\.(partial|part|tmp)$|^\.artifact\.uploading\.|-(journal|wal|shm)$")
"""Names of files and folders that exist only while something is written."""

_ID = re.compile(r"\b(m-)?[0-9a-f]{32}\b")
_TIME = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?( UTC)?")
_COUNTED = frozenset({"trial", "training", "seconds", "run_id"})
"""Columns of a study's trials that a training that is done again changes."""

_FACTS = ("source", "source_fingerprint")
"""Parts of a data summary that depend on the place: the source's path and the times of its files."""


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Return the names of entries that differ or exist on one side only."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content without times and ids.

    Raises:
        Exception: any error of the file's reader, if the file is incomplete.
    """
    return _READERS.get(path.suffix, file_digest)(path)


def unreadable_files(project: Path) -> list[str]:
    """List files under their final names that their readers refuse; only kinds of files with a reader are checked."""
    return [f"{path.relative_to(project)}: {error}" for path, error in _unreadable(project)]


def _unreadable(project: Path) -> Iterator[tuple[Path, Exception]]:
    for path in files_of(project):
        if path.suffix in _READERS and not is_temporary(path, project):
            try:
                content_digest(path)
            except Exception as error:  # any error that a reader has with an incomplete file
                yield path, error
    for store in project.rglob("*_lmdb"):
        if not is_temporary(store, project):
            try:
                assert LmdbStore(store).info.digest
            except Exception as error:
                yield store, error


def temporaries(project: Path) -> list[str]:
    """List files and folders that exist only while something is written; only the outermost names."""
    found = [path for path in project.rglob("*") if TEMPORARY.search(path.name)]
    return sorted(str(path.relative_to(project)) for path in found if not is_temporary(path.parent, project))


def is_temporary(path: Path, project: Path) -> bool:
    """Return whether the path, or a folder above it, has the name of a temporary file."""
    return any(TEMPORARY.search(part) for part in path.relative_to(project).parts)


def files_of(project: Path) -> Iterable[Path]:
    return (path for path in sorted(project.rglob("*")) if path.is_file() and not path.is_symlink())


def _text(path: Path) -> str:
    return _digest(plain(path.read_text(encoding="utf-8")).encode())


def plain(text: str) -> str:
    """Return a text without ids and times."""
    return _TIME.sub("<time>", _ID.sub("<id>", text))


def _table(path: Path) -> str:
    """The trials of a study by job, without those that failed; another table as it is."""
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    if not found or not {"job", "trained", "state"} <= found[0].keys():
        return _text(path)
    kept = [row for row in found if row["state"] in ("complete", "pruned")]
    lines = sorted(json.dumps({name: row[name] for name in sorted(row) if name not in _COUNTED}) for row in kept)
    return _digest("\n".join(lines).encode())


def _json(path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    if path.name == "summary.json":
        content = {name: value for name, value in content.items() if name not in _FACTS}
    return _digest(plain(json.dumps(content, sort_keys=True)).encode())


def _yaml(path: Path) -> str:
    return _digest(plain(json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")), default=str)).encode())


def _checkpoint(path: Path) -> str:
    checkpoint = load_checkpoint(path)
    trained = checkpoint.training_state.get("weights", {})
    return f"epoch {checkpoint.epoch}: {weights_digest(checkpoint.weights)} {weights_digest(trained)}"


def _arrays(path: Path) -> str:
    digest = hashlib.sha256()
    with np.load(path, allow_pickle=False) as arrays:
        for name in sorted(arrays):
            digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
            digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _graph(path: Path) -> str:
    """Digest an ONNX file; its metadata name runs, so they are compared without ids and times."""
    model = onnx.load(str(path))
    notes = plain(json.dumps({item.key: item.value for item in model.metadata_props}, sort_keys=True))
    del model.metadata_props[:]
    return _digest(model.SerializeToString(deterministic=True) + notes.encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


_READERS: Mapping[str, Callable[[Path], str]] = {
    ".pt": _checkpoint,
    ".npz": _arrays,
    ".onnx": _graph,
    ".json": _json,
    ".yaml": _yaml,
    ".csv": _table,
    ".html": _text,
    ".md": _text,
    ".txt": _text,
}
