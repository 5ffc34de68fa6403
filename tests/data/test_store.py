"""A store is complete and ours, or refused."""

import hashlib
import multiprocessing
import os
import pickle
import shutil
from dataclasses import replace

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carkp.data import store as store_module
from carkp.data.issues import DataError
from carkp.data.samples import sample_crops
from carkp.data.store import (
    LmdbStore,
    Record,
    Store,
    Stores,
    StoreWriter,
    compute_digest,
    data_digest,
    open_stores,
    pack_record,
    unpack_id,
    unpack_record,
)


def a_record(number: int = 0, data: bytes = b"jpeg") -> Record:
    points = np.arange(24, dtype=np.float32).reshape(12, 2) + number
    return Record(f"train/car_a/{number}", "car_a", data, points, np.full(12, 2, np.uint8), (30, 40), -1)


def write(path, records) -> LmdbStore:
    with StoreWriter(path) as writer:
        for record in records:
            writer.add(record)
    return LmdbStore(path)


def assert_equal(left: Record, right: Record) -> None:
    for name in ("sample_id", "scene", "jpeg", "size", "truncated"):
        assert getattr(left, name) == getattr(right, name)
    np.testing.assert_array_equal(left.points, right.points)
    np.testing.assert_array_equal(left.validity, right.validity)


@given(st.text(), st.text(), st.binary(), st.integers(-1, 1), st.integers(1, 5000))
def test_a_record_survives_packing(sample_id, scene, data, truncated, height):
    record = replace(a_record(), sample_id=sample_id, scene=scene, jpeg=data, truncated=truncated, size=(height, 7))
    assert_equal(unpack_record(pack_record(record)), record)
    assert unpack_id(pack_record(record)) == sample_id


def test_a_store_gives_back_what_was_written(tmp_path):
    records = [a_record(i, bytes([i]) * 50) for i in range(7)]
    store = write(tmp_path / "train_lmdb", records)
    assert len(store) == 7
    for index, record in enumerate(records):
        assert_equal(store[index], record)
        assert store.sample_id(index) == record.sample_id
    assert [path.name for path in tmp_path.iterdir()] == ["train_lmdb"]
    for index in (-1, 7):
        with pytest.raises(IndexError):
            store[index]


def test_the_map_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_FIRST_MAP_SIZE", 2**16)
    monkeypatch.setattr(store_module, "_BATCH_BYTES", 2**15)
    store = write(tmp_path / "s", [a_record(i, bytes(10_000)) for i in range(100)])
    assert_equal(store[99], a_record(99, bytes(10_000)))
    assert compute_digest(tmp_path / "s") == store.info.digest


def test_digests_follow_the_content(tmp_path):
    one = write(tmp_path / "one", [a_record(0), a_record(1)])
    same = write(tmp_path / "same", [a_record(0), a_record(1)])
    other = write(tmp_path / "other", [a_record(1), a_record(0)])
    assert one.info == same.info
    assert one.info.digest != other.info.digest
    assert data_digest(Stores(one, other, same)) == data_digest(Stores(same, other, one))
    assert data_digest(Stores(one, other, same)) != data_digest(Stores(other, one, same))


def test_an_empty_store_is_a_store(tmp_path):
    store = write(tmp_path / "s", [])
    assert len(store) == 0
    assert sample_crops(store, 5, 0) == []


def test_a_store_can_be_written_anew_while_it_is_open(tmp_path):
    assert write(tmp_path / "s", [a_record(1)])[0].sample_id.endswith("1")
    assert write(tmp_path / "s", [a_record(2)])[0].sample_id.endswith("2")


def test_who_has_a_store_open_goes_on_reading_it_when_it_is_written_anew(tmp_path):
    old = write(tmp_path / "s", [a_record(1)])
    unread = LmdbStore(tmp_path / "s")
    assert old[0].sample_id.endswith("1")
    new = write(tmp_path / "s", [a_record(2), a_record(3)])
    assert [store[0].sample_id[-1] for store in (old, new, unread, old)] == ["1", "2", "1", "1"]
    old.verify()
    new.verify()


def test_a_file_may_have_the_inode_of_a_removed_lock_file(tmp_path):
    old = write(tmp_path / "old", [a_record(1)])
    (tmp_path / "old/lock.mdb").rename(tmp_path / "inode")  # as if the system gave its inode to the next file
    shutil.rmtree(tmp_path / "old")
    with StoreWriter(tmp_path / "new") as writer:
        writer.add(a_record(2))
    (tmp_path / "inode").rename(tmp_path / "new/lock.mdb")
    assert LmdbStore(tmp_path / "new")[0].sample_id == a_record(2).sample_id
    assert old[0].sample_id == a_record(1).sample_id


def test_a_store_that_another_process_gets_is_the_same_or_refused(tmp_path):
    old = write(tmp_path / "s", [a_record(1)])
    sent = pickle.dumps(old)
    assert pickle.loads(sent)[0].sample_id.endswith("1")
    write(tmp_path / "s", [a_record(2)])
    with pytest.raises(DataError, match="was rewritten after this run opened it"):
        pickle.loads(sent)[0]


def flip(path, needle: bytes) -> None:
    """Change one bit of a store's file, and none of its size or time."""
    file = path / "data.mdb"
    status, data = file.stat(), bytearray(file.read_bytes())
    data[data.index(needle)] ^= 1
    with file.open("r+b") as opened:
        opened.write(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_flipped_bit_is_found_and_the_remedy_named(tmp_path):
    write(tmp_path / "good", [a_record(0)]).verify()
    write(tmp_path / "s", [a_record(0), a_record(1, b"needle" * 50)])
    flip(tmp_path / "s", b"needle")
    with pytest.raises(DataError, match=rf"{tmp_path}/s is damaged.*prepare the data again"):
        LmdbStore(tmp_path / "s").verify()
    stores = Stores(LmdbStore(tmp_path / "good"), LmdbStore(tmp_path / "s"), LmdbStore(tmp_path / "good"))
    with pytest.raises(DataError, match="/s is damaged"):
        stores.verify()


def test_a_file_is_verified_once_and_again_when_it_changed(tmp_path, monkeypatch):
    store = write(tmp_path / "s", [a_record(0)])
    store.verify()
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_digest_of", lambda *_: pytest.fail("read again"))
        store.verify()
        LmdbStore(tmp_path / "s").verify()
    flip(tmp_path / "s", b"train/car_a/0")
    os.utime(tmp_path / "s/data.mdb", (5, 5))
    with pytest.raises(DataError, match="is damaged"):
        store.verify()


def test_the_digest_is_that_of_keys_and_values_in_order(tmp_path):
    """It is the same as ever: stores of earlier versions stay valid."""
    records = [a_record(i, bytes([i]) * 5000) for i in range(3)]
    store = write(tmp_path / "s", records)
    expected = hashlib.sha256(b"".join(b"%08d" % i + pack_record(r) for i, r in enumerate(records))).hexdigest()
    assert store.info.digest == compute_digest(tmp_path / "s") == expected


def test_a_store_that_is_cut_short_is_refused(tmp_path):
    write(tmp_path / "s", [a_record(i, bytes(10_000)) for i in range(20)])
    file = tmp_path / "s/data.mdb"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(DataError, match=r"s is cut short: \d+ of \d+ bytes"):
        LmdbStore(tmp_path / "s")


@given(st.lists(st.integers(0, 9000), max_size=40))
@settings(max_examples=25, deadline=None)
def test_no_whole_store_looks_cut_short(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("stores") / "s"
    assert len(write(path, [a_record(i, bytes(size)) for i, size in enumerate(sizes)])) == len(sizes)


@pytest.mark.parametrize("error", [lmdb.DiskError("No space left on device"), OSError(28, "No space left on device")])
def test_a_full_disk_leaves_nothing_of_a_store(tmp_path, monkeypatch, error):
    old = write(tmp_path / "s", [a_record(0)])

    def fail(*_):
        raise error

    monkeypatch.setattr(StoreWriter, "_put_batch", fail)
    with pytest.raises(DataError, match=r"s cannot be written: No space left on device.*MiB are free.*free some space"):
        write(tmp_path / "s", [a_record(1)])
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert old[0].sample_id.endswith("0")


def test_a_place_where_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/s cannot be written"):
        write(tmp_path / "file/s", [])


def test_two_stores_of_one_path_live_together(tmp_path):
    first = write(tmp_path / "s", [a_record()])
    second = LmdbStore(tmp_path / "s")
    assert_equal(first[0], second[0])


def read_first(store: Store) -> str:
    return store[0].sample_id


def test_a_forked_process_reads_an_open_store(tmp_path):
    store = write(tmp_path / "s", [a_record()])
    assert store[0].sample_id == "train/car_a/0"
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(read_first, (store,)) == "train/car_a/0"


def test_an_open_store_can_be_pickled(tmp_path):
    store = write(tmp_path / "s", [a_record()])
    assert read_first(pickle.loads(pickle.dumps(store))) == read_first(store)


def test_an_interrupted_store_is_not_there(tmp_path):
    def interrupted():
        with StoreWriter(tmp_path / "s") as writer:
            writer.add(a_record())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="no store at"):
        LmdbStore(tmp_path / "s")


def foreign(path, items) -> None:
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        for key, value in items:
            transaction.put(key, value)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (None, "never finished"),
        (b"{", "never finished"),
        (b"[]", "never finished"),
        (b'{"format": "other"}', "never finished"),
        (b'{"format": "carkp-crops", "schema_version": 99, "num_samples": 1, "digest": ""}', "version 99"),
        (b'{"format": "carkp-crops", "schema_version": 1, "num_samples": 5, "digest": ""}', "1 of 5"),
    ],
)
def test_a_foreign_or_incomplete_store_is_refused(tmp_path, meta, message):
    foreign(tmp_path / "s", [(b"00000000", b"x")] + ([(b"meta", meta)] if meta else []))
    with pytest.raises(DataError, match=message):
        LmdbStore(tmp_path / "s")


def test_a_file_that_is_no_lmdb_is_refused(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"no lmdb" * 3000)
    with pytest.raises(DataError, match="not a store that can be opened"):
        LmdbStore(tmp_path)


def test_a_missing_store_among_three_is_named(tmp_path):
    write(tmp_path / "train_lmdb", [])
    with pytest.raises(DataError, match="val_lmdb"):
        open_stores(tmp_path)


def test_drawn_crops_are_different_and_repeatable(store):
    drawn = sample_crops(store, 6, seed=3)
    assert len({crop.sample_id for crop in drawn}) == 6
    assert [crop.sample_id for crop in drawn] == [crop.sample_id for crop in sample_crops(store, 6, seed=3)]
    assert len(sample_crops(store, 100, seed=0)) == len(store)
    assert drawn[0].image.ndim == 3
