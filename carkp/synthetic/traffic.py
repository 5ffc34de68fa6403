"""The cars and people in a frame, and their places."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from carkp.synthetic.backdrop import bin_, bollards, fence, person, post, sign
from carkp.synthetic.car import Car, draw_car
from carkp.synthetic.car_styles import STYLES, Paint
from carkp.synthetic.ground import road_distance
from carkp.synthetic.ingredients import ALL, Ingredients
from carkp.synthetic.lighting import LIT_CONDITIONS
from carkp.synthetic.mesh import Mesh, placed
from carkp.synthetic.scene import (
    NOMINAL,
    Box,
    Candidate,
    View,
    car_corners,
    frame_box,
    heading_octant,
    outline_box,
    relative_heading,
)
from carkp.synthetic.streets import Spot

_SMALLEST = 0.052
"""Smallest width of the box of a car that is placed to be labelled, as a share of the frame's width."""
_LARGEST, _LARGEST_CLOSE_UP = 0.36, 0.75
_CUT_SHARE, _CUT_SHARE_CLOSE_UP = 0.145, 0.26
"""Probability that a car is placed across the frame's border."""
_QUEUE_SHARE = 0.20
"""Probability that a car is placed next to another one."""
_CLOSE_SHARE = 0.25
"""Probability that a close-up is requested, which may be wider than ``_LARGEST``."""


@dataclass(frozen=True)
class Actor:
    """A car and its place."""

    car: Car
    spot: Spot


@dataclass(frozen=True)
class Fleet:
    """The cars of a scene: styles with their shares, paints, and ingredients."""

    styles: dict[str, float]
    paints: tuple[Paint, ...]
    ingredients: Ingredients = ALL

    def draw_style(self, rng: np.random.Generator) -> str:
        """Draw the style of a car. Draw it before its spot: few spots have room for a bus."""
        if not self.ingredients.vehicles and rng.uniform() < _UNLABELLED_BUSES:
            return "bus"
        shares = np.array(list(self.styles.values()))
        return str(rng.choice(list(self.styles), p=shares / shares.sum()))

    def draw(self, style: str, spot: Spot, rng: np.random.Generator, is_night: bool = False) -> Car:
        """Draw a car of ``style`` for ``spot``."""
        return draw_car(style, self.paints, rng, spot.steering, self.ingredients, is_night)


_UNLABELLED_BUSES = 0.02
_TRIES = 40
"""Number of spots that are tried for a style before another one is drawn."""
_TRAFFIC, _DENSE_TRAFFIC = (4, 8), (5, 10)
"""Smallest number of cars in a frame, and the largest number plus one."""


def draw_cars(view: View, fleet: Fleet, limit: int, rng: np.random.Generator) -> list[Actor]:
    """Draw up to ``limit`` cars that are big enough to be labelled, and some small ones far away."""
    wanted = min(int(rng.integers(*(_DENSE_TRAFFIC if fleet.ingredients.occluders else _TRAFFIC))), limit)
    actors: list[Actor] = []
    chosen: list[_Taken] = []
    style, tries = fleet.draw_style(rng), 0
    for _ in range(16 * wanted):
        if len(chosen) >= wanted:
            break
        has_queue = fleet.ingredients.occluders and actors and rng.uniform() < _QUEUE_SHARE
        if has_queue:
            candidate = _neighbour(view, actors[int(rng.integers(len(actors)))].spot, rng)
        else:
            candidate = _propose(view.candidates, fleet.ingredients.close_ups, rng)
        tries += 1
        is_placed = candidate is not None and _place(view, fleet, style, candidate, actors, chosen, rng)
        if is_placed or tries == _TRIES:
            style, tries = fleet.draw_style(rng), 0
    far = [c for c in view.candidates if 0.01 < c.width < 0.03]
    for _ in range(int(rng.integers(0, 4)) if far else 0):
        _place(view, fleet, fleet.draw_style(rng), far[int(rng.integers(len(far)))], actors, chosen, rng)
    return actors


@dataclass(frozen=True)
class _Taken:
    """An occupied place, with the size of its car."""

    spot: Spot
    box: Box
    distance: float
    length: float


def _place(
    view: View, fleet: Fleet, style: str, candidate: Candidate, actors: list[Actor], chosen: list[_Taken],
    rng: np.random.Generator,
) -> bool:  # fmt: skip
    """Put a car on a candidate's spot if there is room for it; return whether there is."""
    taken = _Taken(candidate.spot, candidate.box, candidate.distance, NOMINAL[0])
    if STYLES[style].length[1] > candidate.spot.room or not _has_room(taken, chosen, rng):
        return False
    car = fleet.draw(style, candidate.spot, rng, view.condition in LIT_CONDITIONS)
    if car.measures.length > _LONG:
        m = car.measures
        points, depth = view.camera.project(car_corners(candidate.spot, (m.length, m.width, m.top)))
        taken = _Taken(candidate.spot, outline_box(points), float(depth.mean()), m.length)
        if depth.min() < _NEAREST_LONG or not _has_room(taken, chosen, rng):
            return False
    actors.append(Actor(car, candidate.spot))
    chosen.append(taken)
    return True


_LONG, _NEAREST_LONG = 5.9, 2.5


def _propose(candidates: list[Candidate], has_close_ups: bool, rng: np.random.Generator) -> Candidate | None:
    """Return a candidate with a random heading, so that all headings are equally frequent."""
    is_cut = rng.uniform() < (_CUT_SHARE_CLOSE_UP if has_close_ups else _CUT_SHARE)
    low, high = (0.08, 0.80 if has_close_ups else 0.55) if is_cut else (-1.0, 0.01)
    smallest, largest = _SMALLEST, 1.25 * _LARGEST if is_cut else _LARGEST
    if has_close_ups and rng.uniform() < _CLOSE_SHARE:
        smallest, largest = 0.24, 2.0 * _LARGEST_CLOSE_UP if is_cut else _LARGEST_CLOSE_UP
    fits = [c for c in candidates if smallest < c.width < largest and low < c.cut < high]
    if not fits:
        return None
    octants = sorted({c.octant for c in fits})
    octant = octants[int(rng.integers(len(octants)))]
    same = [c for c in fits if c.octant == octant]
    return same[int(rng.integers(len(same)))]


def _has_room(candidate: _Taken, others: list[_Taken], rng: np.random.Generator) -> bool:
    """Return whether a car has room, and neither hides other cars nor is hidden too much."""
    patience = rng.uniform()
    for other in others:
        if _collide(candidate, other):
            return False
        shared = candidate.box.meet(other.box)
        if shared.width <= 0:
            continue
        behind = max(candidate, other, key=lambda taken: taken.distance)
        covered = shared.area / max(behind.box.area, 1e-6)
        if covered > 0.62 or (covered > 0.25 and patience < 0.45):
            return False
    return True


def _collide(a: _Taken, b: _Taken) -> bool:
    """Return whether the outlines of two cars overlap; outlines are rows of discs."""
    p, q = a.spot, b.spot
    if math.hypot(p.x - q.x, p.y - q.y) > 0.5 * (a.length + b.length) + 1.9:
        return False
    for s in _discs(a.length):
        for t in _discs(b.length):
            dx = p.x + s * math.cos(p.heading) - q.x - t * math.cos(q.heading)
            dy = p.y + s * math.sin(p.heading) - q.y - t * math.sin(q.heading)
            if math.hypot(dx, dy) < 2.25:
                return True
    return False


def _discs(length: float) -> list[float]:
    """Return the positions of discs along a car, about 1.65 m apart, the outer ones 0.65 m inside its ends."""
    reach = length / 2 - 0.65
    count = 2 * max(round(reach / 1.65), 1) + 1
    return [reach * (2 * k / (count - 1) - 1) for k in range(count)]


def _neighbour(view: View, spot: Spot, rng: np.random.Generator) -> Candidate | None:
    """Draw a place just behind, in front of or beside an existing car; None if off the road or out of sight."""
    c, s = math.cos(spot.heading), math.sin(spot.heading)
    along, across = rng.choice([-1, 1]) * rng.uniform(5.4, 7.0), rng.normal(0, 0.2)
    if rng.uniform() < 0.3:
        along, across = rng.normal(0, 2.0), rng.choice([-1, 1]) * rng.uniform(2.6, 3.3)
    x, y = spot.x + along * c - across * s, spot.y + along * s + across * c
    room = 5.9 if spot.room < 10 else spot.room
    place = Spot(x, y, spot.heading + rng.normal(0, 0.03), 0.0, room)
    points, depth = view.camera.project(car_corners(place, NOMINAL))
    if depth.min() < 2.2 or road_distance(view.ground, x, y) > 0.5:
        return None
    box = outline_box(points)
    inside = box.meet(frame_box(view.camera.size))
    if inside.width <= 0 or inside.area < 0.2 * box.area:
        return None
    octant = heading_octant(relative_heading(view.camera, place))
    return Candidate(place, box, float(depth.mean()), octant, 0.0, box.width / view.camera.size[1])


def draw_people(view: View, actors: list[Actor], has_occluders: bool, rng: np.random.Generator) -> list[Mesh]:
    """Draw a few people in front of cars; with occluders also people close to the camera, posts and fences."""
    figures: list[Mesh] = []
    if not actors:
        return figures
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.4, 0.3, 0.2, 0.1]))):
        at = _before_a_car(view, actors, (0.55, 0.95), 1.6, rng)
        if _is_clear(view, actors, at, 3.0, 9.0):
            figures.append(placed(person(rng), *at, rng.uniform(0, 2 * math.pi)))
    if has_occluders:
        figures += _close_things(view, actors, rng)
    return figures


def _close_things(view: View, actors: list[Actor], rng: np.random.Generator) -> list[Mesh]:
    """Draw people and street furniture between the camera and a car, some of them close to the camera."""
    found: list[Mesh] = []
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.45, 0.3, 0.15, 0.1]))):
        at = _before_a_car(view, actors, (0.3, 0.96), 0.7, rng)
        if _is_clear(view, actors, at, 2.2, 3.0):
            found.append(placed(person(rng), *at, rng.uniform(0, 2 * math.pi)))
    for _ in range(int(rng.choice([0, 1, 2], p=[0.7, 0.2, 0.1]))):
        at = _before_a_car(view, actors, (0.25, 0.95), 0.9, rng)
        if _is_clear(view, actors, at, 2.4, 2.5):
            make = _CLOSE_MAKERS[int(rng.integers(len(_CLOSE_MAKERS)))]
            found.append(placed(make(rng), *at, rng.uniform(0, 2 * math.pi)))
    return found


_CLOSE_MAKERS = (post, post, bollards, bollards, fence, sign, bin_)


def _before_a_car(
    view: View, actors: list[Actor], share: tuple[float, float], spread: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Draw a point near the line of sight to some car, at about ``share`` of the distance."""
    spot, eye = actors[int(rng.integers(len(actors)))].spot, view.camera.position[:2]
    x, y = eye + rng.uniform(*share) * (np.array([spot.x, spot.y]) - eye) + rng.normal(0, spread, 2)
    return float(x), float(y)


def _is_clear(view: View, actors: list[Actor], at: tuple[float, float], gap: float, nearest: float) -> bool:
    """Return whether a point is about ``gap`` metres away from the middle lines of all cars, and not too near.

    ``nearest``: smallest distance from the camera in metres.
    """
    for actor in actors:
        spot, reach = actor.spot, max(0.5 * actor.car.measures.length - 0.8, 0.0)
        dx, dy = at[0] - spot.x, at[1] - spot.y
        along = dx * math.cos(spot.heading) + dy * math.sin(spot.heading)
        across = dy * math.cos(spot.heading) - dx * math.sin(spot.heading)
        if math.hypot(max(abs(along) - reach, 0.0), across) < gap:
            return False
    eye = view.camera.position
    return math.hypot(at[0] - eye[0], at[1] - eye[1]) > nearest
