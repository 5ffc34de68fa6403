"""What came of preparing a data source: counts, losses, digests; as JSON beside the stores."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from carkp.data.files import exists, is_file
from carkp.data.issues import DataError, Tally
from carkp.data.store import SCHEMA_VERSION, STORE_NAMES, read_info

SUMMARY_FILE = "summary.json"
UNFINISHED_FILE = ".unfinished"
"""Lies in a directory whose stores are being written or were left while they were: they may be of two data sets."""


@dataclass
class SceneCounts:
    """One scene of one store.

    Attributes:
        num_frames: frames with at least one crop.
        num_cars: crops in the store.
        num_unlabelled_cars: crops without a labelled keypoint: written as files, kept out of the store.
        num_visible: labelled keypoints that are visible.
        num_occluded: labelled keypoints that are occluded.
        num_missing: keypoints of stored crops without a label.
    """

    num_frames: int = 0
    num_cars: int = 0
    num_unlabelled_cars: int = 0
    num_visible: int = 0
    num_occluded: int = 0
    num_missing: int = 0


@dataclass(frozen=True)
class DataSummary:
    """A prepared data set.

    Attributes:
        source: the path that was given.
        kind: ``raw``, ``coco`` or ``crops``.
        source_fingerprint: changes when the files of the source do.
        val_scenes: train scenes held out as the validation store.
        jpeg_quality: of the crops; that of the source where the kind is ``crops``.
        scenes: store (train, val, test) -> scene -> counts.
        skipped: reason -> what was left out.
        corrected: reason -> what was repaired.
        warnings: sentences about the data set as a whole.
        digests: sha256 of each store's content, and of all under ``data``.
        schema_version: of the stores.
        boxes: where boxes come from, ``files`` or ``hull`` (of the keypoints).
        made_by: identity of the code and the packages that prepared it.
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
    made_by: str = ""

    def totals(self, split: str) -> SceneCounts:
        """The sum over the scenes of a store."""
        total = SceneCounts()
        for counts in self.scenes[split].values():
            for name, value in asdict(counts).items():
                setattr(total, name, getattr(total, name) + value)
        return total

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> "DataSummary":
        """The inverse of ``to_json``."""
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
    """The summary of a finished data set; None where ``out_dir`` holds none of this version with all its stores."""
    path = out_dir / SUMMARY_FILE
    if exists(out_dir / UNFINISHED_FILE):
        return None
    if not is_file(path) or not all((out_dir / name).is_dir() for name in STORE_NAMES.values()):
        return None
    try:
        summary = DataSummary.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # of another version, or not ours: it will be written anew
    return summary if summary.schema_version == SCHEMA_VERSION else None


def has_whole_stores(directory: Path, summary: DataSummary) -> bool:
    """Whether the stores that ``summary`` names can be opened, none of them cut short; their content is not read."""
    try:
        return all(read_info(directory / name).digest == summary.digests.get(s) for s, name in STORE_NAMES.items())
    except DataError:
        return False


def check_digests(directory: Path) -> None:
    """Refuse stores that do not belong together: what an interrupted preparation may leave.

    The summary is written last and names the digest of each store. Stores without a summary (copied ones) are taken as
    they are.

    Raises:
        DataError: the preparation was not finished, or a store is not the one that the summary names.
    """
    unfinished = directory / UNFINISHED_FILE
    if unfinished.exists():
        raise DataError(
            f"{directory} is being prepared, or its preparation was interrupted: {describe_unfinished(unfinished)}; "
            "run the data stage, which waits for one that is at work and else prepares the data anew"
        )
    summary = read_summary(directory)
    for split, name in STORE_NAMES.items() if summary else ():
        expected, found = summary.digests.get(split) if summary else None, read_info(directory / name).digest
        if expected != found:
            raise DataError(
                f"{directory / name} is not the store that {directory / SUMMARY_FILE} names (sha256 {found[:16]}…, "
                f"expected {str(expected)[:16]}…): prepare the data again"
            )


def describe_unfinished(path: Path) -> str:
    """Who began the preparation, as the file says."""
    try:
        return path.read_text(encoding="utf-8").strip() or "it does not say by whom"
    except (OSError, ValueError):
        return "it does not say by whom"
