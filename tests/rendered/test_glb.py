from pathlib import Path

import numpy as np
import pytest

from carkp.rendered.glb import Column, Kind, MeshError, Surface, load_glb
from tests.rendered.painted_car import HEIGHT, LENGTH, WIDTH, write_car


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory) -> Surface:
    path = tmp_path_factory.mktemp("glb") / "car.glb"
    write_car(path)
    return load_glb(path)


def corners_of(surface: Surface, kind: Kind) -> np.ndarray:
    rows = np.flatnonzero(surface.materials[:, Column.KIND] == kind)
    return surface.vertices[surface.faces[np.isin(surface.face_materials, rows)].ravel()]


def test_the_car_looks_along_x_and_stands_on_the_ground(surface: Surface):
    low, high = surface.vertices.min(0), surface.vertices.max(0)
    np.testing.assert_allclose(high - low, [LENGTH + 0.02, WIDTH, HEIGHT], atol=1e-4)
    assert abs(low[2]) < 1e-5


def test_lamps_lie_where_their_names_say(surface: Surface):
    assert corners_of(surface, Kind.HEADLIGHT)[:, 0].min() > 1.9
    assert corners_of(surface, Kind.TAIL_LIGHT)[:, 0].max() < -1.9


def test_see_through_parts_come_last(surface: Surface):
    kinds = surface.materials[surface.face_materials, Column.KIND]
    assert (kinds[surface.num_opaque :] == Kind.GLASS).all()
    assert (kinds[: surface.num_opaque] != Kind.GLASS).all()
    assert len(surface.faces) - surface.num_opaque == 12


def test_paint_and_tyres_are_known(surface: Surface):
    assert len(corners_of(surface, Kind.PAINT)) == 2 * 12 * 3
    assert len(corners_of(surface, Kind.TYRE)) == 4 * 12 * 3


def test_normals_point_outwards(surface: Surface):
    body = corners_of(surface, Kind.PAINT)
    rows = np.flatnonzero(surface.materials[:, Column.KIND] == Kind.PAINT)
    faces = surface.faces[np.isin(surface.face_materials, rows)][:12]
    middle = body[:36].mean(0)
    for face in faces:
        out = surface.vertices[face].mean(0) - middle
        assert float(surface.normals[face[0]] @ out) > 0


def test_a_texture_that_several_parts_share_is_kept_once(surface: Surface):
    assert len(surface.levels) >= 1
    first, height, width = surface.levels[0, 0]
    assert (first, height, width) == (0, 16, 16)
    assert surface.levels[0, -1].tolist()[1:] == [1, 1]


def test_what_is_no_mesh_is_refused_by_name(tmp_path: Path):
    (tmp_path / "broken.glb").write_bytes(b"glTF and nothing else")
    with pytest.raises(MeshError, match="broken"):
        load_glb(tmp_path / "broken.glb")
