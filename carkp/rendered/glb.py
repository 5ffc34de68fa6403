"""Reading of car meshes from GLB files for the renderer. N vertices, M triangles, K materials, T textures."""

from __future__ import annotations

import io
import json
import re
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import trimesh
from numpy.typing import NDArray

from carkp.synthetic.mesh import Floats, Ints, smooth_normals, unit

Bytes = NDArray[np.uint8]

AXES = np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
"""glTF's axes (x right, y up, z backward) -> the car's: x forward, y left, z up."""

MAX_TEXTURE_PX = 512
MAX_TRIANGLES = 5_000_000
MAX_TEXTURE_PIXELS = 2**26
"""Largest number of pixels of a texture in the file."""

_START_BYTES, _JSON_CHUNK = 20, 0x4E4F534A

NUM_LEVELS = 8
"""Number of levels of a texture's pyramid; each level is half as large as the previous one."""


class Kind(IntEnum):
    """Kinds of materials, for shading and for changes of a car's look."""

    PLAIN = 0
    PAINT = 1
    GLASS = 2
    DECAL = 3
    HEADLIGHT = 4
    TAIL_LIGHT = 5
    TYRE = 6
    LAMP_GLASS = 7


SEE_THROUGH = (Kind.GLASS, Kind.DECAL, Kind.LAMP_GLASS)
"""Kinds that are drawn over the things behind them."""


class Column(IntEnum):
    """Columns of the table of materials."""

    RED = 0
    GREEN = 1
    BLUE = 2
    ALPHA = 3
    METALLIC = 4
    ROUGHNESS = 5
    KIND = 6
    TEXTURE = 7
    GLOW = 8
    LUMINANCE = 9  # mean of the texture if paint replaces its colour; 0: the texture keeps its own colours
    COUNT = 10


class Surface(NamedTuple):
    """A mesh for the kernels, in the car's axes (metres; x forward, y left, z up, the ground at z = 0).

    vertices, normals: (N, 3); uvs: (N, 2); open_sky: (N,), the share of the sky that is visible from a vertex; faces:
    (M, 3); face_materials: (M,); materials: (K, 10), linear colours; texels: (P, 4) sRGB and alpha; levels: (T, 8, 3):
    first texel, height and width of each level of a texture's pyramid. Triangles from ``num_opaque`` on are
    see-through.
    """

    vertices: Floats
    normals: Floats
    uvs: Floats
    open_sky: Floats
    faces: Ints
    face_materials: Ints
    materials: Floats
    texels: Bytes
    levels: Ints
    num_opaque: int


@dataclass(frozen=True)
class _Part:
    """Triangles of one material, with their own vertices."""

    vertices: NDArray[np.float64]
    normals: NDArray[np.float64]
    uvs: NDArray[np.float64]
    faces: NDArray[np.int64]
    material: Any
    name: str


class MeshError(ValueError):
    """A mesh file cannot be used."""


def load_glb(path: Path) -> Surface:
    """Load the mesh of a GLB file; ``open_sky`` is still 1 everywhere.

    Raises:
        MeshError: the file cannot be read, has no triangle, or is too large.
    """
    try:
        return _read(path.read_bytes())
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from error
    except Exception as error:  # trimesh and Pillow raise many kinds of errors
        raise MeshError(f"{path}: not a readable GLB file: {error}") from error


def _read(data: bytes) -> Surface:
    _check_header(data)
    scene = trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False)  # without a path no other file is read
    nodes = scene.graph.nodes_geometry
    if sum(len(getattr(scene.geometry[scene.graph[node][1]], "faces", ())) for node in nodes) > MAX_TRIANGLES:
        raise MeshError(f"it has more than {MAX_TRIANGLES:,} triangles")
    parts = [part for node in nodes if (part := _part(scene, node)) is not None]
    if not parts:
        raise MeshError("the file contains no triangle")
    return _assemble(parts)


def _check_header(data: bytes) -> None:
    """Refuse files that would need unlimited memory, or that refer to other files.

    Raises:
        MeshError: it is not a GLB file, has accessors without enough data, or refers to other files.
    """
    magic, _, _, length, kind = struct.unpack_from("<4s4I", data) if len(data) >= _START_BYTES else (b"", 0, 0, 0, 0)
    if magic != b"glTF" or kind != _JSON_CHUNK:
        raise MeshError("not a GLB file: it does not begin like one")
    header = json.loads(data[_START_BYTES : _START_BYTES + length])
    if any("bufferView" not in accessor for accessor in header.get("accessors", [])):
        raise MeshError("an accessor has no data: such meshes (sparse, Draco) are not supported")
    counts = [accessor["count"] for accessor in header.get("accessors", [])]
    if any(not isinstance(count, int) or not 0 <= count <= len(data) for count in counts):
        raise MeshError("an accessor states more values than the file can contain")
    named = [item["uri"] for part in ("buffers", "images") for item in header.get(part, []) if "uri" in item]
    if any(not str(uri).startswith("data:") for uri in named):
        raise MeshError("it refers to other files, which is not supported: save the mesh as one file")


def _part(scene: Any, node: str) -> _Part | None:
    transform, name = scene.graph[node]
    mesh = scene.geometry[name]
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
        return None
    turn = AXES @ transform[:3, :3]
    vertices = mesh.vertices @ turn.T + AXES @ transform[:3, 3]
    normals = mesh.vertex_normals @ np.linalg.inv(turn)
    uvs = getattr(mesh.visual, "uv", None)
    uvs = np.zeros((len(vertices), 2)) if uvs is None or len(uvs) != len(vertices) else np.asarray(uvs)
    material = getattr(mesh.visual, "material", None)
    return _Part(vertices, normals, uvs, np.asarray(mesh.faces), material, f"{node} {getattr(material, 'name', '')}")


def _assemble(parts: list[_Part]) -> Surface:
    """Join the parts, opaque triangles first; each part has one row in the table of materials."""
    textures = _Textures()
    rows = [_material(part, textures) for part in parts]
    lets_through = [row[Column.KIND] in SEE_THROUGH for row in rows]
    order = sorted(range(len(parts)), key=lambda k: lets_through[k])
    offsets = np.cumsum([0] + [len(parts[k].vertices) for k in order[:-1]])
    faces = np.concatenate([parts[k].faces + offset for k, offset in zip(order, offsets, strict=True)])
    vertices = np.concatenate([parts[k].vertices for k in order]).astype(np.float32)
    return Surface(
        vertices=vertices,
        normals=unit(np.nan_to_num(np.concatenate([parts[k].normals for k in order]))),
        uvs=np.nan_to_num(np.concatenate([parts[k].uvs for k in order])).astype(np.float32),
        open_sky=np.ones(len(vertices), np.float32),
        faces=faces.astype(np.int32),
        face_materials=np.concatenate([np.full(len(parts[k].faces), k) for k in order]).astype(np.int32),
        materials=np.array(rows, np.float32),
        texels=textures.texels(),
        levels=textures.levels(),
        num_opaque=sum(len(part.faces) for part, through in zip(parts, lets_through, strict=True) if not through),
    )


def _material(part: _Part, textures: _Textures) -> list[float]:
    material = part.material
    factor = _factor(material)
    picture = getattr(material, "baseColorTexture", None)
    texture, luminance = textures.add(picture) if picture is not None else (-1, 0.0)
    kind = _kind(part.name, str(getattr(material, "alphaMode", None)), picture)
    if kind not in SEE_THROUGH:
        factor[3] = 1.0
    metallic = getattr(material, "metallicFactor", None)
    roughness = getattr(material, "roughnessFactor", None)
    # If a file has neither, they are in a texture, which is not read: then default values are used.
    return [
        *factor,
        float(metallic) if metallic is not None and roughness is not None else 0.0,
        float(roughness) if roughness is not None else 0.6,
        float(kind),
        float(texture),
        0.0,
        luminance if kind is Kind.PAINT else 0.0,
    ]


def _factor(material: Any) -> list[float]:
    """Return linear red, green, blue and alpha. glTF's factors are linear; trimesh stores them as bytes."""
    factor = getattr(material, "baseColorFactor", None)
    if factor is None:
        return [1.0, 1.0, 1.0, 1.0]
    values = np.asarray(factor, float) / (255.0 if np.asarray(factor).dtype == np.uint8 else 1.0)
    return [float(v) for v in values]


_GLASS = re.compile(r"glass|windshield|window|cristal|vidrio|verre", re.IGNORECASE)
_PAINT = re.compile(r"bodymat|firstcolor|carpaint|_body$", re.IGNORECASE)
_HEAD = re.compile(r"headlight", re.IGNORECASE)
_TAIL = re.compile(r"brakelight|taillight|backlight", re.IGNORECASE)
_LAMP = re.compile(
    r"head_?light|brake_?light|tail_?light|turn_?signal|parking_?light|lens|blinker|lightbar|reverse|glass_red",
    re.IGNORECASE,
)
_TYRE = re.compile(r"tire|tyre|neumatic", re.IGNORECASE)


def _kind(name: str, alpha_mode: str, picture: Any) -> Kind:
    has_holes = picture is not None and picture.mode == "RGBA" and not _GLASS.search(name)
    if alpha_mode in ("BLEND", "MASK") and has_holes:
        return Kind.DECAL
    if alpha_mode == "BLEND":
        return Kind.LAMP_GLASS if _LAMP.search(name) else Kind.GLASS
    for pattern, kind in ((_PAINT, Kind.PAINT), (_HEAD, Kind.HEADLIGHT), (_TAIL, Kind.TAIL_LIGHT), (_TYRE, Kind.TYRE)):
        if pattern.search(name):
            return kind
    return Kind.PLAIN


class _Textures:
    """Collects textures as pyramids; a texture that several materials share is stored once."""

    def __init__(self) -> None:
        self._texels: list[Bytes] = []
        self._levels: list[list[list[int]]] = []
        self._known: dict[int, tuple[int, float]] = {}
        self._size = 0

    def add(self, picture: Any) -> tuple[int, float]:
        """Add a texture; return its number and its mean luminance."""
        if id(picture) not in self._known:
            self._known[id(picture)] = self._add(picture)
        return self._known[id(picture)]

    def _add(self, picture: Any) -> tuple[int, float]:
        if picture.width * picture.height > MAX_TEXTURE_PIXELS:
            raise MeshError(f"a texture has {picture.width}x{picture.height} pixels: scale it down")
        level = np.asarray(picture.convert("RGBA"))
        height, width = (min(MAX_TEXTURE_PX, 1 << max(int(np.log2(extent)), 0)) for extent in level.shape[:2])
        level = cv2.resize(level, (width, height), interpolation=cv2.INTER_AREA)
        linear = (level[..., :3].astype(np.float32) / 255) ** 2.2
        luminance = float((linear @ np.array([0.3, 0.6, 0.1], np.float32)).mean())
        rows = []
        for _ in range(NUM_LEVELS):
            rows.append([self._size, level.shape[0], level.shape[1]])
            self._texels.append(np.asarray(level.reshape(-1, 4), np.uint8))
            self._size += level.shape[0] * level.shape[1]
            smaller = (max(level.shape[1] // 2, 1), max(level.shape[0] // 2, 1))
            level = cv2.resize(level, smaller, interpolation=cv2.INTER_AREA)
        self._levels.append(rows)
        return len(self._levels) - 1, luminance

    def texels(self) -> Bytes:
        return np.concatenate(self._texels) if self._texels else np.zeros((1, 4), np.uint8)

    def levels(self) -> Ints:
        return np.array(self._levels, np.int32).reshape(-1, NUM_LEVELS, 3)


__all__ = ["AXES", "Column", "Kind", "MeshError", "Surface", "load_glb", "smooth_normals"]
