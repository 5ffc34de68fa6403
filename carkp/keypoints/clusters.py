"""Clusters of cars: the cars that one camera of one scene saw, in neighbouring frames of one video.

Neighbouring frames are near-duplicates, and the cars of one frame share its light and its weather. An interval that
resamples single cars treats them as independent and is too narrow. So whole clusters are resampled instead (Field and
Welsh, Bootstrapping clustered data, JRSS B 69, 2007). The cameras of one scene may see the same cars at the same time.
So the intervals over clusters are still only a lower bound of the variation that another street would cause.
Legend: N samples (cars), G clusters, U units, C columns.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_CLUSTERS = 10
"""With fewer clusters an interval is unreliable, and mostly too narrow. This number is our own choice. Cameron, Gelbach
and Miller (Bootstrap-based improvements for inference with clustered errors, REStat 90, 2008) call five to thirty
clusters few: with so few, tests reject too often."""

_OF_A_CAMERA = re.compile(r"(?P<camera>.+)_\d+_-?\d+")


class Level(StrEnum):
    """What the cars of a cluster share, according to their ids."""

    CAMERA = "scene and camera"
    SCENE = "scene"
    CROP = "nothing"


class Cluster(NamedTuple):
    """The name of a cluster, and what its cars share."""

    name: str
    level: Level


def cluster_of(sample_id: str) -> Cluster:
    """Return the cluster of a sample, from its id alone.

    An id ``<split>/<scene>/<camera>_<frame>_<i>`` belongs to the cluster of its scene and camera:
    ``test/car_penn1/3_00012_0`` belongs to ``test/car_penn1/3``. Frame and ``i`` are whole numbers, the camera may be
    any text. An id whose last part has another form belongs to the cluster of its scene. An id without a scene is a
    cluster of its own.
    """
    scene, _, name = sample_id.rpartition("/")
    if "/" not in scene.strip("/"):
        return Cluster(sample_id, Level.CROP)
    if (match := _OF_A_CAMERA.fullmatch(name)) is not None:
        return Cluster(f"{scene}/{match['camera']}", Level.CAMERA)
    return Cluster(scene, Level.SCENE)


@dataclass(frozen=True)
class Resampled:
    """What the bootstrap of an interval resamples: clusters if there are several, else the cars of the only cluster.

    Attributes:
        num_cameras, num_scenes, num_alone: number of clusters with a labelled keypoint, by what their cars share.
        num_cars: number of cars with a labelled keypoint.
    """

    num_cameras: int
    num_scenes: int
    num_alone: int
    num_cars: int

    @property
    def num_clusters(self) -> int:
        return self.num_cameras + self.num_scenes + self.num_alone

    @property
    def is_by_cluster(self) -> bool:
        """Whether clusters are resampled, and not each car is a cluster of its own."""
        return self.num_clusters > 1 and self.num_alone < self.num_clusters

    @property
    def num_units(self) -> int:
        """Number of resampled units: clusters, or the cars of the only cluster."""
        return self.num_clusters if self.num_clusters > 1 else self.num_cars

    @property
    def unit(self) -> str:
        """Word for the resampled units, in the plural."""
        return "clusters" if self.is_by_cluster else "cars"

    def __str__(self) -> str:
        """Return text for captions, for example ``14 clusters (scene and camera)``."""
        counts = {Level.CAMERA: self.num_cameras, Level.SCENE: self.num_scenes, Level.CROP: self.num_alone}
        if not self.is_by_cluster:
            return f"{self.num_cars:,} cars" + (" of one recording" if self.num_clusters == 1 else "")
        kinds = {"single car" if level is Level.CROP else str(level): count for level, count in counts.items() if count}
        if len(kinds) == 1:
            return f"{self.num_clusters:,} clusters ({next(iter(kinds))})"
        return f"{self.num_clusters:,} clusters ({', '.join(f'{count:,} by {kind}' for kind, count in kinds.items())})"

    @property
    def short(self) -> str:
        """Short text to show beside an interval, with the reason to doubt it if there is one."""
        if self.num_clusters == 1:
            return "one recording: valid for this one only"
        if not self.is_by_cluster:
            return f"{self.num_cars:,} single cars: the ids name no scene"
        doubt = ", too few to rely on" if self.num_clusters < MIN_CLUSTERS else ""
        return f"{self.num_clusters:,} clusters{doubt}"

    @property
    def warning(self) -> str:
        """Reason why the intervals must be read with care; "" if there is none."""
        if self.num_clusters == 1:
            what = "recording (scene and camera" if self.num_cameras else "scene (and no camera is named"
            return (
                f"Warning: according to the sample ids, all cars are from one {what}). The intervals resample single "
                "cars: they are valid for this recording only, and they are too narrow even for it if its frames "
                "are neighbours in a video."
            )
        if self.num_clusters and not self.is_by_cluster:
            return (
                "Warning: the sample ids name no scene (expected <split>/<scene>/<camera>_<frame>_<i>), so single "
                "cars are resampled. If several are from one video, the intervals are too narrow."
            )
        if 0 < self.num_clusters < MIN_CLUSTERS:
            return (
                f"Warning: the intervals rest on {self.num_clusters} clusters of cars. With fewer than {MIN_CLUSTERS} "
                "they are unreliable and mostly too narrow, and a p-value cannot be below "
                f"{2.0 ** (1 - self.num_clusters):.3g}."
            )
        return ""


@dataclass(frozen=True, eq=False)
class Units:
    """The units that are resampled as a whole.

    Attributes:
        places: index of the unit of each sample, (N,); -1 for a sample of a unit without a labelled keypoint.
        num: number of units with a labelled keypoint.
        resampled: counts and description of the units.
    """

    places: NDArray[np.intp]
    num: int
    resampled: Resampled

    def sums(self, columns: Floats) -> Floats:
        """Return the sums (U, C) of the rows of ``columns`` (N, C) by unit."""
        has_unit = self.places >= 0
        found = np.zeros((self.num, columns.shape[1]))
        np.add.at(found, self.places[has_unit], columns[has_unit])
        return found


def units_of(sample_ids: Iterable[str], is_labelled: NDArray[np.bool_]) -> Units:
    """Return the clusters with a labelled keypoint as units; if there is only one, its cars with a labelled keypoint.

    Args:
        sample_ids: ids of the N samples.
        is_labelled: whether each sample has a labelled keypoint, (N,); samples without one do not contribute to ratios.
    """
    clusters = [cluster_of(str(sample_id)) for sample_id in sample_ids]
    used = {cluster: place for place, cluster in enumerate(dict.fromkeys(_chosen(clusters, is_labelled)))}
    levels = Counter(cluster.level for cluster in used)
    counts = levels[Level.CAMERA], levels[Level.SCENE], levels[Level.CROP]
    resampled = Resampled(*counts, num_cars=int(is_labelled.sum()))
    if resampled.num_clusters > 1:
        places = np.array([used.get(cluster, -1) for cluster in clusters], dtype=np.intp)
        return Units(places, resampled.num_units, resampled)
    places = np.where(is_labelled, np.cumsum(is_labelled) - 1, -1).astype(np.intp)
    return Units(places, resampled.num_units, resampled)


def _chosen(clusters: list[Cluster], is_chosen: NDArray[np.bool_]) -> Iterable[Cluster]:
    return (cluster for cluster, chosen in zip(clusters, is_chosen.tolist(), strict=True) if chosen)
