"""Parts mounted on a body: box, tank or bed of a lorry, mirrors and roof unit of a bus, sign of a taxi."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carkp.synthetic import mesh
from carkp.synthetic.car_styles import CarMeasures
from carkp.synthetic.materials import CAR_CARGO, CAR_TRIM
from carkp.synthetic.mesh import Mesh

Array = NDArray[np.float64]
BLACK_TRIM, PAINTED_TRIM, SIGN_TRIM, SILVER_TRIM = 0.0, 1.0, 2.0, 3.0
"""Values of the first attribute of ``CAR_TRIM``."""
_GAP = 0.08  # between cab and cargo
_LOWER_DECK_HEIGHT = 3.0  # height of a bus as seen by its driver


def trim(part: Mesh, finish: float) -> Mesh:
    attributes = mesh.constant([finish, 0, 0, 0], len(part.vertices))
    return Mesh(part.vertices, part.normals, attributes, part.faces, np.full(len(part.faces), CAR_TRIM, np.int32))


def _cargo(part: Mesh) -> Mesh:
    nothing = mesh.constant([0, 0, 0, 0], len(part.vertices))
    return Mesh(part.vertices, part.normals, nothing, part.faces, np.full(len(part.faces), CAR_CARGO, np.int32))


def build_cargo(m: CarMeasures) -> tuple[list[Mesh], Array | None]:
    """Build the parts behind a lorry's cab; return also their upper left rear corner (3,), or None.

    Convention for the roof corners of lorries: the front corners are those of the cab, over the windscreen. The rear
    corners are the upper rear corners of the box. On a tank they are the points of the rear rim at 45 degrees. On a
    flatbed they are the rear corners of the cab, as on a pickup, and None is returned.
    """
    if m.cargo == "box":
        return [_cargo(_block(m, m.deck + 0.01, m.cargo_high))], np.array([-m.length / 2, m.cargo_half, m.cargo_high])
    if m.cargo == "tank":
        return _tank(m)
    if m.cargo == "bed":
        return _bed(m), None
    return [], None


def _block(m: CarMeasures, low: float, high: float) -> Mesh:
    rear, front = -m.length / 2, m.rear_base_x - _GAP
    size = (front - rear, 2 * m.cargo_half, high - low)
    return mesh.box(size, (0.5 * (front + rear), 0.0, 0.5 * (low + high)), (0, 0, 0))


def _tank(m: CarMeasures) -> tuple[list[Mesh], Array]:
    """Build a tank with elliptic section and flat ends; return also its rear rim point at 45 degrees."""
    rear, front = -m.length / 2 + 0.05, m.rear_base_x - _GAP
    ry, rz = m.cargo_half - 0.02, 0.5 * (m.cargo_high - m.deck)
    middle = m.deck + rz
    angle = np.linspace(0, 2 * np.pi, 33)  # every 11.25 degrees: 45 is one of them
    ring = np.stack([np.zeros(33), ry * np.cos(angle), middle + rz * np.sin(angle)], 1)
    wall = mesh.plain(
        np.concatenate([ring + np.array([x, 0.0, 0.0]) for x in (rear, front)]), mesh.grid_faces(2, 33), (0, 0, 0)
    )
    if wall.normals[8, 2] < 0:  # the uppermost point
        turned = np.ascontiguousarray(wall.faces[:, ::-1])
        wall = Mesh(wall.vertices, -wall.normals, wall.attributes, turned, wall.materials)
    parts = [_cargo(wall), _cargo(_lid(ring, rear, -1.0)), _cargo(_lid(ring, front, 1.0))]
    return parts, ring[4] + np.array([rear, 0.0, 0.0])


def _lid(ring: Array, x: float, side: float) -> Mesh:
    """Build a flat end: a fan of triangles about the middle, facing towards ``side``."""
    count = len(ring) - 1
    centre = np.array([[0.0, 0.0, ring[:, 2].mean()]])
    vertices = np.concatenate([ring[:-1], centre]) + np.array([x, 0.0, 0.0])
    k = np.arange(count)
    faces = np.stack([np.full(count, count), k, (k + 1) % count], 1).astype(np.int32)
    return mesh.plain(vertices, faces if side > 0 else np.ascontiguousarray(faces[:, ::-1]), (0, 0, 0))


def _bed(m: CarMeasures) -> list[Mesh]:
    """Build a floor, a headboard, and low boards on three sides."""
    rear, front = -m.length / 2, m.rear_base_x - _GAP
    middle, length, board = 0.5 * (rear + front), front - rear, 0.42
    floor = _block(m, m.deck + 0.01, m.deck + 0.12)
    head = mesh.box((0.06, 2 * m.cargo_half, m.cargo_high - m.deck), (front - 0.03, 0, 0.5 * (m.deck + m.cargo_high)),
                    (0, 0, 0))  # fmt: skip
    tail = mesh.box((0.04, 2 * m.cargo_half, board), (rear + 0.02, 0, m.deck + board / 2), (0, 0, 0))
    side = mesh.box((length, 0.04, board), (middle, m.cargo_half - 0.02, m.deck + board / 2), (0, 0, 0))
    return [_cargo(part) for part in (floor, head, tail, side, mesh.mirrored(side))]


def roof_sign(m: CarMeasures) -> Mesh:
    """Build the roof sign of a taxi."""
    x = 0.62 * m.roof_front_x + 0.38 * m.roof_rear_x
    return trim(mesh.box((0.16, 0.62, 0.15), (x, 0, m.height + 0.075), (0, 0, 0)), SIGN_TRIM)


def bus_mirrors(m: CarMeasures) -> list[Mesh]:
    """Build mirrors on arms in front of the windscreen."""
    front, side = m.length / 2, m.width / 2
    z = m.cowl + 0.62 * (min(m.height, _LOWER_DECK_HEIGHT) - m.cowl)
    glass = mesh.box((0.10, 0.22, 0.42), (front + 0.12, side + 0.06, z - 0.15), (0, 0, 0))
    arm = mesh.box((0.30, 0.05, 0.05), (front - 0.05, side - 0.02, z + 0.12), (0, 0, 0))
    left = trim(mesh.join([glass, arm]), BLACK_TRIM)
    return [left, mesh.mirrored(left)]


def roof_unit(m: CarMeasures) -> Mesh:
    """Build the air conditioning unit of a bus."""
    size = (0.22 * m.length, 0.62 * m.width, 0.22)
    return trim(mesh.box(size, (-0.1 * m.length, 0, m.height + 0.08), (0, 0, 0)), PAINTED_TRIM)


def under_run(m: CarMeasures) -> Mesh:
    """Build the bar under a lorry's tail."""
    bar = mesh.box((0.08, 1.8, 0.10), (-m.length / 2 + 0.10, 0, m.clearance + 0.10), (0, 0, 0))
    return trim(bar, BLACK_TRIM)
