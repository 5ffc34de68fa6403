"""From a data source to three stores: detect, crop, annotate, pack, summarise."""

import contextlib
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from carkp.data.annotations import read_crops
from carkp.data.crops import write_atomic, write_crops
from carkp.data.issues import DataError, Issues
from carkp.data.source import SourceKind, detect_source_kind, fingerprint, list_source_frames
from carkp.data.store import STORE_NAMES, Record, StoreWriter, data_digest, open_stores, split_sample_id
from carkp.data.summary import SUMMARY_FILE, DataSummary, SceneCounts, read_summary
from carkp.keypoints.schema import MISSING, OCCLUDED, VISIBLE

__all__ = ["DataSummary", "prepare", "read_summary"]

Counts = dict[str, dict[str, SceneCounts]]
"""Store -> scene -> counts."""


def prepare(
    source: Path,
    out_dir: Path,
    val_scenes: tuple[str, ...],
    num_workers: int,
    jpeg_quality: int,
    show_progress: bool = True,
) -> DataSummary:
    """Make ``train_lmdb``, ``val_lmdb``, ``test_lmdb`` and ``summary.json``, with crops and ``simple_anno`` on the way.

    A finished ``out_dir`` of the same source files and parameters is left as it is and its summary returned. When
    interrupted, nothing incomplete is left under a final name.

    Args:
        source: raw CarFusion, its COCO JSON, or a directory of crops (see ``detect_source_kind``).
        out_dir: created where missing.
        val_scenes: train scenes that become the validation store.
        num_workers: processes; 0 stands for one a core, 1 for none beside this one.
        jpeg_quality: of the crops, 1 to 100.
        show_progress: progress bars on standard error.

    Raises:
        DataError: the source cannot be used at all.
    """
    if not 1 <= jpeg_quality <= 100:
        raise ValueError(f"jpeg_quality must be in 1..100, got {jpeg_quality}")
    kind, source_fingerprint = detect_source_kind(source), fingerprint(source)
    known = read_summary(out_dir)
    if known and _is_same(known, source, source_fingerprint, val_scenes, jpeg_quality):
        return known
    (out_dir / SUMMARY_FILE).unlink(missing_ok=True)  # from here on, out_dir is unfinished
    issues = Issues()
    records = _read_records(source, kind, out_dir, num_workers, jpeg_quality, issues, show_progress)
    scenes = pack(records, out_dir, val_scenes)
    _check_outcome(source, scenes, val_scenes, issues)
    summary = DataSummary(
        source=str(source),
        kind=str(kind),
        source_fingerprint=source_fingerprint,
        val_scenes=tuple(val_scenes),
        jpeg_quality=jpeg_quality,
        scenes=scenes,
        skipped=issues.skipped,
        corrected=issues.corrected,
        warnings=tuple(issues.warnings),
        digests=_digests(out_dir),
    )
    write_atomic(out_dir / SUMMARY_FILE, summary.to_json().encode())
    return summary


def pack(records: Generator[Record, None, None], out_dir: Path, val_scenes: tuple[str, ...]) -> Counts:
    """Sort crops into the three stores below ``out_dir``; those without a labelled keypoint are counted only."""
    tallies: dict[str, dict[str, _SceneTally]] = {store: defaultdict(_SceneTally) for store in STORE_NAMES}
    with contextlib.ExitStack() as stack:
        writers = {store: stack.enter_context(StoreWriter(out_dir / name)) for store, name in STORE_NAMES.items()}
        stack.enter_context(contextlib.closing(records))
        for record in records:
            split, frame_id = split_sample_id(record.sample_id)
            store = "val" if split == "train" and record.scene in val_scenes else split
            tallies[store][record.scene].add(record, frame_id)
            if record.validity.any():
                writers[store].add(record)
    return {
        store: {scene: tally.counts for scene, tally in sorted(scenes.items())} for store, scenes in tallies.items()
    }


def _read_records(
    source: Path,
    kind: SourceKind,
    out_dir: Path,
    num_workers: int,
    jpeg_quality: int,
    issues: Issues,
    show_progress: bool,
) -> Generator[Record, None, None]:
    if kind is SourceKind.CROPS:
        return read_crops(source, issues, show_progress)
    frames = list_source_frames(source, kind, issues)
    return write_crops(frames, out_dir, jpeg_quality, num_workers, issues, show_progress)


@dataclass
class _SceneTally:
    """Counts of a scene while it is packed."""

    counts: SceneCounts = field(default_factory=SceneCounts)
    frame_ids: set[str] = field(default_factory=set)

    def add(self, record: Record, frame_id: str) -> None:
        self.frame_ids.add(frame_id)
        self.counts.num_frames = len(self.frame_ids)
        if not record.validity.any():
            self.counts.num_unlabelled_cars += 1
            return
        validity = record.validity.tolist()
        self.counts.num_cars += 1
        self.counts.num_visible += validity.count(VISIBLE)
        self.counts.num_occluded += validity.count(OCCLUDED)
        self.counts.num_missing += validity.count(MISSING)


def _check_outcome(source: Path, scenes: Counts, val_scenes: tuple[str, ...], issues: Issues) -> None:
    if not any(counts.num_cars for of_store in scenes.values() for counts in of_store.values()):
        skipped = issues.describe_skipped() or "nothing was skipped"
        raise DataError(f"{source} holds no car with a labelled keypoint that could be cropped; skipped: {skipped}")
    for scene in val_scenes:
        if scene not in scenes["val"]:
            issues.warn(f"the held-out scene {scene} has no crop in train")
    for store, of_store in scenes.items():
        if not any(counts.num_cars for counts in of_store.values()):
            issues.warn(f"the {store} store is empty")


def _digests(out_dir: Path) -> dict[str, str]:
    stores = open_stores(out_dir)
    digests = {split: getattr(stores, split).info.digest for split in STORE_NAMES}
    return {**digests, "data": data_digest(stores)}


def _is_same(
    known: DataSummary, source: Path, source_fingerprint: str, val_scenes: tuple[str, ...], jpeg_quality: int
) -> bool:
    expected = (str(source), source_fingerprint, tuple(val_scenes), jpeg_quality)
    return (known.source, known.source_fingerprint, known.val_scenes, known.jpeg_quality) == expected
