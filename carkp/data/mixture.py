"""Mixtures: several prepared sources as one data set, with stores that concatenate those of the sources.

The directory of a mixture contains only ``mixture.json``, with the names of its sources and the directories of their
stores. These are beside the mixture's directory. The stores are read there, not copied.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from carkp.data.files import is_file, is_utf8
from carkp.data.issues import DataError, explain_write_errors
from carkp.data.store import STORE_NAMES, Record, Store, StoreInfo, Stores, data_digest, open_stores
from carkp.data.summary import DataSummary
from carkp.disk import write_atomic
from carkp.keypoints.sample_ids import id_in

MIXTURE_FILE = "mixture.json"
MIXTURE_KIND = "mixture"
"""Kind in the summary of a mixture."""

_FORMAT = "carkp-mixture"


class MixedStore:
    """A split of several sources, concatenated; ids name the source. It is as safe to pickle as its parts."""

    def __init__(self, path: Path, parts: Mapping[str, Store]) -> None:
        """``path``: path of the mixture's split, for messages. ``parts``: name of each source -> its split."""
        self.path = path
        self.parts = dict(parts)
        self._names = list(self.parts)
        self._ends = list(accumulate(len(store) for store in self.parts.values()))

    @property
    def info(self) -> StoreInfo:
        """Number of samples, and a digest of the parts' names and digests."""
        lines = [f"{name} {store.info.digest}\n" for name, store in self.parts.items()]
        return StoreInfo(len(self), hashlib.sha256("".join(lines).encode()).hexdigest())

    @property
    def ranges(self) -> dict[str, range]:
        """Name of each source -> range of the indices of its samples."""
        starts = [0, *self._ends[:-1]]
        return {name: range(*ends) for name, *ends in zip(self._names, starts, self._ends, strict=True)}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Record:
        name, store, place = self._locate(index)
        record = store[place]
        return replace(record, sample_id=id_in(name, record.sample_id))

    def sample_id(self, index: int) -> str:
        name, store, place = self._locate(index)
        return id_in(name, store.sample_id(place))

    def verify(self) -> None:
        """Compare the content of every part with its digest.

        Raises:
            DataError: the content of a part has changed.
        """
        for store in self.parts.values():
            store.verify()

    def _locate(self, index: int) -> tuple[str, Store, int]:
        """Return the source of a sample, its store, and the sample's index in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} holds {len(self)} samples, so there is no sample {index}")
        number = bisect_right(self._ends, index)
        name = self._names[number]
        store = self.parts[name]
        return name, store, index - self._ends[number] + len(store)


def parts_of(store: Store) -> dict[str, Store]:
    """Return name of each source -> its part of a split; empty if there is only one source."""
    return dict(store.parts) if isinstance(store, MixedStore) else {}


def restrict(store: Store, names: Collection[str]) -> Store:
    """Return the part of a split that belongs to these sources; the whole split if it has only one source."""
    if not isinstance(store, MixedStore):
        return store
    return MixedStore(store.path, {name: part for name, part in store.parts.items() if name in names})


def write_mixture(directory: Path, sources: Mapping[str, Path]) -> None:
    """Make ``directory`` the mixture of ``sources`` (name -> directory of its stores, beside ``directory``).

    Raises:
        DataError: the file cannot be written.
        ValueError: a source is not beside ``directory``.
    """
    content = {"format": _FORMAT, "sources": {name: path.name for name, path in sources.items()}}
    if any(path.parent != directory.parent for path in sources.values()):
        raise ValueError(f"the sources of {directory} must be beside it, got {', '.join(map(str, sources.values()))}")
    with explain_write_errors(directory):
        write_atomic(directory / MIXTURE_FILE, (json.dumps(content, indent=1) + "\n").encode())


def source_directories(directory: Path) -> dict[str, Path]:
    """Return name of each source of a mixture -> directory of its stores; empty if ``directory`` is not a mixture.

    Raises:
        DataError: the mixture's file is damaged.
    """
    path = directory / MIXTURE_FILE
    if not is_file(path):
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        sources = {str(name): str(part) for name, part in content["sources"].items()}
        if strange := [part for part in sources.values() if not _is_name(part)]:
            raise ValueError(f"{strange[0]!r} is not the name of a directory beside it")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is not a readable mixture ({error}): prepare the data again") from error
    return {name: directory.parent / part for name, part in sources.items()}


def _is_name(part: str) -> bool:
    return Path(part).name == part and part not in ("", "..") and "\0" not in part and is_utf8(part)


def open_data(directory: Path) -> Stores:
    """Open the stores in a directory, or the concatenated stores of a mixture's sources.

    Raises:
        DataError: a store is missing or cannot be used.
    """
    sources = source_directories(directory)
    if not sources:
        return open_stores(directory)
    opened = {name: open_stores(path) for name, path in sources.items()}
    return Stores(
        **{
            split: MixedStore(directory / split, {name: getattr(stores, split) for name, stores in opened.items()})
            for split in STORE_NAMES
        }
    )


def merge_summaries(directory: Path, summaries: Mapping[str, DataSummary]) -> DataSummary:
    """Return the summary of the mixture in ``directory`` from those of its sources.

    Scenes, reasons and warnings begin with the name of the source.

    Raises:
        DataError: a store is missing or cannot be used.
    """
    stores = open_data(directory)
    digests = {split: getattr(stores, split).info.digest for split in STORE_NAMES}
    first = next(iter(summaries.values()))
    return DataSummary(
        source=", ".join(f"{name}: {summary.source}" for name, summary in summaries.items()),
        kind=MIXTURE_KIND,
        source_fingerprint="",
        val_scenes=_named(summaries, lambda summary: summary.val_scenes),
        jpeg_quality=first.jpeg_quality,
        scenes={
            split: {
                f"{name}/{scene}": counts
                for name, summary in summaries.items()
                for scene, counts in summary.scenes[split].items()
            }
            for split in STORE_NAMES
        },
        skipped={
            f"{name}: {why}": tally for name, summary in summaries.items() for why, tally in summary.skipped.items()
        },
        corrected={
            f"{name}: {why}": tally for name, summary in summaries.items() for why, tally in summary.corrected.items()
        },
        warnings=_named(summaries, lambda summary: summary.warnings),
        digests={**digests, "data": data_digest(stores)},
        boxes=first.boxes,
        box_jitter=first.box_jitter,
        made_by=first.made_by,
    )


def _named(summaries: Mapping[str, DataSummary], texts: Callable[[DataSummary], Iterable[str]]) -> tuple[str, ...]:
    return tuple(f"{name}: {text}" for name, summary in summaries.items() for text in texts(summary))
