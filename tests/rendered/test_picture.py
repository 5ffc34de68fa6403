"""Pictures of a made-up car: what is drawn is where the labels say."""

import math
from pathlib import Path

import numpy as np
import pytest

from carkp.keypoints.schema import FLIP_ORDER
from carkp.rendered.catalog import read_catalog
from carkp.rendered.crop import LabelledPicture, _apart, draw_labelled
from carkp.rendered.fleet import MeshFleet
from carkp.rendered.glb import Column, Kind
from carkp.rendered.mesh_car import MeshCar, vary_look, vary_shape
from carkp.rendered.picture import PlacedCar
from carkp.rendered.street_scene import draw_street
from carkp.synthetic.streets import Spot
from tests.rendered.painted_car import write_folder


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> MeshFleet:
    return MeshFleet(read_catalog(write_folder(tmp_path_factory.mktemp("meshes"), "sedan_one")))


@pytest.fixture(scope="module")
def car(fleet: MeshFleet) -> MeshCar:
    return fleet.draw(np.random.default_rng(0))


@pytest.fixture(scope="module")
def pictures(fleet: MeshFleet) -> list[LabelledPicture]:
    rng = np.random.default_rng(3)
    street = draw_street(rng)
    drawn = [draw_labelled(street, fleet.draw, rng) for _ in range(24)]
    return [picture for picture in drawn if picture is not None]


def test_vertices_under_the_roof_see_less_sky(car: MeshCar):
    surface = car.surface
    roof = surface.open_sky[surface.vertices[:, 2] > 1.39]
    below = surface.open_sky[(surface.vertices[:, 2] < 0.36) & (surface.normals[:, 2] < -0.5)]
    assert roof.mean() > 0.6
    assert below.mean() < 0.3


def test_the_shape_varies_and_keypoints_go_along(car: MeshCar):
    rng = np.random.default_rng(1)
    for _ in range(10):
        varied = vary_shape(car, rng)
        # the roof corners lie on the roof's corners, the lamps at the ends, wheels at the height of their radius
        np.testing.assert_allclose(varied.keypoints[8:, 2], varied.high[2], atol=1e-3)
        assert abs(varied.keypoints[4, 0] - varied.high[0]) < 0.03
        wheels = varied.surface.vertices[varied.surface.vertices[:, 2] < varied.keypoints[0, 2]]
        assert wheels[:, 2].min() > -0.01
        mirrored = varied.keypoints[list(FLIP_ORDER)] * [1, -1, 1]
        np.testing.assert_allclose(varied.keypoints, mirrored, atol=1e-6)


def test_wheels_stay_round(car: MeshCar):
    rows = np.flatnonzero(car.surface.materials[:, Column.KIND] == Kind.TYRE)
    faces = car.surface.faces[np.isin(car.surface.face_materials, rows)]
    front = [f for f in faces.ravel() if car.surface.vertices[f, 0] > 0 and car.surface.vertices[f, 1] > 0]
    rng = np.random.default_rng(2)
    for _ in range(5):
        wheel = vary_shape(car, rng).surface.vertices[front]
        width, height = np.ptp(wheel[:, 0]), np.ptp(wheel[:, 2])
        assert abs(width / height - 1) < 0.02


def test_the_look_leaves_the_mesh_itself_alone(car: MeshCar):
    before = car.surface.materials.copy()
    is_paint = car.surface.materials[:, Column.KIND] == Kind.PAINT
    looks = [vary_look(car, np.random.default_rng(k)).surface.materials[is_paint, :3] for k in range(6)]
    colours = {tuple(look[0].tolist()) for look in looks}
    assert len(colours) > 1
    np.testing.assert_array_equal(car.surface.materials, before)


def test_cars_that_overlap_are_left_out(car: MeshCar):
    target = PlacedCar(car, Spot(0.0, 0.0, 0.3))
    beside = PlacedCar(car, Spot(-1.2 * car.width * math.sin(0.3), 1.2 * car.width * math.cos(0.3), 0.3))
    touching = PlacedCar(car, Spot(-0.8 * car.width * math.sin(0.3), 0.8 * car.width * math.cos(0.3), 0.3))
    behind = PlacedCar(car, Spot(-1.1 * car.length * math.cos(0.3), -1.1 * car.length * math.sin(0.3), 0.3))
    across = PlacedCar(car, Spot(0.4 * car.length, 0.0, math.pi / 2))
    assert _apart(target, [beside, touching, across, behind]) == [beside, behind]
    assert _apart(target, [touching, beside]) == [beside]


def test_most_places_give_a_picture(pictures: list[LabelledPicture]):
    assert len(pictures) >= 12


def test_boxes_hold_what_is_inside(pictures: list[LabelledPicture]):
    for picture in pictures:
        box, inside = picture.box, picture.points[picture.is_inside]
        assert (inside[:, 0] > box.left - 2).all()
        assert (inside[:, 0] < box.right + 2).all()
        assert (inside[:, 1] > box.top - 2).all()
        assert (inside[:, 1] < box.bottom + 2).all()
        height, width = picture.picture.shape[:2]
        assert 0 <= box.left < box.right <= width
        assert 0 <= box.top < box.bottom <= height


def test_pictures_are_photographs(pictures: list[LabelledPicture]):
    for picture in pictures:
        assert picture.picture.std() > 8
        assert picture.picture.mean() > 10


def test_seen_points_are_inside_and_known(pictures: list[LabelledPicture]):
    for picture in pictures:
        assert not (picture.is_visible & ~picture.is_inside).any()
        assert picture.is_visible.sum() >= 3
        # a car shows at most three of its sides: never all twelve points
        assert picture.is_visible.sum() < 12


def test_the_same_generator_gives_the_same_picture(fleet: MeshFleet):
    def draw() -> list[LabelledPicture | None]:
        rng = np.random.default_rng(7)
        street = draw_street(rng)
        return [draw_labelled(street, fleet.draw, rng) for _ in range(3)]

    for one, other in zip(draw(), draw(), strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            np.testing.assert_array_equal(one.picture, other.picture)
            np.testing.assert_array_equal(one.points, other.points)


def test_opaque_parts_ignore_the_alpha_of_their_texture(tmp_path: Path, pictures: list[LabelledPicture]):
    transparent = MeshFleet(read_catalog(write_folder(tmp_path, "sedan_one", texture_alpha=0)))
    rng = np.random.default_rng(3)
    street = draw_street(rng)
    drawn = [draw_labelled(street, transparent.draw, rng) for _ in range(24)]
    others = [picture for picture in drawn if picture is not None]
    assert len(others) == len(pictures)
    for one, other in zip(pictures, others, strict=True):
        np.testing.assert_array_equal(one.picture, other.picture)
