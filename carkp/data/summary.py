"""Summary of a prepared data source: counts, losses and digests, stored as JSON beside the stores."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from carkp.data.files import exists, is_file
from carkp.data.issues import DataError, Tally
from carkp.data.store import SCHEMA_VERSION, STORE_NAMES, read_info

SUMMARY_FILE = "summary.json"
UNFINISHED_FILE = ".unfinished"
"""File that marks a directory whose stores are being written, or whose writing was interrupted. The stores in it may be
from two data sets."""


@dataclass
class SceneCounts:
    """Counts of one scene in one store.

    Attributes:
        num_frames: number of frames with at least one crop.
        num_cars: number of crops in the store.
        num_unlabelled_cars: number of crops without a labelled keypoint; they are written as files, but not stored.
        num_visible: number of labelled keypoints that are visible.
        num_occluded: number of labelled keypoints that are occluded.
        num_missing: number of keypoints without a label in stored crops.
    """

    num_frames: int = 0
    num_cars: int = 0
    num_unlabelled_cars: int = 0
    num_visible: int = 0
    num_occluded: int = 0
    num_missing: int = 0


@dataclass(frozen=True)
class DataSummary:
    """Summary of a prepared data set.

    Attributes:
        source: path of the source as given.
        kind: kind of the source: ``raw``, ``coco`` or ``crops``; ``mixture`` for a mixture.
        source_fingerprint: fingerprint that changes when the files of the source change.
        val_scenes: train scenes held out as the validation store.
        jpeg_quality: requested quality of the crops; not used if the kind is ``crops``, which keeps the source's files.
        scenes: store (train, val, test) -> scene -> counts.
        skipped: reason -> tally of items left out.
        corrected: reason -> tally of items corrected.
        warnings: sentences about the whole data set.
        digests: SHA-256 of each store's content, and of all stores under ``data``.
        schema_version: version of the stores.
        boxes: origin of the boxes, ``files`` or ``hull`` (of the keypoints).
        box_jitter: largest random movement of a side of a training car's box, as a share of the box's extent.
        made_by: identity of the code and the packages that prepared the data.
    """

    source: str
    kind: str
    source_fingerprint: str
    val_scenes: tuple[str, ...]
    jpeg_quality: int
    scenes: dict[str, dict[str, SceneCounts]]
    skipped: dict[str, Tally]
    corrected: dict[str, Tally]
    warnings: tuple[str, ...]
    digests: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    boxes: str = "files"
    box_jitter: float = 0.0
    made_by: str = ""

    def totals(self, split: str) -> SceneCounts:
        """Return the sum over the scenes of a store."""
        total = SceneCounts()
        for counts in self.scenes[split].values():
            for name, value in asdict(counts).items():
                setattr(total, name, getattr(total, name) + value)
        return total

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> "DataSummary":
        """Read the text that ``to_json`` wrote."""
        content: dict[str, Any] = json.loads(text)
        scenes = {
            split: {scene: SceneCounts(**counts) for scene, counts in of_split.items()}
            for split, of_split in content.pop("scenes").items()
        }
        tallies = {
            name: {reason: Tally(**tally) for reason, tally in content.pop(name).items()}
            for name in ("skipped", "corrected")
        }
        sequences = {name: tuple(content.pop(name)) for name in ("val_scenes", "warnings")}
        return DataSummary(**{**content, **tallies, **sequences, "scenes": scenes})


def read_summary(out_dir: Path) -> DataSummary | None:
    """Read the summary of a finished data set.

    None if ``out_dir`` has no finished data set of this version with all its stores.
    """
    path = out_dir / SUMMARY_FILE
    if exists(out_dir / UNFINISHED_FILE):
        return None
    if not is_file(path) or not all((out_dir / name).is_dir() for name in STORE_NAMES.values()):
        return None
    try:
        summary = DataSummary.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # from another version or another program: it will be written again
    return summary if summary.schema_version == SCHEMA_VERSION else None


def has_whole_stores(directory: Path, summary: DataSummary) -> bool:
    """Return whether the stores of ``summary`` can be opened and none is cut short; their content is not read."""
    try:
        return all(read_info(directory / name).digest == summary.digests.get(s) for s, name in STORE_NAMES.items())
    except DataError:
        return False


def check_digests(directory: Path) -> None:
    """Refuse stores that do not belong together, which an interrupted preparation may leave.

    The summary is written last and contains the digest of each store. Stores without a summary (copied ones) are
    accepted.

    Raises:
        DataError: the preparation was not finished, or a store is not the one in the summary.
    """
    unfinished = directory / UNFINISHED_FILE
    if unfinished.exists():
        raise DataError(
            f"{directory} is being prepared, or its preparation was interrupted: {describe_unfinished(unfinished)}; "
            "run the data stage: it waits for a running preparation, or prepares the data again"
        )
    summary = read_summary(directory)
    for split, name in STORE_NAMES.items() if summary else ():
        expected, found = summary.digests.get(split) if summary else None, read_info(directory / name).digest
        if expected != found:
            raise DataError(
                f"{directory / name} is not the store named in {directory / SUMMARY_FILE} (sha256 {found[:16]}…, "
                f"expected {str(expected)[:16]}…): prepare the data again"
            )


def describe_unfinished(path: Path) -> str:
    """Return text on who began the preparation, from the file."""
    try:
        return path.read_text(encoding="utf-8").strip() or "an unknown process started it"
    except (OSError, ValueError):
        return "an unknown process started it"
