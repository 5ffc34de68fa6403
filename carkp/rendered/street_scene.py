"""A street with places for cars, and viewpoints of cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carkp.synthetic.backdrop import build_backdrop
from carkp.synthetic.camera import Camera
from carkp.synthetic.ground import ARM_COS, ARM_HALF_WIDTH, ARM_SIN, Ground, parking_lot, road_distance
from carkp.synthetic.materials import FOLIAGE, WIRE
from carkp.synthetic.mesh import Ints, Mesh, ellipsoid, join
from carkp.synthetic.streets import Spot, draw_ground, draw_spots

Array = NDArray[np.float64]

_NUM_SPOTS = 420
_SHADOW_REACH = 40.0
_GREEN_SHARE = 0.5


@dataclass(frozen=True)
class Street:
    """Everything in a street that does not move, and places for cars."""

    ground: Ground
    backdrop: Mesh
    facades: Array
    spots: list[Spot]
    solid: Ints
    solid_x: Array
    solid_y: Array

    def solid_near(self, x: float, y: float) -> Ints:
        """Return the triangles that may cast a shadow on a place."""
        is_near = (np.abs(self.solid_x - x) < _SHADOW_REACH) & (np.abs(self.solid_y - y) < _SHADOW_REACH)
        return self.solid[is_near]


def draw_street(rng: np.random.Generator) -> Street:
    """Draw a random street."""
    ground = draw_ground(rng)
    backdrop, facades = build_backdrop(ground, rng)
    if rng.uniform() < _GREEN_SHARE:
        backdrop = join([backdrop, *_greenery(ground, rng)])
    solid = np.ascontiguousarray(backdrop.faces[backdrop.materials != WIRE])
    x, y = (backdrop.vertices[solid[:, 0], k].astype(np.float64) for k in range(2))
    return Street(ground, backdrop, facades, draw_spots(ground, _NUM_SPOTS, rng), solid, x, y)


def _greenery(ground: Ground, rng: np.random.Generator) -> list[Mesh]:
    """Build dense crowns of trees and bushes behind the pavements, as in a park or a suburb."""
    green = np.array([0.045, 0.085, 0.02]) * rng.uniform(0.5, 1.5) * np.array([rng.uniform(0.7, 1.7), 1.0, 1.0])
    parts = []
    for arm in ground.arms:
        c, s, half = arm[ARM_COS], arm[ARM_SIN], arm[ARM_HALF_WIDTH]
        for side in (-1.0, 1.0):
            along = rng.uniform(2, 10)
            while along < 90:
                radius, height = rng.uniform(1.2, 4.5), rng.uniform(0.8, 7.0)
                out = side * (half + ground.pavement + radius + rng.uniform(0.0, 7.0))
                x, y = along * c - out * s, along * s + out * c
                if road_distance(ground, x, y) > ground.pavement + 0.6 * radius:
                    r, g, b = (float(v) for v in green * rng.uniform(0.7, 1.3))
                    crown = ellipsoid((x, y, 0.75 * height), (radius, radius, height), (r, g, b), sides=12)
                    parts.append(crown._replace(materials=np.full(len(crown.faces), FOLIAGE, np.int32)))
                along += radius * rng.uniform(0.7, 2.0)
    return parts


@dataclass(frozen=True)
class Viewpoint:
    """The pose of a camera. position: (3,), metres; yaw, pitch of the optical axis and roll about it in radians."""

    position: Array
    yaw: float
    pitch: float
    roll: float

    def camera(self, focal: float, size: tuple[int, int], shift: tuple[float, float]) -> Camera:
        """Return a camera with focal length ``focal`` in pixels; ``shift`` as in :class:`Camera`."""
        cy, sy, cp, sp = math.cos(self.yaw), math.sin(self.yaw), math.cos(self.pitch), math.sin(self.pitch)
        forward = np.array([cp * cy, cp * sy, sp])
        right = np.array([sy, -cy, 0.0])
        down = np.cross(forward, right)
        c, s = math.cos(self.roll), math.sin(self.roll)
        rotation = np.stack([c * right + s * down, c * down - s * right, forward])
        return Camera(self.position, rotation, focal, size, shift)


def draw_viewpoint(street: Street, spot: Spot, rng: np.random.Generator) -> Viewpoint:
    """Draw a viewpoint for a car: on any side, near or far, as low as a phone or as high as a first floor."""
    for _ in range(60):
        distance = math.exp(rng.uniform(math.log(4.5), math.log(38.0)))
        azimuth = rng.uniform(0, 2 * math.pi)
        x, y = spot.x + distance * math.cos(azimuth), spot.y + distance * math.sin(azimuth)
        if _may_stand(street.ground, x, y):
            break
    height = rng.choice([rng.uniform(1.0, 1.8), rng.uniform(1.4, 2.6), rng.uniform(2.6, 5.5)], p=[0.5, 0.36, 0.14])
    to_car = math.atan2(spot.y - y, spot.x - x)
    yaw = to_car + float(np.clip(rng.normal(0, 0.22), -0.6, 0.6))
    slope = math.atan2(0.7 - height, distance)
    pitch = rng.normal(0, 0.04) + rng.uniform(0, 1) * slope
    return Viewpoint(np.array([x, y, height]), yaw, pitch, rng.normal(0, 0.025))


def _may_stand(ground: Ground, x: float, y: float) -> bool:
    along, across = parking_lot(ground, x, y)
    is_in_lot = abs(along) < ground.park_length and abs(across) < ground.park_depth
    return is_in_lot or road_distance(ground, x, y) < ground.pavement


def draw_neighbours(street: Street, spot: Spot, position: Array, rng: np.random.Generator) -> list[Spot]:
    """Draw places of other cars around a spot: some near, some far, none at the camera."""
    chosen: list[Spot] = []
    wanted = int(rng.choice([0, 1, 2, 3, 4, 6], p=[0.18, 0.2, 0.22, 0.18, 0.12, 0.1]))
    away = np.array([math.hypot(s.x - spot.x, s.y - spot.y) for s in street.spots])
    order = np.argsort(away * rng.uniform(0.5, 2.0, len(away)))
    for index in order[:80]:
        if len(chosen) == wanted:
            break
        other = street.spots[int(index)]
        if math.hypot(other.x - position[0], other.y - position[1]) < 3.5:
            continue
        if all(clear(other, placed) for placed in [spot, *chosen]):
            chosen.append(other)
    return chosen


def clear(a: Spot, b: Spot, reach: float = 1.65, least: float = 2.15) -> bool:
    """Return whether the outlines of two cars do not overlap; outlines are three discs each."""
    if math.hypot(a.x - b.x, a.y - b.y) > 7.0:
        return True
    for s in (-reach, 0.0, reach):
        for t in (-reach, 0.0, reach):
            dx = a.x + s * math.cos(a.heading) - b.x - t * math.cos(b.heading)
            dy = a.y + s * math.sin(a.heading) - b.y - t * math.sin(b.heading)
            if math.hypot(dx, dy) < least:
                return False
    return True
