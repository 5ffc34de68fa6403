"""One frame: cars and people drawn into a camera's backdrop, and the ground truth of every car."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carkp.synthetic.camera import label_points
from carkp.synthetic.car_look import look_table
from carkp.synthetic.car_shading import shade_car
from carkp.synthetic.mesh import Floats, Ints, Mesh, join, placed
from carkp.synthetic.render import ShadowMap, draw_seen, shadow_map
from carkp.synthetic.scene import (
    SUPERSAMPLING,
    Box,
    View,
    car_corners,
    empty_owner,
    frame_box,
    heading_octant,
    outline_box,
    reduce_picture,
    relative_heading,
)
from carkp.synthetic.shading import BEAM, BEAM_REACH, Canvas, Window, relight, shade_plain
from carkp.synthetic.traffic import Actor

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CarTruth:
    """The ground truth of a car.

    points: (12, 2) in label coordinates; is_visible, is_inside: (12,). box is cut at the frame.

    The sides of the box are edges of pixels: it contains the columns from ``left`` up to, but without, ``right``.
    """

    style: str
    paint: str
    points: Array
    is_visible: NDArray[np.bool_]
    is_inside: NDArray[np.bool_]
    box: Box
    octant: int
    heading: float
    truncated: float
    occluded: float
    distance: float
    visible_area: float  # pixels


@dataclass(frozen=True)
class Frame:
    """A drawn frame. linear: (H, W, 3) light."""

    linear: Floats
    cars: list[CarTruth]


@dataclass(frozen=True)
class _Layer:
    """One object drawn alone: its window in the supersampled picture, and nearness and triangles in the window."""

    window: Window
    nearness: Floats
    triangle: Ints


class FramePainter:
    """Draws frames of one view; the buffers are reused for all frames."""

    def __init__(self, view: View) -> None:
        self.view = view
        owner = empty_owner(view.camera.size)
        picture = np.empty_like(view.sun)  # valid only where a frame's objects or their shadows are drawn
        self._canvas = Canvas(picture, view.nearness.copy(), owner, np.empty_like(owner))
        self._lens = view.camera.lens(SUPERSAMPLING)

    def draw(self, actors: list[Actor], people: list[Mesh]) -> Frame:
        """Draw the cars in ``actors``, and people, which are in world axes."""
        worlds = [placed(a.car.mesh, a.spot.x, a.spot.y, a.spot.heading) for a in actors] + people
        layers = [self._draw_alone(world, is_closed=k < len(actors)) for k, world in enumerate(worlds)]
        for own, layer in enumerate(layers):
            self._put(layer, own)
        shadows = self._shadow_windows(actors, people)
        touched = _merged([_around(layer.window, shadow) for layer, shadow in zip(layers, shadows, strict=True)])
        linear = self.view.small.copy()
        if worlds:
            self._shade(actors, people, layers, touched, self._moving_shadow(worlds))
            self._resolve(linear, touched)
        cars = [self._truth(actor, worlds[k], layers[k], k) for k, actor in enumerate(actors)]
        self._restore(touched)
        return Frame(linear, cars)

    def _draw_alone(self, world: Mesh, is_closed: bool) -> _Layer:
        seen = self.view.camera.view(world.vertices).astype(np.float32)
        points, _ = self.view.camera.project(world.vertices)
        window = self._window(points[seen[:, 2] > 0.2])
        shape = (window[2] - window[0], window[3] - window[1])
        nearness, triangle = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
        lens = self._lens
        x, y = lens.centre_x - window[1], lens.centre_y - window[0]
        draw_seen(seen, world.faces, lens.focal, x, y, nearness, triangle, is_closed)
        return _Layer(window, nearness, triangle)

    def _window(self, points: NDArray[np.floating], margin: float = 2.0) -> Window:
        """Return the supersampled window around image points, cut at the frame, with even numbers."""
        height, width = self.view.camera.size
        if len(points) == 0:
            return (0, 0, 0, 0)
        box = outline_box(points)
        top, bottom = (int(np.clip(v, 0, height)) for v in (box.top - margin, box.bottom + margin + 1))
        left, right = (int(np.clip(v, 0, width)) for v in (box.left - margin, box.right + margin + 1))
        s = SUPERSAMPLING
        return (top * s, left * s, bottom * s, right * s)

    def _put(self, layer: _Layer, own: int) -> None:
        """Merge a layer into the frame's buffers by depth."""
        rows, columns = _slices(layer.window)
        wins = layer.nearness > self._canvas.nearness[rows, columns]
        self._canvas.nearness[rows, columns][wins] = layer.nearness[wins]
        self._canvas.owner[rows, columns][wins] = own
        self._canvas.triangle[rows, columns][wins] = layer.triangle[wins]

    def _moving_shadow(self, worlds: list[Mesh]) -> ShadowMap:
        everything = join(worlds)
        light = self.view.light
        sun = (light.sun_x, light.sun_y, light.sun_z)
        return shadow_map(everything.vertices, everything.faces, sun, everything.vertices, 1024)

    def _shadow_windows(self, actors: list[Actor], people: list[Mesh]) -> list[Window]:
        """Return for each object the window around its block, the ground beside it and its shadow."""
        blocks = []
        for actor in actors:
            m = actor.car.measures
            reach = 2 * BEAM_REACH if self._beam(actor) > 0 else 2.2
            near = car_corners(actor.spot, (m.length + reach, m.width + reach / 2 + 1.1, 0.0))
            blocks.append(np.concatenate([car_corners(actor.spot, (m.length, m.width, m.top)), near]))
        blocks += [figure.vertices.astype(np.float64) for figure in people]
        return [self._window(self._with_shadow(block), 4.0) for block in blocks]

    def _beam(self, actor: Actor) -> float:
        """Return the light of a car on the road in front of it, as a multiple of the skylight; 0 by day."""
        light = self.view.light
        is_lit = light.night > 0.5 and actor.car.look.headlights > 0.5
        return BEAM / light.horizon_green if is_lit else 0.0

    def _with_shadow(self, block: Array) -> Array:
        """Return the image points of a block and of its shadow on the ground, if they are in front of the camera."""
        light = self.view.light
        sun = np.array([light.sun_x, light.sun_y, light.sun_z])
        points = block
        if light.sun_green > 0.04:
            points = np.concatenate([block, block - sun * (block[:, 2:] / light.sun_z)])
        image, depth = self.view.camera.project(points)
        if light.night > 0.5 and (depth <= 1.0).any():  # a beam may reach past the camera
            height, width = self.view.camera.size
            return np.array([[0.0, 0.0], [width, height]])
        return np.asarray(image[depth > 1.0])

    def _shade(
        self, actors: list[Actor], people: list[Mesh], layers: list[_Layer], touched: list[Window], moving: ShadowMap
    ) -> None:
        view, lens = self.view, self._lens
        spots = [
            (a.spot.x, a.spot.y, math.cos(a.spot.heading), math.sin(a.spot.heading), a.car.measures.length / 2 - 0.1,
             a.car.measures.width / 2 - 0.05, self._beam(a)) for a in actors
        ]  # fmt: skip
        places = np.array(spots, np.float64).reshape(-1, 7)
        for window in touched:
            relight(window, lens, moving, places, view.ambient, view.sun, self._canvas)
        for own, actor in enumerate(actors):
            shade_car(
                layers[own].window, lens, view.light, look_table(actor.car.look), spots[own][:4], view.static, moving,
                actor.car.mesh, self._canvas, own,
            )  # fmt: skip
        for k, figure in enumerate(people):
            own = len(actors) + k
            shade_plain(layers[own].window, lens, view.light, view.static, moving, figure, self._canvas, own)

    def _resolve(self, linear: Floats, touched: list[Window]) -> None:
        s = SUPERSAMPLING
        for top, left, bottom, right in touched:
            if bottom > top and right > left:
                part = np.ascontiguousarray(self._canvas.picture[top:bottom, left:right])
                linear[top // s : bottom // s, left // s : right // s] = reduce_picture(part)

    def _restore(self, windows: list[Window]) -> None:
        for window in windows:
            rows, columns = _slices(window)
            self._canvas.nearness[rows, columns] = self.view.nearness[rows, columns]
            self._canvas.owner[rows, columns] = -1

    def _truth(self, actor: Actor, world: Mesh, layer: _Layer, own: int) -> CarTruth:
        camera, spot = self.view.camera, actor.spot
        keypoints = placed_points(actor)
        points, depth = camera.project(keypoints)
        height, width = camera.size
        is_inside = (points >= 0).all(1) & (points[:, 0] < width) & (points[:, 1] < height) & (depth > 0.3)
        outline, seen = camera.project(world.vertices)
        whole = outline_box(outline[seen > 0.3])
        cut = whole.meet(frame_box(camera.size))
        rows, columns = _slices(layer.window)
        covered = int((layer.nearness > 0).sum())
        shown = int((self._canvas.owner[rows, columns] == own).sum())
        heading = relative_heading(camera, spot)
        return CarTruth(
            style=actor.car.style,
            paint=actor.car.paint,
            points=label_points(points),
            is_visible=is_inside & self._is_seen(points, depth),
            is_inside=is_inside,
            box=cut,
            octant=heading_octant(heading),
            heading=heading,
            truncated=1.0 - cut.area / max(whole.area, 1e-6),
            occluded=1.0 - shown / max(covered, 1),
            distance=float(np.hypot(spot.x - camera.position[0], spot.y - camera.position[1])),
            visible_area=shown / SUPERSAMPLING**2,
        )

    def _is_seen(self, points: Array, depth: Array) -> NDArray[np.bool_]:
        """Return whether each point is not hidden; the tolerance covers a slanted surface within a pixel."""
        height, width = self._canvas.nearness.shape
        row = np.clip((points[:, 1] * SUPERSAMPLING).astype(int), 0, height - 1)
        column = np.clip((points[:, 0] * SUPERSAMPLING).astype(int), 0, width - 1)
        before = 1.0 / np.maximum(self._canvas.nearness[row, column], 1e-6)
        return np.asarray(depth <= before + 0.04 + 0.0015 * depth)


def placed_points(actor: Actor) -> Array:
    """Return the keypoints (12, 3) in world axes."""
    c, s = math.cos(actor.spot.heading), math.sin(actor.spot.heading)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return np.asarray(actor.car.keypoints @ turn.T + np.array([actor.spot.x, actor.spot.y, 0.0]))


def _slices(window: Window) -> tuple[slice, slice]:
    return slice(window[0], window[2]), slice(window[1], window[3])


def _area(window: Window) -> int:
    return max(window[2] - window[0], 0) * max(window[3] - window[1], 0)


def _merged(windows: list[Window]) -> list[Window]:
    """Return windows that cover all of ``windows``; windows are joined if this reduces the area to draw."""
    found: list[Window] = []
    for window in sorted(windows, key=_area, reverse=True):
        joined = [_around(window, other) for other in found]
        saved = [_area(window) + _area(other) - _area(both) for other, both in zip(found, joined, strict=True)]
        if saved and max(saved) >= 0:
            best = saved.index(max(saved))
            found[best] = joined[best]
        elif _area(window) > 0:
            found.append(window)
    return found


def _around(a: Window, b: Window) -> Window:
    """Return the smallest window around both; an empty window is ignored."""
    if a[0] >= a[2] or a[1] >= a[3]:
        return b
    if b[0] >= b[2] or b[1] >= b[3]:
        return a
    return (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
