"""Things beside the streets: buildings, trees, poles, street furniture and people."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from carkp.synthetic import mesh
from carkp.synthetic.ground import ARM_COS, ARM_HALF_WIDTH, ARM_SIN, Ground, parking_lot, road_distance
from carkp.synthetic.materials import FACADE, FOLIAGE, WIRE
from carkp.synthetic.mesh import Colour, Mesh

Array = NDArray[np.float64]

_WALLS: tuple[tuple[Colour, bool], ...] = (
    ((0.20, 0.075, 0.05), True), ((0.26, 0.12, 0.08), True), ((0.14, 0.065, 0.05), True), ((0.40, 0.33, 0.24), True),
    ((0.40, 0.39, 0.36), False), ((0.30, 0.30, 0.31), False), ((0.50, 0.46, 0.38), False), ((0.22, 0.23, 0.25), False),
)  # fmt: skip


def build_backdrop(ground: Ground, rng: np.random.Generator) -> tuple[Mesh, Array]:
    """Build the mesh of everything that does not move, and the table of facades for its shader."""
    parts, facades = _buildings(ground, rng)
    parts += _street_things(ground, rng)
    return mesh.join(parts), np.array(facades, np.float64)


def _free(ground: Ground, x: float, y: float, margin: float) -> bool:
    """Return whether a point is at least ``margin`` metres away from the road and the car park."""
    along, across = parking_lot(ground, x, y)
    in_lot = abs(along) < ground.park_length + margin and abs(across) < ground.park_depth + margin
    return road_distance(ground, x, y) > margin and not in_lot


def _buildings(ground: Ground, rng: np.random.Generator) -> tuple[list[Mesh], list[list[float]]]:
    """Build rows of houses along both sides of every street."""
    parts: list[Mesh] = []
    facades: list[list[float]] = []
    for arm in ground.arms:
        c, s, half = arm[ARM_COS], arm[ARM_SIN], arm[ARM_HALF_WIDTH]
        for side in (-1.0, 1.0):
            along = rng.uniform(0, 14)
            while along < 110:
                length, depth = rng.uniform(10, 32), rng.uniform(9, 18)
                back = half + ground.pavement + rng.choice([0.2, 1.5, 4.0, 9.0])
                middle, out = along + length / 2, side * (back + depth / 2)
                x, y = middle * c - out * s, middle * s + out * c
                if rng.uniform() < 0.86 and _fits(ground, x, y, c, s, length, depth):
                    height = float(rng.choice([4.5, 7.5, 11.0, 15.0, 24.0]) * rng.uniform(0.9, 1.15))
                    parts.append(_building((length, depth, height), x, y, math.atan2(s, c), len(facades)))
                    facades.append(_facade(rng))
                along += length + rng.choice([0.05, 0.05, 3.0, 8.0])
    if not parts:
        parts.append(_building((10, 10, 8), 0.0, 150.0, 0.0, 0))
        facades.append(_facade(rng))
    return parts, facades


def _fits(ground: Ground, x: float, y: float, c: float, s: float, length: float, depth: float) -> bool:
    """Return whether a building's outline stays clear of all streets and the car park."""
    for u in np.linspace(-0.5, 0.5, 5):
        for v in (-0.5, 0.0, 0.5):
            px, py = x + u * length * c - v * depth * s, y + u * length * s + v * depth * c
            if not _free(ground, float(px), float(py), 0.9 * ground.pavement):
                return False
    return True


def _building(size: tuple[float, float, float], x: float, y: float, heading: float, index: int) -> Mesh:
    """Build a box. Attributes of its walls: metres along the wall, metres above ground, row of the facade, height."""
    block = mesh.box(size, (0, 0, size[2] / 2), (0, 0, 0))
    vertices, normals = block.vertices, block.normals
    across = np.abs(normals[:, 0]) > 0.5
    along = np.where(across, vertices[:, 1] + 50.0, vertices[:, 0] + 50.0)
    count = len(vertices)
    attributes = np.stack([along, vertices[:, 2], np.full(count, index), np.full(count, size[2])], 1).astype(np.float32)
    block = Mesh(vertices, normals, attributes, block.faces, np.full(len(block.faces), FACADE, np.int32))
    return mesh.placed(block, x, y, heading)


def _facade(rng: np.random.Generator) -> list[float]:
    """Draw a row of the table that ``backdrop_paint.facade_colour`` reads."""
    wall, is_brick = _WALLS[int(rng.integers(len(_WALLS)))]
    tone = rng.uniform(0.7, 1.25)
    trim = rng.choice([0.08, 0.45, 0.6]) * np.array([1.0, 0.97, 0.9])
    floor = rng.uniform(3.0, 3.8)
    shop = rng.uniform(3.4, 4.4) if rng.uniform() < 0.55 else 0.0
    return [
        *(tone * c for c in wall), *trim,
        rng.uniform(1.8, 4.2), floor, rng.uniform(0.35, 0.75), rng.uniform(0.45, 0.68), float(is_brick),
        shop, floor * rng.integers(2, 6), float(rng.integers(10_000)),
    ]  # fmt: skip


def _street_things(ground: Ground, rng: np.random.Generator) -> list[Mesh]:
    """Build trees, poles, signs, bins, hydrants and hedges on the pavements."""
    makers = (tree, tree, tree, bare_tree, lamp, utility_pole, traffic_light, sign, hydrant, bin_, hedge)
    parts = []
    for arm in ground.arms:
        c, s, half = arm[ARM_COS], arm[ARM_SIN], arm[ARM_HALF_WIDTH]
        for side in (-1.0, 1.0):
            along = rng.uniform(4, 12)
            while along < 75:
                out = side * (half + rng.uniform(0.6, ground.pavement + 1.0))
                x, y = along * c - out * s, along * s + out * c
                if _free(ground, x, y, 0.4):
                    make = makers[int(rng.integers(len(makers)))]
                    parts.append(mesh.placed(make(rng), x, y, math.atan2(s, c) + (0 if side > 0 else math.pi)))
                along += rng.uniform(4, 14)
    return parts


def tree(rng: np.random.Generator) -> Mesh:
    """Build a trunk and a crown of leaf cards."""
    height, crown = rng.uniform(4.5, 9.0), rng.uniform(1.4, 2.8)
    bark = (0.09, 0.07, 0.05)
    trunk = mesh.tube((0, 0, 0), (0, 0, height - crown * 0.6), (rng.uniform(0.09, 0.18), 0.07), bark)
    count = 900
    radial = mesh.unit(rng.normal(size=(count, 3)))
    spread = rng.uniform(0.45, 1.0, (count, 1)) ** 0.5
    lumps = 1.0 + 0.25 * np.sin(3.0 * radial @ rng.normal(size=(3, 3)) + rng.uniform(0, 6, 3)).mean(1, keepdims=True)
    centres = radial * spread * lumps * np.array([crown, crown, crown * rng.uniform(0.8, 1.2)]) + np.array(
        [0, 0, height]
    )
    return mesh.join([trunk, _leaves(centres, radial, crown * 0.16, rng)])


def _leaves(centres: Array, radial: NDArray[np.floating], size: float, rng: np.random.Generator) -> Mesh:
    """Build a randomly turned quad at each centre, with the normals of a ball for the lighting."""
    count = len(centres)
    a = mesh.unit(rng.normal(size=(count, 3))) * size
    b = mesh.unit(np.cross(a, rng.normal(size=(count, 3)))) * size
    vertices = np.stack([centres - a - b, centres + a - b, centres + a + b, centres - a + b], 1).reshape(-1, 3)
    base = np.arange(0, 4 * count, 4, dtype=np.int32)[:, None]
    faces = np.concatenate([base + np.array([0, 1, 2]), base + np.array([0, 2, 3])]).astype(np.int32)
    green = np.array([0.07, 0.12, 0.03]) * rng.uniform(0.7, 1.4) * np.array([rng.uniform(0.7, 1.8), 1.0, 1.0])
    attributes = np.concatenate([np.tile(green, (4 * count, 1)), np.zeros((4 * count, 1))], 1).astype(np.float32)
    normals = np.repeat(radial, 4, axis=0).astype(np.float32)
    return Mesh(vertices.astype(np.float32), normals, attributes, faces, np.full(len(faces), FOLIAGE, np.int32))


def bare_tree(rng: np.random.Generator) -> Mesh:
    """Build a tree without leaves: branches that fork a few times."""
    segments: list[Array] = []

    def grow(start: Array, direction: Array, length: float, radius: float, depth: int) -> None:
        end = start + direction * length
        segments.append(np.concatenate([start, end, [radius, 0.65 * radius]]))
        for _ in range(3 if depth else 0):
            turned = direction + 0.45 * rng.normal(size=3)
            turned[2] = max(turned[2], 0.2)
            grow(end, turned / np.linalg.norm(turned), length * rng.uniform(0.55, 0.8), 0.6 * radius, depth - 1)

    grow(np.zeros(3), np.array([0.0, 0.0, 1.0]), rng.uniform(1.9, 2.8), rng.uniform(0.08, 0.14), 4)
    return mesh.tubes(np.array(segments), (0.11, 0.09, 0.075), 4)


def lamp(rng: np.random.Generator) -> Mesh:
    grey = (0.25, 0.26, 0.26)
    height, reach = rng.uniform(6, 8.5), rng.uniform(1.2, 2.2)
    return mesh.join([
        mesh.tube((0, 0, 0), (0, 0, height), (0.10, 0.06), grey),
        mesh.tube((0, 0, height), (0, -reach, height + 0.4), (0.05, 0.04), grey),
        mesh.box((0.25, 0.6, 0.12), (0, -reach - 0.2, height + 0.4), (0.5, 0.42, 0.30), 16.0),
    ])  # fmt: skip


def utility_pole(rng: np.random.Generator) -> Mesh:
    """Build a wooden pole with cross arms and wires along the street."""
    wood, height = (0.09, 0.07, 0.055), rng.uniform(8.5, 10.5)
    parts = [mesh.tube((0, 0, 0), (0, 0, height), (0.15, 0.11), wood)]
    for level in (0.4, 1.4):
        parts.append(mesh.box((0.1, 2.2, 0.12), (0, 0, height - level), wood))
        wires = [[-45, y, height - level, 45, y, height - level, 0.015, 0.015] for y in (-1.0, 0.3, 1.0)]
        parts.append(mesh.tubes(np.array(wires), (0.02, 0.02, 0.02), 3, WIRE))
    return mesh.join(parts)


def traffic_light(rng: np.random.Generator) -> Mesh:
    case, pole = (0.35, 0.26, 0.03), (0.22, 0.23, 0.22)
    reach = rng.uniform(0, 5.5)
    top = 5.6
    return mesh.join([
        mesh.tube((0, 0, 0), (0, 0, top), (0.10, 0.08), pole),
        mesh.tube((0, 0, top), (0, -reach - 0.1, top), (0.06, 0.05), pole),
        mesh.box((0.3, 0.3, 0.95), (0, -reach, top - 0.3), case),
        mesh.box((0.32, 0.2, 0.2), (0, -reach, top - 0.02), (0.6, 0.03, 0.02), 4.0),
        mesh.box((0.26, 0.26, 0.7), (0, 0.1, 2.9), case),
    ])  # fmt: skip


def sign(rng: np.random.Generator) -> Mesh:
    colour = [(0.6, 0.6, 0.58), (0.45, 0.03, 0.03), (0.03, 0.10, 0.35), (0.55, 0.40, 0.03)][int(rng.integers(4))]
    return mesh.join([
        mesh.tube((0, 0, 0), (0, 0, 2.6), (0.035, 0.035), (0.3, 0.3, 0.3), 6),
        mesh.box((0.03, rng.uniform(0.4, 0.65), rng.uniform(0.45, 0.75)), (0.03, 0, 2.3), colour),
    ])  # fmt: skip


def post(rng: np.random.Generator) -> Mesh:
    """Build a plain pole of random size and tone."""
    grey, radius = float(rng.choice([0.03, 0.12, 0.3])), rng.uniform(0.04, 0.16)
    return mesh.tube((0, 0, 0), (0, 0, rng.uniform(2.5, 5.0)), (radius, 0.8 * radius), (grey, grey, grey))


def bollards(rng: np.random.Generator) -> Mesh:
    """Build a row of bollards."""
    colour = [(0.03, 0.03, 0.03), (0.35, 0.03, 0.02), (0.35, 0.35, 0.33)][int(rng.integers(3))]
    step, radius, height = rng.uniform(1.2, 2.0), rng.uniform(0.05, 0.12), rng.uniform(0.7, 1.1)
    row = [[0, k * step, 0, 0, k * step, height, radius, radius] for k in range(int(rng.integers(1, 5)))]
    return mesh.tubes(np.array(row, float), colour, 8)


def fence(rng: np.random.Generator) -> Mesh:
    """Build a fence of two rails, with either posts or close bars."""
    tone = float(rng.choice([0.02, 0.15, 0.4]))
    length, height = rng.uniform(2.0, 6.0), rng.uniform(0.8, 1.2)
    rails = [[0, -length / 2, z, 0, length / 2, z, 0.025, 0.025] for z in (0.35 * height, height)]
    step = 0.13 if rng.uniform() < 0.5 else 1.5
    bars = [[0, y, 0, 0, y, height, 0.012 if step < 1 else 0.04, 0.012 if step < 1 else 0.04]
            for y in np.arange(-length / 2, length / 2 + 0.01, step)]  # fmt: skip
    return mesh.tubes(np.array(rails + bars, float), (tone, tone, tone), 5)


def hydrant(rng: np.random.Generator) -> Mesh:
    colour = (0.5, 0.35, 0.03) if rng.uniform() < 0.5 else (0.45, 0.04, 0.03)
    return mesh.join([
        mesh.tube((0, 0, 0), (0, 0, 0.6), (0.13, 0.11), colour),
        mesh.ellipsoid((0, 0, 0.62), (0.14, 0.14, 0.14), colour),
        mesh.tube((0, -0.2, 0.42), (0, 0.2, 0.42), (0.06, 0.06), colour),
    ])  # fmt: skip


def bin_(rng: np.random.Generator) -> Mesh:
    colour = [(0.02, 0.08, 0.04), (0.02, 0.05, 0.20), (0.08, 0.08, 0.08)][int(rng.integers(3))]
    return mesh.box((0.55, 0.55, rng.uniform(0.9, 1.15)), (0, 0, 0.5), colour)


def hedge(rng: np.random.Generator) -> Mesh:
    length, height = rng.uniform(1.5, 5.0), rng.uniform(0.5, 1.0)
    centres = rng.uniform(-0.5, 0.5, (500, 3)) * np.array([length, 0.8, height]) + np.array([0, 0.6, 0.5 * height])
    return _leaves(centres, mesh.unit(centres - np.array([0, 0.6, -0.3])), 0.14, rng)


def person(rng: np.random.Generator) -> Mesh:
    """Build a walking person at the origin, facing +x."""
    skin = [(0.45, 0.28, 0.20), (0.25, 0.13, 0.08), (0.08, 0.045, 0.03)][int(rng.integers(3))]
    top, bottom = _cloth(rng), _cloth(rng)
    tall, stride = rng.uniform(0.9, 1.08), rng.uniform(0.0, 0.38)
    parts = [
        mesh.ellipsoid((0, 0, 1.66), (0.095, 0.08, 0.12), skin),
        mesh.ellipsoid((-0.02, 0, 1.70), (0.105, 0.09, 0.10), (0.03, 0.02, 0.015)),
    ]
    parts.append(mesh.ellipsoid((0, 0, 1.20), (0.15, 0.22, 0.36), top, 12))
    for side in (-1.0, 1.0):
        foot = (side * stride, side * 0.10, 0.04)
        parts.append(mesh.tube((0, side * 0.09, 0.95), foot, (0.095, 0.06), bottom))
        parts.append(mesh.ellipsoid((foot[0] + 0.05, foot[1], 0.05), (0.13, 0.05, 0.05), (0.03, 0.03, 0.03)))
        hand = (-side * stride * 0.7 + 0.05, side * 0.28, 0.85)
        parts.append(mesh.tube((0, side * 0.21, 1.42), hand, (0.06, 0.04), top))
    if rng.uniform() < 0.35:
        parts.append(mesh.ellipsoid((-0.2, 0, 1.25), (0.12, 0.16, 0.24), _cloth(rng)))
    figure = mesh.join(parts)
    return Mesh(figure.vertices * np.float32(tall), figure.normals, figure.attributes, figure.faces, figure.materials)


def _cloth(rng: np.random.Generator) -> Colour:
    base = rng.choice([0.02, 0.05, 0.15, 0.45], p=[0.35, 0.3, 0.2, 0.15])
    r, g, b = base * rng.uniform(0.6, 1.5, 3)
    return (float(r), float(g), float(b))
