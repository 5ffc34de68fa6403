"""What files say without times and ids, which of them are half written, and which are unfinished."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from carkp.data.store import StoreWriter
from carkp.training.checkpoint import Checkpoint, save_checkpoint
from carkp.workflow.project_state import content_digest, differences, plain, temporaries, unreadable_files
from tests.tiny_models import TinyModels


def save_weights(path: Path, value: float = 1.0, epoch: int = 3) -> None:
    save_checkpoint(Checkpoint({}, {"w": torch.full((100,), value)}, {"name": str(path)}, epoch, {}), path)


def save_arrays(path: Path, value: float = 1.0) -> None:
    np.savez_compressed(path, points=np.full(100, value))


def save_summary(path: Path, value: float = 1.0) -> None:
    path.write_text(json.dumps({"source": str(path), "source_fingerprint": str(path), "count": value}))


def save_page(path: Path, value: float = 1.0) -> None:
    run_id = "0123456789abcdef" * 2 if "one" in str(path) else "fedcba9876543210" * 2
    path.write_text(f"<p>run {run_id} of 2026-11-{len(str(path)) % 9 + 10} 12:0{len(str(path)) % 9} UTC: {value}</p>")


def save_trials(path: Path, value: float = 1.0) -> None:
    """Of a study; of the one project its first training was killed and done again."""
    head = "trial,training,job,trained,state,sigma,val_int8_pck,seconds,run_id"
    first = [f"0,0,0,True,complete,1.5,{value},5.1,b"]
    if path.parent.name == "one":
        first = ["0,0,0,True,fail,1.5,,3.2,a", f"2,2,0,True,complete,1.5,{value},4.5,c"]
    path.write_text("\n".join([head, *first, "1,1,1,True,pruned,2.5,,1.5,d"]) + "\n")


FILES: dict[str, Callable[..., None]] = {
    "best.pt": save_weights,
    "test.npz": save_arrays,
    "summary.json": save_summary,
    "index.html": save_page,
    "trials.csv": save_trials,
}


@pytest.mark.parametrize("name", FILES)
def test_places_ids_and_times_do_not_count_and_values_do(tmp_path: Path, name: str) -> None:
    for folder, value in (("one", 1.0), ("another", 1.0), ("third", 1.0000001)):
        (tmp_path / folder).mkdir()
        FILES[name](tmp_path / folder / name, value)
    one, another, third = (content_digest(tmp_path / folder / name) for folder in ("one", "another", "third"))
    assert one == another
    assert one != third


def test_half_files_are_found(tmp_path: Path, tiny_models: TinyModels) -> None:
    save_weights(tmp_path / "best.pt")
    save_arrays(tmp_path / "test.npz")
    save_summary(tmp_path / "summary.json")
    (tmp_path / "int8.onnx").write_bytes(tiny_models.int8_onnx.read_bytes())
    with StoreWriter(tmp_path / "val_lmdb"):
        pass
    assert unreadable_files(tmp_path) == []
    names = {"best.pt", "test.npz", "summary.json", "int8.onnx", "val_lmdb/data.mdb"}
    for name in names:
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    found = {line.partition(":")[0] for line in unreadable_files(tmp_path)}
    assert found == {name.removesuffix("/data.mdb") for name in names}


def test_unfinished_files_count_once_and_are_not_read(tmp_path: Path) -> None:
    partial = tmp_path / ".train_lmdb.host.5.00000000.partial"
    partial.mkdir()
    (partial / "summary.json").write_text("{")
    (partial / ".unfinished.host.5.00000000.partial").touch()
    (tmp_path / ".artifact.uploading.x").touch()
    (tmp_path / "mlflow.db-journal").touch()
    (tmp_path / "partial").touch()
    assert temporaries(tmp_path) == [".artifact.uploading.x", partial.name, "mlflow.db-journal"]
    assert unreadable_files(tmp_path) == []


def test_differences_name_what_is_there_once() -> None:
    assert differences({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "0", "d": "4"}) == ["b", "c", "d"]


def test_a_text_is_plain() -> None:
    text = f"run {'0' * 32} and m-{'a' * 32} at 2026-11-26 10:11:12.5 UTC, 2026-11-26: 0.93"
    assert plain(text) == "run <id> and <id> at <time>, <time>: 0.93"
