"""Search for the twelve keypoints of a car's mesh, by names of parts, or by shapes if names do not help.

Everything is in the car's axes: metres, x forward, y left, z up. Left and right are decided by the side of the car on
which a part is, never by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from carkp.keypoints.schema import NUM_KEYPOINTS
from carkp.rendered.catalog import CarKind
from carkp.rendered.drawing import Drawing, draw_index
from carkp.rendered.parts import Array, Part

How = Literal["", "name", "shape"]

SIDES = (-1.0, 1.0)
"""Signs of y: right, then left, as in the pairs of keypoints."""

_WHEEL = re.compile(r"wheel|tire|tyre|rubber|neumatic|llanta", re.IGNORECASE)
_NO_WHEEL = re.compile(r"steer|volante|spare", re.IGNORECASE)
_HEADLIGHT = re.compile(r"head_?light|head_?lamp|front[-_ ]?light|faros_blan", re.IGNORECASE)
_NO_HEADLIGHT = re.compile(r"bumper|fog", re.IGNORECASE)
_TAIL_LIGHT = re.compile(r"(brake|tail|back|rear|red)[-_ ]?light|faros_rojos", re.IGNORECASE)
_SIGNAL = re.compile(r"blinker|turn_?signal|indicator|reverse", re.IGNORECASE)
_WINDSCREEN = re.compile(r"wind_?(shield|screen)|(window|glass)_front|front_(window|glass)", re.IGNORECASE)
_REAR_GLASS = re.compile(
    r"(?<![a-z])(rear|back|trunk)_?(door)?_(glass|window)|(glass|window)_(rear|back|trunk)|rear_?(screen|shield)",
    re.IGNORECASE,
)
_GLASS = re.compile(r"glass|window|cristal", re.IGNORECASE)

_PX_PER_M = 200.0
_MERGE_M = 1e-4
_WHEEL_DIAMETERS_M = (0.35, 1.4)
_ABOVE_GROUND_M = 0.12
_BESIDE_MIDDLE = 0.25
"""Smallest distance of a lamp from the middle, as a share of half the width. Nearer lamps are third brake lights, or
strips between the lamps."""

_TOUCHING_M = 0.02
_SMALL_LAMP = 0.35
"""Smallest area of a lamp, as a share of the largest lamp of its side. Smaller ones are reflectors or fog lamps."""


_BOXES: tuple[CarKind, ...] = ("van", "truck", "bus")
_CABIN_M = 0.5
"""Smallest distance of the rear glass behind the windscreen. A nearer pane belongs to the windscreen."""

_WITH_REAR_DOOR: tuple[CarKind, ...] = ("van", "bus")
_WIDE_PANE = 1.2
"""Smallest width of a pane as a share of half the car's width. A narrower pane is in a rear door, and its corners are
not those of the roof."""


@dataclass(frozen=True)
class Placed:
    """Keypoints that were found. points: (12, 3) in the car's axes, NaN if not found; how: whether by name or shape."""

    points: Array
    how: tuple[How, ...]


class _Body(NamedTuple):
    """Measures of the whole mesh. low, high: (3,) corners of its box; middle: y of the plane between left and right."""

    low: Array
    high: Array
    middle: float

    @property
    def half_width(self) -> float:
        return float(self.high[1] - self.low[1]) / 2

    @property
    def height(self) -> float:
        return float(self.high[2] - self.low[2])

    def side_of(self, points: Array) -> Array:
        """Return the sign of the side of each point (N, 3)."""
        return np.where(points[:, 1] > self.middle, 1.0, -1.0)


def place(parts: tuple[Part, ...], kind: CarKind) -> Placed:
    """Find keypoints. ``kind`` determines whether the roof may end at the corners of a box: vans, trucks, buses."""
    wheels, how_wheels = _wheels(parts)
    body = _body(parts, wheels)
    found: list[tuple[Array, How]] = [(wheels, how_wheels)]
    found += [(_lights(parts, body, facing), "name") for facing in (1.0, -1.0)]
    found += list(_roof(parts, body, kind))
    points = np.concatenate([points for points, _ in found])
    names = np.repeat([how for _, how in found], [len(points) for points, _ in found])
    assert points.shape == (NUM_KEYPOINTS, 3)
    is_known = np.isfinite(points).all(1)
    return Placed(points, tuple(_how(str(name)) if known else "" for name, known in zip(names, is_known, strict=True)))


def mirror_plane(parts: tuple[Part, ...]) -> float:
    """Return the y of the plane between the car's left and right."""
    return _body(parts, _wheels(parts)[0]).middle


def _how(name: str) -> How:
    return "name" if name == "name" else "shape"


def _body(parts: tuple[Part, ...], wheels: Array) -> _Body:
    low = np.min([part.vertices.min(0) for part in parts], 0)
    high = np.max([part.vertices.max(0) for part in parts], 0)
    is_paired = np.isfinite(wheels).all()
    return _Body(low, high, float(wheels[:, 1].mean() if is_paired else (low[1] + high[1]) / 2))


def _named(parts: tuple[Part, ...], pattern: re.Pattern[str], but: re.Pattern[str] | None = None) -> tuple[Part, ...]:
    return tuple(part for part in parts if pattern.search(part.name) and not (but and but.search(part.name)))


def _pieces(part: Part) -> Iterator[Array]:
    """Yield the vertices (N, 3) of each connected piece of a part; vertices at the same position count as one."""
    _, merged = np.unique(np.round(part.vertices / _MERGE_M).astype(np.int64), axis=0, return_inverse=True)
    faces = merged.reshape(-1)[part.faces]
    count = int(merged.max()) + 1
    rows, columns = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    _, labels = connected_components(coo_array((np.ones(len(rows)), (rows, columns)), (count, count)), directed=False)
    of_face = labels[faces[:, 0]]
    for label in np.unique(of_face):
        yield part.vertices[np.unique(part.faces[of_face == label])]


def _wheels(parts: tuple[Part, ...]) -> tuple[Array, How]:
    """Find the four hubs (4, 3) at the wheels' outer faces, right front first.

    They are searched in parts with the names of wheels, else in all parts.
    """
    named = _named(parts, _WHEEL, _NO_WHEEL)
    for candidates, how in ((named, "name"), (parts, "shape")):
        hubs = _hubs(candidates, parts)
        if np.isfinite(hubs).all():
            return hubs, _how(how)
    return np.full((4, 3), np.nan), ""


def _hubs(candidates: tuple[Part, ...], parts: tuple[Part, ...]) -> Array:
    ground = min(float(part.vertices[:, 2].min()) for part in parts)
    tyres = [piece for part in candidates for piece in _pieces(part) if _is_tyre(piece, ground)]
    if not tyres:
        return np.full((4, 3), np.nan)
    centres = np.array([(piece.min(0) + piece.max(0)) / 2 for piece in tyres])
    sizes = np.array([np.ptp(piece[:, 2]) for piece in tyres])
    between = (centres.min(0) + centres.max(0)) / 2
    hubs = np.full((4, 3), np.nan)
    for k, (front, side) in enumerate((front, side) for front in (1.0, -1.0) for side in SIDES):
        own = np.flatnonzero((front * (centres[:, 0] - between[0]) > 0) & (side * (centres[:, 1] - between[1]) > 0))
        if len(own):
            hubs[k] = _hub(tyres[own[np.argmax(sizes[own])]], side)
    return hubs


def _is_tyre(piece: Array, ground: float) -> bool:
    """Return whether a piece (N, 3) is round about a horizontal axle and touches the ground."""
    height = float(np.ptp(piece[:, 2]))
    if not _WHEEL_DIAMETERS_M[0] < height < _WHEEL_DIAMETERS_M[1] or piece[:, 2].min() > ground + _ABOVE_GROUND_M:
        return False
    axle = _axle(piece)
    length, width = np.ptp(piece @ np.cross(axle, [0.0, 0.0, 1.0])), np.ptp(piece @ axle)
    return bool(abs(axle[2]) < 0.2 and 0.75 * height < length < 1.25 * height and width < 0.8 * height)


def _axle(piece: Array) -> Array:
    """Return the direction (3,) in which a piece (N, 3) is thinnest, pointing left."""
    direction = np.linalg.svd(piece - piece.mean(0), full_matrices=False)[2][2]
    return np.asarray(direction if direction[1] > 0 else -direction)


def _hub(tyre: Array, side: float) -> Array:
    """Return the centre of a tyre (N, 3) at its outer face, along its own axle, which may be turned by steering."""
    centre = (tyre.min(0) + tyre.max(0)) / 2
    outward = side * _axle(tyre)
    return np.asarray(centre + outward * float(((tyre - centre) @ outward).max()))


def _lights(parts: tuple[Part, ...], body: _Body, facing: float) -> Array:
    """Find the right and the left lamp (2, 3): the middle of the part visible from the front (+1) or from behind (-1).

    A cover over a lamp belongs to it, and also a turn signal or a reversing lamp that touches it.
    """
    named = _named(parts, _HEADLIGHT, _NO_HEADLIGHT) if facing > 0 else _named(parts, _TAIL_LIGHT)
    lamps = tuple(part for part in named if not part.is_see_through) or named
    if not lamps:
        return np.full((2, 3), np.nan)
    basis = np.array([[0, facing, 0], [0, 0, -1], [facing, 0, 0]], float)
    surface = draw_index(parts, basis, _PX_PER_M)
    signals = tuple(part for part in _named(parts, _SIGNAL) if not any(part is own for own in named))
    is_lamp, is_unit = (_seen_from(basis, own, parts) for own in (lamps, named + signals))
    rows, columns = np.indices(is_unit.shape).reshape(2, -1)
    at = surface.place(rows, columns)
    at = np.where(np.isfinite(at), at, 0.0) @ basis
    is_ahead = facing * (at[:, 0] - (body.low[0] + body.high[0]) / 2) > 0
    is_beside = np.abs(at[:, 1] - body.middle) > _BESIDE_MIDDLE * body.half_width
    points = np.full((2, 3), np.nan)
    for k, side in enumerate(SIDES):
        own = (is_ahead & is_beside & (body.side_of(at) == side)).reshape(is_unit.shape)
        points[k] = _middle_of_lamps(own & is_lamp, own & is_unit, surface, basis)
    return points


def _seen_from(basis: Array, lamps: tuple[Part, ...], parts: tuple[Part, ...]) -> NDArray[np.bool_]:
    """Return the mask (H, W) of pixels in which lamps are not hidden by other opaque parts."""
    others = tuple(part for part in parts if not part.is_see_through and not any(part is lamp for lamp in lamps))
    index = draw_index((*lamps, *others), basis, _PX_PER_M, frame=parts).index
    return np.asarray((index >= 0) & (index < sum(len(part.faces) for part in lamps)))


def _middle_of_lamps(is_lamp: NDArray[np.bool_], is_unit: NDArray[np.bool_], surface: Drawing, basis: Array) -> Array:
    """Return the middle (3,) of the large units (H, W) with a lamp, on the nearest surface; NaN if there is none."""
    reach = np.ones((3, 3), np.uint8)
    wide = cv2.dilate(is_unit.astype(np.uint8), reach, iterations=round(_TOUCHING_M / 2 * _PX_PER_M))
    labels = np.where(is_unit, cv2.connectedComponents(wide, connectivity=8)[1], 0)
    with_lamp = np.setdiff1d(labels[is_lamp], [0])
    if not len(with_lamp):
        return np.full(3, np.nan)
    areas = np.bincount(labels.ravel())[with_lamp]
    rows, columns = np.nonzero(np.isin(labels, with_lamp[areas >= _SMALL_LAMP * areas.max()]))
    at = surface.place(np.array([round(rows.mean())]), np.array([round(columns.mean())]))
    return np.asarray(at[0] @ basis)


def _roof(parts: tuple[Part, ...], body: _Body, kind: CarKind) -> Iterator[tuple[Array, How]]:
    """Yield the right and left corners (2, 3) over the windscreen, then those over the rear glass."""
    glasses = _cross_glasses(parts, body)
    has_two = len(glasses) > 1 and glasses[-1][:, 0].mean() - glasses[0][:, 0].mean() > _CABIN_M
    ends = (
        (_WINDSCREEN, glasses[-1] if glasses else None, 1.0),
        (_REAR_GLASS, glasses[0] if has_two else None, -1.0),
    )
    for pattern, by_shape, facing in ends:
        named = _named(parts, pattern)
        named = tuple(part for part in named if part.is_see_through) or named
        pane = np.concatenate([part.vertices for part in named]) if named else by_shape
        if pane is not None and (kind not in _WITH_REAR_DOOR or np.ptp(pane[:, 1]) > _WIDE_PANE * body.half_width):
            yield _top_corners(pane, body), "name" if named else "shape"
        elif kind in _BOXES:
            yield _box_corners(parts, body, facing), "shape"
        else:
            yield np.full((2, 3), np.nan), ""


def _cross_glasses(parts: tuple[Part, ...], body: _Body) -> list[Array]:
    """Return the vertices of upright panes across the car, sorted from back to front."""
    panes = [piece for part in _named(parts, _GLASS) if part.is_see_through for piece in _pieces(part)]
    across = [
        pane
        for pane in panes
        if np.ptp(pane[:, 1]) > 0.8 * body.half_width
        and (pane[:, 1].min() - body.middle) * (pane[:, 1].max() - body.middle) < 0
        and np.ptp(pane[:, 2]) > 0.12 * body.height
        and pane[:, 2].max() > body.low[2] + 0.6 * body.height
    ]
    return sorted(across, key=lambda pane: float(pane[:, 0].mean()))


def _top_corners(glass: Array, body: _Body) -> Array:
    """Return the right and left top corners (2, 3) of a pane's vertices (N, 3)."""
    bottom, height = float(glass[:, 2].min()), float(np.ptp(glass[:, 2]))
    outward = np.abs(glass[:, 1] - body.middle) / max(float(np.abs(glass[:, 1] - body.middle).max()), 1e-6)
    score = outward + 2 * (glass[:, 2] - bottom) / max(height, 1e-6)
    corners = np.full((2, 3), np.nan)
    for k, side in enumerate(SIDES):
        own = np.flatnonzero(body.side_of(glass) == side)
        if len(own):
            corners[k] = glass[own[np.argmax(score[own])]]
    return corners


def _box_corners(parts: tuple[Part, ...], body: _Body, facing: float) -> Array:
    """Return the right and left top corners (2, 3) of the whole body at its front (+1) or rear (-1)."""
    vertices = np.concatenate([part.vertices for part in parts])
    size = body.high - body.low
    corners = np.full((2, 3), np.nan)
    for k, side in enumerate(SIDES):
        score = (vertices / size) @ np.array([facing, side, 2.0])
        corners[k] = vertices[int(np.argmax(score))]
    return corners
