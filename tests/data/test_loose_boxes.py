"""Random boxes of training cars."""

import unicodedata

import numpy as np
import pytest

from carkp.data.frames import Box
from carkp.data.loose_boxes import EXACT_SHARE, INWARD, BoxJitter, BoxScale

BOX = Box(100.0, 50.0, 200.0, 80.0)


def moved_sides(jitter: BoxJitter, num: int = 4000) -> np.ndarray:
    """Movement of left, right, top and bottom outwards, as shares of the extents, (N, 4)."""
    boxes = np.array([jitter.box_of(BOX, "train", "car_a", str(name)) for name in range(num)])
    x, y, width, height = boxes.T
    left, top = (BOX.x - x) / BOX.width, (BOX.y - y) / BOX.height
    return np.stack([left, width / BOX.width - 1 - left, top, height / BOX.height - 1 - top], 1)


def test_sides_move_outwards_more_than_inwards() -> None:
    sides = moved_sides(BoxJitter(0.2))
    changed = sides[np.abs(sides).max(1) > 1e-9]
    assert len(changed) / len(sides) == pytest.approx(1 - EXACT_SHARE, abs=0.03)
    assert changed.min() == pytest.approx(-INWARD * 0.2, abs=0.002)
    assert changed.max() == pytest.approx(0.2, abs=0.002)
    assert np.allclose(changed.mean(0), (1 - INWARD) * 0.1, atol=0.006)
    assert np.abs(np.corrcoef(changed.T) - np.eye(4)).max() < 0.08


@pytest.mark.parametrize(
    ("split", "scene"), [("test", "car_a"), ("val", "car_a"), ("train", "car_v\N{COMBINING ACUTE ACCENT}")]
)
def test_other_cars_keep_their_boxes(split: str, scene: str) -> None:
    jitter = BoxJitter(0.2, (unicodedata.normalize("NFC", "car_v\N{COMBINING ACUTE ACCENT}"),))
    assert {jitter.box_of(BOX, split, scene, str(name)) for name in range(50)} == {BOX}


def test_a_car_always_gets_the_same_box() -> None:
    first, again = (moved_sides(BoxJitter(0.2), 50) for _ in range(2))
    assert np.array_equal(first, again)


def test_without_jitter_every_box_stays() -> None:
    assert not moved_sides(BoxJitter(0.0), 20).any()


def test_scaled_boxes_keep_their_middle() -> None:
    box = BoxScale(1.5).box_of(BOX, "test", "", "")
    assert box == Box(50.0, 30.0, 300.0, 120.0)
    assert BoxScale(1.0).box_of(BOX, "test", "", "") == BOX
    with pytest.raises(ValueError, match="must be above 0 and at most 4"):
        BoxScale(0.0)
