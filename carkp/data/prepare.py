"""Preparation of a data source as three stores: detect, crop, annotate, pack, summarise."""

import contextlib
import os
import socket
import time
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from carkp import disk
from carkp.data.annotations import read_crops
from carkp.data.carfusion import NO_BOXES_REMEDY
from carkp.data.crops import annotation_path, remove_leftovers, write_crops
from carkp.data.issues import DataError, Issues, explain_write_errors, printable
from carkp.data.loose_boxes import BoxJitter, composed
from carkp.data.source import SourceKind, detect_source_kind, fingerprint, list_source_frames, require_apart
from carkp.data.store import STORE_NAMES, Record, StoreWriter, data_digest, open_stores, split_sample_id
from carkp.data.summary import SUMMARY_FILE, UNFINISHED_FILE, DataSummary, SceneCounts, has_whole_stores, read_summary
from carkp.keypoints.schema import MISSING, OCCLUDED, VISIBLE

__all__ = ["DataSummary", "prepare", "read_summary"]

Counts = dict[str, dict[str, SceneCounts]]
"""Store -> scene -> counts."""


@dataclass(frozen=True)
class Recipe:
    """The parameters that, with the source's files, determine the content of the stores; see ``prepare``."""

    source: Path
    val_scenes: tuple[str, ...]
    jpeg_quality: int
    boxes: str
    box_jitter: float
    made_by: str

    def fits(self, summary: DataSummary | None, source_fingerprint: str) -> bool:
        """Return whether a finished data set is what this recipe would make from the current source."""
        if summary is None:
            return False
        found = (
            summary.source,
            summary.val_scenes,
            summary.jpeg_quality,
            summary.boxes,
            summary.box_jitter,
            summary.made_by,
        )
        wanted = self.name, self.val_scenes, self.jpeg_quality, self.boxes, self.box_jitter, self.made_by
        return found == wanted and summary.source_fingerprint == source_fingerprint

    @property
    def name(self) -> str:
        return printable(str(self.source))


def prepare(
    source: Path,
    out_dir: Path,
    val_scenes: tuple[str, ...],
    num_workers: int,
    jpeg_quality: int,
    show_progress: bool = True,
    boxes: str = "files",
    made_by: str = "",
    box_jitter: float = 0.0,
) -> DataSummary:
    """Make ``train_lmdb``, ``val_lmdb``, ``test_lmdb`` and ``summary.json``, and also crops and ``simple_anno``.

    If ``out_dir`` is already finished for the same source files and parameters, it is not changed and its summary is
    returned. An interruption leaves nothing incomplete under a final name. If several processes prepare the same
    ``out_dir``, one works, and the others wait and use its result.

    Args:
        source: raw CarFusion, its COCO JSON, or a directory of crops (see ``detect_source_kind``).
        out_dir: output directory, created if missing.
        val_scenes: train scenes that become the validation store; not used if the source has a validation split.
        num_workers: number of processes; 0 means one per core, 1 means only this process.
        jpeg_quality: JPEG quality of the crops, 1 to 100.
        show_progress: whether to show progress bars on standard error.
        boxes: ``files``, or ``hull`` for the smallest box around a car's labelled keypoints (raw and COCO sources).
        made_by: identity of the preparing code; results of other code are made again.
        box_jitter: largest random movement of a side of a training car's box, see ``BoxJitter`` (raw and COCO sources).

    Raises:
        DataError: the source cannot be used at all, or the result cannot be written.
        ValueError: ``jpeg_quality``, ``boxes`` or ``box_jitter`` is invalid.
    """
    if not 1 <= jpeg_quality <= 100:
        raise ValueError(f"jpeg_quality must be in 1..100, got {jpeg_quality}")
    if boxes not in ("files", "hull"):
        raise ValueError(f"boxes must be files or hull, got {boxes}")
    recipe = Recipe(source, tuple(val_scenes), jpeg_quality, boxes, box_jitter, made_by)
    kind = detect_source_kind(source)
    known = read_summary(out_dir)
    if known is not None and recipe.fits(known, fingerprint(source)) and has_whole_stores(out_dir, known):
        return known
    require_apart(source, out_dir)
    with contextlib.ExitStack() as stack:
        with explain_write_errors(out_dir):
            stack.enter_context(disk.exclusive(out_dir, "prepares the data"))
        source_fingerprint, known = fingerprint(source), read_summary(out_dir)
        if known is not None and recipe.fits(known, source_fingerprint) and has_whole_stores(out_dir, known):
            return known  # another process made it while this one waited
        return _prepare(recipe, kind, source_fingerprint, out_dir, num_workers, show_progress)


def _prepare(
    recipe: Recipe, kind: SourceKind, source_fingerprint: str, out_dir: Path, num_workers: int, show_progress: bool
) -> DataSummary:
    """Prepare the data; the caller must hold the lock of ``out_dir``."""
    _begin(out_dir)
    issues = Issues()
    read = _read_records(recipe, kind, out_dir, num_workers, issues, show_progress)
    val_scenes = () if read.has_val_split else recipe.val_scenes
    scenes = pack(read.records, out_dir, val_scenes)
    if read.has_val_split:
        _warn_of_val_split(recipe, scenes, issues)
    _check_outcome(recipe.source, scenes, val_scenes, issues)
    summary = DataSummary(
        source=recipe.name,
        kind=str(kind),
        source_fingerprint=source_fingerprint,
        val_scenes=recipe.val_scenes,
        jpeg_quality=recipe.jpeg_quality,
        scenes=scenes,
        skipped=issues.skipped,
        corrected=issues.corrected,
        warnings=tuple(issues.warnings),
        digests=_digests(out_dir),
        boxes=recipe.boxes,
        box_jitter=recipe.box_jitter,
        made_by=recipe.made_by,
    )
    with explain_write_errors(out_dir / SUMMARY_FILE):
        # From here on the stores belong together; the summary describes them.
        disk.sync_tree(out_dir)
        (out_dir / UNFINISHED_FILE).unlink(missing_ok=True)
        disk.write_atomic(out_dir / SUMMARY_FILE, summary.to_json().encode())
    return summary


def _begin(out_dir: Path) -> None:
    """Mark ``out_dir`` as unfinished and remove files that killed preparations left."""
    with explain_write_errors(out_dir):
        disk.make_folder(out_dir)
        begun = f"process {os.getpid()} on {socket.gethostname()} started it at {time.strftime('%F %T')}\n"
        disk.write_atomic(out_dir / UNFINISHED_FILE, begun.encode())
        (out_dir / SUMMARY_FILE).unlink(missing_ok=True)
        disk.sync_directory(out_dir)
    for name in STORE_NAMES.values():
        disk.remove_leftovers(out_dir / name)
    remove_leftovers(out_dir)


def pack(records: Generator[Record, None, None], out_dir: Path, val_scenes: tuple[str, ...]) -> Counts:
    """Sort crops into the three stores below ``out_dir``; crops without a labelled keypoint are only counted.

    The stores get their final names when all three are complete.
    """
    tallies: dict[str, dict[str, _SceneTally]] = {store: defaultdict(_SceneTally) for store in STORE_NAMES}
    held_out = {composed(scene) for scene in val_scenes}
    with contextlib.ExitStack() as stack:
        writers = {store: stack.enter_context(StoreWriter(out_dir / name)) for store, name in STORE_NAMES.items()}
        stack.enter_context(contextlib.closing(records))
        for record in records:
            split, frame_id = split_sample_id(record.sample_id)
            store = "val" if split == "train" and composed(record.scene) in held_out else split
            tallies[store][record.scene].add(record, frame_id)
            if record.validity.any():
                writers[store].add(record)
        for writer in writers.values():
            writer.finish()
    return {
        store: {scene: tally.counts for scene, tally in sorted(scenes.items())} for store, scenes in tallies.items()
    }


@dataclass
class _SceneTally:
    """Counts of a scene during packing."""

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


class _Reading(NamedTuple):
    records: Generator[Record, None, None]
    has_val_split: bool


def _read_records(
    recipe: Recipe, kind: SourceKind, out_dir: Path, num_workers: int, issues: Issues, show_progress: bool
) -> _Reading:
    source = recipe.source
    if kind is SourceKind.CROPS:
        if recipe.boxes != "files":
            issues.warn("data.boxes is not used: the source holds finished crops")
        if recipe.box_jitter:
            issues.warn("data.box_jitter is not used: the source holds finished crops")
        return _Reading(read_crops(source, issues, show_progress), annotation_path(source, "val").is_file())
    frames = list_source_frames(source, kind, issues, recipe.boxes)
    has_val_split = any(frame.split == "val" for frame in frames)
    jitter = BoxJitter(recipe.box_jitter, () if has_val_split else recipe.val_scenes)
    records = write_crops(frames, out_dir, recipe.jpeg_quality, num_workers, issues, show_progress, jitter)
    return _Reading(records, has_val_split)


def _warn_of_val_split(recipe: Recipe, scenes: Counts, issues: Issues) -> None:
    if unused := [scene for scene in recipe.val_scenes if scene in scenes["train"]]:
        issues.warn(
            f"the source has its own validation split: data.val_scenes is not used, {', '.join(unused)} stays in train"
        )
    if shared := sorted(scenes["val"].keys() & scenes["train"].keys()):
        issues.warn(
            f"scenes {', '.join(shared)} are in train and in val: neighbouring frames are near-duplicates, so "
            "validation results will be too good"
        )


def _check_outcome(source: Path, scenes: Counts, val_scenes: tuple[str, ...], issues: Issues) -> None:
    if not any(counts.num_cars for of_store in scenes.values() for counts in of_store.values()):
        skipped = issues.describe_skipped() or "nothing was skipped"
        remedy = f". Cars lack boxes: {NO_BOXES_REMEDY}" if "car has keypoints but no box" in issues.skipped else ""
        raise DataError(f"{source} has no car with a labelled keypoint that can be cropped; skipped: {skipped}{remedy}")
    for scene in val_scenes:
        if composed(scene) not in map(composed, scenes["val"]):
            issues.warn(f"the held-out scene {scene} has no crop in train")
    for store, of_store in scenes.items():
        if not any(counts.num_cars for counts in of_store.values()):
            issues.warn(f"the {store} store is empty")


def _digests(out_dir: Path) -> dict[str, str]:
    stores = open_stores(out_dir)
    digests = {split: getattr(stores, split).info.digest for split in STORE_NAMES}
    return {**digests, "data": data_digest(stores)}
