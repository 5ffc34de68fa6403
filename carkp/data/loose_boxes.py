"""Other boxes for cars: generated and annotated boxes are exact, those of detectors are not."""

import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from carkp.data.frames import Box

EXACT_SHARE = 0.5
"""Share of training cars that keep their box."""

INWARD = 0.4
"""Largest movement of a side inwards, as a share of the one outwards: detectors' boxes are loose rather than tight."""

MAX_SHARE, MAX_FACTOR = 0.5, 4.0


class BoxRule(Protocol):
    """The interface of a rule that gives the box of a crop."""

    def box_of(self, box: Box, split: str, scene: str, name: str) -> Box: ...


@dataclass(frozen=True)
class BoxScale:
    """Scales every box about its middle, to measure how a model bears loose and tight boxes."""

    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor <= MAX_FACTOR:
            raise ValueError(f"a factor of boxes must be above 0 and at most {MAX_FACTOR}, got {self.factor}")

    def box_of(self, box: Box, split: str, scene: str, name: str) -> Box:
        """Return the scaled box."""
        width, height = self.factor * box.width, self.factor * box.height
        return Box(box.x - 0.5 * (width - box.width), box.y - 0.5 * (height - box.height), width, height)


@dataclass(frozen=True)
class BoxJitter:
    """Moves the sides of boxes at random; the same car always gets the same box.

    Attributes:
        max_share: largest movement of a side outwards, as a share of the box's extent in that direction.
        spared_scenes: training scenes that keep their boxes, because they become the validation split.
    """

    max_share: float
    spared_scenes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.max_share <= MAX_SHARE:
            raise ValueError(f"box_jitter must be in 0..{MAX_SHARE}, got {self.max_share}")

    def box_of(self, box: Box, split: str, scene: str, name: str) -> Box:
        """Return the box for the crop of the car ``name``; only cars of ``train`` get another one."""
        if not self.max_share or split != "train" or composed(scene) in map(composed, self.spared_scenes):
            return box
        digest = hashlib.sha256(f"{composed(scene)}/{composed(name)}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        if rng.random() < EXACT_SHARE:
            return box
        left, right, top, bottom = rng.uniform(-INWARD * self.max_share, self.max_share, 4)
        return Box(
            box.x - left * box.width,
            box.y - top * box.height,
            (1 + left + right) * box.width,
            (1 + top + bottom) * box.height,
        )


def composed(name: str) -> str:
    """Return a name in composed Unicode, as keyboards write it; names of directories on macOS may be decomposed."""
    return unicodedata.normalize("NFC", name)


EXACT_BOXES = BoxJitter(0.0)
