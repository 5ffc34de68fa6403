"""Frames: what is visible, where keypoints project, what occludes what."""

import math
from dataclasses import replace

import numpy as np
import pytest

from carkp.keypoints.schema import KEYPOINT_NAMES
from carkp.synthetic import mesh
from carkp.synthetic.camera import look_at
from carkp.synthetic.car import draw_car
from carkp.synthetic.car_styles import PAINTS, STYLE_SHARES
from carkp.synthetic.frame import FramePainter, _area, _merged
from carkp.synthetic.ground import Ground
from carkp.synthetic.layout import keypoint_lines
from carkp.synthetic.lighting import draw_light
from carkp.synthetic.scene import _render_view, draw_view, heading_octant, relative_heading
from carkp.synthetic.streets import Spot
from carkp.synthetic.traffic import Actor, Fleet, draw_cars

NAMES = {name: k for k, name in enumerate(KEYPOINT_NAMES)}
SIZE = (180, 320)


def flat_view(position=(0.0, -14.0, 1.6), target=(0.0, 0.0, 0.8), condition="clear"):
    """A camera on an empty plain, south of the origin, looking north."""
    rng = np.random.default_rng(1)
    arms = np.array([[1.0, 0.0, 80.0, 2.0, 0.0, 500.0]])
    ground = Ground(arms, 3.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.15, 0.3, 1.0, 0.0, 0.3, 5.0)
    camera = look_at(np.array(position), np.array(target), 0.0, math.radians(36), SIZE)
    far = mesh.box((1, 1, 1), (0, 300, 0.5), (0.2, 0.2, 0.2))
    return _render_view(camera, draw_light(condition, rng), condition, ground, far, np.zeros((1, 14)), [])


@pytest.fixture(scope="module")
def painter():
    return FramePainter(flat_view())


def sedan(x=0.0, y=0.0, heading=0.0, style="sedan"):
    return Actor(draw_car(style, PAINTS, np.random.default_rng(7)), Spot(x, y, heading))


def visible(truth):
    return {name for name, k in NAMES.items() if truth.is_visible[k]}


def test_side_view_shows_the_near_wheels_and_hides_the_far_ones(painter):
    """The car drives east, so that its right side faces the camera."""
    truth = painter.draw([sedan(heading=0.0)], []).cars[0]
    seen = visible(truth)
    assert {"right_front_wheel", "right_back_wheel", "right_front_roof", "right_back_roof"} <= seen
    assert not {"left_front_wheel", "left_back_wheel", "left_front_light", "left_back_light"} & seen
    assert truth.occluded == 0
    assert truth.truncated == 0


def test_turned_round_the_other_side_is_seen(painter):
    seen = visible(painter.draw([sedan(heading=math.pi)], []).cars[0])
    assert {"left_front_wheel", "left_back_wheel"} <= seen
    assert not {"right_front_wheel", "right_back_wheel"} & seen


@pytest.mark.parametrize(("heading", "near", "far"), [(-math.pi / 2, "front", "back"), (math.pi / 2, "back", "front")])
def test_end_views_show_both_lights_of_one_end(painter, heading, near, far):
    seen = visible(painter.draw([sedan(heading=heading)], []).cars[0])
    assert {f"left_{near}_light", f"right_{near}_light"} <= seen
    assert not {f"left_{far}_light", f"right_{far}_light"} & seen


def test_a_car_in_front_hides_the_one_behind_and_not_the_reverse(painter):
    hidden = sedan(y=3.5)
    alone = painter.draw([hidden], []).cars[0]
    front, behind = painter.draw([sedan(y=-2.0, style="van"), hidden], []).cars
    assert front.occluded == 0
    assert behind.occluded > 0.5
    assert visible(behind) < visible(alone)
    np.testing.assert_array_equal(behind.points, alone.points)


def test_a_post_before_one_wheel_hides_just_that_wheel(painter):
    actor = sedan()
    wheel = actor.car.keypoints[NAMES["right_front_wheel"]]
    x = wheel[0] * (14.0 - 3.0) / (14.0 + wheel[1])
    post = mesh.tube((x, -3.0, 0), (x, -3.0, 1.2), (0.15, 0.15), (0.3, 0.3, 0.3))
    without, with_post = (visible(painter.draw([actor], people).cars[0]) for people in ([], [post]))
    assert without - with_post == {"right_front_wheel"}


def disc(centre, radius):
    """A bright disc that faces the camera of ``flat_view``."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    ring = centre + radius * np.stack([np.cos(angles), np.zeros(64), np.sin(angles)], 1)
    numbers = np.arange(64)
    faces = np.stack([np.full(64, 64), numbers, (numbers + 1) % 64], 1).astype(np.int32)
    return mesh.plain(np.concatenate([ring, centre[None]]), faces, (40.0, 40.0, 40.0))


def measured(light, near):
    """(x, y) of a bright dot: the mean column and row of the pixels about ``near``, weighted by their light."""
    rows, columns = np.indices(light.shape)
    weights = light * (np.maximum(abs(columns - near[0]), abs(rows - near[1])) <= 10)
    return np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()


@pytest.mark.parametrize("x", [-2.0, -1.013, 0.0, 0.377, 1.721])
@pytest.mark.parametrize("z", [1.9, 2.011])
def test_a_label_is_where_its_dot_is_drawn(painter, x, z):
    """A pixel's centre has whole coordinates: in the label's text, and where the drawn pixels are counted."""
    centre, parked = np.array([x, -2.0, z]), sedan(x=-3.0, y=20.0)
    keypoints = np.tile(centre - (parked.spot.x, parked.spot.y, 0.0), (12, 1))
    labelled = Actor(replace(parked.car, keypoints=keypoints), parked.spot)
    empty = painter.draw([labelled], []).linear
    frame = painter.draw([labelled], [disc(centre, 0.15)])
    label = np.array(keypoint_lines(frame.cars[0], 0)[0].split(",")[:2], float)
    found = measured(np.abs(frame.linear - empty).sum(2), label)
    assert np.abs(found - label).max() < 0.1, (found, label)


def test_drawing_leaves_no_trace_for_the_next_frame(painter):
    first = painter.draw([sedan(x=1.0)], []).linear
    painter.draw([sedan(x=-2.0, heading=2.0), sedan(x=3.0, y=-3.0)], [])
    np.testing.assert_array_equal(painter.draw([sedan(x=1.0)], []).linear, first)
    np.testing.assert_array_equal(painter.draw([], []).linear, painter.view.small)


def test_visible_keypoints_fall_on_or_beside_pixels_that_the_car_changed(painter):
    empty = painter.draw([], []).linear
    for heading in np.arange(0, 6.2, 0.7):
        frame = painter.draw([sedan(heading=float(heading))], [])
        changed = np.abs(frame.linear - empty).sum(2) > 1e-6
        for k in np.flatnonzero(frame.cars[0].is_visible):
            x, y = np.rint(frame.cars[0].points[k]).astype(int)
            assert changed[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any(), KEYPOINT_NAMES[k]


def test_a_car_across_the_border_is_truncated_and_loses_the_points_outside(painter):
    truth = painter.draw([sedan(x=4.6)], []).cars[0]
    assert 0.1 < truth.truncated < 0.9
    assert truth.box.right == SIZE[1]
    outside = truth.points[:, 0] >= SIZE[1] - 0.5
    assert outside.any()
    assert not truth.is_inside[outside].any()
    assert truth.is_inside[~outside].all()


def test_headlamps_light_the_road_before_them_by_night_alone():
    """The car comes towards the camera."""
    for condition, is_brighter in (("night", True), ("clear", False)):
        painter = FramePainter(flat_view(condition=condition))
        actor = sedan(heading=-math.pi / 2)
        lights = []
        for lit in (0.0, 1.0):
            car = replace(actor.car, look=actor.car.look._replace(headlights=lit))
            linear = painter.draw([Actor(car, actor.spot)], []).linear
            x, y = painter.view.camera.project(np.array([[0.0, -5.0, 0.0]]))[0][0]
            lights.append(linear[int(y) - 1 : int(y) + 2, int(x) - 3 : int(x) + 4].mean())
        assert (lights[1] > 1.5 * lights[0]) == is_brighter
        assert is_brighter or lights[1] == pytest.approx(lights[0], rel=1e-6)


@pytest.mark.parametrize("style", ["city_bus", "double_decker", "box_truck", "lorry", "flatbed", "tanker", "minibus"])
def test_visible_keypoints_of_big_vehicles_fall_on_what_they_changed(style):
    """The nearer side alone is seen, and every visible point lies on the drawn vehicle."""
    painter = FramePainter(flat_view(position=(0.0, -30.0, 2.2)))
    empty = painter.draw([], []).linear
    for heading in (0.0, 0.8, 2.2, -0.9):
        frame = painter.draw([sedan(heading=heading, style=style)], [])
        changed = np.abs(frame.linear - empty).sum(2) > 1e-6
        assert frame.cars[0].is_visible.sum() >= 4
        for k in np.flatnonzero(frame.cars[0].is_visible):
            x, y = np.rint(frame.cars[0].points[k]).astype(int)
            assert changed[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any(), KEYPOINT_NAMES[k]


def test_cars_of_any_length_do_not_drive_through_each_other():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        view = draw_view("overcast", (96, 160), rng)
        for _ in range(4):
            actors = draw_cars(view, Fleet(STYLE_SHARES, PAINTS), 7, rng)
            for k, a in enumerate(actors):
                for b in actors[:k]:
                    assert not overlap(a, b), (a.car.style, b.car.style)


def overlap(a, b):
    """Whether the middle line of one car passes through the body of the other one."""
    along = np.linspace(-0.4, 0.4, 41) * a.car.measures.length
    points = np.stack([a.spot.x + along * math.cos(a.spot.heading), a.spot.y + along * math.sin(a.spot.heading)], 1)
    dx, dy = points[:, 0] - b.spot.x, points[:, 1] - b.spot.y
    c, s = math.cos(b.spot.heading), math.sin(b.spot.heading)
    m = b.car.measures
    return bool(((abs(dx * c + dy * s) < 0.4 * m.length) & (abs(dy * c - dx * s) < 0.4 * m.width)).any())


def test_merged_windows_cover_all_and_cost_no_more():
    rng = np.random.default_rng(0)
    for _ in range(50):
        corners = rng.integers(0, 40, (6, 2, 2))
        windows = [(*c.min(0).tolist(), *c.max(0).tolist()) for c in corners]
        merged = _merged(windows)
        seen, drawn = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
        for top, left, bottom, right in windows:
            seen[top:bottom, left:right] = True
        for top, left, bottom, right in merged:
            drawn[top:bottom, left:right] = True
        assert (drawn | ~seen).all()
        assert sum(map(_area, merged)) <= sum(map(_area, windows))


def test_headings_and_octants_are_relative_to_the_line_of_sight():
    camera = flat_view().camera
    for heading, expected in ((math.pi / 2, 0), (math.pi, 2), (-math.pi / 2, 4), (0.0, 6)):
        assert heading_octant(relative_heading(camera, Spot(0.0, 0.0, heading))) == expected
    assert heading_octant(359.0) == 0


def test_traffic_shows_every_octant():
    counts = np.zeros(8, int)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        view = draw_view("overcast", (96, 160), rng)
        for _ in range(6):
            for actor in draw_cars(view, Fleet(STYLE_SHARES, PAINTS), 7, rng):
                counts[heading_octant(relative_heading(view.camera, actor.spot))] += 1
    assert counts.min() > 0.05 * counts.sum()
