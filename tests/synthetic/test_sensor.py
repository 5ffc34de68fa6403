"""Poor cameras: they spoil pictures, and move nothing in them."""

from dataclasses import replace

import numpy as np
import pytest

from carkp.synthetic.camera import develop, draw_development
from carkp.synthetic.ingredients import Ingredients
from carkp.synthetic.sensor import PERFECT, Sensor, degrade, with_glare

SIZE = (120, 200)


def dot(x, y, light=1.0):
    """A bright square, 9 pixels wide, about (x, y) on grey."""
    linear = np.full((*SIZE, 3), 0.05, np.float32)
    linear[y - 4 : y + 5, x - 4 : x + 5] = light
    return linear


def middle(picture, x, y, reach=20):
    """(x, y) of what is brighter than the ground about (x, y)."""
    part = picture.astype(float).sum(2)[y - reach : y + reach + 1, x - reach : x + reach + 1]
    weights = np.clip(part - np.median(part) - 60, 0, None)
    rows, columns = np.indices(part.shape)
    return np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum() - reach


@pytest.mark.parametrize("seed", range(12))
def test_no_development_moves_what_is_in_the_picture(seed):
    rng = np.random.default_rng(seed)
    how = draw_development(0.2, rng, np.random.default_rng(seed))
    picture = develop(dot(90, 60), replace(how, read_noise=1.0, shot_noise=0.5), rng)
    assert np.abs(middle(picture, 90, 60)).max() < 0.6


def test_glare_spills_from_bright_places_alone_and_evenly():
    """Glare is reckoned in blocks of four pixels: a bright place of two blocks spills alike to both sides."""
    dim = dot(100, 60, light=0.8)
    np.testing.assert_array_equal(with_glare(dim, 1.0, 1.0), dim)
    bright = np.full((*SIZE, 3), 0.05, np.float32)
    bright[56:64, 96:104] = 40.0
    spill = (with_glare(bright, 1.0, 1.0) - bright).sum(2)
    assert spill[60, 104:130].min() > 0
    np.testing.assert_allclose(spill[:, :96], spill[:, :103:-1], rtol=0.02, atol=0.02)


def test_few_levels_stay_few():
    picture = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (120, 1, 3))
    assert len(np.unique(degrade(picture, Sensor(levels=12), np.random.default_rng(0)))) <= 12


def test_a_perfect_sensor_changes_nothing():
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    np.testing.assert_array_equal(degrade(picture, PERFECT, np.random.default_rng(0)), picture)


def test_without_its_ingredient_no_camera_is_poor():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        how = draw_development(0.2, rng, rng, Ingredients(sensor=False, light=False))
        assert how.sensor == PERFECT
        assert how.focus == how.glare == 0.0
        assert how.quality >= 70
