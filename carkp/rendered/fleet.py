"""The cars of a folder of meshes, loaded on first use, and the frequency of each kind."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from carkp.rendered.catalog import MeshInfo, read_catalog
from carkp.rendered.double_faces import without_inner_faces
from carkp.rendered.glb import load_glb
from carkp.rendered.mesh_car import MeshCar, mesh_car
from carkp.rendered.occlusion import with_open_sky

KIND_SHARES = {"car": 0.56, "suv": 0.12, "van": 0.11, "pickup": 0.08, "truck": 0.07, "bus": 0.06}
"""Frequency of each kind, independent of the number of its meshes, unless ``MAX_MESH_SHARE`` limits it."""

MAX_MESH_SHARE = 0.035
"""Approximate largest frequency of a single mesh."""

MIN_KNOWN = 8
"""Smallest number of known keypoints of a mesh that is used."""


@cache
def load_car(info: HashableInfo) -> MeshCar:
    """Load the car of a catalogue entry; the result is cached."""
    surface = with_open_sky(without_inner_faces(load_glb(info.path)))
    points = np.nan_to_num(np.array(info.points, np.float64))
    return mesh_car(info.name, info.kind, surface, points, np.array(info.is_known, np.bool_))


class HashableInfo:
    """A catalogue entry that can be the key of a cache."""

    def __init__(self, info: MeshInfo) -> None:
        self.name, self.path, self.kind = info.name, info.path, info.kind
        self.points, self.is_known = info.points, info.is_known

    def __hash__(self) -> int:
        return hash(self.path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HashableInfo) and other.path == self.path


class MeshFleet:
    """Draws cars from meshes: first a kind, then one of its meshes."""

    def __init__(self, meshes: tuple[MeshInfo, ...]) -> None:
        usable = [HashableInfo(info) for info in meshes if int(info.is_known.sum()) >= MIN_KNOWN]
        self._by_kind = {kind: [m for m in usable if m.kind == kind] for kind in KIND_SHARES}
        self._kinds = [kind for kind, members in self._by_kind.items() if members]
        shares = np.array([min(KIND_SHARES[k], MAX_MESH_SHARE * len(self._by_kind[k])) for k in self._kinds])
        self._shares = shares / shares.sum() if len(shares) else shares
        if not self._kinds:
            raise ValueError(f"no mesh has {MIN_KNOWN} known keypoints: place them (python -m carkp.rendered.annotate)")

    def draw(self, rng: np.random.Generator) -> MeshCar:
        members = self._by_kind[self._kinds[int(rng.choice(len(self._kinds), p=self._shares))]]
        return load_car(members[int(rng.integers(len(members)))])


def read_fleet(folder: Path) -> MeshFleet:
    """Return the fleet of a folder of meshes."""
    return MeshFleet(read_catalog(folder))
