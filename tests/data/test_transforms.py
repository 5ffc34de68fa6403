"""Picture and keypoints move together, and the reference's defects stay away.

Most tests draw a bright dot at every keypoint and look where the dots are in the transformed picture.
"""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carkp.data import geometry
from carkp.data.transforms import EvalTransform, TrainTransform
from carkp.keypoints.schema import FLIP_ORDER, FLIP_PAIRS, MISSING, OCCLUDED, VISIBLE

SIZE = (128, 128)
REFERENCE = TrainTransform(SIZE, flip_probability=0.5, random_padding=True, noise_probability=0.2, noise_sigma=2.0)
STILL = TrainTransform(SIZE, flip_probability=0.0, random_padding=False, noise_probability=0.0, noise_sigma=0.0)
STRONG = replace(STILL, flip_probability=0.5, random_padding=True, min_scale=0.7, max_scale=1.3, max_rotation_deg=30)
BLACK, WHITE = 0, 255


def dot_crop(point: tuple[int, int], size: tuple[int, int] = (80, 120), radius: int = 4):
    """A black crop with a white disc at the first keypoint; the others are missing at the place of a crop shift."""
    image = np.zeros((*size, 3), np.uint8)
    cv2.circle(image, point, radius, (WHITE, WHITE, WHITE), -1, cv2.LINE_AA)
    points = np.full((12, 2), -5, np.float32)
    points[0] = point
    validity = np.zeros(12, np.uint8)
    validity[0] = VISIBLE
    return image, points, validity


def centroid(luma: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: luma.shape[0], : luma.shape[1]]
    weight = luma.astype(float)
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("size", [(80, 120), (120, 80), (300, 400), (30, 20), (128, 128)])
def test_eval_fits_the_crop_and_pads_right_and_below(size):
    image = np.full((*size, 3), WHITE, np.uint8)
    points = np.array([[0, 0], [size[1] - 1, size[0] - 1]] * 6, np.float32)
    result = EvalTransform(SIZE)(image, points, np.full(12, VISIBLE, np.uint8))
    scale = min(128 / size[0], 128 / size[1])
    np.testing.assert_allclose(result.points, points * scale, rtol=1e-6)
    height, width = (round(extent * scale) for extent in size)
    assert result.image.shape == (3, 128, 128)
    luma = result.image[0]
    edge = int(np.ceil(scale)) + 1
    assert (luma[: height - edge, : width - edge] > 250).all()
    assert (luma[height:] == BLACK).all()
    assert (luma[:, width:] == BLACK).all()
    assert (result.image[1:, height:] == 128).all()


@given(st.integers(10, 109), st.integers(10, 69), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_keypoints_follow_the_picture_through_random_padding_and_flip(x, y, seed):
    """Fails where random padding moves the picture alone (the reference's first defect)."""
    image, points, validity = dot_crop((x, y))
    result = replace(REFERENCE, noise_probability=0.0)(image, points, validity, np.random.default_rng(seed))
    (labelled,) = np.nonzero(result.validity)
    np.testing.assert_allclose(result.points[labelled[0]], centroid(result.image[0]), atol=0.15)


def test_random_padding_uses_all_the_room():
    image, points, validity = dot_crop((60, 40))
    padding = replace(STILL, random_padding=True)
    ys = {float(padding(image, points, validity, np.random.default_rng(s)).points[0, 1]) for s in range(400)}
    room = 128 - round(80 * 128 / 120)
    assert len(ys) == room + 1
    assert max(ys) - min(ys) == pytest.approx(room)


def test_a_share_of_the_crops_lies_as_in_evaluation():
    image, points, validity = dot_crop((60, 40))
    wanted = EvalTransform(SIZE)(image, points, validity)
    strong = replace(STRONG, noise_probability=0.0, flip_probability=0.0, color_jitter=0.0)
    for probability, expected in ((0.0, 0.0), (0.4, 0.4), (1.0, 1.0)):
        mixed = replace(strong, eval_placement_probability=probability)
        found = [mixed(image, points, validity, np.random.default_rng(seed)).points for seed in range(300)]
        share = np.mean([np.array_equal(moved, wanted.points) for moved in found])
        assert share == pytest.approx(expected, abs=0.08 if 0 < expected < 1 else 0.0)


def test_a_flip_exchanges_coordinates_and_validity_of_left_and_right():
    """Fails where validity stays behind (the reference's second defect)."""
    image = np.zeros((128, 128, 3), np.uint8)
    points = np.arange(24, dtype=np.float32).reshape(12, 2)
    validity = np.array([VISIBLE, MISSING, OCCLUDED, VISIBLE, MISSING, OCCLUDED] * 2, np.uint8)
    result = replace(STILL, flip_probability=1.0)(image, points, validity, np.random.default_rng(0))
    for right, left in FLIP_PAIRS:
        assert result.validity[[right, left]].tolist() == validity[[left, right]].tolist()
        assert result.points[right].tolist() == [127 - points[left, 0], points[left, 1]]
        assert result.points[left].tolist() == [127 - points[right, 0], points[right, 1]]


def test_a_flip_mirrors_the_picture():
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    points, validity = np.zeros((12, 2), np.float32), np.zeros(12, np.uint8)
    plain = STILL(image, points, validity, np.random.default_rng(0))
    flipped = replace(STILL, flip_probability=1.0)(image, points, validity, np.random.default_rng(0))
    assert np.array_equal(flipped.image, plain.image[:, :, ::-1])


def test_flipping_twice_changes_nothing():
    assert [FLIP_ORDER[index] for index in FLIP_ORDER] == list(range(12))


@given(st.integers(20, 99), st.integers(20, 59), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_keypoints_follow_the_picture_through_strong_augmentation(x, y, seed):
    image, points, validity = dot_crop((x, y))
    result = STRONG(image, points, validity, np.random.default_rng(seed))
    (labelled,) = np.nonzero(result.validity)
    if len(labelled) and geometry.is_inside(result.points[labelled] - 8, (112, 112)).all():
        np.testing.assert_allclose(result.points[labelled[0]], centroid(result.image[0]), atol=0.15)


def test_points_that_leave_the_input_become_missing():
    image, points, validity = dot_crop((2, 2))
    zoom = replace(STILL, random_padding=True, min_scale=1.0, max_scale=2.0)
    results = [zoom(image, points, validity, np.random.default_rng(seed)) for seed in range(50)]
    inside = [bool(geometry.is_inside(result.points[:1], SIZE)[0]) for result in results]
    assert {True, False} == set(inside)
    assert [bool(result.validity[0]) for result in results] == inside


def test_the_reference_transform_never_drops_a_label():
    image, points, _ = dot_crop((119, 79))
    points[1] = 0, 0
    everything = np.full(12, VISIBLE, np.uint8)
    for seed in range(50):
        result = REFERENCE(image, points, everything, np.random.default_rng(seed))
        assert (result.validity == VISIBLE).all()


@pytest.mark.parametrize("size", [(520, 771), (1100, 800), (261, 300)])
def test_a_reduced_picture_gives_the_same_result(size):
    """Decoding at a fraction of the size moves nothing."""
    point = (size[1] // 2 + 13, size[0] // 2 - 7)
    image, points, validity = dot_crop(point, size, radius=24)
    data = cv2.imencode(".jpg", image)[1]
    reduction = geometry.choose_reduction(size, SIZE, 1.0)
    flag = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}[reduction]
    reduced = cv2.imdecode(data, flag)
    result = EvalTransform(SIZE)(reduced, points, validity, crop_size=size)
    whole = EvalTransform(SIZE)(image, points, validity)
    assert np.array_equal(result.points, whole.points)
    np.testing.assert_allclose(centroid(result.image[0]), result.points[0], atol=0.1)
    np.testing.assert_allclose(centroid(whole.image[0]), whole.points[0], atol=0.1)


@pytest.mark.parametrize(
    ("size", "zoom", "reduction"),
    [
        ((120, 200), 1.0, 1),
        ((255, 200), 1.0, 1),
        ((256, 200), 1.0, 2),
        ((256, 200), 1.1, 1),
        ((512, 9), 1.0, 4),
        ((5000, 5000), 1.0, 8),
    ],
)
def test_the_reduction_never_asks_for_more_pixels_than_there_are(size, zoom, reduction):
    assert geometry.choose_reduction(size, SIZE, zoom) == reduction


def test_the_same_generator_gives_the_same_sample():
    strong = replace(
        STRONG,
        noise_probability=0.5,
        noise_sigma=2.0,
        color_jitter=0.5,
        grayscale_probability=0.5,
        blur_probability=0.5,
        erase_probability=0.5,
        max_translation=0.1,
    )
    image, points, validity = dot_crop((60, 40))
    one, two, three = (strong(image, points, validity, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one.image, three.image)


def test_padding_stays_black_under_colour_changes():
    image, points, validity = dot_crop((60, 40))
    vivid = replace(STILL, color_jitter=1.0, erase_probability=1.0)
    for seed in range(10):
        result = vivid(image, points, validity, np.random.default_rng(seed))
        assert (result.image[0, 90:] == BLACK).all()


def test_a_transform_leaves_its_arguments_alone():
    image, points, validity = dot_crop((60, 40))
    before = image.copy(), points.copy(), validity.copy()
    for transform in (REFERENCE, STRONG, EvalTransform(SIZE)):
        transform(image, points, validity, np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip(before, (image, points, validity), strict=True))
