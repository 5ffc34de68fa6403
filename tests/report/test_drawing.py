"""Points land where they belong, in the right colour; missing ones are not drawn."""

import numpy as np
import pytest

from carkp.keypoints.schema import MISSING, NUM_KEYPOINTS, OCCLUDED, VISIBLE
from carkp.report.drawing import draw_cars, draw_keypoints, validity_from_scores
from carkp.report.palette import ERROR_RGB, LEFT_RGB, RIGHT_RGB
from carkp.report.sheets import captioned_prediction_sheet, contact_sheet, fit_tile, prediction_sheet

GREY = np.full((128, 128, 3), 128, dtype=np.uint8)


def one_point(index: int, x: float, y: float, code: int = VISIBLE) -> tuple[np.ndarray, np.ndarray]:
    points = np.full((NUM_KEYPOINTS, 2), 20.0)
    validity = np.zeros(NUM_KEYPOINTS, dtype=np.int64)
    points[index], validity[index] = (x, y), code
    return points, validity


def touched(picture: np.ndarray) -> np.ndarray:
    """Rows (y, x) of pixels that differ from the grey."""
    return np.argwhere((picture != 128).any(axis=2))


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_dot_is_centred_on_its_pixel(scale: int) -> None:
    picture = draw_keypoints(GREY, *one_point(0, 40.0, 90.0), scale=scale)
    assert picture.shape == (128 * scale, 128 * scale, 3)
    centre = touched(picture).mean(axis=0)
    np.testing.assert_allclose(centre, [(90 + 0.5) * scale - 0.5, (40 + 0.5) * scale - 0.5], atol=0.1)


def test_subpixel_positions_move_the_dot() -> None:
    def centre(x: float) -> float:
        changed = np.abs(draw_keypoints(GREY, *one_point(0, x, 64.0)).astype(float) - 128).sum(axis=(0, 2))
        return float((changed * np.arange(len(changed))).sum() / changed.sum())

    assert centre(40.5) - centre(40.0) == pytest.approx(1.5, abs=0.2)


@pytest.mark.parametrize(("index", "colour"), [(0, RIGHT_RGB), (10, RIGHT_RGB), (1, LEFT_RGB), (11, LEFT_RGB)])
def test_sides_have_their_colours(index: int, colour: tuple[int, int, int]) -> None:
    picture = draw_keypoints(GREY, *one_point(index, 64.0, 64.0))
    assert tuple(picture[193, 193]) == colour


def test_occluded_is_hollow_and_missing_is_not_drawn() -> None:
    hollow = draw_keypoints(GREY, *one_point(0, 64.0, 64.0, OCCLUDED))
    assert tuple(hollow[193, 193]) == (128, 128, 128)
    assert len(touched(hollow)) > 0
    assert len(touched(draw_keypoints(GREY, *one_point(0, 64.0, 64.0, MISSING)))) == 0
    assert len(touched(draw_keypoints(GREY, *one_point(0, np.nan, 64.0)))) == 0


def test_lines_join_drawn_points_only() -> None:
    points, validity = one_point(0, 20.0, 64.0)
    points[2], validity[2] = (100.0, 64.0), VISIBLE
    assert tuple(draw_keypoints(GREY, points, validity)[193, 181]) == RIGHT_RGB
    validity[2] = MISSING
    assert tuple(draw_keypoints(GREY, points, validity)[193, 181]) == (128, 128, 128)


def test_points_outside_and_other_colours_do_no_harm() -> None:
    points, validity = one_point(0, 500.0, -300.0)
    points[2], validity[2] = (64.0, 64.0), VISIBLE
    before = GREY.copy()
    picture = draw_keypoints(GREY, points, validity, colour=(1, 2, 3))
    assert tuple(picture[193, 193]) == (1, 2, 3)
    np.testing.assert_array_equal(GREY, before)


def test_wrong_arrays_are_refused() -> None:
    points, validity = one_point(0, 1.0, 1.0)
    with pytest.raises(ValueError, match="expected an RGB image"):
        draw_keypoints(GREY.astype(np.float32), points, validity)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 12 points"):
        draw_keypoints(GREY, points[:-1], validity)
    with pytest.raises(ValueError, match="scale"):
        draw_keypoints(GREY, points, validity, scale=0)


def test_scores_become_validity() -> None:
    codes = validity_from_scores(np.array([0.05, 0.2, 0.9]))
    assert codes.tolist() == [MISSING, OCCLUDED, VISIBLE]


def test_tile_keeps_the_ratio() -> None:
    wide = np.zeros((20, 80, 3), dtype=np.uint8)
    tile = fit_tile(wide, 40)
    dark = np.argwhere((tile == 0).all(axis=2))
    assert tile.shape == (40, 40, 3)
    assert (np.ptp(dark, axis=0) + 1).tolist() == [10, 40]


def test_contact_sheet_places_tiles_in_rows() -> None:
    colours = [(10 * i, 0, 0) for i in range(5)]
    pictures = [np.full((8, 8, 3), colour, dtype=np.uint8) for colour in colours]
    sheet = contact_sheet(pictures, [f"picture {i}" for i in range(5)], columns=3, tile_size=40)
    assert sheet.shape == (8 + 2 * (40 + 22 + 8), 8 + 3 * 48, 3)
    found = [tuple(sheet[28 + row * 70, 28 + column * 48]) for row in range(2) for column in range(3)]
    assert found == [*colours, (255, 255, 255)]


def test_long_captions_stay_in_their_tile() -> None:
    pictures = [np.zeros((8, 8, 3), dtype=np.uint8)] * 2
    sheet = contact_sheet(pictures, ["ö" * 200, ""], columns=2, tile_size=60)
    caption = sheet[68:90]
    assert (caption[:, 8:68] != 255).any()
    assert (caption[:, 68:] == 255).all()


def test_contact_sheet_needs_a_caption_a_picture() -> None:
    with pytest.raises(ValueError, match="one caption per picture"):
        contact_sheet([GREY], [])
    with pytest.raises(ValueError, match="columns"):
        contact_sheet([GREY], ["a"], columns=0)


def test_prediction_sheet_shows_errors_in_the_prediction_only() -> None:
    targets, validity = one_point(0, 30.0, 64.0)
    predicted = targets + np.array([60.0, 0.0])
    sheet = prediction_sheet([GREY], predicted[None], targets[None], validity[None], [60.0], columns=1)
    height, width = 256 + 22 + 16, 2 * 256 + 2 + 16
    picture = sheet[-height:][8 : 8 + 256]
    assert sheet.shape[1] == width
    label, prediction = picture[:, 8:264], picture[:, 266:522]
    is_error = [(half == ERROR_RGB).all(axis=2).any() for half in (label, prediction)]
    assert is_error == [False, True]
    assert tuple(label[128, 61]) == RIGHT_RGB
    assert tuple(prediction[128, 181]) == RIGHT_RGB


def test_prediction_sheet_takes_sixteen_cars() -> None:
    points = np.random.default_rng(0).uniform(0, 128, (16, NUM_KEYPOINTS, 2))
    validity = np.full((16, NUM_KEYPOINTS), VISIBLE)
    sheet = prediction_sheet([GREY] * 16, points, points + 1, validity, [1.4] * 16)
    assert sheet.shape[1] == 8 + 4 * (514 + 8)
    with pytest.raises(ValueError, match="equal numbers"):
        prediction_sheet([GREY] * 15, points, points, validity, [0.0] * 16)


def test_prediction_sheet_takes_captions() -> None:
    points = np.full((1, NUM_KEYPOINTS, 2), 64.0)
    validity = np.full((1, NUM_KEYPOINTS), VISIBLE)
    sheets = [
        captioned_prediction_sheet([GREY], points, points, validity, [text], columns=1)
        for text in ("", "a car", "a van")
    ]
    strips = [sheet[-8 - 22 :] for sheet in sheets]
    assert (strips[0] == 255).all()
    assert not np.array_equal(strips[1], strips[2])
    assert all(np.array_equal(sheet[:-30], sheets[0][:-30]) for sheet in sheets)


def test_a_small_car_in_a_big_picture_gets_small_markers() -> None:
    image = np.full((400, 800, 3), 128, np.uint8)
    validity = np.full(12, VISIBLE, np.uint8)
    spread = np.stack([np.linspace(0, 1, 12), np.linspace(0, 1, 12) ** 2], axis=1)

    def inked(extent: float) -> float:
        drawn = draw_keypoints(image, (20 + extent * spread).astype(np.float32), validity, scale=1)
        return float((drawn != image).any(axis=2).sum())

    assert inked(60) < 0.35 * inked(300)


def one_car(box: list[float], points: np.ndarray, score: float = 0.9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array([box]), points[None], np.full((1, NUM_KEYPOINTS), score)


@pytest.mark.parametrize("absurd", [np.nan, np.inf, -np.inf, 1e7, -3e38])
def test_absurd_numbers_are_not_drawn(absurd: float) -> None:
    points = np.full((NUM_KEYPOINTS, 2), absurd, np.float32)
    points[0] = 64, 64
    alone = points.copy()
    alone[1:] = np.nan
    box = [20.0, 20, 80, 80]
    np.testing.assert_array_equal(draw_cars(GREY, *one_car(box, points)), draw_cars(GREY, *one_car(box, alone)))
    np.testing.assert_array_equal(
        draw_keypoints(GREY, points, np.full(12, VISIBLE)), draw_keypoints(GREY, alone, np.full(12, VISIBLE))
    )
    draw_cars(GREY, *one_car([absurd, 0, 50, 50], points))
    draw_cars(GREY, *one_car([0, 0, abs(absurd), 50], points))


def test_scores_that_are_no_numbers_show_no_keypoint() -> None:
    assert validity_from_scores(np.array([np.nan, 0.9])).tolist() == [MISSING, VISIBLE]


def test_boxes_of_wide_pictures_are_where_they_belong() -> None:
    wide = np.full((40, 66_000, 3), 128, np.uint8)
    points = np.full((NUM_KEYPOINTS, 2), np.nan)
    drawn = draw_cars(wide, *one_car([60_000, 10, 5_000, 20], points))
    assert touched(drawn)[:, 1].min() == pytest.approx(60_000, abs=2)
    assert touched(drawn)[:, 1].max() == pytest.approx(65_000, abs=2)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 4000), (4000, 8)])
def test_pictures_of_any_size_are_drawn_on(size: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 128, np.uint8)
    points = np.random.default_rng(0).uniform(0, 8, (NUM_KEYPOINTS, 2))
    assert draw_cars(picture, *one_car([0, 0, size[1], size[0]], points)).shape == picture.shape


def test_lines_are_seen_in_large_pictures_and_the_same_in_ordinary_ones() -> None:
    points = np.full((NUM_KEYPOINTS, 2), np.nan)

    def width_of_side(height: int) -> int:
        picture = np.full((height, 4 * height // 3, 3), 128, np.uint8)
        drawn = draw_cars(picture, *one_car([height / 4, height / 4, height / 2, height / 2], points))
        return int((drawn[height // 2, : height // 2] > 180).all(axis=1).sum())

    assert width_of_side(900) == width_of_side(400) == 1
    assert width_of_side(6000) >= 3
