from pathlib import Path

import numpy as np
import pytest

from carkp.keypoints.schema import FLIP_ORDER, KEYPOINT_NAMES
from carkp.rendered.glb import MeshError
from carkp.rendered.parts import load_parts
from carkp.rendered.placing import mirror_plane, place
from tests.rendered.named_parts import car_parts, wheel, write_glb

EXPECTED = {
    "right_front_wheel": (1.3, -0.9, 0.3),
    "left_back_wheel": (-1.3, 0.9, 0.3),
    "right_front_light": (2.05, -0.65, 0.7),  # with the turn signal beside it
    "left_back_light": (-2.05, 0.6, 0.65),  # without the third brake light
    "right_front_roof": (0.6, -0.6, 1.4),
    "left_back_roof": (-0.8, 0.6, 1.4),
}


def test_points_come_from_named_parts(tmp_path: Path):
    placed = place(load_parts(write_glb(tmp_path / "car.glb", car_parts())), "car")
    for name, point in EXPECTED.items():
        np.testing.assert_allclose(placed.points[KEYPOINT_NAMES.index(name)], point, atol=0.011, err_msg=name)
    assert placed.how == ("name",) * 12
    mirrored = placed.points[list(FLIP_ORDER)] * [1, -1, 1]
    np.testing.assert_allclose(placed.points, mirrored, atol=0.011)


def test_sides_come_from_the_cars_own_middle(tmp_path: Path):
    parts = load_parts(write_glb(tmp_path / "car.glb", car_parts(shift=0.75)))
    assert mirror_plane(parts) == pytest.approx(0.75, abs=0.001)
    placed = place(parts, "car")
    for name, point in EXPECTED.items():
        shifted = np.add(point, (0, 0.75, 0))
        np.testing.assert_allclose(placed.points[KEYPOINT_NAMES.index(name)], shifted, atol=0.011, err_msg=name)


def test_names_without_telling_words_leave_shapes(tmp_path: Path):
    parts = {f"object{k}": part for k, (name, part) in enumerate(car_parts().items()) if name != "Steering_Wheel"}
    placed = place(load_parts(write_glb(tmp_path / "car.glb", parts)), "car")
    assert placed.how == ("shape",) * 4 + ("",) * 8
    np.testing.assert_allclose(placed.points[0], EXPECTED["right_front_wheel"], atol=0.011)
    assert np.isnan(placed.points[4:]).all()


def test_a_truck_without_rear_glass_ends_in_the_corners_of_its_box(tmp_path: Path):
    parts = car_parts()
    del parts["Rear_Glass"]
    path = write_glb(tmp_path / "truck.glb", parts)
    assert place(load_parts(path), "car").how[10:] == ("", "")
    placed = place(load_parts(path), "truck")
    assert placed.how[10:] == ("shape", "shape")
    np.testing.assert_allclose(placed.points[10:], [(-0.8, -0.62, 1.45), (-0.8, 0.62, 1.45)], atol=1e-6)


def test_a_steered_wheel_has_its_hub_on_its_own_axle(tmp_path: Path):
    parts = car_parts()
    for name, centre in (("wheel_0", (1.3, -0.8, 0.3)), ("wheel_1", (1.3, 0.8, 0.3))):
        turned = wheel((0, 0, 0))
        angle = 0.5
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        turned.vertices = turned.vertices @ turn.T + centre
        parts[name] = turned
    points = place(load_parts(write_glb(tmp_path / "car.glb", parts)), "car").points
    offset = 0.1 * np.array([np.sin(0.5), -np.cos(0.5), 0])
    np.testing.assert_allclose(points[0], np.array([1.3, -0.8, 0.3]) + offset, atol=0.003)
    np.testing.assert_allclose(points[1], np.array([1.3, 0.8, 0.3]) - offset, atol=0.003)


def test_a_file_that_is_no_mesh_is_named(tmp_path: Path):
    (tmp_path / "car.glb").write_bytes(b"no mesh")
    with pytest.raises(MeshError, match=r"car\.glb: not a readable GLB file"):
        load_parts(tmp_path / "car.glb")
