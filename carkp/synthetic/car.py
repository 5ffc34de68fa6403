"""A parametric car: mesh, look and keypoints are all computed from one set of measures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from carkp.keypoints.schema import FLIP_ORDER, KEYPOINT_NAMES
from carkp.synthetic import mesh
from carkp.synthetic.car_body import arch_radius, belt_line, build_body, half_width
from carkp.synthetic.car_cargo import (
    BLACK_TRIM,
    PAINTED_TRIM,
    build_cargo,
    bus_mirrors,
    roof_sign,
    roof_unit,
    trim,
    under_run,
)
from carkp.synthetic.car_look import CarLook, draw_look
from carkp.synthetic.car_styles import CarMeasures, Paint, draw_measures, draw_paint
from carkp.synthetic.ingredients import ALL, Ingredients
from carkp.synthetic.materials import CAR_DARK, WHEEL
from carkp.synthetic.mesh import Mesh

Array = NDArray[np.float64]
_UNIT_RADIUS = 0.33
_TAXI_STYLES, _TAXI_SHARE = ("sedan", "wagon", "minivan", "hatchback"), 0.06
_TAXI_PAINTS = (
    Paint("yellow", (0.66, 0.40, 0.02), 0.0, 1.0),
    Paint("beige", (0.58, 0.50, 0.33), 0.0, 1.0),
    Paint("black", (0.012, 0.012, 0.013), 0.0, 1.0),
    Paint("white", (0.70, 0.70, 0.68), 0.0, 1.0),
)
LEFT = np.array([i for i, name in enumerate(KEYPOINT_NAMES) if name.startswith("left")])


@dataclass(frozen=True)
class Car:
    """A car.

    keypoints: (12, 3) in the car's axes (x forward, y left, z up, origin on the ground under its middle).
    """

    style: str
    paint: str
    measures: CarMeasures
    look: CarLook
    mesh: Mesh
    keypoints: Array


def draw_car(
    style: str,
    paints: tuple[Paint, ...],
    rng: np.random.Generator,
    steering: float = 0.0,
    ingredients: Ingredients = ALL,
    is_night: bool = False,
) -> Car:
    """Draw a random car of ``style``; ``steering`` turns the front wheels (radians, to the left).

    is_night: whether most lamps are lit.
    """
    measures = draw_measures(style, rng)
    is_taxi = ingredients.vehicles and style in _TAXI_STYLES and rng.uniform() < _TAXI_SHARE
    paint = _draw_paint(measures, paints, is_taxi, rng)
    look = draw_look(measures, paint, rng, ingredients.faces, is_night)
    return build_car(measures, look, paint.name, steering, is_taxi)


def _draw_paint(m: CarMeasures, paints: tuple[Paint, ...], is_taxi: bool, rng: np.random.Generator) -> Paint:
    paint = draw_paint(paints, rng)
    if m.style == "school_bus" or (m.style == "bus" and rng.uniform() < 0.5):
        return Paint("yellow", (0.66, 0.36, 0.02), 0.0, 1.0)
    if m.style == "double_decker" and rng.uniform() < 0.4:
        return Paint("red", (0.42, 0.012, 0.015), 0.0, 1.0)
    if m.family in ("van", "truck", "bus") and rng.uniform() < 0.35:
        return Paint("white", (0.70, 0.70, 0.68), 0.0, 1.0)
    if is_taxi:
        return _TAXI_PAINTS[int(rng.integers(len(_TAXI_PAINTS)))]
    return paint


def build_car(measures: CarMeasures, look: CarLook, paint: str, steering: float = 0.0, is_taxi: bool = False) -> Car:
    """Build the car with keypoints on the body's surface; for lorries see also :func:`build_cargo`."""
    body, roof = build_body(measures)
    wheels, hubs = _wheels(measures, steering)
    lights = _lights(measures, look, body)
    cargo, corner = build_cargo(measures)
    if corner is not None:
        roof[1] = corner
    left = np.stack([hubs[1], hubs[3], *lights, *roof])
    keypoints = np.zeros((12, 3))
    keypoints[LEFT] = left
    keypoints[np.array(FLIP_ORDER)[LEFT]] = left * np.array([1.0, -1.0, 1.0])
    keypoints[:4] = hubs
    parts = [body, *wheels, _inside(measures), *_mirrors(measures), *_rails(measures, look), *cargo]
    parts += _extras(measures, look, is_taxi)
    return Car(measures.style, paint, measures, look, mesh.join(parts), keypoints)


def _extras(m: CarMeasures, look: CarLook, is_taxi: bool) -> list[Mesh]:
    parts = [roof_sign(m)] if is_taxi else []
    if m.family == "truck":
        parts.append(under_run(m))
    if m.family == "bus" and look.upper_deck == 0.0 and look.seed % 1.0 < 0.5:
        parts.append(roof_unit(m))
    return parts


def _wheels(m: CarMeasures, steering: float) -> tuple[list[Mesh], Array]:
    """Build four wheels; return also their centres on the outer face, (4, 3), in the order of the keypoints."""
    parts, hubs = [], []
    for axle, turn in ((m.axle_front, steering), (m.axle_rear, 0.0)):
        outer = float(half_width(m, np.array([axle]))[0]) - 0.015
        wheel = _wheel(m.wheel_radius)
        for side in (-1.0, 1.0):
            one = wheel if side > 0 else mesh.mirrored(wheel)
            pivot = np.array([axle, side * (outer - 0.1), m.wheel_radius])
            parts.append(mesh.placed(one, float(pivot[0]), float(pivot[1]), turn, m.wheel_radius))
            hubs.append(pivot + mesh.turn_about_z(turn) @ np.array([0.0, side * 0.1, 0.0]))
    return parts, np.array(hubs)


def _wheel(radius: float) -> Mesh:
    """Build a left wheel about the origin; the hub of its outer face is at y = 0.1."""
    wheel = _unit_wheel()
    scale = np.array([radius / _UNIT_RADIUS, 1.0, radius / _UNIT_RADIUS], np.float32)
    return Mesh(wheel.vertices * scale, wheel.normals, wheel.attributes, wheel.faces, wheel.materials)


@cache
def _unit_wheel() -> Mesh:
    profile = np.array(
        [[0.0, 0.1], [0.16, 0.1], [0.2, 0.085], [0.60, 0.07], [0.67, 0.095], [0.70, 0.09], [0.92, 0.098],
         [1.0, 0.07], [1.0, -0.09], [0.9, -0.11], [0.0, -0.11]]
    )  # fmt: skip
    angle = np.linspace(0, 2 * np.pi, 25)
    ring, turn = np.meshgrid(np.arange(len(profile)), angle, indexing="ij")
    rho, y = profile[ring, 0], profile[ring, 1]
    ex, ez = rho * np.cos(turn), rho * np.sin(turn)
    points = np.stack([ex * _UNIT_RADIUS, y, ez * _UNIT_RADIUS], -1).reshape(-1, 3).astype(np.float32)
    attributes = np.stack([ex, ez, rho, y > 0], -1).reshape(-1, 4).astype(np.float32)
    faces = mesh.grid_faces(*rho.shape)
    normals = mesh.smooth_normals(points, faces)
    if normals[len(angle), 1] < 0:
        faces, normals = np.ascontiguousarray(faces[:, ::-1]), -normals
    return Mesh(points, normals, attributes, faces, np.full(len(faces), WHEEL, np.int32))


def _lights(m: CarMeasures, look: CarLook, body: Mesh) -> list[Array]:
    """Return the centres of the left headlight and tail light on the body's surface."""
    inner = look.light_y + 0.175 * (look.light_high - look.light_low)  # halfway up, as it is painted
    head = (0.5 * (inner + look.half_width - 0.03), 0.5 * (look.light_low + look.light_high))
    outer = look.half_width - 0.02
    inner = max(look.tail_y, outer - 0.45)
    tail = (0.5 * (inner + outer), 0.5 * (look.tail_low + look.tail_high))
    return [_first_hit(body, *head, side=1.0), _first_hit(body, *tail, side=-1.0)]


def _first_hit(body: Mesh, y: float, z: float, side: float) -> Array:
    """Return the point where a line along x at (y, z) first meets the mesh, from the front (+1) or from behind (-1)."""
    left_half = body.faces[: len(body.faces) // 2]
    a, b, c = (body.vertices[left_half[:, k]].astype(np.float64) for k in range(3))
    area = (b[:, 1] - a[:, 1]) * (c[:, 2] - a[:, 2]) - (c[:, 1] - a[:, 1]) * (b[:, 2] - a[:, 2])
    area = np.where(np.abs(area) < 1e-12, np.nan, area)
    beta = ((y - a[:, 1]) * (c[:, 2] - a[:, 2]) - (c[:, 1] - a[:, 1]) * (z - a[:, 2])) / area
    gamma = ((b[:, 1] - a[:, 1]) * (z - a[:, 2]) - (y - a[:, 1]) * (b[:, 2] - a[:, 2])) / area
    hit = (beta >= -1e-6) & (gamma >= -1e-6) & (beta + gamma <= 1 + 1e-6)
    if not hit.any():
        raise ValueError(f"no surface at y = {y:.3f}, z = {z:.3f}")
    x = (a[:, 0] + beta * (b[:, 0] - a[:, 0]) + gamma * (c[:, 0] - a[:, 0]))[hit]
    return np.array([float(x.max() if side > 0 else x.min()), y, z])


def _inside(m: CarMeasures) -> Mesh:
    """Build a dark block that blocks the view through the wheel arches."""
    length = m.axle_front - m.axle_rear + 2 * arch_radius(m) + 0.1
    low, high = m.clearance + 0.06, 2 * m.wheel_radius + 0.02
    centre = (0.5 * (m.axle_front + m.axle_rear), 0.0, 0.5 * (low + high))
    block = mesh.box((length, m.width - 0.5, high - low), centre, (0.01, 0.01, 0.01))
    dark = np.full(len(block.faces), CAR_DARK, np.int32)
    return Mesh(block.vertices, block.normals, block.attributes, block.faces, dark)


def _mirrors(m: CarMeasures) -> list[Mesh]:
    if m.family == "bus" and m.style != "school_bus":
        return bus_mirrors(m)
    x = m.cowl_x - 0.42 * min(m.cowl_x - m.roof_front_x, 0.9) - 0.05
    z = float(belt_line(m, np.array([x]))[0]) + 0.07
    scale = 1.0 + 0.35 * (m.height > 1.6)
    shell = mesh.ellipsoid((x, m.width / 2 + 0.06, z), (0.07 * scale, 0.12, 0.075 * scale), (0, 0, 0))
    left = trim(shell, PAINTED_TRIM if m.height < 1.9 else BLACK_TRIM)
    return [left, mesh.mirrored(left)]


def _rails(m: CarMeasures, look: CarLook) -> list[Mesh]:
    if (m.family != "suv" and m.style != "wagon") or look.seed % 1.0 < 0.4:
        return []
    span = m.roof_front_x - m.roof_rear_x
    y = m.width / 2 - 0.07 - m.tumblehome * (m.height - m.cowl)
    rail = mesh.box((0.8 * span, 0.035, 0.035), (m.roof_rear_x + 0.5 * span, y, m.height + 0.005), (0, 0, 0))
    left = trim(rail, BLACK_TRIM)
    return [left, mesh.mirrored(left)]
