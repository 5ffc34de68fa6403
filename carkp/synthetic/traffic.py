"""Which cars and people a frame shows, and where."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from carkp.synthetic.backdrop import person
from carkp.synthetic.car import Car, draw_car
from carkp.synthetic.car_styles import Paint
from carkp.synthetic.mesh import Mesh, placed
from carkp.synthetic.scene import Candidate, View
from carkp.synthetic.streets import Spot

_CUT_SHARE = 0.145
"""How often a car is placed across the frame's border."""
_SMALLEST, _LARGEST = 0.052, 0.36
"""Width of a car's box, as a share of the frame's, between which it is placed to be labelled."""


@dataclass(frozen=True)
class Actor:
    """A car and where it is."""

    car: Car
    spot: Spot


@dataclass(frozen=True)
class Fleet:
    """What drives in a scene: styles with their shares, paints."""

    styles: dict[str, float]
    paints: tuple[Paint, ...]

    def draw(self, spot: Spot, rng: np.random.Generator) -> Car:
        names, shares = list(self.styles), np.array(list(self.styles.values()))
        style = "bus" if rng.uniform() < 0.02 else str(rng.choice(names, p=shares / shares.sum()))
        return draw_car(style, self.paints, rng, spot.steering)


def draw_cars(view: View, fleet: Fleet, limit: int, rng: np.random.Generator) -> list[Actor]:
    """Up to ``limit`` cars big enough to be labelled, and some small ones far away."""
    wanted = min(int(rng.integers(4, 8)), limit)
    chosen: list[Candidate] = []
    for _ in range(12 * wanted):
        if len(chosen) == wanted:
            break
        candidate = _propose(view.candidates, rng)
        if candidate is not None and _has_room(candidate, chosen, rng):
            chosen.append(candidate)
    far = [c for c in view.candidates if 0.01 < c.width < 0.03]
    for _ in range(int(rng.integers(0, 4)) if far else 0):
        candidate = far[int(rng.integers(len(far)))]
        if _has_room(candidate, chosen, rng):
            chosen.append(candidate)
    return [Actor(fleet.draw(c.spot, rng), c.spot) for c in chosen]


def _propose(candidates: list[Candidate], rng: np.random.Generator) -> Candidate | None:
    """A candidate of a random heading, so that all headings are equally common."""
    is_cut = rng.uniform() < _CUT_SHARE
    low, high, largest = (0.08, 0.55, 1.25 * _LARGEST) if is_cut else (-1.0, 0.01, _LARGEST)
    fits = [c for c in candidates if _SMALLEST < c.width < largest and low < c.cut < high]
    if not fits:
        return None
    octants = sorted({c.octant for c in fits})
    octant = octants[int(rng.integers(len(octants)))]
    same = [c for c in fits if c.octant == octant]
    return same[int(rng.integers(len(same)))]


def _has_room(candidate: Candidate, others: list[Candidate], rng: np.random.Generator) -> bool:
    """Whether a car can stand there, and neither hides nor is hidden too much."""
    patience = rng.uniform()
    for other in others:
        if _collide(candidate.spot, other.spot):
            return False
        shared = candidate.box.meet(other.box)
        if shared.width <= 0:
            continue
        behind = max(candidate, other, key=lambda c: c.distance)
        covered = shared.area / max(behind.box.area, 1e-6)
        if covered > 0.62 or (covered > 0.25 and patience < 0.45):
            return False
    return True


def _collide(a: Spot, b: Spot) -> bool:
    """Whether two cars' outlines, as three discs each, overlap."""
    if math.hypot(a.x - b.x, a.y - b.y) > 6.5:
        return False
    for s in (-1.65, 0.0, 1.65):
        for t in (-1.65, 0.0, 1.65):
            dx = a.x + s * math.cos(a.heading) - b.x - t * math.cos(b.heading)
            dy = a.y + s * math.sin(a.heading) - b.y - t * math.sin(b.heading)
            if math.hypot(dx, dy) < 2.25:
                return True
    return False


def draw_people(view: View, actors: list[Actor], rng: np.random.Generator) -> list[Mesh]:
    """A few walkers, some of them in front of a car."""
    figures: list[Mesh] = []
    eye = view.camera.position[:2]
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.4, 0.3, 0.2, 0.1]))):
        if not actors:
            break
        spot = actors[int(rng.integers(len(actors)))].spot
        t = rng.uniform(0.55, 0.95)
        x, y = eye + t * (np.array([spot.x, spot.y]) - eye) + rng.normal(0, 1.6, 2)
        clear = all(math.hypot(x - a.spot.x, y - a.spot.y) > 3.0 for a in actors)
        if clear and math.hypot(x - eye[0], y - eye[1]) > 9.0:
            figures.append(placed(person(rng), float(x), float(y), rng.uniform(0, 2 * math.pi)))
    return figures
