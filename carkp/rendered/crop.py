"""One labelled picture: a car, its surroundings, a camera, light, and the resulting photograph."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from carkp.rendered.mesh_car import MeshCar, vary_look, vary_shape
from carkp.rendered.picture import Drawn, PlacedCar, draw_picture
from carkp.rendered.street_scene import Street, Viewpoint, clear, draw_neighbours, draw_viewpoint
from carkp.synthetic.backdrop import person
from carkp.synthetic.camera import Camera, Development, develop, draw_development, label_points
from carkp.synthetic.ingredients import ALL
from carkp.synthetic.lighting import CONDITION_SHARES, draw_light
from carkp.synthetic.mesh import Mesh, placed
from carkp.synthetic.scene import Box
from carkp.synthetic.streets import Spot

Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]

_DRAWN_PX = 260
"""Smallest extent at which a car is drawn, before the picture is reduced."""
_SMALLEST_PX, _LARGEST_PX = 50, 300
_MARGINS_X, _MARGINS_Y = (0.18, 0.4), (0.28, 0.5)
"""Range of the margins around a car as shares of its box: room for the crop of a loose box too."""
_MAX_OCCLUDED = 0.7
_EXPOSURE_EV = -0.5
_LEAST_CONTRAST = 14.0
"""Smallest standard deviation of the grey levels in the car's box."""

_POOR_CAMERA_SHARE = 0.35
_TALL_SHARE = 0.45
"""Probability of tall trees or buildings all around, so that paint and windows mirror little of the sky."""
_MIN_SEEN = 3


@dataclass(frozen=True)
class LabelledPicture:
    """A picture with its labels. points: (12, 2) label coordinates; is_visible, is_inside: (12,).

    picture: (H, W, 3) BGR.
    """

    picture: Bytes
    quality: int
    name: str
    kind: str
    points: Array
    is_visible: NDArray[np.bool_]
    is_inside: NDArray[np.bool_]
    box: Box
    heading: float
    truncated: float
    occluded: float
    distance: float
    condition: str


def draw_labelled(
    street: Street, draw_car: Callable[[np.random.Generator], MeshCar], rng: np.random.Generator
) -> LabelledPicture | None:
    """Draw a picture of a random car in ``street``; None if too little of the car is visible."""
    spot = street.spots[int(rng.integers(len(street.spots)))]
    car = vary_look(vary_shape(draw_car(rng), rng), rng)
    target = PlacedCar(car, spot)
    viewpoint = draw_viewpoint(street, spot, rng)
    neighbours = draw_neighbours(street, spot, viewpoint.position, rng)
    others = _apart(target, [PlacedCar(vary_look(draw_car(rng), rng), place) for place in neighbours])
    size_px = math.exp(rng.uniform(math.log(_SMALLEST_PX), math.log(_LARGEST_PX)))
    scale = max(2.0, _DRAWN_PX / size_px)
    framing = _frame(target, viewpoint, size_px, scale, rng)
    if framing is None:
        return None
    condition = str(rng.choice(list(CONDITION_SHARES), p=_normalised(CONDITION_SHARES)))
    people = _draw_people(spot, viewpoint, [target, *others], rng)
    light = draw_light(condition, rng)
    if rng.uniform() < _TALL_SHARE:
        light = light._replace(skyline=rng.uniform(0.4, 1.3))
    drawn = draw_picture(street, framing.camera, light, [target, *others], people)
    return _label(target, viewpoint, framing, drawn, condition, scale, rng)


def _apart(target: PlacedCar, others: list[PlacedCar]) -> list[PlacedCar]:
    """Return the cars that overlap neither the target nor one before them."""
    chosen = [target]
    for other in others:
        if not any(cv2.intersectConvexConvex(_footprint(other), _footprint(placed))[0] > 0 for placed in chosen):
            chosen.append(other)
    return chosen[1:]


def _footprint(placed: PlacedCar) -> NDArray[np.float32]:
    """Return the corners of a car on the ground, (4, 2)."""
    return placed.world(_corners(placed.car)[[0, 1, 3, 2]])[:, :2].astype(np.float32)


def _normalised(shares: dict[str, float]) -> Array:
    values = np.array(list(shares.values()))
    return np.asarray(values / values.sum())


@dataclass(frozen=True)
class _Framing:
    """The camera of the drawn picture, and boxes of the car: whole, and cut at the frame."""

    camera: Camera
    whole: Box
    cut: Box


def _frame(
    target: PlacedCar, viewpoint: Viewpoint, size_px: float, scale: float, rng: np.random.Generator
) -> _Framing | None:
    """Draw a window of a larger picture around the car, sometimes cut by the border of the larger picture."""
    unit_camera = viewpoint.camera(1.0, (2, 2), (-1.0, -1.0))
    points, depth = unit_camera.project(target.world(target.car.surface.vertices))
    _, corner_depth = unit_camera.project(target.world(_corners(target.car)))
    if min(depth.min(), corner_depth.min()) < 0.8:
        return None
    low, high = points.min(0), points.max(0)
    focal = size_px * scale / float((high - low).max())
    box = Box(*(focal * low).tolist(), *(focal * high).tolist())
    margins = np.array([rng.uniform(*_MARGINS_X, 2), rng.uniform(*_MARGINS_Y, 2)]) * [
        [box.width], [box.bottom - box.top]]  # fmt: skip
    left, right = box.left - margins[0, 0], box.right + margins[0, 1]
    top, bottom = box.top - margins[1, 0], box.bottom + margins[1, 1]
    if rng.uniform() < 0.22:
        left, top, right, bottom = _cut((left, top, right, bottom), box, rng)
    step = 2 * scale
    width, height = (2 * max(round(scale * math.ceil((b - a) / step)), 8) for a, b in ((left, right), (top, bottom)))
    camera = viewpoint.camera(focal, (height, width), (-left - width / 2, -top - height / 2))
    whole = Box(box.left - left, box.top - top, box.right - left, box.bottom - top)
    return _Framing(camera, whole, whole.meet(Box(0.0, 0.0, float(width), float(height))))


def _corners(car: MeshCar) -> Array:
    return np.array([[(car.low, car.high)[(i >> k) & 1][k] for k in range(3)] for i in range(8)])


def _cut(
    frame: tuple[float, float, float, float], box: Box, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Cut the car at a border of the larger picture, or sometimes at two, so that a wheel and a light are left."""
    left, top, right, bottom = frame
    wide, high = box.width, box.bottom - box.top
    share = rng.uniform(0.08, 0.62)
    side = int(rng.integers(4))
    if side == 0 or (side == 2 and rng.uniform() < 0.3):
        left = box.left + share * wide
    elif side == 1 or (side == 3 and rng.uniform() < 0.3):
        right = box.right - share * wide
    if side == 2:
        bottom = box.bottom - min(share, 0.45) * high
    elif side == 3:
        top = box.top + min(share, 0.45) * high
    return left, top, right, bottom


def _draw_people(spot: Spot, viewpoint: Viewpoint, cars: list[PlacedCar], rng: np.random.Generator) -> list[Mesh]:
    """Draw people beside the car, and between the car and the camera."""
    figures: list[Mesh] = []
    eye = viewpoint.position[:2]
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.58, 0.22, 0.13, 0.07]))):
        t = rng.uniform(0.35, 1.1)
        x, y = eye + t * (np.array([spot.x, spot.y]) - eye) + rng.normal(0, 1.4, 2)
        here = Spot(float(x), float(y), 0.0)
        if all(clear(here, car.spot, least=1.6) for car in cars) and math.hypot(x - eye[0], y - eye[1]) > 2.5:
            figures.append(placed(person(rng), float(x), float(y), rng.uniform(0, 2 * math.pi)))
    return figures


def _is_legible(picture: Bytes, box: Box) -> bool:
    """Return whether the car has enough contrast in darkness or fog."""
    rows, columns = slice(int(box.top), int(box.bottom) + 1), slice(int(box.left), int(box.right) + 1)
    shown = picture[rows, columns].mean(2)
    return shown.size > 0 and float(shown.std()) >= _LEAST_CONTRAST


def _on_small_picture(how: Development, width_px: float) -> Development:
    """Adapt the development of a frame to a window of it.

    The vignette belongs to the whole frame, so it is left out. Small cars get less blur than large ones.
    """
    share = float(np.clip(width_px / 110, 0.45, 1.0))
    return replace(how, vignette=0.0, blur=how.blur * share, motion=(how.motion[0] * share, how.motion[1] * share))


def _expose(how: Development, rng: np.random.Generator) -> Development:
    """Make the photograph darker with more contrast, as in pictures of traffic, where the whole frame sets exposure."""
    gain = how.gain * 2.0 ** rng.normal(_EXPOSURE_EV, 0.5)
    return replace(how, gain=gain, black=0.4 * how.black, contrast=how.contrast * rng.uniform(0.95, 1.2))


def _label(
    target: PlacedCar, viewpoint: Viewpoint, framing: _Framing, drawn: Drawn, condition: str, scale: float,
    rng: np.random.Generator,
) -> LabelledPicture | None:  # fmt: skip
    occluded = 1.0 - drawn.shown / max(drawn.covered, 1)
    known_seen = drawn.is_seen & target.car.is_known
    if occluded > _MAX_OCCLUDED or int(known_seen.sum()) < _MIN_SEEN:
        return None
    height, width = framing.camera.size
    size = (round(width / scale), round(height / scale))
    linear = cv2.resize(drawn.linear, size, interpolation=cv2.INTER_AREA)
    ratio = np.array([size[0] / width, size[1] / height])
    box = Box(
        *(np.array([framing.cut.left, framing.cut.top, framing.cut.right, framing.cut.bottom]) * [*ratio, *ratio])
    )
    luminance = float(np.median(linear @ np.array([0.3, 0.6, 0.1], np.float32)))
    ingredients = replace(ALL, sensor=bool(rng.uniform() < _POOR_CAMERA_SHARE))
    how = _expose(_on_small_picture(draw_development(luminance, rng, rng, ingredients), box.width), rng)
    picture = develop(np.ascontiguousarray(linear), how, rng)
    if not _is_legible(picture, box):
        return None
    points, depth = framing.camera.project(target.world(target.car.keypoints))
    is_inside = (points >= 0).all(1) & (points[:, 0] < width) & (points[:, 1] < height) & (depth > 0.3)
    spot = target.spot
    sight = math.atan2(spot.y - viewpoint.position[1], spot.x - viewpoint.position[0])
    return LabelledPicture(
        picture=picture,
        quality=how.quality,
        name=target.car.name,
        kind=target.car.kind,
        points=label_points(points * ratio),
        is_visible=known_seen,
        is_inside=is_inside & target.car.is_known,
        box=box,
        heading=math.degrees(spot.heading - sight) % 360.0,
        truncated=1.0 - framing.cut.area / max(framing.whole.area, 1e-6),
        occluded=occluded,
        distance=float(np.hypot(spot.x - viewpoint.position[0], spot.y - viewpoint.position[1])),
        condition=condition,
    )
