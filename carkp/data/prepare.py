"""From a data source to three stores: detect, crop, annotate, pack, summarise."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from carkp.data import jpeg
from carkp.data.annotations import CropEntry, read_entries
from carkp.data.crops import write_atomic, write_crops
from carkp.data.issues import DataError, Issues
from carkp.data.source import SourceKind, detect_source_kind, fingerprint, list_source_frames
from carkp.data.store import STORE_NAMES, Record, StoreWriter, data_digest, open_stores
from carkp.data.summary import SUMMARY_FILE, DataSummary, SceneCounts, read_summary
from carkp.keypoints.schema import MISSING, OCCLUDED, VISIBLE

__all__ = ["DataSummary", "prepare", "read_summary"]

SPLIT_OF_STORE: dict[str, str] = {"train": "train", "val": "train", "test": "test"}


@dataclass
class _SceneTally:
    """Counts of a scene while it is packed."""

    counts: SceneCounts = field(default_factory=SceneCounts)
    frame_ids: set[str] = field(default_factory=set)


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
    kind = detect_source_kind(source)
    source_fingerprint = fingerprint(source)
    known = read_summary(out_dir)
    if known and _is_same(known, source, source_fingerprint, val_scenes, jpeg_quality):
        return known
    (out_dir / SUMMARY_FILE).unlink(missing_ok=True)  # from here on, out_dir is unfinished
    issues = Issues()
    crops_dir = source
    if kind is not SourceKind.CROPS:
        crops_dir = out_dir
        frames = list_source_frames(source, kind, issues)
        write_crops(frames, out_dir, jpeg_quality, num_workers, issues, show_progress)
    scenes = {split: pack_store(crops_dir, out_dir, split, val_scenes, issues, show_progress) for split in STORE_NAMES}
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


def pack_store(
    crops_dir: Path, out_dir: Path, store: str, val_scenes: tuple[str, ...], issues: Issues, show_progress: bool
) -> dict[str, SceneCounts]:
    """Pack one of train, val and test from crops and their ``simple_anno``; the counts of each scene."""
    tallies: dict[str, _SceneTally] = defaultdict(_SceneTally)
    # train and val read the same file: what is wrong with it is counted once, but each counts its own crops' faults.
    file_issues = Issues() if store == "val" else issues
    entries = read_entries(crops_dir, SPLIT_OF_STORE[store], file_issues)
    if store != "test":
        entries = (entry for entry in entries if (entry.scene in val_scenes) == (store == "val"))
    with StoreWriter(out_dir / STORE_NAMES[store]) as writer:
        for entry in tqdm(entries, f"pack {store}", disable=not show_progress, unit="crop"):
            _count_frame(tallies[entry.scene], entry)
            if (entry.validity == MISSING).all():
                tallies[entry.scene].counts.num_unlabelled_cars += 1
                continue
            record = _read_record(entry, issues)
            if record is not None:
                writer.add(record)
                _count_car(tallies[entry.scene].counts, entry)
    return {scene: tally.counts for scene, tally in sorted(tallies.items())}


def _read_record(entry: CropEntry, issues: Issues) -> Record | None:
    data = entry.file.read_bytes()
    size = jpeg.read_size(data)
    if size is None or jpeg.is_cut_short(data):
        issues.skip("crop file is no JPEG or is cut short", str(entry.file))
        return None
    return Record(entry.sample_id, entry.scene, data, entry.points, entry.validity, size, entry.truncated)


def _count_frame(tally: _SceneTally, entry: CropEntry) -> None:
    tally.frame_ids.add(entry.frame_id)
    tally.counts.num_frames = len(tally.frame_ids)


def _count_car(counts: SceneCounts, entry: CropEntry) -> None:
    counts.num_cars += 1
    counts.num_visible += int((entry.validity == VISIBLE).sum())
    counts.num_occluded += int((entry.validity == OCCLUDED).sum())
    counts.num_missing += int((entry.validity == MISSING).sum())


def _check_outcome(
    source: Path, scenes: dict[str, dict[str, SceneCounts]], val_scenes: tuple[str, ...], issues: Issues
) -> None:
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
