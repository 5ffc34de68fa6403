"""Sources of data on a card: counted from the summaries of their run, with whom to credit."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from carkp.config.loading import ConfigError
from carkp.tracking.runs import FoundRun
from carkp.workflow import card_sources
from carkp.workflow.card_sources import data_sources, mesh_credits

RUN = FoundRun("abc", "data tiny", {}, {}, {}, "0", "FINISHED", datetime(2030, 1, 2, tzinfo=UTC))
POINTS = [[0.1 * place, 1.0, 0.5] for place in range(12)]
MESH = {"author": "A. Uthor", "license": "CC0-1.0", "source": "https://example.org", "points": POINTS}
UNPLACED = {**MESH, "points": [None] * 12}


def write_summary(path: Path, digest: str, num_train: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scenes = {"train": {"a": {"num_cars": num_train, "num_frames": 1}, "b": {"num_cars": 1}}, "val": {}}
    path.write_text(json.dumps({"scenes": scenes, "digests": {"train": "x", "data": digest}, "kind": "raw"}))


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Those of the run."""

    def fetch(run_id: str, name: str) -> Path:
        assert run_id == "abc"
        return tmp_path / "artifacts" / name

    monkeypatch.setattr(card_sources, "fetch_artifact", fetch)
    return tmp_path / "artifacts"


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    folder = tmp_path / "meshes"
    folder.mkdir()
    entries = {"van_2": MESH, "bus_1": {**MESH, "author": "B"}, "tram_3": UNPLACED}
    (folder / "meshes.json").write_text(json.dumps(entries))
    for name in entries:
        (folder / f"{name}.glb").write_bytes(b"glTF")
    return folder


def test_one_source_has_the_whole_of_every_batch(artifacts: Path) -> None:
    write_summary(artifacts / "data" / "summary.json", "d1", 7)
    (found,) = data_sources(RUN, {"data": {"source": "synthetic"}, "synthetic": {"seed": 3}})
    assert (found.name, found.share, found.seed, found.is_generated, found.sha256) == ("synthetic", 1.0, 3, True, "d1")
    assert found.num_cars == {"train": 8, "val": 0, "test": 0}
    (found,) = data_sources(RUN, {"data": {"source": "/somewhere/car fusion"}})
    assert (found.name, found.seed, found.is_generated) == ("car-fusion", None, False)
    assert "under their own licence" in found.what


def test_several_sources_have_their_shares_and_meshes_their_authors(artifacts: Path, meshes: Path) -> None:
    write_summary(artifacts / "data" / "summary.json", "both", 30)
    write_summary(artifacts / "data" / "rendered" / "summary.json", "d1", 20)
    write_summary(artifacts / "data" / "drawn" / "summary.json", "d2", 10)
    sources = [{"source": "rendered", "share": 0.6, "name": ""}, {"source": "synthetic", "share": 0.4, "name": "drawn"}]
    config = {
        "data": {"source": "synthetic", "sources": sources},
        "rendered": {"meshes": str(meshes), "seed": 5},
        "synthetic": {"seed": 3},
    }
    found = {item.name: item for item in data_sources(RUN, config)}
    assert {name: (item.share, item.seed, item.sha256) for name, item in found.items()} == {
        "rendered": (0.6, 5, "d1"),
        "drawn": (0.4, 3, "d2"),
    }
    assert [(mesh.name, mesh.author, mesh.licence) for mesh in found["rendered"].meshes] == [
        ("bus_1", "B", "CC0-1.0"),
        ("van_2", "A. Uthor", "CC0-1.0"),
    ]
    assert found["drawn"].meshes == ()


def test_meshes_without_authors_are_not_shipped(meshes: Path) -> None:
    (meshes / "meshes.json").write_text(json.dumps({"bus_1": {"license": "CC0-1.0", "points": POINTS, "source": ""}}))
    with pytest.raises(ConfigError, match=r"bus_1 -> author: Field required.*; the card credits the authors"):
        mesh_credits(meshes)
    with pytest.raises(ConfigError, match=r"no such file.*; the card credits the authors"):
        mesh_credits(meshes / "nowhere")
