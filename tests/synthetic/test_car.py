"""Cars: symmetry, keypoints on the surface, winding."""

import numpy as np
import pytest

from carkp.keypoints.schema import FLIP_ORDER, KEYPOINT_NAMES
from carkp.synthetic.car import draw_car
from carkp.synthetic.car_cargo import SIGN_TRIM
from carkp.synthetic.car_styles import PAINTS, PLAIN_SHARES, STYLE_SHARES, STYLES, TEST_STYLE_SHARES
from carkp.synthetic.ingredients import Ingredients
from carkp.synthetic.materials import CAR_TRIM

NAMES = {name: k for k, name in enumerate(KEYPOINT_NAMES)}


def cars(style, count=4):
    rng = np.random.default_rng(3)
    return [draw_car(style, PAINTS, rng) for _ in range(count)]


@pytest.mark.parametrize("style", STYLES)
def test_left_and_right_keypoints_mirror_each_other(style):
    for car in cars(style):
        mirrored = car.keypoints[list(FLIP_ORDER)] * np.array([1, -1, 1])
        np.testing.assert_allclose(car.keypoints, mirrored, atol=1e-6)
        for name, k in NAMES.items():
            assert (car.keypoints[k, 1] > 0) == name.startswith("left"), name


@pytest.mark.parametrize("style", STYLES)
def test_keypoints_lie_on_the_mesh(style):
    for car in cars(style):
        corners = car.mesh.vertices[car.mesh.faces]
        for name, point in zip(KEYPOINT_NAMES, car.keypoints, strict=True):
            assert distance_to_triangles(point, corners) < 0.02, name


@pytest.mark.parametrize("style", STYLES)
def test_front_is_before_back_and_roof_above_lights_above_hubs(style):
    for car in cars(style):
        points = car.keypoints
        for part in ("wheel", "light", "roof"):
            assert points[NAMES[f"left_front_{part}"], 0] > points[NAMES[f"left_back_{part}"], 0]
        for end in ("front", "back"):
            heights = [points[NAMES[f"left_{end}_{part}"], 2] for part in ("wheel", "light", "roof")]
            assert heights == sorted(heights)


@pytest.mark.parametrize("style", STYLES)
def test_body_normals_point_outwards(style):
    for car in cars(style, 2):
        sides = np.abs(car.mesh.normals[:, 1]) > 0.9
        at_flank = np.abs(car.mesh.vertices[:, 1]) > 0.9 * car.measures.width / 2
        chosen = sides & at_flank
        assert (np.sign(car.mesh.normals[chosen, 1]) == np.sign(car.mesh.vertices[chosen, 1])).mean() > 0.8


def test_steering_turns_the_front_wheels_only():
    rng = np.random.default_rng(0)
    straight = draw_car("sedan", PAINTS, rng)
    turned = draw_car("sedan", PAINTS, np.random.default_rng(0), steering=0.4)
    moved = np.linalg.norm(straight.keypoints - turned.keypoints, axis=1) > 1e-6
    assert moved.tolist() == [name.endswith("front_wheel") for name in KEYPOINT_NAMES]


@pytest.mark.parametrize("style", ["box_truck", "bonnet_truck", "lorry", "tanker"])
def test_rear_roof_corners_of_a_lorry_are_its_cargos(style):
    for car in cars(style):
        m = car.measures
        x, y, z = car.keypoints[NAMES["left_back_roof"]]
        assert x < m.axle_rear
        assert z > m.deck + 0.6 * (m.cargo_high - m.deck)
        assert 0.6 * m.cargo_half < y <= m.cargo_half + 1e-6
        front = car.keypoints[NAMES["left_front_roof"]]
        assert front[0] > m.rear_base_x
        assert front[2] == pytest.approx(m.height, abs=0.15)


@pytest.mark.parametrize("style", ["city_bus", "double_decker", "coach", "school_bus"])
def test_roof_corners_of_a_bus_span_its_roof(style):
    for car in cars(style):
        front, back = (car.keypoints[NAMES[f"left_{end}_roof"]] for end in ("front", "back"))
        assert front[0] - back[0] > 0.75 * car.measures.length
        assert min(front[2], back[2]) > car.measures.height - 0.25


def test_taxis_and_buses_come_with_their_ingredient_alone():
    plain = Ingredients(vehicles=False)
    drawn = [draw_car("sedan", PAINTS, np.random.default_rng(k), ingredients=plain) for k in range(60)]
    assert not any(has_sign(car) for car in drawn)
    assert any(has_sign(draw_car("sedan", PAINTS, np.random.default_rng(k))) for k in range(60))
    assert not {"city_bus", "lorry"} & set(PLAIN_SHARES)
    assert {"city_bus", "coach", "box_truck", "lorry", "minibus"} <= set(STYLE_SHARES)


def has_sign(car):
    corners = car.mesh.faces[car.mesh.materials == CAR_TRIM]
    return (car.mesh.attributes[corners][..., 0] == SIGN_TRIM).any()


def test_lamps_are_lit_more_often_by_night():
    lit = [
        sum(draw_car("sedan", PAINTS, np.random.default_rng(k), is_night=night).look.headlights for k in range(60))
        for night in (False, True)
    ]
    assert lit[1] > 2 * lit[0]


def test_one_style_is_kept_for_the_test_scenes():
    assert set(TEST_STYLE_SHARES) - set(STYLE_SHARES) == {"coupe"}


def distance_to_triangles(point, corners):
    """Least distance from a point to sampled points of the nearest triangles: (M, 3, 3) corners."""
    steps = [(i / 8, j / 8) for i in range(9) for j in range(9 - i)]
    nearest = np.argsort(np.linalg.norm(corners.mean(1) - point, axis=1))[:60]
    a, b, c = (corners[nearest, k] for k in range(3))
    samples = np.concatenate([a + u * (b - a) + v * (c - a) for u, v in steps])
    return np.linalg.norm(samples - point, axis=1).min()
