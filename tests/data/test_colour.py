"""Colour conversion is the hardware's integer formula; colour changes behave."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carkp.data import colour

grey_levels = st.integers(0, 255)


def literal_yuv(r: int, g: int, b: int) -> tuple[int, int, int]:
    """The formulas as they are written down, one pixel, Python integers (whose >> is arithmetic)."""
    y = (77 * r + 150 * g + 29 * b + 128) >> 8
    u = ((-43 * r - 84 * g + 127 * b + 128) >> 8) + 128
    v = ((127 * r - 106 * g - 21 * b + 128) >> 8) + 128
    return tuple(min(max(value, 0), 255) for value in (y, u, v))


@given(grey_levels, grey_levels, grey_levels)
def test_yuv_is_the_literal_formula(r, g, b):
    pixel = np.array([[[r, g, b]]], np.uint8)
    assert tuple(colour.rgb_to_yuv(pixel)[:, 0, 0].tolist()) == literal_yuv(r, g, b)


def test_yuv_is_the_formula_at_every_colour():
    low = np.arange(256, dtype=np.int32)
    for r in range(256):
        g, b = np.meshgrid(low, low, indexing="ij")
        image = np.stack((np.full_like(g, r), g, b), axis=-1)
        planes = colour.rgb_to_yuv(image.astype(np.uint8))
        for plane, row, zero in zip(planes, colour.YUV_COEFFICIENTS, (0, 128, 128), strict=True):
            expected = ((row[0] * r + row[1] * g + row[2] * b + 128) >> 8) + zero
            assert np.array_equal(plane, np.clip(expected, 0, 255))


def test_black_is_the_padding_value():
    assert colour.rgb_to_yuv(np.zeros((2, 3, 3), np.uint8)).reshape(3, -1)[:, 0].tolist() == [0, 128, 128]


def test_yuv_can_be_looked_at_again():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    again = colour.yuv_to_rgb(colour.rgb_to_yuv(image))
    assert np.abs(again.astype(int) - image).max() <= 4


def test_colour_jitter_of_strength_zero_changes_nothing():
    matrix = colour.jitter_matrix(0.0, False, np.random.default_rng(0))
    np.testing.assert_allclose(matrix, np.eye(3, 4), atol=1e-12)


@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_grey_pictures_have_no_colour(strength):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    grey = colour.apply_colour_matrix(image, colour.jitter_matrix(strength, True, np.random.default_rng(1)))
    assert np.ptp(grey.astype(int), axis=2).max() == 0


def test_noise_has_its_strength():
    image = np.full((128, 128, 3), 128, np.uint8)
    noisy = colour.add_noise(image, 2.0, np.random.default_rng(0)).astype(float)
    assert noisy.std() == pytest.approx(np.sqrt(4 + 1 / 12), rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.05)


def test_erasing_hides_one_rectangle_and_leaves_its_argument():
    image = np.zeros((64, 64, 3), np.uint8)
    erased = colour.erase(image, np.random.default_rng(0))
    assert not image.any()
    rows, columns = np.nonzero(erased.any(axis=2))
    assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
