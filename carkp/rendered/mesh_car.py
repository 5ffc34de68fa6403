"""One car from a mesh, with random changes of shape, paint, glass and lamps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from carkp.rendered.glb import Column, Kind, Surface
from carkp.synthetic.car_styles import PAINTS, draw_paint
from carkp.synthetic.mesh import Floats, unit

Array = NDArray[np.float64]

FRONT_WHEELS, REAR_WHEELS = (0, 1), (2, 3)
_KEPT_PAINT_SHARE = 0.25
"""Probability that a painted mesh keeps its own colours or livery."""


@dataclass(frozen=True)
class MeshCar:
    """A car from a mesh.

    keypoints: (12, 3) in the car's axes, metres; is_known: (12,), whether the keypoint is known for this mesh.

    low, high: (3,), the corners of the box around the car.
    """

    name: str
    kind: str
    surface: Surface
    keypoints: Array
    is_known: NDArray[np.bool_]
    low: Array
    high: Array

    @property
    def length(self) -> float:
        return float(self.high[0] - self.low[0])

    @property
    def width(self) -> float:
        return float(self.high[1] - self.low[1])


def mesh_car(name: str, kind: str, surface: Surface, keypoints: Array, is_known: NDArray[np.bool_]) -> MeshCar:
    """Return a car with bounds computed from its surface."""
    low, high = (np.array([end(surface.vertices[:, k]) for k in range(3)], np.float64) for end in (np.min, np.max))
    return MeshCar(name, kind, surface, keypoints, is_known, low, high)


@dataclass(frozen=True)
class Stretch:
    """A piecewise linear map of one axis from ``knots`` to ``images``; slopes beyond the ends are those at the ends."""

    knots: Array
    images: Array

    def apply(self, values: NDArray[np.floating]) -> Array:
        return np.asarray(np.interp(values, self.knots, self.images))

    def slope(self, values: NDArray[np.floating]) -> Array:
        slopes = np.diff(self.images) / np.diff(self.knots)
        return np.asarray(slopes[np.clip(np.searchsorted(self.knots, values) - 1, 0, len(slopes) - 1)])


_STRETCHES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "bus": ((0.85, 1.7), (0.95, 1.15)),
    "truck": ((0.85, 1.35), (0.9, 1.2)),
    "van": ((0.85, 1.25), (0.9, 1.2)),
}
"""Kind of car -> ranges of the factors for the length between the axles and for the height above the wheels."""
_USUAL_STRETCH = ((0.88, 1.15), (0.92, 1.22))


def vary_shape(car: MeshCar, rng: np.random.Generator) -> MeshCar:
    """Make the car longer or shorter, higher or lower, wider or narrower; the wheels stay round."""
    along, up = _STRETCHES.get(car.kind, _USUAL_STRETCH)
    scale, wide = rng.uniform(0.93, 1.07), rng.uniform(0.95, 1.06)
    stretch_x = _along(car, rng.uniform(*along), rng.uniform(0.88, 1.15), rng.uniform(0.88, 1.15))
    stretch_z = _upward(car, rng.uniform(*up))
    surface = car.surface
    x, y, z = (surface.vertices[:, k].astype(np.float64) for k in range(3))
    vertices = scale * np.stack([stretch_x.apply(x), wide * y, stretch_z.apply(z)], 1)
    slopes = np.stack([stretch_x.slope(x), np.full(len(x), wide), stretch_z.slope(z)], 1)
    points = car.keypoints
    moved = scale * np.stack([stretch_x.apply(points[:, 0]), wide * points[:, 1], stretch_z.apply(points[:, 2])], 1)
    changed = surface._replace(vertices=vertices.astype(np.float32), normals=unit(surface.normals / slopes))
    return mesh_car(car.name, car.kind, changed, moved, car.is_known)


def _along(car: MeshCar, middle: float, front: float, rear: float) -> Stretch:
    """Stretch x by factors between the wheels, in front of the front wheels and behind the rear wheels."""
    ends = (float(car.low[0]) - 1e-3, float(car.high[0]) + 1e-3)
    if not car.is_known[[*FRONT_WHEELS, *REAR_WHEELS]].all():
        return Stretch(np.array(ends), np.array(ends) * 0.5 * (middle + 1.0))
    reach = 1.15 * float(car.keypoints[0, 2])
    axles = (float(car.keypoints[REAR_WHEELS, 0].mean()), float(car.keypoints[FRONT_WHEELS, 0].mean()))
    knots = np.array([ends[0], axles[0] - reach, axles[0] + reach, axles[1] - reach, axles[1] + reach, ends[1]])
    knots = np.maximum.accumulate(knots + 1e-4 * np.arange(6))
    widths = np.diff(knots) * np.array([rear, 1.0, middle, 1.0, front])
    images = np.concatenate([[0.0], np.cumsum(widths)])
    return Stretch(knots, images - 0.5 * images[-1])


def _upward(car: MeshCar, factor: float) -> Stretch:
    """Stretch z by a factor above the wheels."""
    top = float(car.high[2]) + 1e-3
    wheel = 2.1 * float(car.keypoints[0, 2]) if car.is_known[0] else 0.45 * top
    low = min(float(car.low[2]), 0.0) - 1e-3
    knots = np.array([low, min(wheel, 0.8 * top), top])
    return Stretch(knots, np.array([knots[0], knots[1], knots[1] + factor * (knots[2] - knots[1])]))


def vary_look(car: MeshCar, rng: np.random.Generator) -> MeshCar:
    """Draw new paint, window tint, lamps and gloss."""
    materials = car.surface.materials.copy()
    kinds = materials[:, Column.KIND].astype(int)
    _paint(materials, kinds == Kind.PAINT, car.kind, rng)
    _tint(materials, kinds == Kind.GLASS, rng)
    _light_lamps(materials, kinds, rng)
    lamp_glass = kinds == Kind.LAMP_GLASS
    materials[lamp_glass, Column.ALPHA] = np.minimum(materials[lamp_glass, Column.ALPHA], rng.uniform(0.1, 0.4))
    return replace(car, surface=car.surface._replace(materials=materials))


def _paint(materials: Floats, painted: NDArray[np.bool_], kind: str, rng: np.random.Generator) -> None:
    """Draw a paint from the catalogue, or change the tone of the mesh's own colours."""
    if not painted.any():  # the body's colour is in the only texture
        if rng.uniform() < 0.6:
            plain = materials[:, Column.KIND] == Kind.PLAIN
            materials[plain, : Column.ALPHA] *= rng.uniform(0.35, 1.0, 3)
        return
    if rng.uniform() < _KEPT_PAINT_SHARE:
        materials[painted, Column.LUMINANCE] = 0.0
        materials[painted, : Column.ALPHA] *= rng.uniform(0.6, 1.0, 3)
        return
    paint = draw_paint(PAINTS, rng)
    colour = np.array(paint.colour)
    if rng.uniform() < 0.07:  # a colour outside of the catalogue
        colour = rng.uniform(0.01, 0.7, 3) ** 1.5
    if kind in ("bus", "truck", "van") and rng.uniform() < 0.4:
        colour = np.full(3, rng.uniform(0.55, 0.78))
    materials[painted, : Column.ALPHA] = colour
    materials[painted, Column.METALLIC] = paint.metallic
    materials[painted, Column.ROUGHNESS] = rng.uniform(0.05, 0.3)


def _tint(materials: Floats, glass: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Draw the tint of windows, from clear to nearly black."""
    tone = rng.uniform(0.0, 0.05)
    materials[glass, : Column.ALPHA] = tone * np.array([0.85, 1.0, 0.95])
    materials[glass, Column.ALPHA] = rng.choice(
        [rng.uniform(0.12, 0.45), rng.uniform(0.45, 0.8), rng.uniform(0.8, 0.97)]
    )
    materials[glass, Column.TEXTURE] = -1
    materials[glass, Column.ROUGHNESS] = 0.0


def _light_lamps(materials: Floats, kinds: NDArray[np.int_], rng: np.random.Generator) -> None:
    """Draw whether headlamps and tail lamps are lit."""
    if rng.uniform() < 0.3:
        materials[kinds == Kind.HEADLIGHT, Column.GLOW] = rng.uniform(1.5, 12.0)
    if rng.uniform() < 0.35:
        materials[kinds == Kind.TAIL_LIGHT, Column.GLOW] = rng.uniform(1.0, 6.0)
