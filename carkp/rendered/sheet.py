"""Sheets for checking keypoints: a mesh from the left, from the front, from above and from behind, drawn to scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from numpy.typing import NDArray

from carkp.keypoints.schema import KEYPOINT_NAMES
from carkp.rendered.catalog import from_car_axes
from carkp.rendered.drawing import MARGIN_M, Drawing, bounds, draw_index, joined, on_screen
from carkp.rendered.parts import Array, Bytes, Part

PX_PER_M = 160.0
_GLASS_OPACITY = 0.45
_ON_SURFACE_M = 0.04
"""Largest depth of a point below the drawn surface at which it still counts as visible."""


VIEW_BASES: Mapping[str, Array] = MappingProxyType(
    {
        "left": np.array([[-1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
        "right": np.array([[1.0, 0, 0], [0, 0, -1], [0, -1, 0]]),
        "front": np.array([[0.0, 1, 0], [0, 0, -1], [1, 0, 0]]),
        "rear": np.array([[0.0, -1, 0], [0, 0, -1], [-1, 0, 0]]),
        "top": np.array([[-1.0, 0, 0], [0, -1, 0], [0, 0, 1]]),
    }
)
"""Directions right, down and nearer of each view: rows of (3, 3), in the car's axes."""

_SHOWN = ("left", "front", "top", "rear")


def draw_sheet(title: str, parts: Sequence[Part], points: Array) -> Figure:
    """Draw the four views with numbered points. points: (12, 3) in the car's axes, NaN if not known.

    A filled dot is visible in this view. A hollow dot is behind the mesh; it has a number only if no view shows the
    point. The scales are in the axes of ``meshes.json``.
    """
    low, high = bounds(parts)
    length, width, height = high - low + 2 * MARGIN_M
    figure = Figure(figsize=(1.8 * (length + width) + 1.2, 1.8 * (height + max(width, height)) + 1.0), dpi=110)
    axes = figure.subplots(2, 2, width_ratios=[length, width], height_ratios=[height, max(width, height)])
    bases = [VIEW_BASES[view] for view in _SHOWN]
    drawings = [draw_index(parts, basis, PX_PER_M) for basis in bases]
    placed = [points @ basis.T for basis in bases]
    is_seen = np.array([_seen(drawing, at) for drawing, at in zip(drawings, placed, strict=True)])
    for k, ax in enumerate(axes.flat):
        ax.set_title(_SHOWN[k], fontsize=8, pad=2)
        _show(ax, bases[k], paint(parts, bases[k], PX_PER_M), drawings[k].origin)
        _mark(ax, bases[k], placed[k], is_seen[k], is_seen[k] | ~is_seen.any(0))
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def paint(parts: Sequence[Part], basis: Array, px_per_m: float) -> Bytes:
    """Draw a picture (H, W, 3) without perspective; see-through parts are blended over the rest."""
    nothing = draw_index(parts, basis, px_per_m).index
    pixels = np.full((*nothing.shape, 3), 255, np.uint8)
    nearness = np.full(nothing.shape, -np.inf, np.float32)
    for is_see_through in (False, True):
        own = [part for part in parts if part.is_see_through == is_see_through]
        if own:
            drawing = draw_index(own, basis, px_per_m, frame=parts)
            is_nearer = drawing.nearness > nearness
            _lay_over(pixels, drawing, is_nearer, own, basis, _GLASS_OPACITY if is_see_through else 1.0)
            nearness = np.maximum(nearness, drawing.nearness)
    return pixels


def _lay_over(
    pixels: Bytes, drawing: Drawing, mask: NDArray[np.bool_], parts: Sequence[Part], basis: Array, opacity: float
) -> None:
    """Blend the colours of the drawing over ``pixels`` (H, W, 3) where ``mask`` (H, W) is true."""
    rows, columns = np.nonzero(mask)
    triangles = joined(parts)
    drawn = drawing.index[rows, columns]
    faces = triangles.faces[drawn]
    corners = on_screen(triangles.vertices, basis, drawing.origin, drawing.px_per_m)[faces, :2].astype(np.float64)
    weights = _weights(corners, np.column_stack([columns + 0.5, rows + 0.5]))
    colours = np.zeros((len(drawn), 3))
    of_part = triangles.of_part[drawn]
    for k in np.unique(of_part):
        own = of_part == k
        uvs = parts[k].uvs[faces[own] - triangles.first_vertices[k]]
        colours[own] = _albedo(parts[k], np.einsum("nk,nkc->nc", weights[own], uvs))
    world = triangles.vertices[faces]
    normals = np.cross(world[:, 1] - world[:, 0], world[:, 2] - world[:, 0])
    facing = np.abs(normals @ basis[2]) / np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
    shaded = 255 * colours * (0.45 + 0.55 * facing[:, None])
    pixels[rows, columns] = opacity * shaded + (1 - opacity) * pixels[rows, columns]


def _weights(corners: Array, at: Array) -> Array:
    """Return the barycentric weights (N, 3) of picture points (N, 2) in their triangles (N, 3, 2)."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    area = np.where(np.abs(area) < 1e-9, 1e-9, area)
    second = ((at[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (at[:, 1] - a[:, 1])) / area
    third = ((b[:, 0] - a[:, 0]) * (at[:, 1] - a[:, 1]) - (at[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])) / area
    return np.column_stack([1 - second - third, second, third])


def _albedo(part: Part, uvs: Array) -> Array:
    """Return the sRGB colours (N, 3) in 0..1 at texture coordinates (N, 2)."""
    if part.texture is None:
        return np.broadcast_to(part.colour[:3], (len(uvs), 3))
    height, width = part.texture.shape[:2]
    columns = (np.nan_to_num(uvs[:, 0]) % 1.0 * width).astype(int) % width
    rows = ((1 - np.nan_to_num(uvs[:, 1])) % 1.0 * height).astype(int) % height
    return np.asarray(part.texture[rows, columns, :3] / 255.0 * part.colour[:3])


def _show(ax: Axes, basis: Array, pixels: Bytes, origin: Array) -> None:
    """Show the picture with a grid of 10 cm and scales in the axes of ``meshes.json``."""
    left, top = origin
    right, bottom = left + pixels.shape[1] / PX_PER_M, top + pixels.shape[0] / PX_PER_M
    across, across_sign = _file_axis(basis[0])
    along, along_sign = _file_axis(basis[1])
    extent = (across_sign * left, across_sign * right, along_sign * bottom, along_sign * top)
    ax.imshow(pixels, extent=extent, interpolation="nearest", aspect="equal")
    ax.set_xlabel(f"{across} (m)", fontsize=7, labelpad=1)
    ax.set_ylabel(f"{along} (m)", fontsize=7, labelpad=1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MultipleLocator(0.5))
        axis.set_minor_locator(MultipleLocator(0.1))
    ax.tick_params(labelsize=6)
    ax.grid(which="major", linewidth=0.5, alpha=0.5)
    ax.grid(which="minor", linewidth=0.25, alpha=0.25)


def _file_axis(direction: Array) -> tuple[str, float]:
    """Return the axis of ``meshes.json`` along a direction (3,) in the car's axes, and its sign."""
    turned = from_car_axes(direction[None])[0]
    k = int(np.argmax(np.abs(turned)))
    return "xyz"[k], float(np.sign(turned[k]))


def _mark(ax: Axes, basis: Array, placed: Array, is_seen: NDArray[np.bool_], has_number: NDArray[np.bool_]) -> None:
    """Draw dots for points (12, 3), given as right, down and nearness: filled if visible, else hollow."""
    signs = np.array([_file_axis(basis[0])[1], _file_axis(basis[1])[1]])
    for k in np.flatnonzero(np.isfinite(placed).all(1)):
        x, y = placed[k, :2] * signs
        colour = "#d7191c" if KEYPOINT_NAMES[k].startswith("right") else "#1a53ff"
        ax.plot(x, y, "o", markersize=4, markeredgewidth=1, color=colour, fillstyle="full" if is_seen[k] else "none")
        if has_number[k]:
            ax.annotate(
                str(k), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7, color="black",
                bbox={"boxstyle": "round,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            )  # fmt: skip


def _seen(drawing: Drawing, placed: Array) -> NDArray[np.bool_]:
    """Return which points (12, 3), given as right, down and nearness, are known and not hidden, (12,)."""
    height, width = drawing.index.shape
    rows, columns = drawing.pixels(np.nan_to_num(placed)).T
    is_inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    surface = drawing.nearness[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
    return np.asarray(np.isfinite(placed).all(1) & (~is_inside | (surface <= placed[:, 2] + _ON_SURFACE_M)))
