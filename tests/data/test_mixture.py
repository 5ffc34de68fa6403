"""Several prepared sources read as one data set."""

import pickle
import shutil
from pathlib import Path

import pytest

from carkp.data.issues import DataError
from carkp.data.mixture import (
    MIXTURE_FILE,
    MixedStore,
    merge_summaries,
    open_data,
    parts_of,
    restrict,
    source_directories,
    write_mixture,
)
from carkp.data.prepare import prepare
from carkp.data.store import STORE_NAMES, LmdbStore, data_digest, open_stores
from carkp.data.summary import read_summary
from tests.data.conftest import RawLayout
from tests.data.test_store import a_record, write

NAMES = ["train/car_a/0", "train/car_a/1", "train/car_a/2"]


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, LmdbStore]:
    """Of three samples, of none, and of two."""
    return {
        "drawn": write(tmp_path / "drawn", [a_record(number) for number in range(3)]),
        "empty": write(tmp_path / "empty", []),
        "own": write(tmp_path / "own", [a_record(number) for number in (5, 6)]),
    }


@pytest.fixture
def mixed(tmp_path: Path, parts: dict[str, LmdbStore]) -> MixedStore:
    return MixedStore(tmp_path / "mixed", parts)


def test_the_samples_of_the_sources_follow_one_another_and_name_theirs(mixed: MixedStore) -> None:
    ids = [
        "drawn@train/car_a/0",
        "drawn@train/car_a/1",
        "drawn@train/car_a/2",
        "own@train/car_a/5",
        "own@train/car_a/6",
    ]
    assert [mixed.sample_id(index) for index in range(len(mixed))] == ids
    assert [mixed[index].sample_id for index in range(len(mixed))] == ids
    assert mixed[3].points.tolist() == a_record(5).points.tolist()
    assert mixed.ranges == {"drawn": range(3), "empty": range(3, 3), "own": range(3, 5)}
    for index in (-1, 5):
        with pytest.raises(IndexError, match=f"holds 5 samples, so there is no sample {index}"):
            mixed[index]


def test_the_digest_is_of_names_and_content_in_their_order(tmp_path: Path, parts: dict[str, LmdbStore]) -> None:
    def digest_of(named: dict[str, LmdbStore]) -> str:
        return MixedStore(tmp_path, named).info.digest

    drawn, empty, own = parts.values()
    others = [
        {"drawn": drawn, "empty": empty, "mine": own},
        {"own": own, "empty": empty, "drawn": drawn},
        {"drawn": drawn, "own": own},
        {"drawn": own, "empty": empty, "own": drawn},
    ]
    assert digest_of(dict(parts)) == digest_of(parts)
    assert len({digest_of(named) for named in [parts, *others]}) == 5


def test_another_process_reads_the_same(mixed: MixedStore) -> None:
    copy = pickle.loads(pickle.dumps(mixed))
    assert copy.sample_id(4) == mixed.sample_id(4)
    assert copy.info == mixed.info


def test_damage_in_any_part_is_found(tmp_path: Path, mixed: MixedStore) -> None:
    mixed.verify()
    file = tmp_path / "own" / "data.mdb"
    content = bytearray(file.read_bytes())
    place = content.rfind(b"jpeg")
    content[place] ^= 1
    file.write_bytes(content)
    again = MixedStore(tmp_path, {"own": LmdbStore(tmp_path / "own")})
    with pytest.raises(DataError, match="own is damaged"):
        again.verify()


def test_a_part_can_be_taken_out(mixed: MixedStore, parts: dict[str, LmdbStore]) -> None:
    own = restrict(mixed, ["own"])
    assert [own.sample_id(index) for index in range(len(own))] == ["own@train/car_a/5", "own@train/car_a/6"]
    assert list(parts_of(mixed)) == ["drawn", "empty", "own"]
    assert parts_of(parts["own"]) == {}
    assert restrict(parts["own"], ["drawn"]) is parts["own"]  # the only source is all there is


@pytest.fixture
def prepared(tmp_path: Path) -> dict[str, Path]:
    """Two prepared sources of one car a split."""
    found = {}
    for name, visibility in (("a", 1), ("b", 2)):
        raw = RawLayout(tmp_path / f"raw_{name}")
        for split in ("train", "test"):
            raw.add_car(split, "car_a", visibility=visibility)
        raw.add_car("train", "car_held_out")
        found[name] = tmp_path / "data" / name
        prepare(raw.root, found[name], ("car_held_out",), num_workers=1, jpeg_quality=95, show_progress=False)
    return found


def test_a_mixture_is_a_directory_that_names_those_of_its_sources(tmp_path: Path, prepared: dict[str, Path]) -> None:
    mixture = tmp_path / "data" / "mixture"
    write_mixture(mixture, prepared)
    assert source_directories(mixture) == prepared
    assert source_directories(prepared["a"]) == {}
    stores = open_data(mixture)
    assert [len(getattr(stores, split)) for split in STORE_NAMES] == [2, 2, 2]
    assert stores.train.sample_id(1) == f"b@{open_stores(prepared['b']).train.sample_id(0)}"
    assert data_digest(open_data(prepared["a"])) == data_digest(open_stores(prepared["a"]))
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "data", elsewhere)
    shutil.rmtree(tmp_path / "data")
    assert data_digest(open_data(elsewhere / "mixture")) == data_digest(stores)


def test_the_summaries_of_the_sources_become_one(tmp_path: Path, prepared: dict[str, Path]) -> None:
    mixture = tmp_path / "data" / "mixture"
    write_mixture(mixture, prepared)
    summaries = {name: read_summary(path) for name, path in prepared.items()}
    merged = merge_summaries(mixture, {name: summary for name, summary in summaries.items() if summary is not None})
    assert set(merged.scenes["val"]) == {"a/car_held_out", "b/car_held_out"}
    assert merged.totals("train").num_cars == 2
    assert merged.digests["data"] == data_digest(open_data(mixture))
    assert merged.from_json(merged.to_json()) == merged


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other", "sources": {}}', '{"format": "carkp-mixture"}'])
def test_a_damaged_mixture_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / MIXTURE_FILE).write_text(text)
    with pytest.raises(DataError, match=r"mixture\.json is not a readable mixture"):
        open_data(tmp_path)


def test_sources_lie_beside_their_mixture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be beside it"):
        write_mixture(tmp_path / "a" / "mixture", {"x": tmp_path / "b" / "x"})
