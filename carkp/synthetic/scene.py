"""A fixed camera at a street: its backdrop, which is drawn once, and the places where it can see cars."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carkp.synthetic._jit import compiled
from carkp.synthetic.backdrop import build_backdrop
from carkp.synthetic.backdrop_shading import find_ground, shade_backdrop
from carkp.synthetic.camera import Camera, look_at
from carkp.synthetic.ground import Ground, parking_lot, road_distance
from carkp.synthetic.ingredients import ALL, Ingredients
from carkp.synthetic.lighting import Light, draw_light
from carkp.synthetic.materials import WIRE
from carkp.synthetic.mesh import Floats, Ints, Mesh, turn_about_z
from carkp.synthetic.render import ShadowMap, draw_seen, shadow_map
from carkp.synthetic.streets import Spot, draw_ground, draw_spots

Array = NDArray[np.float64]

SUPERSAMPLING = 2
NOMINAL = (4.6, 1.8, 1.5)
_NUM_SPOTS = 420
_SKETCH = 4
"""Reduction of the sketch that tests a view, relative to the picture."""


@dataclass(frozen=True)
class Box:
    """An upright box in the picture, in pixels; it may extend beyond the frame."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def area(self) -> float:
        return max(self.right - self.left, 0.0) * max(self.bottom - self.top, 0.0)

    def meet(self, other: Box) -> Box:
        return Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )


@dataclass(frozen=True)
class Candidate:
    """A spot seen by the camera, for a car of normal size."""

    spot: Spot
    box: Box
    distance: float
    octant: int
    cut: float  # share of the box outside the frame
    width: float  # of the box, as a share of the frame's width


@dataclass(frozen=True)
class View:
    """A camera's backdrop. Pictures are linear light, supersampled except for ``small``."""

    camera: Camera
    light: Light
    condition: str
    ground: Ground
    static: ShadowMap
    ambient: Floats
    sun: Floats
    nearness: Floats
    small: Floats
    candidates: list[Candidate]
    luminance: float


def frame_box(size: tuple[int, int]) -> Box:
    return Box(0.0, 0.0, float(size[1]), float(size[0]))


def relative_heading(camera: Camera, spot: Spot) -> float:
    """Return the angle in degrees, [0, 360), between the line of sight and the car's heading.

    At 0 the car drives away from the camera, at 90 to the left, at 180 towards the camera.
    """
    sight = math.atan2(spot.y - camera.position[1], spot.x - camera.position[0])
    return math.degrees(spot.heading - sight) % 360.0


def heading_octant(degrees: float) -> int:
    """Return the octant 0..7 of an angle; each is 45 degrees wide and centred on a multiple of 45."""
    return math.floor(degrees / 45.0 + 0.5) % 8


def draw_view(condition: str, size: tuple[int, int], rng: np.random.Generator, ingredients: Ingredients = ALL) -> View:
    """Draw a street and a camera, again and again until the camera sees enough spots for cars."""
    nearest = 1.8 if ingredients.close_ups else 3.5
    while True:
        ground = draw_ground(rng)
        backdrop, facades = build_backdrop(ground, rng)
        for _ in range(12):
            is_close = ingredients.close_ups and rng.uniform() < _CLOSE_VIEWS
            camera = _draw_camera(ground, size, rng, is_close, ingredients.cameras)
            if camera is None:
                continue
            sketch = _sketch(camera, backdrop)
            if not _is_open(sketch):
                continue
            candidates = _visible_spots(camera, sketch, draw_spots(ground, _NUM_SPOTS, rng), nearest)
            if _is_busy(candidates, is_close):
                return _render_view(
                    camera, draw_light(condition, rng), condition, ground, backdrop, facades, candidates
                )


_CLOSE_VIEWS = 0.25
"""Probability that a camera is close to the cars."""


def _draw_lens(is_close: bool, is_varied: bool, rng: np.random.Generator) -> tuple[float, float]:
    """Draw the horizontal field of view in radians, and the distance to the middle of the view in metres."""
    low, high = (16.0, 40.0) if is_varied and rng.uniform() < 0.4 else (30.0, 80.0)
    field = math.radians(math.exp(rng.uniform(math.log(low), math.log(high))))
    focal = 640.0 / math.tan(field / 2)
    share = rng.uniform(0.14, 0.45) if is_close else rng.uniform(0.4, 1.35)
    return field, min(max(focal * 4.0 / 165.0 * share, 4.5), 75.0)


def _draw_height(is_varied: bool, rng: np.random.Generator) -> float:
    if is_varied and rng.uniform() < 0.5:
        return float(rng.uniform(1.05, 1.7) if rng.uniform() < 0.7 else rng.uniform(4.0, 5.4))
    return float(rng.uniform(1.4, 2.6) if rng.uniform() < 0.55 else rng.uniform(2.6, 4.6))


def _draw_camera(
    ground: Ground, size: tuple[int, int], rng: np.random.Generator, is_close: bool, is_varied: bool
) -> Camera | None:
    """Draw a camera on a pavement, in the car park or sometimes on the road; None if the position is none of these."""
    field, distance = _draw_lens(is_close, is_varied, rng)
    in_lot = ground.park_length > 0 and rng.uniform() < 0.35
    middle = np.array([ground.park_x, ground.park_y]) if in_lot else np.zeros(2)
    aim = middle + rng.normal(0, 4.0, 2)
    azimuth = rng.uniform(0, 2 * math.pi)
    x, y = aim - distance * np.array([math.cos(azimuth), math.sin(azimuth)])
    edge = road_distance(ground, float(x), float(y))
    along, across = parking_lot(ground, float(x), float(y))
    is_in_lot = abs(along) < ground.park_length and abs(across) < ground.park_depth
    is_on_road = edge < 0 and rng.uniform() < (0.5 if is_varied else 0.3)
    if not (is_in_lot or is_on_road or 0.3 < edge < ground.pavement):
        return None
    height = _draw_height(is_varied, rng)
    drop = math.tan(rng.uniform(-0.02, 0.10)) * distance
    target = np.array([aim[0], aim[1], max(min(height - drop, 2.2), -1.0)])
    return look_at(np.array([x, y, height]), target, rng.normal(0, 0.025), field, size)


def car_corners(spot: Spot, measures: tuple[float, float, float]) -> Array:
    """Return the eight corners (8, 3) of a car's block, length x width x height, in world axes."""
    bits = np.array([[(i >> k) & 1 for k in range(3)] for i in range(8)], float) - np.array([0.5, 0.5, 0.0])
    return np.asarray(bits * np.array(measures) @ turn_about_z(spot.heading).T + np.array([spot.x, spot.y, 0.0]))


def outline_box(points: NDArray[np.floating]) -> Box:
    low, high = points.min(0), points.max(0)
    return Box(float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def _is_open(nearness: Floats) -> bool:
    """Return whether close objects fill only a small part of the picture."""
    return bool((nearness > 1 / 4.0).mean() < 0.06 and (nearness > 1 / 9.0).mean() < 0.22)


def _visible_spots(camera: Camera, nearness: Floats, spots: list[Spot], nearest: float) -> list[Candidate]:
    """Return the spots in the frame that are far enough away and not hidden by the backdrop."""
    seen = []
    for spot in spots:
        corners = car_corners(spot, NOMINAL)
        points, depth = camera.project(corners)
        if depth.min() < nearest:
            continue
        box = outline_box(points)
        inside = box.meet(frame_box(camera.size))
        cut = 1.0 - inside.area / max(box.area, 1e-6) if inside.width > 0 else 1.0
        if cut < 0.8 and _open_share(nearness, inside, float(depth.min())) > 0.6:
            octant = heading_octant(relative_heading(camera, spot))
            seen.append(Candidate(spot, box, float(depth.mean()), octant, cut, box.width / camera.size[1]))
    return seen


def _sketch(camera: Camera, backdrop: Mesh) -> Floats:
    """Draw the nearness of the backdrop without the ground, at a fraction of the frame's size."""
    height, width = camera.size[0] // _SKETCH, camera.size[1] // _SKETCH
    nearness, triangle = np.zeros((height, width), np.float32), np.zeros((height, width), np.int32)
    view = camera.view(backdrop.vertices).astype(np.float32)
    draw_seen(view, backdrop.faces, camera.focal / _SKETCH, width / 2, height / 2, nearness, triangle, False)
    return nearness


def _open_share(nearness: Floats, box: Box, depth: float) -> float:
    """Return the share of a box in which nothing is nearer than ``depth``."""
    rows = slice(int(box.top) // _SKETCH, int(box.bottom) // _SKETCH + 1)
    columns = slice(int(box.left) // _SKETCH, int(box.right) // _SKETCH + 1)
    part = nearness[rows, columns]
    return float((part < 1.0 / depth).mean()) if part.size else 0.0


def _is_busy(candidates: list[Candidate], is_close: bool) -> bool:
    """Return whether a view has enough spots for cars of labelled size, in several headings."""
    if is_close:
        good = [c for c in candidates if 0.12 < c.width < 0.9 and c.cut < 0.6]
        return len(good) >= 14 and len({c.octant for c in good}) >= 4
    good = [c for c in candidates if 0.055 < c.width < 0.34 and c.cut < 0.05]
    return len(good) >= 24 and len({c.octant for c in good}) >= 4


def _render_view(
    camera: Camera,
    light: Light,
    condition: str,
    ground: Ground,
    backdrop: Mesh,
    facades: Array,
    candidates: list[Candidate],
) -> View:
    height, width = camera.size[0] * SUPERSAMPLING, camera.size[1] * SUPERSAMPLING
    nearness, triangle = np.zeros((height, width), np.float32), np.zeros((height, width), np.int32)
    lens = camera.lens(SUPERSAMPLING)
    seen = camera.view(backdrop.vertices).astype(np.float32)
    draw_seen(seen, backdrop.faces, lens.focal, lens.centre_x, lens.centre_y, nearness, triangle, False)
    static = _static_shadow(camera, light, backdrop)
    ambient, sun = np.empty((height, width, 3), np.float32), np.empty((height, width, 3), np.float32)
    find_ground(lens, nearness, triangle)
    shade_backdrop(lens, light, ground, facades, static, backdrop, nearness, triangle, ambient, sun)
    small = reduce_picture(ambient) + reduce_picture(sun)
    street = small[small.shape[0] // 3 :]
    luminance = float(np.median(street @ np.array([0.3, 0.6, 0.1], np.float32)))
    return View(camera, light, condition, ground, static, ambient, sun, nearness, small, candidates, luminance)


def _static_shadow(camera: Camera, light: Light, backdrop: Mesh) -> ShadowMap:
    """Return the shadow map of the backdrop for the part of the ground that the camera looks at."""
    forward = camera.rotation[2, :2] / np.linalg.norm(camera.rotation[2, :2])
    drop = max(-camera.rotation[2, 2], 0.02)
    centre = camera.position[:2] + min(max(camera.position[2] / drop, 30.0), 60.0) * forward
    reach = 38.0
    corners = np.array(
        [[centre[0] + reach * a, centre[1] + reach * b, 3.0 * c] for a in (-1, 1) for b in (-1, 1) for c in (0, 1)]
    )
    solid = np.ascontiguousarray(backdrop.faces[backdrop.materials != WIRE])
    return shadow_map(backdrop.vertices, solid, (light.sun_x, light.sun_y, light.sun_z), corners, 1536)


def reduce_picture(picture: Floats) -> Floats:
    """Return the mean over blocks of supersampled pixels."""
    small = np.empty((picture.shape[0] // SUPERSAMPLING, picture.shape[1] // SUPERSAMPLING, 3), np.float32)
    _average_blocks(picture, small)
    return small


@compiled
def _average_blocks(picture: Floats, small: Floats) -> None:
    share = np.float32(1.0 / SUPERSAMPLING**2)
    for i in range(small.shape[0]):
        for j in range(small.shape[1]):
            for channel in range(3):
                total = np.float32(0.0)
                for di in range(SUPERSAMPLING):
                    for dj in range(SUPERSAMPLING):
                        total += picture[i * SUPERSAMPLING + di, j * SUPERSAMPLING + dj, channel]
                small[i, j, channel] = total * share


def empty_owner(size: tuple[int, int]) -> Ints:
    return np.full((size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING), -1, np.int32)
