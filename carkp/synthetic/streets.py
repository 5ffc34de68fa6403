"""The layout of streets, and the places of cars on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from carkp.synthetic.ground import ARM_CLEAR, ARM_COS, ARM_HALF_WIDTH, ARM_LANES, ARM_PARKING, ARM_SIN, Ground


@dataclass(frozen=True)
class Spot:
    """A place for a car: position in metres, heading and steering angle in radians."""

    x: float
    y: float
    heading: float
    steering: float = 0.0
    room: float = 13.5  # length of the longest vehicle that fits


def draw_ground(rng: np.random.Generator) -> Ground:
    """Draw a crossing, a T-junction or a straight street, sometimes with a car park beside it."""
    kind = rng.choice(["crossing", "junction", "straight"], p=[0.62, 0.23, 0.15])
    main = rng.uniform(0, 2 * math.pi)
    second = main + math.radians(rng.uniform(55, 125))
    headings = {
        "crossing": [main, main + math.pi, second, second + math.pi],
        "junction": [main, main + math.pi, second],
        "straight": [main, main + math.pi],
    }[str(kind)]
    widths = [_street_width(rng), _street_width(rng)]
    clear = max(w[0] for w in widths) * 1.25 + 4.5 if kind != "straight" else -1e3
    arms = np.array([[math.cos(h), math.sin(h), *widths[k // 2], clear] for k, h in enumerate(headings)])
    pavement = rng.uniform(2.2, 4.5)
    park = _car_park(headings, arms, pavement, rng) if rng.uniform() < 0.45 else (0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    return Ground(
        arms, pavement, *park, asphalt=rng.uniform(0.07, 0.20), paving=rng.uniform(0.25, 0.42),
        verge=float(rng.uniform() < 0.5), zebra=float(rng.uniform() < 0.6), wear=rng.uniform(0.2, 1.1),
        seed=float(rng.integers(10_000)),
    )  # fmt: skip


def _street_width(rng: np.random.Generator) -> tuple[float, float, float]:
    """Draw half the width of the carriageway, the lanes per direction and the width of the parking lane."""
    lanes = int(rng.integers(1, 3))
    parking = 2.3 if rng.uniform() < 0.7 else 0.0
    return lanes * rng.uniform(3.1, 3.6) + parking, float(lanes), parking


def _car_park(
    headings: list[float], arms: np.ndarray, pavement: float, rng: np.random.Generator
) -> tuple[float, float, float, float, float, float]:
    """Draw a car park beside the first street: centre, axis, half length and half depth."""
    heading, depth, length = headings[0], 8.4, rng.uniform(9, 14)
    side = 1.0 if rng.uniform() < 0.5 else -1.0
    along = arms[0, ARM_CLEAR] + 6 + length if arms[0, ARM_CLEAR] > 0 else rng.uniform(0, 10)
    out = side * (arms[0, ARM_HALF_WIDTH] + pavement + depth + 0.5)
    c, s = math.cos(heading), math.sin(heading)
    return along * c - out * s, along * s + out * c, c, s, length, depth


def draw_spots(ground: Ground, count: int, rng: np.random.Generator) -> list[Spot]:
    """Draw random places where a car may drive, turn, wait or park."""
    makers = [_driving, _turning, _parked, _stalled, _crossing_pavement]
    shares = [0.36, 0.24, 0.24, 0.12, 0.04]
    spots: list[Spot] = []
    while len(spots) < count:
        spot = makers[int(rng.choice(5, p=shares))](ground, rng)
        if spot is not None:
            spots.append(spot)
    return spots


def _at(ground: Ground, arm: int, along: float, side: float, heading: float, steering: float = 0.0) -> Spot:
    c, s = ground.arms[arm, ARM_COS], ground.arms[arm, ARM_SIN]
    return Spot(along * c - side * s, along * s + side * c, heading, steering)


def _driving(ground: Ground, rng: np.random.Generator) -> Spot:
    arm = int(rng.integers(len(ground.arms)))
    row = ground.arms[arm]
    lane = (row[ARM_HALF_WIDTH] - row[ARM_PARKING]) / row[ARM_LANES]
    offset = (rng.integers(int(row[ARM_LANES])) + 0.5) * lane + rng.normal(0, 0.2)
    leaves = rng.uniform() < 0.5
    start = 0.0 if len(ground.arms) > 2 else -30.0
    heading = math.atan2(row[ARM_SIN], row[ARM_COS]) + (0.0 if leaves else math.pi) + rng.normal(0, 0.04)
    return _at(ground, arm, rng.uniform(start, 45), -offset if leaves else offset, heading, rng.normal(0, 0.04))


def _turning(ground: Ground, rng: np.random.Generator) -> Spot | None:
    """Draw a place on a curve from one street into another."""
    if len(ground.arms) < 3:
        return None
    start, end = rng.choice(len(ground.arms), 2, replace=False)
    lane_in, lane_out = (0.5 * (ground.arms[k, ARM_HALF_WIDTH] - ground.arms[k, ARM_PARKING]) for k in (start, end))
    reach = 0.75 * max(float(ground.arms[0, ARM_CLEAR]), 8.0)
    p0, p3 = _at(ground, int(start), reach, lane_in, 0.0), _at(ground, int(end), reach, -lane_out, 0.0)
    p1, p2 = _at(ground, int(start), 0.35 * reach, lane_in, 0.0), _at(ground, int(end), 0.35 * reach, -lane_out, 0.0)
    t = rng.uniform(0.05, 0.95)
    b = np.array([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    d = np.array([-3 * (1 - t) ** 2, 3 * (1 - t) ** 2 - 6 * t * (1 - t), 6 * t * (1 - t) - 3 * t**2, 3 * t**2])
    xs, ys = np.array([p.x for p in (p0, p1, p2, p3)]), np.array([p.y for p in (p0, p1, p2, p3)])
    heading = math.atan2(float(d @ ys), float(d @ xs))
    bend = math.remainder(math.atan2(p3.y - p2.y, p3.x - p2.x) - math.atan2(p1.y - p0.y, p1.x - p0.x), 2 * math.pi)
    return Spot(float(b @ xs), float(b @ ys), heading, float(np.clip(0.35 * bend, -0.5, 0.5)))


def _parked(ground: Ground, rng: np.random.Generator) -> Spot | None:
    arm = int(rng.integers(len(ground.arms)))
    row = ground.arms[arm]
    if row[ARM_PARKING] <= 0:
        return None
    left = rng.uniform() < 0.5
    against = left != (rng.uniform() < 0.1)
    side = (1 if left else -1) * (row[ARM_HALF_WIDTH] - rng.uniform(0.95, 1.15))
    heading = math.atan2(row[ARM_SIN], row[ARM_COS]) + (math.pi if against else 0.0) + rng.normal(0, 0.03)
    begin = max(row[ARM_CLEAR] + 4.5, -30.0)
    return replace(_at(ground, arm, rng.uniform(begin, begin + 35), side, heading, rng.normal(0, 0.12)), room=8.5)


def _stalled(ground: Ground, rng: np.random.Generator) -> Spot | None:
    """Draw a place in a stall of the car park, nose in or tail in."""
    if ground.park_length <= 0:
        return None
    stalls = int(ground.park_length / 2.7)
    along = (rng.integers(-stalls, stalls) + 0.5) * 2.7 + rng.normal(0, 0.1)
    side = 1.0 if rng.uniform() < 0.5 else -1.0
    across = side * (ground.park_depth - 2.7 + rng.normal(0, 0.15))
    c, s = ground.park_cos, ground.park_sin
    heading = math.atan2(s, c) + side * math.pi / 2 + (math.pi if rng.uniform() < 0.35 else 0.0) + rng.normal(0, 0.04)
    return Spot(ground.park_x + along * c - across * s, ground.park_y + along * s + across * c, heading, room=6.0)


def _crossing_pavement(ground: Ground, rng: np.random.Generator) -> Spot:
    """Draw a place on the pavement, for a car that leaves a driveway."""
    arm = int(rng.integers(len(ground.arms)))
    row = ground.arms[arm]
    side = 1.0 if rng.uniform() < 0.5 else -1.0
    heading = math.atan2(row[ARM_SIN], row[ARM_COS]) + rng.choice([-1, 1]) * math.pi / 2 + rng.normal(0, 0.15)
    out = side * (row[ARM_HALF_WIDTH] + rng.uniform(-1.0, 2.0))
    return replace(
        _at(ground, arm, max(row[ARM_CLEAR], 0) + rng.uniform(4, 30), out, heading, rng.normal(0, 0.2)), room=6.0
    )
