"""A parametric car: mesh, look and keypoints, all out of one set of measures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carkp.keypoints.schema import FLIP_ORDER, KEYPOINT_NAMES
from carkp.synthetic import mesh
from carkp.synthetic.car_body import arch_radius, belt_line, build_body, half_width
from carkp.synthetic.car_styles import CarMeasures, Paint, draw_measures, draw_paint
from carkp.synthetic.materials import CAR_DARK, CAR_TRIM, WHEEL
from carkp.synthetic.mesh import Mesh

Array = NDArray[np.float64]
_UNIT_RADIUS = 0.33
LEFT = np.array([i for i, name in enumerate(KEYPOINT_NAMES) if name.startswith("left")])


class CarLook(NamedTuple):
    """What the car's shader must know beside the mesh: metres in the car's own axes, linear colours, 0/1 switches."""

    red: float
    green: float
    blue: float
    metallic: float
    length: float
    half_width: float
    height: float
    cowl_x: float
    roof_front_x: float
    roof_rear_x: float
    rear_base_x: float
    axle_front: float
    axle_rear: float
    wheel_z: float
    arch: float
    clearance: float
    nose_z: float
    deck_z: float
    pillar_b: float
    pillar_c: float
    door_rear: float
    glass_rear: float  # side windows end here
    rear_pillar: float
    sliding_door: float
    has_bed: float
    bed_floor: float
    cladding: float  # black sills and arches
    bumper_dark: float
    light_y: float  # inner edge of the headlight
    light_low: float
    light_high: float
    light_wrap: float
    grille_y: float
    grille_low: float
    grille_high: float
    grille_bars: float
    chrome: float
    intake_high: float
    tail_y: float
    tail_low: float
    tail_high: float
    tail_wrap: float
    tail_bar: float
    plate_rear: float
    plate_front: float
    brakes: float
    headlights: float
    amber: float
    tint: float
    dirt: float
    rim_spokes: float
    rim_tone: float
    dark_roof: float
    seed: float


@dataclass(frozen=True)
class Car:
    """keypoints: (12, 3) in the car's axes (x forward, y left, z up, origin on the ground under its middle)."""

    style: str
    paint: str
    measures: CarMeasures
    look: CarLook
    mesh: Mesh
    keypoints: Array


def draw_car(style: str, paints: tuple[Paint, ...], rng: np.random.Generator, steering: float = 0.0) -> Car:
    """A random car of ``style``; ``steering`` turns the front wheels (radians, to the left)."""
    measures = draw_measures(style, rng)
    paint = draw_paint(paints, rng)
    if style == "bus":
        paint = Paint("yellow", (0.66, 0.36, 0.02), 0.0, 1.0) if rng.uniform() < 0.5 else paint
    return build_car(measures, draw_look(measures, paint, rng), paint.name, steering)


def build_car(measures: CarMeasures, look: CarLook, paint: str, steering: float = 0.0) -> Car:
    body, roof = build_body(measures)
    wheels, hubs = _wheels(measures, steering)
    lights = _lights(measures, look, body)
    left = np.stack([hubs[1], hubs[3], *lights, *roof])
    keypoints = np.zeros((12, 3))
    keypoints[LEFT] = left
    keypoints[np.array(FLIP_ORDER)[LEFT]] = left * np.array([1.0, -1.0, 1.0])
    keypoints[:4] = hubs
    parts = [body, *wheels, _inside(measures), *_mirrors(measures), *_rails(measures, look)]
    return Car(measures.style, paint, measures, look, mesh.join(parts), keypoints)


def _wheels(m: CarMeasures, steering: float) -> tuple[list[Mesh], Array]:
    """Four wheels, and their centres on the outer face (4, 3) in the order of the keypoints."""
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
    """A left wheel about the origin; its outer face's hub lies at y = 0.1."""
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
    """Centres of the left headlight and tail light on the body's surface."""
    head = (look.light_y * 0.4 + look.half_width * 0.52, 0.5 * (look.light_low + look.light_high))
    outer = look.half_width - 0.10
    inner = max(look.tail_y, outer - 0.45)
    tail = (0.5 * (inner + outer), 0.5 * (look.tail_low + look.tail_high))
    return [_first_hit(body, *head, side=1.0), _first_hit(body, *tail, side=-1.0)]


def _first_hit(body: Mesh, y: float, z: float, side: float) -> Array:
    """Where the line along x at (y, z) first meets the mesh, coming from the front (+1) or from behind (-1)."""
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
    """A dark block that closes the view through the wheel arches."""
    length = m.axle_front - m.axle_rear + 2 * arch_radius(m) + 0.1
    low, high = m.clearance + 0.06, 2 * m.wheel_radius + 0.02
    centre = (0.5 * (m.axle_front + m.axle_rear), 0.0, 0.5 * (low + high))
    block = mesh.box((length, m.width - 0.5, high - low), centre, (0.01, 0.01, 0.01))
    dark = np.full(len(block.faces), CAR_DARK, np.int32)
    return Mesh(block.vertices, block.normals, block.attributes, block.faces, dark)


def _trim(part: Mesh, painted: bool) -> Mesh:
    attributes = mesh.constant([float(painted), 0, 0, 0], len(part.vertices))
    return Mesh(part.vertices, part.normals, attributes, part.faces, np.full(len(part.faces), CAR_TRIM, np.int32))


def _mirrors(m: CarMeasures) -> list[Mesh]:
    x = m.cowl_x - 0.42 * min(m.cowl_x - m.roof_front_x, 0.9) - 0.05
    z = float(belt_line(m, np.array([x]))[0]) + 0.07
    scale = 1.0 + 0.35 * (m.height > 1.6)
    shell = mesh.ellipsoid((x, m.width / 2 + 0.06, z), (0.07 * scale, 0.12, 0.075 * scale), (0, 0, 0))
    left = _trim(shell, painted=m.height < 1.9)
    return [left, mesh.mirrored(left)]


def _rails(m: CarMeasures, look: CarLook) -> list[Mesh]:
    if m.style not in ("suv", "wagon") or look.seed % 1.0 < 0.4:
        return []
    span = m.roof_front_x - m.roof_rear_x
    y = m.width / 2 - 0.07 - m.tumblehome * (m.height - m.cowl)
    rail = mesh.box((0.8 * span, 0.035, 0.035), (m.roof_rear_x + 0.5 * span, y, m.height + 0.005), (0, 0, 0))
    left = _trim(rail, painted=False)
    return [left, mesh.mirrored(left)]


def draw_look(m: CarMeasures, paint: Paint, rng: np.random.Generator) -> CarLook:
    """Lights, grille, windows, trim and dirt for a car of these measures."""
    half = m.width / 2
    doors = _door_lines(m, rng)
    return CarLook(
        red=paint.colour[0],
        green=paint.colour[1],
        blue=paint.colour[2],
        metallic=paint.metallic,
        length=m.length,
        half_width=half,
        height=m.height,
        cowl_x=m.cowl_x,
        roof_front_x=m.roof_front_x,
        roof_rear_x=m.roof_rear_x,
        rear_base_x=m.rear_base_x,
        axle_front=m.axle_front,
        axle_rear=m.axle_rear,
        wheel_z=m.wheel_radius,
        arch=arch_radius(m),
        clearance=m.clearance,
        nose_z=m.nose,
        deck_z=m.deck,
        **doors,
        rear_pillar=m.rear_pillar,
        has_bed=float(m.has_bed),
        bed_floor=0.55 * m.deck,
        **_front_look(m, rng),
        **_rear_look(m, rng),
        cladding=float(m.style in ("suv", "pickup", "van", "wagon") and rng.uniform() < 0.4),
        bumper_dark=float(rng.uniform() < (0.45 if m.style in ("van", "pickup", "bus") else 0.12)),
        chrome=float(rng.uniform() < 0.55),
        brakes=float(rng.uniform() < 0.35),
        headlights=float(rng.uniform() < 0.25),
        tint=float(rng.uniform(0.15, 0.75)),
        dirt=float(rng.uniform(0, 1) ** 2),
        rim_spokes=float(rng.integers(5, 11)),
        rim_tone=float(rng.choice([0.03, 0.25, 0.45, 0.6])),
        dark_roof=float(rng.uniform() < 0.05),
        seed=float(rng.uniform(0, 1000)),
    )


def _door_lines(m: CarMeasures, rng: np.random.Generator) -> dict[str, float]:
    front = m.cowl_x - 0.25
    door = 1.25 if m.doors == 2 else min(1.05, 0.45 * (front - m.axle_rear))
    pillar_b = front - door
    rear = pillar_b - 0.85 if m.doors == 4 else pillar_b
    wants_quarter = m.glass_sides == 3
    glass_rear = {1: pillar_b, 2: m.rear_base_x, 3: m.rear_base_x}[m.glass_sides]
    return {
        "pillar_b": pillar_b,
        "pillar_c": rear - 0.03 if wants_quarter else -99.0,
        "door_rear": max(rear, m.axle_rear + 0.02) if m.doors == 4 else -99.0,
        "glass_rear": glass_rear,
        "sliding_door": float(m.style in ("minivan", "van")),
    }


def _front_look(m: CarMeasures, rng: np.random.Generator) -> dict[str, float]:
    half, face = m.width / 2, m.nose - m.clearance
    high = m.nose - rng.uniform(0.05, 0.09)
    tall = rng.uniform(0.16, 0.26) * face / 0.6
    light_y = half * rng.uniform(0.48, 0.66)
    return {
        "light_y": light_y,
        "light_low": high - tall,
        "light_high": high,
        "light_wrap": rng.uniform(0.22, 0.45),
        "grille_y": light_y - rng.uniform(0.03, 0.16),
        "grille_low": high - tall * rng.uniform(0.8, 1.4),
        "grille_high": high - rng.uniform(-0.01, 0.02),
        "grille_bars": float(rng.integers(0, 3)),
        "intake_high": m.clearance + face * rng.uniform(0.24, 0.36),
        "plate_front": float(rng.uniform() < 0.6),
        "amber": float(rng.uniform() < 0.5),
    }


def _rear_look(m: CarMeasures, rng: np.random.Generator) -> dict[str, float]:
    half = m.width / 2
    tall = m.style in ("suv", "minivan", "van", "pickup", "wagon", "bus") and rng.uniform() < 0.75
    high = m.deck - rng.uniform(0.07, 0.12)
    height = rng.uniform(0.26, 0.42) if tall else rng.uniform(0.14, 0.22)
    return {
        "tail_y": half - (rng.uniform(0.22, 0.30) if tall else rng.uniform(0.34, 0.55)),
        "tail_low": high - height,
        "tail_high": high,
        "tail_wrap": rng.uniform(0.10, 0.20) if tall else rng.uniform(0.18, 0.34),
        "tail_bar": float(not tall and rng.uniform() < 0.15),
        "plate_rear": high - height - rng.uniform(-0.06, 0.12),
    }
