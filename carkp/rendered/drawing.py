"""Drawing of meshes without perspective: the nearest triangle at each pixel. H, W: size of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carkp.rendered.parts import Array, Indices, Part
from carkp.synthetic.render import draw_parallel

MARGIN_M = 0.15


class Triangles(NamedTuple):
    """All triangles of some parts. vertices: (N, 3); faces: (M, 3); of_part: (M,), and first_vertices: (P,)."""

    vertices: Array
    faces: Indices
    of_part: Indices
    first_vertices: Indices


@dataclass(frozen=True)
class Drawing:
    """The view along one direction.

    index: (H, W) numbers of the triangles of the parts in their order, -1 if there is none; nearness: (H, W) metres,
    -inf if there is none; origin: (2,) position of the upper left corner in metres, right and down.
    """

    index: NDArray[np.int32]
    nearness: NDArray[np.float32]
    origin: Array
    px_per_m: float

    def place(self, rows: Indices, columns: Indices) -> Array:
        """Return right, down and nearness, (N, 3), of the surface at pixels."""
        across = (np.column_stack([columns, rows]) + 0.5) / self.px_per_m + self.origin
        return np.column_stack([across, self.nearness[rows, columns]])

    def pixels(self, placed: Array) -> Indices:
        """Return row and column, (N, 2), of points whose first two coordinates are right and down."""
        return np.floor((placed[:, 1::-1] - self.origin[::-1]) * self.px_per_m).astype(np.int64)


def joined(parts: Sequence[Part]) -> Triangles:
    firsts = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    return Triangles(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + first for part, first in zip(parts, firsts, strict=True)]),
        np.concatenate([np.full(len(part.faces), k) for k, part in enumerate(parts)]),
        firsts,
    )


def bounds(parts: Sequence[Part]) -> tuple[Array, Array]:
    """Return the lower and the upper corner (3,) of the box around the parts."""
    return np.min([part.vertices.min(0) for part in parts], 0), np.max([part.vertices.max(0) for part in parts], 0)


def draw_index(parts: Sequence[Part], basis: Array, px_per_m: float, frame: Sequence[Part] = ()) -> Drawing:
    """Draw the nearest triangles.

    basis: (3, 3), rows right, down and nearer, in the car's axes; frame: parts that determine the size of the picture.
    """
    corners = np.array(bounds(frame or parts)) @ basis.T
    origin = corners.min(0)[:2] - MARGIN_M
    width, height = np.ceil((corners.max(0)[:2] + MARGIN_M - origin) * px_per_m).astype(int)
    index = np.full((height, width), -1, np.int32)
    nearness = np.full((height, width), -np.inf, np.float32)
    triangles = joined(parts)
    draw_parallel(
        on_screen(triangles.vertices, basis, origin, px_per_m), triangles.faces.astype(np.int32), nearness, index
    )
    return Drawing(index, nearness, origin, px_per_m)


def on_screen(vertices: Array, basis: Array, origin: Array, px_per_m: float) -> NDArray[np.float32]:
    """Return column, row and nearness, (N, 3), of vertices in the car's axes."""
    seen = vertices @ basis.T
    return np.column_stack([(seen[:, :2] - origin) * px_per_m, seen[:, 2]]).astype(np.float32)
