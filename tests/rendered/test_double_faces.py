"""Triangles that lie on each other: only the outer one is left."""

import numpy as np
import pytest

from carkp.rendered.double_faces import without_inner_faces
from carkp.rendered.glb import Column, Kind, Surface
from carkp.rendered.occlusion import with_open_sky

OUTER, INNER = 0, 1
ROOF = np.array([[-1.0, -0.8, 1.4], [1.0, -0.8, 1.4], [1.0, 0.8, 1.4]])
LEFT = np.array([[1.0, 0.9, 0.3], [-1.0, 0.9, 0.3], [-1.0, 0.9, 1.0]])
TAIL = np.array([[-2.0, -0.7, 0.4], [-2.0, -0.7, 1.0], [-2.0, 0.7, 1.0]])


def surface_of(triangles: list[np.ndarray], face_materials: list[int], kinds: tuple[Kind, Kind]) -> Surface:
    vertices = np.concatenate(triangles).astype(np.float32)
    materials = np.zeros((2, Column.COUNT), np.float32)
    materials[:, Column.KIND], materials[:, Column.TEXTURE] = kinds, -1
    return Surface(
        vertices=vertices,
        normals=np.zeros_like(vertices),
        uvs=np.zeros((len(vertices), 2), np.float32),
        open_sky=np.ones(len(vertices), np.float32),
        faces=np.arange(len(vertices), dtype=np.int32).reshape(-1, 3),
        face_materials=np.array(face_materials, np.int32),
        materials=materials,
        texels=np.zeros((1, 4), np.uint8),
        levels=np.zeros((0, 8, 3), np.int32),
        num_opaque=len(triangles),
    )


@pytest.mark.parametrize("triangle", [ROOF, LEFT, TAIL])
@pytest.mark.parametrize("is_outer_first", [True, False])
def test_the_triangle_that_faces_outwards_is_kept(triangle: np.ndarray, is_outer_first: bool):
    both = [triangle, triangle[[0, 2, 1]]]
    materials = [OUTER, INNER]
    if not is_outer_first:
        both, materials = both[::-1], materials[::-1]
    kept = without_inner_faces(surface_of(both, materials, (Kind.PLAIN, Kind.PLAIN)))
    assert kept.face_materials.tolist() == [OUTER]
    assert kept.num_opaque == 1
    np.testing.assert_allclose(kept.vertices[kept.faces[0]], triangle, atol=1e-6)


def test_paint_is_the_outer_one_whatever_its_side():
    kept = without_inner_faces(surface_of([ROOF, ROOF[[0, 2, 1]]], [OUTER, INNER], (Kind.PLAIN, Kind.PAINT)))
    assert kept.face_materials.tolist() == [INNER]


def test_single_triangles_and_see_through_ones_stay():
    surface = surface_of([ROOF, LEFT, TAIL, TAIL], [OUTER] * 4, (Kind.PLAIN, Kind.PLAIN))._replace(num_opaque=3)
    assert without_inner_faces(surface) is surface


def test_a_doubled_wall_leaves_a_usable_surface():
    doubled = without_inner_faces(
        surface_of([ROOF, LEFT, LEFT[[0, 2, 1]], TAIL], [0, 0, 1, 0], (Kind.PAINT, Kind.PLAIN))
    )
    assert doubled.num_opaque == len(doubled.faces) == 3
    assert with_open_sky(doubled).open_sky.shape == (12,)
