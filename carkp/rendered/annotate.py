"""Place the twelve keypoints of car meshes from their named parts, and draw sheets to check them on.

The folder contains GLB files; carkp/rendered/catalog.py describes its meshes.json. Points in meshes.json are not
changed. The others are placed from parts with clear names (wheel, Headlights, Brakelights, Windshield, Rear_Glass), or
from shapes if there are no such names. Look at each sheet. Set wrong or missing points by hand, with coordinates read
off the sheet:

    python -m carkp.rendered.annotate meshes
    python -m carkp.rendered.annotate meshes s_smart --set s_smart:4=0.45,front,0.75 --set s_smart:5=mirror
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from carkp import disk
from carkp.keypoints.schema import FLIP_ORDER, KEYPOINT_NAMES, NUM_KEYPOINTS
from carkp.rendered import catalog
from carkp.rendered.catalog import CatalogError, Completion, MeshEntry, Point
from carkp.rendered.drawing import draw_index
from carkp.rendered.glb import MeshError
from carkp.rendered.parts import Array, Part, load_parts
from carkp.rendered.placing import mirror_plane, place
from carkp.rendered.sheet import VIEW_BASES, draw_sheet

Source = Literal["", "given", "name", "shape", "hand"]

_RAY_PX_PER_M = 400.0
_POINT = re.compile(r"\[\s+([-+.\de]+),\s+([-+.\de]+),\s+([-+.\de]+)\s+\]")


RAYS = {"left": 0, "right": 0, "front": 1, "rear": 1, "top": 2}
"""Direction from which a ray can come -> the axis of meshes.json along which it runs."""


@dataclass(frozen=True)
class Edit:
    """One point set by hand: coordinates in the axes of meshes.json, ``mirror`` (that of the other side) or ``none``.

    A coordinate may be the name of a view (``RAYS``): the point is where a ray from this direction first meets the
    mesh.
    """

    name: str
    index: int
    value: tuple[float | str, ...] | Literal["mirror", "none"]


@dataclass(frozen=True)
class Annotated:
    """The keypoints of a mesh. points: (12, 3) in the car's axes, NaN if not known; sources: origin of each point."""

    name: str
    entry: MeshEntry
    points: Array
    sources: tuple[Source, ...]


def main(argv: Sequence[str] | None = None) -> int:
    values = _parser().parse_args(argv)
    try:
        folder = Path(values.folder)
        edits = [_parse_edit(text) for text in values.set]
        anew = _parse_indices(values.anew)
        entries = _all_entries(folder)
        known = catalog.read_completions(values.completions) if values.completions else {}
        names = _chosen(folder, entries, values.names, edits)
        results = []
        for name in tqdm(names, unit="mesh", disable=None):
            path = catalog.mesh_path(folder, name)
            entry = catalog.completed(path, entries[name], known.get(name))
            parts = load_parts(path)
            result = annotate(name, entry, parts, anew, [edit for edit in edits if edit.name == name])
            results.append(result)
            if not values.no_sheets:
                _save_sheet(values.sheets or folder / "sheets", result, parts)
        _report(results)
        if values.completions:
            _write_completions(values.completions, folder, entries, known, results)
        else:
            _write_entries(values.output or folder / catalog.MESHES_FILE, entries, results)
    except (CatalogError, MeshError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}. Choose other places with --output and --sheets")
    return 0


def annotate(
    name: str, entry: MeshEntry, parts: tuple[Part, ...], anew: frozenset[int], edits: Sequence[Edit]
) -> Annotated:
    """Return the points of ``entry``, except for indices ``anew``; add points that are found; then apply ``edits``."""
    points, is_known = catalog.known_points(entry)
    sources: list[Source] = ["given" if known and k not in anew else "" for k, known in enumerate(is_known)]
    if not all(sources):
        placed = place(parts, entry.kind or catalog.kind_of(name))
        for k in range(NUM_KEYPOINTS):
            if not sources[k] and placed.how[k]:
                points[k], sources[k] = placed.points[k], placed.how[k]
            elif not sources[k] and is_known[k]:
                sources[k] = "given"
    for edit in sorted(edits, key=lambda edit: edit.value == "mirror"):
        points[edit.index] = _edited(edit, points, parts)
        sources[edit.index] = "hand" if np.isfinite(points[edit.index]).all() else ""
    return Annotated(name, entry, points, tuple(sources))


def _edited(edit: Edit, points: Array, parts: tuple[Part, ...]) -> Array:
    match edit.value:
        case "none":
            return np.full(3, np.nan)
        case "mirror":
            other = points[FLIP_ORDER[edit.index]]
            return np.array([other[0], 2 * mirror_plane(parts) - other[1], other[2]])
        case coordinates:
            return _point_of(coordinates, parts)


def _point_of(coordinates: tuple[float | str, ...], parts: tuple[Part, ...]) -> Array:
    """Return the point (3,) in the car's axes; if a coordinate names a view, it is on the surface visible there."""
    numbers = np.array([0.0 if isinstance(value, str) else value for value in coordinates])
    point = np.asarray(catalog.to_car_axes(numbers[None])[0])
    for view in (value for value in coordinates if isinstance(value, str)):
        basis = VIEW_BASES[view]
        drawing = draw_index(parts, basis, _RAY_PX_PER_M)
        height, width = drawing.index.shape
        row, column = drawing.pixels((basis @ point)[None])[0]
        if not (0 <= row < height and 0 <= column < width) or drawing.index[row, column] < 0:
            raise CatalogError(
                f"--set {','.join(map(str, coordinates))}: there is no surface there, seen from the {view}"
            )
        point = point + basis[2] * (drawing.nearness[row, column] - basis[2] @ point)
    return point


def _parser() -> argparse.ArgumentParser:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m carkp.rendered.annotate",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="folder with GLB files and, if it exists, their meshes.json")
    parser.add_argument("names", nargs="*", help="meshes to process: file names without .glb (default: all)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME:INDEX=VALUE",
        help="set a point by hand; INDEX: 0..11; VALUE: x,y,z in metres as on the scales of the sheets; one may be "
        "the name of a view, for the surface seen from there (0.45,front,0.75 comes from the view from the front); or "
        "mirror (the point of the other side, mirrored); or none (unknown); may be repeated",
    )  # fmt: skip
    parser.add_argument("--anew", default="", metavar="INDICES", help="place these again, even if known: 4,5 or all")
    parser.add_argument("--sheets", type=Path, metavar="DIR", help="folder for the sheets (default: FOLDER/sheets)")
    parser.add_argument("--no-sheets", action="store_true", help="do not draw sheets")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write (default: FOLDER/meshes.json)")
    parser.add_argument(
        "--completions", type=Path, metavar="FILE",
        help="instead of meshes.json, write only what was added or changed, each mesh with its SHA-256; if the file "
        "exists, it is read first",
    )  # fmt: skip
    parser.epilog = f"{rest}\npoints, by index:\n" + "\n".join(f"  {k:2d} {n}" for k, n in enumerate(KEYPOINT_NAMES))
    return parser


def _parse_edit(text: str) -> Edit:
    """Parse an edit such as ``s_smart:4=0.45,front,0.75``."""
    target, _, value = text.partition("=")
    name, _, index = target.rpartition(":")
    try:
        number = int(index)
        if value in ("mirror", "none"):
            edit = Edit(name, number, "mirror" if value == "mirror" else "none")
        else:
            edit = Edit(name, number, _parse_coordinates(value))
    except ValueError:
        raise CatalogError(f"--set {text!r}: expected NAME:INDEX=x,y,z, NAME:INDEX=mirror or NAME:INDEX=none") from None
    if not name or not 0 <= number < NUM_KEYPOINTS:
        raise CatalogError(f"--set {text!r}: expected a mesh's name, and an index of 0 to {NUM_KEYPOINTS - 1}")
    return edit


def _parse_coordinates(text: str) -> tuple[float | str, ...]:
    """Parse three finite numbers; one may be the name of a view along its axis. Raise ValueError for anything else."""
    values = tuple(word if word in RAYS else float(word) for word in text.split(","))
    if len(values) != 3 or sum(isinstance(value, str) for value in values) > 1:
        raise ValueError(text)
    for axis, value in enumerate(values):
        if RAYS[value] != axis if isinstance(value, str) else not np.isfinite(value):
            raise ValueError(text)
    return values


def _parse_indices(text: str) -> frozenset[int]:
    if text == "all":
        return frozenset(range(NUM_KEYPOINTS))
    try:
        indices = frozenset(int(word) for word in text.split(",") if word)
    except ValueError:
        indices = frozenset([-1])
    if not all(0 <= k < NUM_KEYPOINTS for k in indices):
        raise CatalogError(f"--anew {text!r}: expected indices of 0 to {NUM_KEYPOINTS - 1}, as 4,5, or all")
    return indices


def _all_entries(folder: Path) -> dict[str, MeshEntry]:
    """Return the entries of meshes.json, if there is one, and empty entries for the other GLB files of the folder."""
    if not folder.is_dir():
        raise CatalogError(f"{folder}: no such folder. Give a folder with GLB files")
    entries = catalog.read_entries(folder) if (folder / catalog.MESHES_FILE).exists() else {}
    empty = MeshEntry(points=(None,) * NUM_KEYPOINTS, author="", license="", source="")
    entries |= {path.stem: empty for path in sorted(folder.glob("*.glb")) if path.stem not in entries}
    if not entries:
        raise CatalogError(f"{folder}: no GLB file in it. A mesh is a file <name>.glb")
    return entries


def _chosen(folder: Path, entries: Mapping[str, MeshEntry], names: Sequence[str], edits: Sequence[Edit]) -> list[str]:
    for name in [*names, *(edit.name for edit in edits)]:
        if name not in entries:
            raise CatalogError(f"{name!r}: no such file: {catalog.mesh_path(folder, name)}")
    if names and (other := sorted({edit.name for edit in edits} - set(names))):
        raise CatalogError(f"--set names {other[0]!r}, which is not one of the meshes to process: add its name")
    return sorted(names or entries)


def _save_sheet(folder: Path, result: Annotated, parts: tuple[Part, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{result.name} ({result.entry.kind or catalog.kind_of(result.name)})"
    draw_sheet(title, parts, result.points).savefig(folder / f"{result.name}.png")


def _report(results: Sequence[Annotated]) -> None:
    """Print one line per mesh with the origins of its points."""
    for result in results:
        groups = [(source or "missing", _indices(result, source)) for source in ("given", "name", "shape", "hand", "")]
        print(f"{result.name}: " + "; ".join(f"{source} {which}" for source, which in groups if which))  # noqa: T201
    unsigned = [result.name for result in results if not (result.entry.author and result.entry.license)]
    if unsigned:
        print(  # noqa: T201
            f"fill in author, license and source of: {', '.join(unsigned)}. A model card names them", file=sys.stderr
        )


def _indices(result: Annotated, source: Source) -> str:
    return ",".join(str(k) for k, own in enumerate(result.sources) if own == source)


def _entry_points(result: Annotated) -> tuple[Point | None, ...]:
    """Return the points in the axes and with the digits of meshes.json."""
    return tuple(
        (float(row[0]), float(row[1]), float(row[2])) if np.isfinite(row).all() else None
        for row in np.round(catalog.from_car_axes(result.points), 4) + 0.0
    )


def _write_entries(path: Path, entries: Mapping[str, MeshEntry], results: Sequence[Annotated]) -> None:
    written = dict(entries)
    for result in results:
        points = _entry_points(result)
        missing = tuple(k for k, point in enumerate(points) if point is None)
        written[result.name] = result.entry.model_copy(update={"points": points, "missing": missing})
    _write(path, {name: _without_kind(entry.model_dump(mode="json")) for name, entry in sorted(written.items())})


def _write_completions(
    path: Path,
    folder: Path,
    entries: Mapping[str, MeshEntry],
    known: Mapping[str, Completion],
    results: Sequence[Annotated],
) -> None:
    """Write the points that the results add to ``entries`` or change; completions of other meshes stay."""
    written = dict(known)
    for result in results:
        given = entries[result.name]
        before = [None if k in given.missing else point for k, point in enumerate(given.points)]
        added = {k: point for k, point in enumerate(_entry_points(result)) if point != before[k]}
        kind = known[result.name].kind if result.name in known else None
        written.pop(result.name, None)
        if added or kind:
            digest = disk.file_digest(catalog.mesh_path(folder, result.name))
            written[result.name] = Completion(sha256=digest, points=added, kind=kind)
    _write(path, {name: _without_kind(item.model_dump(mode="json")) for name, item in sorted(written.items())})


def _without_kind(content: dict[str, object]) -> dict[str, object]:
    """Return ``content`` without a kind that is null, because then the name determines the kind."""
    return {key: value for key, value in content.items() if key != "kind" or value is not None}


def _write(path: Path, content: Mapping[str, object]) -> None:
    """Write JSON with one line per point."""
    text = _POINT.sub(r"[\1, \2, \3]", json.dumps(content, indent=1))
    disk.write_atomic(path, f"{text}\n".encode())
    print(f"written: {path}")  # noqa: T201


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
