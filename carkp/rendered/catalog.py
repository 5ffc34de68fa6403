"""The catalogue of a folder of car meshes: ``<name>.glb`` files and a ``meshes.json`` that describes them.

``meshes.json`` is one object, name -> entry. An entry has

- ``points``: 12 points in the order of :data:`carkp.keypoints.schema.KEYPOINT_NAMES`, each ``[x, y, z]``, or null if it
  is not known. Metres; x to the car's right, y to its front, z up. A glTF importer with z up, for example Blender's,
  gives these axes for a file whose car faces glTF's -z.
- ``missing`` (optional): indices of points that are not known, even if ``points`` has them.
- ``author``, ``license``, ``source``: author to credit, licence, and origin of the mesh.
- ``kind`` (optional): car, suv, van, pickup, truck or bus. Without it the prefix of the name determines the kind
  (:data:`PREFIX_KINDS`).

Points that this project adds to public meshes, or corrects, are in ``data/points.json`` of this package. They replace
those of ``meshes.json`` if a file has the SHA-256 given there. Your own folder needs none of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from carkp import disk
from carkp.keypoints.schema import NUM_KEYPOINTS

T = TypeVar("T")

MESHES_FILE = "meshes.json"

CarKind = Literal["car", "suv", "van", "pickup", "truck", "bus"]

PREFIX_KINDS: Mapping[str, CarKind] = MappingProxyType(
    {
        "suv": "suv",
        "van": "van",
        "minivan": "van",
        "minibus": "van",
        "pickup": "pickup",
        "utility": "pickup",
        "flatbed": "truck",
        "towtruck": "truck",
        "boxtruck": "truck",
        "truck": "truck",
        "bus": "bus",
    }
)
"""Kind by prefix, which is the part of the name before the first ``_``. Every other prefix means a car."""

Point = tuple[FiniteFloat, FiniteFloat, FiniteFloat]
_Index = Annotated[int, Field(ge=0, lt=NUM_KEYPOINTS)]


class CatalogError(ValueError):
    """A folder of meshes cannot be used."""


class MeshEntry(BaseModel):
    """The entry of one mesh in ``meshes.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    points: Annotated[tuple[Point | None, ...], Field(min_length=NUM_KEYPOINTS, max_length=NUM_KEYPOINTS)]
    missing: tuple[_Index, ...] = ()
    author: str
    license: str
    source: str
    kind: CarKind | None = None


class Completion(BaseModel):
    """Points that this project adds to the entry of one public file, or corrects in it; null means not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    points: dict[_Index, Point | None]
    kind: CarKind | None = None


@dataclass(frozen=True)
class MeshInfo:
    """A mesh of the catalogue.

    points: (12, 3) metres in the car's axes (x forward, y left, z up), NaN if not known; is_known: (12,).
    """

    name: str
    path: Path
    points: NDArray[np.float64]
    is_known: NDArray[np.bool_]
    author: str
    licence: str
    source: str
    kind: CarKind


_ENTRIES: TypeAdapter[dict[str, MeshEntry]] = TypeAdapter(dict[str, MeshEntry])
_COMPLETIONS: TypeAdapter[dict[str, Completion]] = TypeAdapter(dict[str, Completion])


def read_catalog(folder: Path) -> tuple[MeshInfo, ...]:
    """Read the meshes of ``folder``, sorted by name.

    Raises:
        CatalogError: ``meshes.json`` or a mesh that it names is missing, or an entry cannot be used.
    """
    entries = read_entries(folder)
    completions = read_completions()
    return tuple(_mesh_info(folder, name, entries[name], completions.get(name)) for name in sorted(entries))


def read_entries(folder: Path) -> dict[str, MeshEntry]:
    """Read ``meshes.json`` of ``folder`` without the additions of this project, and check that its meshes exist.

    Raises:
        CatalogError: ``meshes.json`` or a mesh that it names is missing, or an entry cannot be used.
    """
    path = folder / MESHES_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise CatalogError(
            f"{path}: no such file. A folder of meshes needs one: "
            f"`python -m carkp.rendered.annotate {folder}` writes it"
        ) from error
    except OSError as error:
        raise CatalogError(f"{path} cannot be read: {error.strerror}") from error
    entries = _parse(text, _ENTRIES, str(path))
    if not entries:
        raise CatalogError(f"{path} names no mesh: expected an object, name -> entry")
    for name in sorted(entries):
        if "/" in name or "\\" in name or name.startswith("."):
            raise CatalogError(f"{path}: {name!r} is not the name of a mesh: use the file name without .glb")
        mesh = mesh_path(folder, name)
        if not _is_there(mesh):
            raise CatalogError(f"{path} names {name!r}, but {mesh} does not exist: add the file or delete the entry")
    return entries


def _is_there(mesh: Path) -> bool:
    try:
        return mesh.is_file()
    except OSError:  # the name is too long
        return False


def read_completions(path: Path | None = None) -> dict[str, Completion]:
    """Read the points that come with this project, or those of another file, by name; none if there is no such file.

    Raises:
        CatalogError: the file cannot be used.
    """
    file = files("carkp.rendered").joinpath("data", "points.json") if path is None else path
    return _parse(file.read_bytes(), _COMPLETIONS, str(file)) if file.is_file() else {}


def mesh_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.glb"


def completed(path: Path, entry: MeshEntry, completion: Completion | None) -> MeshEntry:
    """Return ``entry`` of the mesh at ``path``, changed by the completion if that is for exactly this file."""
    if completion is None or disk.file_digest(path) != completion.sha256:
        return entry
    points = tuple(completion.points.get(k, point) for k, point in enumerate(entry.points))
    missing = tuple(k for k in entry.missing if k not in completion.points)
    return entry.model_copy(
        update={"points": points, "missing": missing, "kind": completion.kind if entry.kind is None else entry.kind}
    )


def known_points(entry: MeshEntry) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return points (12, 3) in the car's axes (x forward, y left, z up), NaN if not known, and the mask (12,)."""
    is_known = np.array([point is not None and k not in entry.missing for k, point in enumerate(entry.points)])
    given = np.array([(np.nan,) * 3 if point is None else point for point in entry.points])
    return np.where(is_known[:, None], to_car_axes(given), np.nan), is_known


def to_car_axes(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert points (N, 3) of ``meshes.json`` (x right, y front, z up) to the car's axes (x forward, y left, z up)."""
    return np.stack([points[:, 1], -points[:, 0], points[:, 2]], axis=1)


def from_car_axes(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert points (N, 3) from the car's axes to those of ``meshes.json``."""
    return np.stack([-points[:, 1], points[:, 0], points[:, 2]], axis=1)


def kind_of(name: str) -> CarKind:
    """Return the kind of a mesh by its name (:data:`PREFIX_KINDS`)."""
    return PREFIX_KINDS.get(name.split("_")[0].lower(), "car")


def _mesh_info(folder: Path, name: str, entry: MeshEntry, completion: Completion | None) -> MeshInfo:
    path = mesh_path(folder, name)
    entry = completed(path, entry, completion)
    points, is_known = known_points(entry)
    return MeshInfo(
        name=name,
        path=path,
        points=points,
        is_known=is_known,
        author=entry.author,
        licence=entry.license,
        source=entry.source,
        kind=entry.kind if entry.kind is not None else kind_of(name),
    )


def _parse(text: bytes, adapter: TypeAdapter[T], where: str) -> T:
    """Parse JSON and check its types."""
    try:
        return adapter.validate_python(json.loads(text))
    except UnicodeDecodeError as error:
        raise CatalogError(f"{where}: not UTF-8 text: {error}") from error
    except json.JSONDecodeError as error:
        raise CatalogError(f"{where}, line {error.lineno}: not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists nested a thousand deep
        if isinstance(error, ValidationError):
            raise CatalogError(f"{where}: {_first_problem(error)}") from error
        raise CatalogError(f"{where}: not readable JSON: {error}") from error


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    at = " -> ".join(str(part) for part in first["loc"]) or "the whole"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{at}: {first['msg']}{more}"
