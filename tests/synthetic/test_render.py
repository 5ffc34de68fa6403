"""The rasteriser and the shadow map."""

import math

import numpy as np
import pytest

from carkp.synthetic import mesh
from carkp.synthetic.camera import look_at
from carkp.synthetic.car import draw_car
from carkp.synthetic.car_styles import PAINTS, STYLES
from carkp.synthetic.render import draw_seen, shadow_map, sunlit

SIZE = (120, 160)


def draw(solid, camera, is_closed=False):
    nearness, triangle = np.zeros(SIZE, np.float32), np.full(SIZE, -1, np.int32)
    view = camera.view(solid.vertices).astype(np.float32)
    draw_seen(view, solid.faces, camera.focal, SIZE[1] / 2, SIZE[0] / 2, nearness, triangle, is_closed)
    return nearness, triangle


def camera_at(position, target=(0.0, 0.0, 0.7), degrees=50):
    return look_at(np.array(position, float), np.array(target), 0.0, math.radians(degrees), SIZE)


def test_nearness_of_a_wall_is_one_over_its_depth():
    wall = mesh.box((4, 1, 4), (0, 10.5, 0), (0, 0, 0))
    nearness, _ = draw(wall, camera_at((0, 0, 0), (0.0, 1.0, 0.0)))
    np.testing.assert_allclose(nearness[SIZE[0] // 2, SIZE[1] // 2], 0.1, rtol=1e-5)
    assert nearness[0, 0] == 0


def test_projected_corners_bound_the_drawn_pixels():
    block = mesh.box((2, 1, 1), (0.3, 0.2, 0.5), (0, 0, 0))
    camera = camera_at((3, -7, 2))
    rows, columns = np.nonzero(draw(block, camera)[0])
    points, _ = camera.project(block.vertices)
    assert abs(columns.min() - points[:, 0].min()) <= 1
    assert abs(columns.max() + 1 - points[:, 0].max()) <= 1
    assert abs(rows.min() - points[:, 1].min()) <= 1
    assert abs(rows.max() + 1 - points[:, 1].max()) <= 1


def test_a_triangle_that_crosses_the_camera_plane_is_cut_not_lost():
    vertices = np.array([[-50, 20, -1], [50, 20, -1], [0, -30, -1]], np.float32)
    floor = mesh.plain(vertices, np.array([[0, 1, 2]], np.int32), (0, 0, 0))
    nearness, _ = draw(floor, camera_at((0, 0, 0), (0.0, 1.0, 0.0)))
    assert (nearness[-1] > 0).all()
    assert (nearness[0] == 0).all()


@pytest.mark.parametrize("style", STYLES)
def test_leaving_out_the_backs_of_a_car_changes_hardly_a_pixel(style):
    car = draw_car(style, PAINTS, np.random.default_rng(2))
    for angle in np.arange(0, 6.2, 1.3):
        camera = camera_at((13 * math.cos(angle), 13 * math.sin(angle), 2.5))
        whole, culled = draw(car.mesh, camera)[0], draw(car.mesh, camera, is_closed=True)[0]
        covered = whole > 0
        differs = covered & (np.abs(1 / np.maximum(whole, 1e-6) - 1 / np.maximum(culled, 1e-6)) > 0.05)
        assert differs.sum() <= 0.004 * covered.sum()


def test_shadow_falls_away_from_the_sun():
    block = mesh.box((1, 1, 1), (0, 0, 0.5), (0, 0, 0))
    sun = (1.0, 0.0, 1.0)
    within = np.array([[-4, -4, 0], [4, 4, 1], [-4, 4, 0], [4, -4, 1]], float)
    shadow = shadow_map(block.vertices, block.faces, sun, within, 256)
    assert sunlit(shadow, -1.0, 0.0, 0.0, 0.05) == 0
    assert sunlit(shadow, 1.0, 0.0, 0.0, 0.05) == 1
    assert sunlit(shadow, 0.0, 2.0, 0.0, 0.05) == 1
    assert sunlit(shadow, 0.0, 0.0, 1.0, 0.05) == 1
    assert sunlit(shadow, 100.0, 0.0, 0.0, 0.05) == 1
