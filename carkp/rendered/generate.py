"""Write a set of cars rendered from meshes in CarFusion's raw layout."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RenderedSpec:
    """How many labelled cars to render, and of which meshes.

    Attributes:
        meshes: folder of GLB files and their ``meshes.json``.
        environments: folder of environment maps; None: the drawn skies.
        num_train_cars, num_val_cars, num_test_cars: labelled cars of each split.
        seed: of everything random.
        identity: digest of the content of both folders: the same wherever they lie.
    """

    meshes: Path
    environments: Path | None
    num_train_cars: int
    num_val_cars: int
    num_test_cars: int
    seed: int
    identity: str


def generate(out_dir: Path, spec: RenderedSpec, num_workers: int, show_progress: bool = True) -> None:
    """Render the set that ``spec`` describes into ``out_dir``, which appears only when it is complete."""
    raise NotImplementedError("carkp.rendered.generate")
