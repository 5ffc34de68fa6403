"""A store: packed crops of one split in LMDB, complete or not there at all.

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

import hashlib
import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import lmdb
import numpy as np
from numpy.typing import NDArray

from carkp.data.issues import DataError
from carkp.keypoints.schema import NUM_KEYPOINTS

FORMAT = "carkp-crops"
SCHEMA_VERSION = 1
STORE_NAMES: dict[str, str] = {"train": "train_lmdb", "val": "val_lmdb", "test": "test_lmdb"}

_META_KEY = b"meta"
_HEADER = struct.Struct(f"<IIbHH{8 * NUM_KEYPOINTS}s{NUM_KEYPOINTS}s")
_FIRST_MAP_SIZE = 2**26
_BATCH_BYTES = 2**24


@dataclass(frozen=True, eq=False)
class Record:
    """A packed crop.

    Attributes:
        sample_id: ``<split>/<scene>/<frame>_<i>``.
        scene: the scene's name.
        jpeg: the crop file's bytes.
        points: (K, 2) float32 in crop pixels.
        validity: (K,) uint8, 0 missing, 1 occluded, 2 visible.
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
    """The id of crop ``<frame>_<i>``, in CarFusion's own split."""
    return f"{split}/{scene}/{name}"


def split_sample_id(sample_id: str) -> tuple[str, str]:
    """CarFusion's split and the frame's name of a sample id."""
    split, name = sample_id.split("/", 1)[0], sample_id.rsplit("/", 1)[-1]
    return split, name.rpartition("_")[0] or name


class StoreInfo(NamedTuple):
    """What a store says of itself."""

    num_samples: int
    digest: str


class Store:
    """A complete store, opened read-only at the first sample that a process asks for; safe to pickle."""

    def __init__(self, path: Path) -> None:
        """Look at the store and close it again.

        Raises:
            DataError: missing, half written, foreign, or of another version.
        """
        self.path = path
        self.info = read_info(path)
        self._environment: Any = None

    def __len__(self) -> int:
        return self.info.num_samples

    def __getitem__(self, index: int) -> Record:
        return unpack_record(self._get(index))

    def sample_id(self, index: int) -> str:
        return unpack_id(self._get(index))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_environment": None}

    def _get(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} holds {len(self)} samples, asked for {index}")
        if self._environment is None:
            self._environment = _shared_environment(self.path)
        with self._environment.begin() as transaction:
            value: bytes | None = transaction.get(_key(index))
        if value is None:
            raise DataError(f"{self.path} lacks sample {index}: prepare the data again")
        return value


@dataclass(frozen=True)
class Stores:
    """The three stores of a data set."""

    train: Store
    val: Store
    test: Store


def open_stores(data_dir: Path) -> Stores:
    """Open the stores below ``data_dir``.

    Raises:
        DataError: one of them is missing or cannot be used.
    """
    return Stores(**{split: Store(data_dir / name) for split, name in STORE_NAMES.items()})


def data_digest(stores: Stores) -> str:
    """One sha256 for the content of all three stores, whatever directory they lie in."""
    lines = [f"{split} {getattr(stores, split).info.digest}\n" for split in STORE_NAMES]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class StoreWriter:
    """Context manager that writes a store beside its final name and renames it when the block ends without an error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._environment: Any = None
        self._digest = hashlib.sha256()
        self._num_samples = 0
        self._batch: list[tuple[bytes, bytes]] = []
        self._batch_bytes = 0

    def __enter__(self) -> Self:
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        self._environment = lmdb.open(str(self._partial), map_size=_FIRST_MAP_SIZE, sync=False, metasync=False)
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_complete = False
        try:
            if kind is None:
                self._finish()
                is_complete = True
        finally:
            self._environment.close()
            if not is_complete:
                shutil.rmtree(self._partial, ignore_errors=True)
        if is_complete:
            _replace_directory(self._partial, self._path)

    def _finish(self) -> None:
        meta = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "num_samples": self._num_samples,
            "digest": self._digest.hexdigest(),
        }
        self._batch.append((_META_KEY, json.dumps(meta).encode()))
        self._flush()
        self._environment.sync(True)

    def _flush(self) -> None:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in self._batch:
                        transaction.put(key, value, append=key != _META_KEY)
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
            else:
                break
        self._batch, self._batch_bytes = [], 0


def pack_record(record: Record) -> bytes:
    """The value of a sample, in the layout of the module's docstring."""
    sample_id, scene = record.sample_id.encode(), record.scene.encode()
    points = np.ascontiguousarray(record.points, "<f4")
    if points.shape != (NUM_KEYPOINTS, 2) or record.validity.shape != (NUM_KEYPOINTS,):
        raise ValueError(f"expected {NUM_KEYPOINTS} keypoints, got {points.shape} and {record.validity.shape}")
    validity = np.ascontiguousarray(record.validity, np.uint8)
    lengths = len(sample_id), len(scene)
    header = _HEADER.pack(*record.size, record.truncated, *lengths, points.tobytes(), validity.tobytes())
    return b"".join((header, sample_id, scene, record.jpeg))


def unpack_record(value: bytes) -> Record:
    """The inverse of ``pack_record``; the arrays are writable copies."""
    height, width, truncated, id_length, scene_length, points, validity = _HEADER.unpack_from(value)
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
    """The sample id alone."""
    id_length = _HEADER.unpack_from(value)[3]
    return value[_HEADER.size : _HEADER.size + id_length].decode()


def read_info(path: Path) -> StoreInfo:
    """The count and digest of a complete store.

    Raises:
        DataError: missing, half written, foreign, or of another version.
    """
    if not (path / "data.mdb").is_file():
        raise DataError(f"there is no store at {path}: prepare the data first")
    environment = _shared_environment(path)
    with environment.begin() as transaction:
        raw = transaction.get(_META_KEY)
        num_entries = environment.stat()["entries"]
    return _check_info(path, raw, num_entries)


def compute_digest(path: Path) -> str:
    """The digest of what is on disk; differs from ``read_info(path).digest`` where the content was altered."""
    digest = hashlib.sha256()
    with _shared_environment(path).begin() as transaction:
        for key, value in transaction.cursor():
            if key != _META_KEY:
                digest.update(key)
                digest.update(value)
    return digest.hexdigest()


def _check_info(path: Path, raw: bytes | None, num_entries: int) -> StoreInfo:
    try:
        meta = json.loads(raw) if raw is not None else {}
    except ValueError:
        meta = {}
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise DataError(
            f"{path} is an LMDB but no store of this program, or it was never finished: prepare the data again"
        )
    if meta["schema_version"] != SCHEMA_VERSION:
        found = meta["schema_version"]
        raise DataError(
            f"{path} has store version {found}, this program reads {SCHEMA_VERSION}: prepare the data again"
        )
    if meta["num_samples"] != num_entries - 1:
        raise DataError(f"{path} is incomplete: {num_entries - 1} of {meta['num_samples']} samples: prepare it again")
    return StoreInfo(meta["num_samples"], meta["digest"])


_environments: dict[Path, tuple[tuple[int, int], Any]] = {}


def _shared_environment(path: Path) -> Any:
    """The one read-only environment of a path in this process: LMDB refuses to open it twice.

    A forked process goes on with its parent's: without locks it is a read-only memory map. A store that was written
    anew since is opened anew.
    """
    path = path.resolve()
    status = (path / "data.mdb").stat()
    identity = status.st_dev, status.st_ino
    known = _environments.get(path)
    if known is not None:
        if known[0] == identity:
            return known[1]
        known[1].close()
        del _environments[path]
    try:
        environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise DataError(f"{path} is no store that can be opened ({error}): prepare the data again") from error
    _environments[path] = identity, environment
    return environment


def _replace_directory(new: Path, final: Path) -> None:
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _key(index: int) -> bytes:
    return b"%08d" % index
