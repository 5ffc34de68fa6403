"""The car's body as a lofted mesh: rings at about ninety stations along x, and caps at nose and tail."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carkp.synthetic.car_styles import CarMeasures
from carkp.synthetic.materials import CAR_BODY, CAR_FRONT, CAR_REAR
from carkp.synthetic.mesh import Floats, Mesh, grid_faces, join, mirrored, smooth_normals, unit

Array = NDArray[np.float64]

RING = np.array(
    [0.0, 0.6, 1.0, 1.12, 1.3, 1.5, 1.7, 1.88, 2.0, 2.05, 2.35, 2.7, 2.95, 3.0, 3.04, 3.12, 3.25, 3.5, 3.75, 4.0]
)
"""Ring coordinates of the points of half a ring: 0-1 underside, 1-2 side, 2-3 greenhouse, 3-4 top."""
ROOF_EDGE = int(np.flatnonzero(RING == 3.0)[0])
_CAP_COLUMNS = 9


def arch_radius(m: CarMeasures) -> float:
    return m.wheel_radius + 0.045


def top_profile(m: CarMeasures, x: Array) -> Array:
    """Return the height of the body's centre line at ``x``: bonnet, windscreen, roof, rear glass, deck."""
    half = m.length / 2
    roof_front = m.height - 0.035
    roof_rear = m.height - m.roof_fall
    middle = 0.45 * m.roof_front_x + 0.55 * m.roof_rear_x
    tail = m.deck - (0.0 if m.has_bed else 0.03)
    hood_middle = 0.4 * half + 0.6 * m.cowl_x
    bonnet = half - m.cowl_x
    knots = [
        (half, m.nose - 0.07), (half - min(0.05, 0.2 * bonnet), m.nose - 0.02),
        (half - min(0.14, 0.39 * bonnet), m.nose + 0.01),
        (hood_middle, 0.35 * m.nose + 0.65 * m.cowl + 0.005), (m.cowl_x, m.cowl),
        (0.5 * (m.cowl_x + m.roof_front_x), 0.5 * (m.cowl + roof_front) + 0.02), (m.roof_front_x, roof_front),
        (middle, m.height), (m.roof_rear_x, roof_rear),
        (0.5 * (m.roof_rear_x + m.rear_base_x), 0.5 * (roof_rear + m.deck) + 0.015), (m.rear_base_x, m.deck),
        (-half + 0.015, tail), (-half, tail - 0.04),
    ]  # fmt: skip
    xs, zs = np.array(sorted(knots)).T
    fine = np.arange(xs[0], xs[-1] + 0.005, 0.005)
    profile = np.interp(fine, xs, zs)
    window = np.hanning(17)
    padded = np.pad(profile, 8, mode="edge")
    return np.asarray(np.interp(x, fine, np.convolve(padded, window / window.sum(), mode="valid")))


def stations(m: CarMeasures) -> Array:
    """Return the positions of the rings along x, which are dense where the outline bends."""
    half, arch = m.length / 2, arch_radius(m)
    ends = half - np.array([0.0, 0.012, 0.035, 0.07, 0.12, 0.18, 0.25, 0.34])
    around = arch * np.array([1.0, 0.97, 0.9, 0.8, 0.65, 0.45, 0.2])
    bends = np.array([m.cowl_x, m.roof_front_x, m.roof_rear_x, m.rear_base_x])
    arches = [
        centre + side * np.append(around, arch + 0.004) for centre in (m.axle_front, m.axle_rear) for side in (-1, 1)
    ]
    parts = [
        ends, -ends, *arches, bends, bends + 0.02, bends - 0.02, bends + 0.05, bends - 0.05,
        np.linspace(m.cowl_x, m.roof_front_x, 10), np.linspace(m.roof_rear_x, m.rear_base_x, 8),
        np.arange(-half + 0.4, half - 0.4, 0.11),
    ]  # fmt: skip
    x = np.unique(np.round(np.clip(np.concatenate(parts), -half, half), 4))
    return np.asarray(x[np.concatenate([[True], np.diff(x) > 0.003])])


def underside(m: CarMeasures, x: Array) -> Array:
    """Return the height of the lower edge: sill, wheel arches, raised nose and tail."""
    half, arch = m.length / 2, arch_radius(m)
    lower = m.clearance + 0.12 * (np.clip(np.abs(x) - (half - 0.5), 0, None) / 0.5) ** 2
    for axle in (m.axle_front, m.axle_rear):
        inside = np.abs(x - axle) <= arch + 1e-6
        circle = m.wheel_radius + np.sqrt(np.clip(arch**2 - (x - axle) ** 2, 0, None))
        lower = np.where(inside, np.maximum(lower, circle), lower)
    return lower


def half_width(m: CarMeasures, x: Array) -> Array:
    """Return half the width of the body in plan view: full in the middle, with rounded corners."""
    rounding = 0.30
    u = np.clip((np.abs(x) - (m.length / 2 - rounding)) / rounding, 0, 0.92)
    corner = 0.16 * (1 - np.sqrt(1 - u**2))
    taper = 0.03 * (np.abs(x) / (m.length / 2)) ** 2
    return m.width / 2 - corner - taper


def belt_line(m: CarMeasures, x: Array) -> Array:
    """Return the height of the lower edge of the side windows."""
    along = np.clip((m.cowl_x - x) / (m.cowl_x - m.rear_base_x), 0, 1.2)
    rear = m.cowl - 0.02 if m.has_bed or m.cargo else min(m.deck - 0.02, m.cowl + 0.08)
    return (m.cowl - 0.03) * (1 - along) + (rear + m.belt_rise * 0.5) * along


def _ring_points(m: CarMeasures, x: Array) -> tuple[Array, Array, Array, Array]:
    """Return y and z of the points, (stations, ring), and heights of belt and roof edge, (stations,)."""
    bottom, top, wide = underside(m, x), top_profile(m, x), half_width(m, x)
    shoulder = np.minimum(belt_line(m, x), top - 0.075)
    shoulder = np.maximum(shoulder, bottom + 0.08)
    edge = np.maximum(top - 0.05, shoulder + 0.012)
    in_arch = bottom > m.clearance + 0.13
    tuck = np.where(in_arch, 0.012, 0.07)
    side = np.array([0.0, 0.55, 0.85, 1.0, 0.985, 0.97, 0.955])  # outward position at ring 1..1.88
    height = np.array([0.0, 0.10, 0.30, 0.52, 0.74, 0.92, 1.0])
    y, z = np.zeros((len(x), len(RING))), np.zeros((len(x), len(RING)))
    y[:, 1], z[:, 0], z[:, 1] = 0.6 * wide, bottom, bottom
    belly = np.where(in_arch[:, None], np.maximum(side, 0.93), side)
    y[:, 2:9] = (wide - tuck)[:, None] + tuck[:, None] * np.clip(belly, 0, 1) - 0.35 * (1 - np.clip(belly, 0.93, 1))
    z[:, 2:9] = bottom[:, None] + (shoulder - bottom)[:, None] * height
    base = y[:, 8] - 0.012
    lean = m.tumblehome * (edge - shoulder) * (0.75 + 0.25 * np.clip((edge - shoulder) / 0.4, 0, 1))
    for k, t in zip(range(9, 14), (0.02, 0.35, 0.7, 0.93, 1.0), strict=True):
        y[:, k] = base - lean * (0.8 * t + 0.2 * t**2)
        z[:, k] = shoulder + (edge - shoulder) * t
    for k in range(14, 20):
        t = 1.0 - [0.93, 0.82, 0.66, 0.42, 0.2, 0.0][k - 14]
        y[:, k] = y[:, 13] * (1 - t)
        z[:, k] = edge + (top - edge) * (1 - (1 - t) ** 5) ** 0.8
    return y, z, shoulder, edge


def _sink_bed(m: CarMeasures, x: Array, y: Array, z: Array) -> None:
    """Lower the top of a pickup behind the cab to the floor of the bed, in place."""
    inside = (x < m.rear_base_x - 0.015) & (x > -m.length / 2 + 0.05)
    floor = 0.55 * m.deck
    for k in range(15, 20):
        z[inside, k] = floor
    y[inside, 14], y[inside, 15] = y[inside, 13] - 0.05, y[inside, 13] - 0.055


def _warp_ends(m: CarMeasures, points: Array) -> Array:
    """Curve nose and tail in plan view and shape the bumpers."""
    half = m.length / 2
    x, y, z = points.T
    reach = np.clip((np.abs(x) - (half - 0.75)) / 0.75, 0, 1) ** 3
    bow = m.bow * (np.abs(y) / (m.width / 2)) ** 2.6
    up = (z - m.clearance) / (m.nose - m.clearance)
    front = np.interp(up, [0, 0.15, 0.45, 0.6, 0.95, 1.1], [0.05, 0.0, 0.0, 0.045, 0.06, 0.10])
    up = (z - m.clearance) / (m.deck - m.clearance)
    rear = np.interp(up, [0, 0.12, 0.42, 0.52, 0.95, 1.1], [0.06, 0.0, 0.0, 0.05, 0.06, 0.09])
    shift = reach * (bow + np.where(x > 0, front, rear))
    return np.stack([x - np.sign(x) * shift, y, z], 1)


def _half_shell(m: CarMeasures, x: Array, y: Array, z: Array, attributes: Array) -> Mesh:
    """Build the left half, from nose to tail."""
    points = np.stack([np.broadcast_to(x[:, None], y.shape), y, z], -1).reshape(-1, 3)
    faces = grid_faces(len(x), len(RING))
    vertices = _warp_ends(m, points).astype(np.float32)
    normals = smooth_normals(vertices, faces)
    normals = _square_on_plane(normals, np.abs(vertices[:, 1]) < 1e-5)
    flat = attributes.reshape(-1, 4).astype(np.float32)
    return Mesh(vertices, normals, flat, faces, np.full(len(faces), CAR_BODY, np.int32))


def _square_on_plane(normals: Floats, on_plane: NDArray[np.bool_]) -> Floats:
    """Remove y from normals on the plane of symmetry, so that those of the two halves are equal."""
    squared = normals.copy()
    squared[on_plane, 1] = 0
    return unit(squared)


def _half_cap(m: CarMeasures, x: float, y: Array, z: Array, attributes: Array, material: int) -> Mesh:
    """Build the left half of the nose's or the tail's face from y, z and attributes of the last ring."""
    rows = slice(2, len(RING))
    across = np.linspace(0, 1, _CAP_COLUMNS)
    ys = y[rows, None] * across
    zs = np.broadcast_to(z[rows, None], ys.shape)
    points = np.stack([np.full(ys.shape, x), ys, zs], -1).reshape(-1, 3)
    faces = grid_faces(ys.shape[0], _CAP_COLUMNS)
    if x < 0:
        faces = np.ascontiguousarray(faces[:, ::-1])
    vertices = _warp_ends(m, points).astype(np.float32)
    normals = _square_on_plane(smooth_normals(vertices, faces), np.abs(vertices[:, 1]) < 1e-5)
    spread = np.repeat(attributes[rows], _CAP_COLUMNS, axis=0).astype(np.float32)
    return Mesh(vertices, normals, spread, faces, np.full(len(faces), material, np.int32))


def roof_ends(m: CarMeasures) -> tuple[float, float]:
    """Return the positions of the roof's corners along x.

    Over steep glass the corner is at the upper end of the rounded edge, where one would see it.
    """
    front = m.roof_front_x - (_ROUNDING if m.cowl_x - m.roof_front_x < _STEEP else 0.0)
    rear = m.roof_rear_x + (_ROUNDING if m.roof_rear_x - m.rear_base_x < _STEEP else 0.0)
    return front, rear


_STEEP, _ROUNDING = 0.3, 0.05
"""Horizontal run of glass that counts as steep, and half the length over which the outline is smoothed; metres."""


def build_body(m: CarMeasures) -> tuple[Mesh, Array]:
    """Build the closed body; return also the left corners of the roof, (2, 3): over windscreen and rear glass."""
    x = stations(m)
    y, z, belt, edge = _ring_points(m, x)
    if m.has_bed:
        _sink_bed(m, x, y, z)
    ring = np.broadcast_to(RING, y.shape)
    stations_x = np.broadcast_to(x[:, None], y.shape)
    attributes = np.stack([ring, z - belt[:, None], edge[:, None] - z, stations_x], -1)
    shell = _half_shell(m, x, y, z, attributes)
    left = join([
        shell,
        _half_cap(m, x[-1], y[-1], z[-1], attributes[-1], CAR_FRONT),
        _half_cap(m, x[0], y[0], z[0], attributes[0], CAR_REAR),
    ])  # fmt: skip
    grid = shell.vertices.reshape(len(x), len(RING), 3)
    corners = [grid[int(np.argmin(np.abs(x - at))), ROOF_EDGE] for at in roof_ends(m)]
    return join([left, mirrored(left)]), np.asarray(corners, np.float64)
