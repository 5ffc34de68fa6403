"""A store: packed crops of one split in LMDB; a store is either complete or does not exist.

Layout. A store is an LMDB directory. Sample i has the key ``b"%08d" % i``; the key ``b"meta"`` holds JSON with
``format``, ``schema_version``, ``num_samples`` and ``digest`` (sha256 over the keys and values of all samples in order)
and is written last. A value is, little endian:

    height u32, width u32       size of the crop in pixels
    truncated i8                1 cut by the frame, 0 whole, -1 unknown
    length of the id u16, length of the scene u16
    points 24 x f32             (K, 2), (x, y) in crop pixels
    validity 12 x u8            0 missing, 1 occluded, 2 visible
    id, scene                   UTF-8
    JPEG                        to the end
"""

import contextlib
import hashlib
import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import lmdb
import numpy as np
from numpy.typing import NDArray

from carkp import disk
from carkp.data.issues import DataError, explain_write_errors, printable
from carkp.keypoints.schema import NUM_KEYPOINTS

FORMAT = "carkp-crops"
SCHEMA_VERSION = 1
STORE_NAMES: dict[str, str] = {"train": "train_lmdb", "val": "val_lmdb", "test": "test_lmdb"}

T = TypeVar("T")

_META_KEY = b"meta"
_HEADER = struct.Struct(f"<IIbHH{8 * NUM_KEYPOINTS}s{NUM_KEYPOINTS}s")
_DATA_FILE = "data.mdb"
_AGAIN = "prepare the data again"
_OPEN_ATTEMPTS = 5
_FIRST_MAP_SIZE = 2**26
_BATCH_BYTES = 2**24
_AHEAD_BYTES = 2**25
_PAGE_BYTES = 4096


@dataclass(frozen=True, eq=False)
class Record:
    """A packed crop.

    Attributes:
        sample_id: id ``<split>/<scene>/<frame>_<i>``.
        scene: name of the scene.
        jpeg: bytes of the crop file.
        points: keypoints in crop pixels, (K, 2) float32.
        validity: 0 missing, 1 occluded, 2 visible, (K,) uint8.
        size: (height, width) of the crop in pixels.
        truncated: 1 cut by the frame, 0 whole, -1 unknown.
    """

    sample_id: str
    scene: str
    jpeg: bytes
    points: NDArray[np.float32]
    validity: NDArray[np.uint8]
    size: tuple[int, int]
    truncated: int


def sample_id_of(split: str, scene: str, name: str) -> str:
    """Return the id of the crop ``<frame>_<i>``; ``split`` is CarFusion's own split."""
    return f"{split}/{scene}/{name}"


def split_sample_id(sample_id: str) -> tuple[str, str]:
    """Return CarFusion's split and the name of the frame in a sample id."""
    split, name = sample_id.split("/", 1)[0], sample_id.rsplit("/", 1)[-1]
    return split, name.rpartition("_")[0] or name


class StoreInfo(NamedTuple):
    """The metadata of a store."""

    num_samples: int
    digest: str


class Store(Protocol):
    """The samples of a split, from one LMDB store or from several."""

    @property
    def path(self) -> Path:
        """Path of the store, for messages."""

    @property
    def info(self) -> StoreInfo: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def sample_id(self, index: int) -> str: ...

    def verify(self) -> None:
        """Compare the content with its digest.

        Raises:
            DataError: the content has changed since it was written.
        """


class LmdbStore:
    """A complete store, opened read-only. It can be pickled: another process opens it when it reads its first sample.

    If the store is written again, this object continues to read the old content; an object that was unpickled later
    refuses to read.
    """

    def __init__(self, path: Path) -> None:
        """Open the store and check its metadata.

        Raises:
            DataError: the store is missing, incomplete, cut short, of another kind, or of another version.
        """
        self.path = path
        self._environment: Any = _open_environment(path)
        self._identity = _file_identity(path)
        self.info = _info_of(path, self._environment)

    def __len__(self) -> int:
        return self.info.num_samples

    def __getitem__(self, index: int) -> Record:
        return self._unpacked(unpack_record, index)

    def sample_id(self, index: int) -> str:
        return self._unpacked(unpack_id, index)

    def _unpacked(self, unpack: Callable[[bytes], T], index: int) -> T:
        try:
            return unpack(self._get(index))
        except ValueError as error:
            raise DataError(f"{self.path}: sample {index} cannot be read ({error}): {_AGAIN}") from error

    def verify(self) -> None:
        """Read the whole store and compare it with its digest, only once per process while the file does not change.

        Raises:
            DataError: the content has changed since it was written.
        """
        environment = self._opened()
        if self._identity in _verified and self._is_unchanged():
            return
        _require_intact(self.path, environment, self.info)
        if self._is_unchanged():
            _verified.add(self._identity)

    def _is_unchanged(self) -> bool:
        """Return whether the file at the store's path is still the one that this object opened, without changes."""
        return _file_identity(self.path) == self._identity

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_environment": None}

    def _get(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} holds {len(self)} samples, so there is no sample {index}")
        try:
            with self._opened().begin() as transaction:
                value: bytes | None = transaction.get(_key(index))
        except lmdb.Error as error:
            raise DataError(f"{self.path}: sample {index} cannot be read ({error}): {_AGAIN}") from error
        if value is None:
            raise DataError(f"{self.path} lacks sample {index}: {_AGAIN}")
        return value

    def _opened(self) -> Any:
        if self._environment is None:
            environment = _open_environment(self.path)
            if _info_of(self.path, environment) != self.info:
                raise DataError(f"{self.path} was rewritten after this run opened it: start the run again")
            self._environment, self._identity = environment, _file_identity(self.path)
        return self._environment


@dataclass(frozen=True)
class Stores:
    """The three stores of a data set."""

    train: Store
    val: Store
    test: Store

    def verify(self) -> None:
        """Compare the content of all three stores with their digests; see ``LmdbStore.verify``.

        Raises:
            DataError: the content of a store has changed since it was written.
        """
        for split in STORE_NAMES:
            getattr(self, split).verify()


def open_stores(data_dir: Path) -> Stores:
    """Open the stores below ``data_dir``.

    Raises:
        DataError: a store is missing or cannot be used.
    """
    return Stores(**{split: LmdbStore(data_dir / name) for split, name in STORE_NAMES.items()})


def data_digest(stores: Stores) -> str:
    """Return one SHA-256 for the content of all three stores, independent of their directory."""
    lines = [f"{split} {getattr(stores, split).info.digest}\n" for split in STORE_NAMES]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class StoreWriter:
    """Context manager that writes a store under a temporary name and renames it if the block ends without an error.

    Raises DataError if the store cannot be written; then nothing is left.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = disk.partial_path(path)
        self._environment: Any = None
        self._digest = hashlib.sha256()
        self._num_samples = 0
        self._batch: list[tuple[bytes, bytes]] = []
        self._batch_bytes = 0
        self._is_finished = False

    def __enter__(self) -> Self:
        try:
            with explain_write_errors(self._path), _explain_lmdb_errors(self._path):
                self._partial.parent.mkdir(parents=True, exist_ok=True)
                self._environment = lmdb.open(str(self._partial), map_size=_FIRST_MAP_SIZE, sync=False, metasync=False)
        except BaseException:
            disk.remove(self._partial)
            raise
        return self

    def add(self, record: Record) -> None:
        key, value = _key(self._num_samples), pack_record(record)
        self._digest.update(key)
        self._digest.update(value)
        self._batch.append((key, value))
        self._batch_bytes += len(value)
        self._num_samples += 1
        if self._batch_bytes >= _BATCH_BYTES:
            self._flush()

    def finish(self) -> None:
        """Write the rest to the disk, so that only the renaming is left.

        With several stores, finish all of them before the block of the first one ends.
        """
        if not self._is_finished:
            self._finish()
            self._is_finished = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_complete = False
        try:
            if kind is None:
                self.finish()
                is_complete = True
        finally:
            self._environment.close()
            if not is_complete:
                disk.remove(self._partial)
        if is_complete:
            with explain_write_errors(self._path):
                disk.replace_directory(self._partial, self._path)

    def _finish(self) -> None:
        meta = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "num_samples": self._num_samples,
            "digest": self._digest.hexdigest(),
        }
        self._batch.append((_META_KEY, json.dumps(meta).encode()))
        self._flush()
        with explain_write_errors(self._path), _explain_lmdb_errors(self._path):
            self._environment.sync(True)
            _fill_up(self._partial / _DATA_FILE, _needed_bytes(self._environment))

    def _flush(self) -> None:
        with explain_write_errors(self._path), _explain_lmdb_errors(self._path):
            while not self._put_batch():
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
        self._batch, self._batch_bytes = [], 0

    def _put_batch(self) -> bool:
        """Write the batch; return False if the memory map is too small for it."""
        try:
            with self._environment.begin(write=True) as transaction:
                for key, value in self._batch:
                    transaction.put(key, value, append=key != _META_KEY)
        except lmdb.MapFullError:
            return False
        return True


def pack_record(record: Record) -> bytes:
    """Return the value of a sample, in the layout of the module's docstring."""
    sample_id, scene = record.sample_id.encode(), record.scene.encode()
    points = np.ascontiguousarray(record.points, "<f4")
    if points.shape != (NUM_KEYPOINTS, 2) or record.validity.shape != (NUM_KEYPOINTS,):
        raise ValueError(f"expected {NUM_KEYPOINTS} keypoints, got {points.shape} and {record.validity.shape}")
    validity = np.ascontiguousarray(record.validity, np.uint8)
    lengths = len(sample_id), len(scene)
    header = _HEADER.pack(*record.size, record.truncated, *lengths, points.tobytes(), validity.tobytes())
    return b"".join((header, sample_id, scene, record.jpeg))


def unpack_record(value: bytes) -> Record:
    """Read a value that ``pack_record`` returned; the arrays are writable copies.

    Raises:
        ValueError: the value is not that of a sample.
    """
    height, width, truncated, id_length, scene_length, points, validity = _unpack_header(value)
    scene_at = _HEADER.size + id_length
    jpeg_at = scene_at + scene_length
    return Record(
        sample_id=value[_HEADER.size : scene_at].decode(),
        scene=value[scene_at:jpeg_at].decode(),
        jpeg=value[jpeg_at:],
        points=np.frombuffer(points, "<f4").reshape(NUM_KEYPOINTS, 2).copy(),
        validity=np.frombuffer(validity, np.uint8).copy(),
        size=(height, width),
        truncated=truncated,
    )


def unpack_id(value: bytes) -> str:
    """Read only the sample id from a value.

    Raises:
        ValueError: the value is not that of a sample.
    """
    id_length = _unpack_header(value)[3]
    return value[_HEADER.size : _HEADER.size + id_length].decode()


def _unpack_header(value: bytes) -> tuple[Any, ...]:
    if len(value) < _HEADER.size:
        raise ValueError(f"it has {len(value)} bytes, a sample has at least {_HEADER.size}")
    return _HEADER.unpack_from(value)


def read_info(path: Path) -> StoreInfo:
    """Return the number of samples and the digest of a complete store.

    Raises:
        DataError: the store is missing, incomplete, cut short, of another kind, or of another version.
    """
    return _info_of(path, _open_environment(path))


def compute_digest(path: Path) -> str:
    """Compute the digest of the content on disk; it differs from ``read_info(path).digest`` if the content changed."""
    return _digest_of(path, _open_environment(path))


def _require_intact(path: Path, environment: Any, info: StoreInfo) -> None:
    try:
        digest = _digest_of(path, environment)
    except lmdb.Error as error:
        raise DataError(f"{path} is damaged ({error}): {_AGAIN}") from error
    if digest != info.digest:
        raise DataError(
            f"{path} is damaged: its content has the sha256 {digest[:16]}…, but was written with {info.digest[:16]}… "
            f"(a bad disk or copy, or another program changed it): delete the directory and {_AGAIN}"
        )


def _digest_of(path: Path, environment: Any) -> str:
    """Compute the digest without copies: SHA-256 reads the memory map, so its own speed is the limit."""
    digest = hashlib.sha256()
    position = 0
    with _reading_ahead(path / _DATA_FILE) as reach, environment.begin(buffers=True) as transaction:
        for key, value in transaction.cursor():
            if key == _META_KEY:
                continue
            reach(position)
            digest.update(key)
            digest.update(value)
            position += -(-len(value) // _PAGE_BYTES) * _PAGE_BYTES
    return digest.hexdigest()


@contextlib.contextmanager
def _reading_ahead(file: Path) -> Iterator[Callable[[int], None]]:
    """Read a file in large pieces ahead of the current position, because memory maps are read page by page.

    Samples are roughly in order in a store's file, so the number of bytes read so far gives the position well enough.
    """
    buffer, reached = bytearray(_AHEAD_BYTES), 0
    with file.open("rb", buffering=0) as opened, ThreadPoolExecutor(1) as pool:
        pending = pool.submit(opened.readinto, buffer)

        def reach(position: int) -> None:
            nonlocal reached, pending
            while position >= reached:
                count = pending.result()
                reached = reached + count if count else sys.maxsize
                pending = pool.submit(opened.readinto, buffer)

        yield reach


def _info_of(path: Path, environment: Any) -> StoreInfo:
    needed, there = _needed_bytes(environment), (path / _DATA_FILE).stat().st_size
    if there < needed:  # reading beyond the end would kill the process with a bus error
        raise DataError(f"{path} is cut short: {there} of {needed} bytes (was a copy interrupted?): {_AGAIN}")
    try:
        with environment.begin() as transaction:
            raw = transaction.get(_META_KEY)
            num_entries = environment.stat()["entries"]
    except lmdb.Error as error:
        raise DataError(f"{path} is not a readable store ({error}): {_AGAIN}") from error
    return _check_info(path, raw, num_entries)


def _needed_bytes(environment: Any) -> int:
    return int((environment.info()["last_pgno"] + 1) * environment.stat()["psize"])


def _check_info(path: Path, raw: bytes | None, num_entries: int) -> StoreInfo:
    try:
        meta = json.loads(raw) if raw is not None else {}
    except (ValueError, RecursionError):
        meta = {}
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise DataError(
            f"{path} is an LMDB database but not a store of carkp, or it was never finished: prepare the data again"
        )
    found = meta.get("schema_version")
    if found != SCHEMA_VERSION:
        raise DataError(f"{path} has store version {found}, this carkp reads {SCHEMA_VERSION}: prepare the data again")
    num_samples, digest = meta.get("num_samples"), meta.get("digest")
    if num_samples != num_entries - 1 or not isinstance(digest, str):
        raise DataError(f"{path} is incomplete: {num_entries - 1} of {num_samples} samples: prepare the data again")
    return StoreInfo(num_entries - 1, digest)


_environments: dict[Path, tuple[tuple[int, int], Any]] = {}
_verified: set[tuple[int, int, int, int]] = set()
"""Identities of files whose content this process has compared with the digest."""


def _open_environment(path: Path) -> Any:
    """Return the only read-only environment of a file in this process: LMDB refuses to open a file twice.

    A forked process can use its parent's environment: without locks it is a read-only memory map. A store that was
    written again is opened again; holders of the old environment continue to read the old file.

    The file is opened, not its directory: lmdb would also remember the inode of the lock file. Nothing holds a removed
    lock file, so a file of another store may get its inode, and lmdb would refuse that store as one that is open.
    """
    path = path.resolve()
    for _ in range(_OPEN_ATTEMPTS):
        identity = _file_identity(path)[:2]
        known = _environments.get(path)
        if known is not None and known[0] == identity:
            return known[1]
        _environments.pop(path, None)  # it is closed when no object holds it any more
        try:
            environment = lmdb.open(
                str(path / _DATA_FILE), subdir=False, readonly=True, lock=False, readahead=False, create=False
            )
        except (lmdb.Error, OSError) as error:
            raise DataError(f"{path} is not a store that can be opened ({error}): {_AGAIN}") from error
        if _file_identity(path)[:2] == identity:  # else it was written again in the meantime
            _environments[path] = identity, environment
            return environment
    raise DataError(f"{path} is being rewritten: start again when that is finished")


def _file_identity(path: Path) -> tuple[int, int, int, int]:
    """Return device, inode, size and modification time of a store's file.

    Raises:
        DataError: there is no such file, or it cannot be accessed.
    """
    try:
        status = (path / _DATA_FILE).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"there is no store at {path}: prepare the data first") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _explain_lmdb_errors(path: Path) -> Iterator[None]:
    """Turn errors of LMDB into DataError: for example, LMDB has its own error for "No space left on device"."""
    try:
        yield
    except lmdb.Error as error:
        free = disk.describe_free_space(path)
        reason = f"{path} cannot be written: {error}. {free}: free some space or choose another disk (data.root)"
        raise DataError(printable(reason)) from error


def _fill_up(file: Path, size: int) -> None:
    """Extend the file to the size of its pages: LMDB omits unused last pages, but a shorter file would count as cut."""
    if file.stat().st_size < size:
        os.truncate(file, size)


def _key(index: int) -> bytes:
    return b"%08d" % index
