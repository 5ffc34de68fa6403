"""Classes of detectors and data sets that count as vehicles, and counts of the boxes kept and left out."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from carkp.data.issues import DataError, printable

YOLO_CLASSES: Mapping[int, str] = {
    0: "person",
    1: "bicycle",
    2: "car",
    3: "motorcycle",
    5: "bus",
    6: "train",
    7: "truck",
}
"""COCO's classes with YOLO's numbers, which have no gaps; only the classes that matter here."""

COCO_CATEGORIES: Mapping[int, str] = {number + 1: name for number, name in YOLO_CLASSES.items()}
"""The same classes with the numbers of COCO's own files. These have gaps; the first missing number is 12."""

_VEHICLES = frozenset(
    (
        *(
            "car",
            "automobile",
            "auto",
            "sedan",
            "hatchback",
            "coupe",
            "wagon",
            "suv",
            "jeep",
            "limousine",
            "taxi",
            "cab",
        ),
        *("van", "minivan", "pickup", "truck", "lorry", "caravan", "bus", "minibus", "coach", "vehicle"),
    )
)
_NUM_SHOWN = 5


def is_vehicle(name: str) -> bool:
    """Return whether a class name means a car, truck, bus or similar: ``Car``, ``pickup-truck``, ``vehicle.car``."""
    words = re.findall(r"[a-z]+", name.lower())
    return bool(words) and "non" not in words and not _VEHICLES.isdisjoint({words[-1], words[-1].removesuffix("s")})


@dataclass
class Census:
    """Counts of the boxes of a source that were kept and left out.

    Attributes:
        num_kept: number of boxes of vehicles.
        left_out: class -> number of boxes.
        num_scores: number of boxes with a confidence.
        lowest, highest: smallest and largest confidence.
        remarks: sentence -> number of times that it applies.
    """

    num_kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    num_scores: int = 0
    lowest: float = float("inf")
    highest: float = float("-inf")
    remarks: Counter[str] = field(default_factory=Counter)

    def keep(self, score: float | None = None) -> None:
        self.num_kept += 1
        if score is not None:
            self.num_scores += 1
            self.lowest, self.highest = min(self.lowest, score), max(self.highest, score)

    def leave_out(self, kind: str) -> None:
        self.left_out[kind] += 1

    def remark(self, sentence: str) -> None:
        self.remarks[sentence] += 1

    def require_vehicles(self, source: str, remedy: str) -> None:
        """Raise DataError if there are boxes and all of them were left out."""
        if self.left_out and not self.num_kept:
            raise DataError(f"{source}: it has no box of a car, truck or bus, only {self._kinds()}; {remedy}")

    def notes(self, form: str) -> tuple[str, ...]:
        """Return sentences that the user should know; ``form`` is the name of the format."""
        left_out = f"; left out: {self._kinds()}" if self.left_out else ""
        notes = [f"read as {form}, boxes of vehicles: {self.num_kept}{left_out}"]
        if self.num_scores:
            notes.append(
                f"their confidences, {self.lowest:.3g} to {self.highest:.3g}, are not used: every box is kept, so "
                "delete boxes with too low a confidence from the file"
            )
        return (*notes, *(f"{count} x {text}" for text, count in self.remarks.items()))

    def _kinds(self) -> str:
        shown = [f"{count} x {printable(kind)}" for kind, count in self.left_out.most_common(_NUM_SHOWN)]
        more = len(self.left_out) - len(shown)
        return ", ".join([*shown, f"{more} other classes"] if more > 0 else shown)
