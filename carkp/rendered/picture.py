"""A small picture of one car among others: drawing, shading, and the ground truth of the car."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carkp.rendered.glb import Column, Kind
from carkp.rendered.mesh_car import MeshCar
from carkp.rendered.shading import Place, shade_surface
from carkp.rendered.street_scene import Street
from carkp.synthetic.backdrop_shading import find_ground, shade_backdrop
from carkp.synthetic.camera import Camera, Lens
from carkp.synthetic.lighting import Light
from carkp.synthetic.mesh import Floats, Ints, Mesh, turn_about_z
from carkp.synthetic.render import ShadowMap, draw_seen, shadow_map
from carkp.synthetic.shading import BEAM, Canvas, Window, relight, shade_plain
from carkp.synthetic.streets import Spot

Array = NDArray[np.float64]

_STATIC_MAP_PX, _MOVING_MAP_PX = 448, 512


@dataclass(frozen=True)
class PlacedCar:
    """A car and its place."""

    car: MeshCar
    spot: Spot

    def world(self, points: NDArray[np.floating]) -> Array:
        """Convert points (N, 3) from the car's axes to world axes."""
        turn = turn_about_z(self.spot.heading).astype(np.float64)
        return np.asarray(points @ turn.T + np.array([self.spot.x, self.spot.y, 0.0]))


@dataclass(frozen=True)
class Drawn:
    """A drawn picture. linear: (H, W, 3) light; is_seen: (12,), visible keypoints of the first car.

    shown, covered: number of visible pixels of the first car, and of all its pixels if nothing hid it.
    """

    linear: Floats
    is_seen: NDArray[np.bool_]
    shown: int
    covered: int


@dataclass(frozen=True)
class _Layer:
    """An object drawn alone: its window, and nearness and triangles in it of solid and of see-through parts (over)."""

    window: Window
    nearness: Floats
    triangle: Ints
    over_nearness: Floats
    over_triangle: Ints


def draw_picture(street: Street, camera: Camera, light: Light, cars: list[PlacedCar], people: list[Mesh]) -> Drawn:
    """Draw a picture; the first of ``cars`` is the labelled one. ``people`` are in world axes; sizes must be even."""
    lens = camera.lens(1)
    height, width = camera.size
    nearness, triangle = np.zeros((height, width), np.float32), np.zeros((height, width), np.int32)
    backdrop = street.backdrop
    seen = camera.view(backdrop.vertices).astype(np.float32)
    draw_seen(seen, backdrop.faces, lens.focal, lens.centre_x, lens.centre_y, nearness, triangle, False)
    static = _static_shadow(street, light, cars[0].spot)
    ambient, sun = np.empty((height, width, 3), np.float32), np.empty((height, width, 3), np.float32)
    find_ground(lens, nearness, triangle)
    shade_backdrop(lens, light, street.ground, street.facades, static, backdrop, nearness, triangle, ambient, sun)
    owner = np.full((height, width), -1, np.int32)
    canvas = Canvas(np.zeros((height, width, 3), np.float32), nearness, owner, triangle)
    layers = [_draw_car(camera, car) for car in cars]
    figures = [_draw_person(camera, figure) for figure in people]
    for own, layer in enumerate([*layers, *figures]):
        _put(canvas, layer, own)
    moving = _moving_shadow(light, cars, people)
    places = [Place(c.spot.x, c.spot.y, math.cos(c.spot.heading), math.sin(c.spot.heading)) for c in cars]
    outlines = [
        (*place, max(c.car.length / 2 - 0.1, 0.3), max(c.car.width / 2 - 0.05, 0.3), _beam(light, c.car))
        for place, c in zip(places, cars, strict=True)
    ]
    relight((0, 0, height, width), lens, moving, np.array(outlines), ambient, sun, canvas)
    for own, (layer, place, car) in enumerate(zip(layers, places, cars, strict=True)):
        shade_surface(
            layer.window, lens, light, place, static, moving, car.car.surface, layer.nearness, layer.triangle,
            canvas, own, False,
        )  # fmt: skip
    for k, (layer, figure) in enumerate(zip(figures, people, strict=True)):
        shade_plain(layer.window, lens, light, static, moving, figure, canvas, len(cars) + k)
    through = _lay_over(lens, light, static, moving, cars, places, layers, canvas)
    return _truth(camera, cars[0], layers[0], canvas, through)


def _beam(light: Light, car: MeshCar) -> float:
    """Return the light of a car on the road in front of it, as a multiple of the skylight; 0 by day."""
    materials = car.surface.materials
    is_lamp = materials[:, Column.KIND] == Kind.HEADLIGHT
    is_lit = light.night > 0.5 and bool((materials[is_lamp, Column.GLOW] > 0).any())
    return BEAM / light.horizon_green if is_lit else 0.0


def _lay_over(
    lens: Lens, light: Light, static: ShadowMap, moving: ShadowMap, cars: list[PlacedCar], places: list[Place],
    layers: list[_Layer], canvas: Canvas,
) -> int:  # fmt: skip
    """Draw windows and decals from far to near; return the number of such pixels of the first car."""
    order = sorted(range(len(cars)), key=lambda k: float(layers[k].nearness.max(initial=0.0)))
    counts = {}
    for own in order:
        counts[own] = shade_surface(
            layers[own].window, lens, light, places[own], static, moving, cars[own].car.surface,
            layers[own].over_nearness, layers[own].over_triangle, canvas, own, True,
        )  # fmt: skip
    return int(counts[0])


def _draw_car(camera: Camera, placed: PlacedCar) -> _Layer:
    surface = placed.car.surface
    seen = camera.view(placed.world(surface.vertices)).astype(np.float32)
    window = _window(camera, seen)
    solid, over = (np.ascontiguousarray(part) for part in np.split(surface.faces, [surface.num_opaque]))
    nearness, triangle = _rasterise(camera, window, seen, solid)
    over_nearness, over_triangle = _rasterise(camera, window, seen, over)
    return _Layer(window, nearness, triangle, over_nearness, over_triangle + surface.num_opaque)


def _draw_person(camera: Camera, figure: Mesh) -> _Layer:
    seen = camera.view(figure.vertices).astype(np.float32)
    window = _window(camera, seen)
    nearness, triangle = _rasterise(camera, window, seen, figure.faces)
    return _Layer(window, nearness, triangle, np.zeros_like(nearness), triangle)


def _rasterise(camera: Camera, window: Window, seen: Floats, faces: Ints) -> tuple[Floats, Ints]:
    shape = (window[2] - window[0], window[3] - window[1])
    nearness, triangle = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    x, y = camera.centre
    if min(shape) > 0 and len(faces) > 0:
        draw_seen(seen, faces, camera.focal, x - window[1], y - window[0], nearness, triangle, False)
    return nearness, triangle


def _window(camera: Camera, seen: Floats) -> Window:
    """Return the part of the picture that points in camera axes may cover; the whole picture if some are behind it."""
    height, width = camera.size
    depth = seen[:, 2]
    if depth.max() <= 0.3:
        return (0, 0, 0, 0)
    if depth.min() <= 0.3:
        return (0, 0, height, width)
    x, y = camera.centre
    columns = camera.focal * seen[:, 0] / depth + x
    rows = camera.focal * seen[:, 1] / depth + y
    top, bottom = (int(np.clip(v, 0, height)) for v in (rows.min() - 2, rows.max() + 3))
    left, right = (int(np.clip(v, 0, width)) for v in (columns.min() - 2, columns.max() + 3))
    return (top, left, bottom, right) if top < bottom and left < right else (0, 0, 0, 0)


def _put(canvas: Canvas, layer: _Layer, own: int) -> None:
    rows, columns = slice(layer.window[0], layer.window[2]), slice(layer.window[1], layer.window[3])
    wins = layer.nearness > canvas.nearness[rows, columns]
    canvas.nearness[rows, columns][wins] = layer.nearness[wins]
    canvas.owner[rows, columns][wins] = own
    canvas.triangle[rows, columns][wins] = layer.triangle[wins]


def _static_shadow(street: Street, light: Light, spot: Spot) -> ShadowMap:
    reach = 14.0
    corners = np.array(
        [[spot.x + reach * a, spot.y + reach * b, 3.0 * c] for a in (-1, 1) for b in (-1, 1) for c in (0, 1)]
    )
    sun = (light.sun_x, light.sun_y, light.sun_z)
    return shadow_map(street.backdrop.vertices, street.solid_near(spot.x, spot.y), sun, corners, _STATIC_MAP_PX)


def _moving_shadow(light: Light, cars: list[PlacedCar], people: list[Mesh]) -> ShadowMap:
    vertices = [car.world(car.car.surface.vertices) for car in cars] + [figure.vertices for figure in people]
    faces = [car.car.surface.faces[: car.car.surface.num_opaque] for car in cars] + [f.faces for f in people]
    offsets = np.cumsum([0] + [len(v) for v in vertices[:-1]])
    joined = np.concatenate([f + o for f, o in zip(faces, offsets, strict=True)]).astype(np.int32)
    target = cars[0]
    reach = 0.5 * target.car.length + 3.0
    corners = np.array(
        [
            [target.spot.x + a * reach, target.spot.y + b * reach, c * target.car.high[2]]
            for a in (-1, 1)
            for b in (-1, 1)
            for c in (0, 1)
        ]
    )
    sun = (light.sun_x, light.sun_y, light.sun_z)
    return shadow_map(np.concatenate(vertices).astype(np.float32), joined, sun, corners, _MOVING_MAP_PX)


def _truth(camera: Camera, target: PlacedCar, layer: _Layer, canvas: Canvas, through: int) -> Drawn:
    points, depth = camera.project(target.world(target.car.keypoints))
    height, width = canvas.nearness.shape
    row, column = np.clip(points[:, 1].astype(int), 0, height - 1), np.clip(points[:, 0].astype(int), 0, width - 1)
    before = 1.0 / np.maximum(canvas.nearness[row, column], 1e-6)
    is_inside = (points >= 0).all(1) & (points[:, 0] < width) & (points[:, 1] < height) & (depth > 0.3)
    is_seen = is_inside & (depth <= before + 0.08 + 0.0015 * depth)
    covered = int(((layer.nearness > 0) | (layer.over_nearness > 0)).sum())
    shown = int((canvas.owner == 0).sum())
    return Drawn(canvas.picture, is_seen, min(shown + through, covered), covered)
