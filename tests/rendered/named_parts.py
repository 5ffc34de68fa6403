"""A made-up car for the tests of the rendered cars: boxes with telling names, in a GLB file."""

from pathlib import Path

import numpy as np
import trimesh
from trimesh.visual.material import PBRMaterial

from carkp.rendered.glb import AXES

WHEELS = ((1.3, -0.8, 0.3), (1.3, 0.8, 0.3), (-1.3, -0.8, 0.3), (-1.3, 0.8, 0.3))
"""Centres of the wheels, 0.2 m wide, in the car's axes: right front, left front, right back, left back."""


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> trimesh.Trimesh:
    """A box given by two corners, in the car's axes."""
    corners = np.array([low, high], float)
    mesh = trimesh.creation.box(extents=corners[1] - corners[0])
    mesh.apply_translation(corners.mean(0))
    return mesh


def wheel(centre: tuple[float, float, float]) -> trimesh.Trimesh:
    mesh = trimesh.creation.cylinder(radius=0.3, height=0.2, sections=32)
    mesh.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0]))
    mesh.apply_translation(centre)
    return mesh


def pane(top_x: float, bottom_x: float) -> trimesh.Trimesh:
    """A pane from side to side, narrower at its top."""
    corners = [(bottom_x, -0.7, 0.9), (bottom_x, 0.7, 0.9), (top_x, 0.6, 1.4), (top_x, -0.6, 1.4)]
    return trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)


def car_parts(shift: float = 0.0) -> dict[str, trimesh.Trimesh]:
    """Name -> part of a car whose middle lies at y = ``shift``."""
    parts = {
        "Body": box((-2.0, -0.8, 0.25), (2.0, 0.8, 0.9)),
        "Roof": box((-0.8, -0.62, 1.4), (0.6, 0.62, 1.45)),
        "Windshield": pane(0.6, 1.1),
        "Rear_Glass": pane(-0.8, -1.3),
        "Steering_Wheel": wheel((0.6, 0.3, 0.9)),
    }
    for k, centre in enumerate(WHEELS):
        parts[f"wheel_{k}"] = wheel(centre)
    for side in (-1.0, 1.0):
        low, high = sorted((side * 0.5, side * 0.7))
        parts[f"Headlights_{side}"] = box((1.95, low, 0.6), (2.05, high, 0.8))
        parts[f"Brakelights_{side}"] = box((-2.05, low, 0.5), (-1.95, high, 0.8))
        low, high = sorted((side * 0.7, side * 0.8))
        parts[f"Blinkers_{side}"] = box((1.95, low, 0.6), (2.05, high, 0.8))
    parts["Brakelights_third"] = box((-2.02, -0.1, 0.85), (-1.95, 0.1, 0.88))
    for mesh in parts.values():
        mesh.apply_translation([0, shift, 0])
    return parts


def write_glb(path: Path, parts: dict[str, trimesh.Trimesh]) -> Path:
    scene = trimesh.Scene()
    for name, mesh in parts.items():
        turned = mesh.copy()
        turned.vertices = mesh.vertices @ AXES  # the car's axes to glTF's: AXES is orthogonal
        is_glass = "Windshield" in name or "Glass" in name
        material = PBRMaterial(
            name="Window" if is_glass else "Paint",
            baseColorFactor=[60, 90, 120, 255],
            alphaMode="BLEND" if is_glass else "OPAQUE",
        )
        turned.visual = trimesh.visual.TextureVisuals(uv=np.zeros((len(turned.vertices), 2)), material=material)
        scene.add_geometry(turned, node_name=name, geom_name=name)
    scene.export(str(path))
    return path
