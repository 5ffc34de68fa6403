"""Which cars belong together: those of one camera of one scene, whose frames are neighbours of one video.

Neighbouring frames are near-duplicates, and the cars of one frame share its light and its weather. An interval that
resamples single cars takes them for independent and comes out too narrow; whole clusters are resampled instead
(Field and Welsh, Bootstrapping clustered data, JRSS B 69, 2007). The cameras of one scene may see the same cars at the
same time, so what is said of clusters is still no more than a lower bound of what another street would change.
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
"""With fewer an interval is unreliable, and mostly too narrow: our own choice within the five to thirty clusters that
Cameron, Gelbach and Miller (Bootstrap-based improvements for inference with clustered errors, REStat 90, 2008) call
few, with which tests reject too often."""

_OF_A_CAMERA = re.compile(r"(?P<camera>.+)_\d+_-?\d+")


class Level(StrEnum):
    """What the cars of a cluster share, as far as their ids tell."""

    CAMERA = "scene and camera"
    SCENE = "scene"
    CROP = "nothing"


class Cluster(NamedTuple):
    """The name of a cluster, and what its cars share."""

    name: str
    level: Level


def cluster_of(sample_id: str) -> Cluster:
    """The cluster of a sample, by its id alone.

    ``<split>/<scene>/<camera>_<frame>_<i>`` is of its scene and camera: ``test/car_penn1/3_00012_0`` is of
    ``test/car_penn1/3``. Frame and ``i`` are whole numbers, the camera may be any text. An id whose last part has
    another form is of its scene, and one that names no scene is a cluster of its own.
    """
    scene, _, name = sample_id.rpartition("/")
    if "/" not in scene.strip("/"):
        return Cluster(sample_id, Level.CROP)
    if (match := _OF_A_CAMERA.fullmatch(name)) is not None:
        return Cluster(f"{scene}/{match['camera']}", Level.CAMERA)
    return Cluster(scene, Level.SCENE)


@dataclass(frozen=True)
class Resampled:
    """What an interval draws anew: clusters where there are several, else the cars of the only one.

    Attributes:
        num_cameras, num_scenes, num_alone: clusters with a labelled keypoint, by what their cars share.
        num_cars: cars with a labelled keypoint.
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
        """Whether what is drawn are clusters that hold what belongs together."""
        return self.num_clusters > 1 and self.num_alone < self.num_clusters

    @property
    def num_units(self) -> int:
        """How many are drawn: clusters, or the cars of the only one."""
        return self.num_clusters if self.num_clusters > 1 else self.num_cars

    @property
    def unit(self) -> str:
        """What one of them is, in the plural."""
        return "clusters" if self.is_by_cluster else "cars"

    def __str__(self) -> str:
        """For captions: ``14 clusters (scene and camera)``."""
        counts = {Level.CAMERA: self.num_cameras, Level.SCENE: self.num_scenes, Level.CROP: self.num_alone}
        if not self.is_by_cluster:
            return f"{self.num_cars:,} cars" + (" of one recording" if self.num_clusters == 1 else "")
        kinds = {"single car" if level is Level.CROP else str(level): count for level, count in counts.items() if count}
        if len(kinds) == 1:
            return f"{self.num_clusters:,} clusters ({next(iter(kinds))})"
        return f"{self.num_clusters:,} clusters ({', '.join(f'{count:,} by {kind}' for kind, count in kinds.items())})"

    @property
    def short(self) -> str:
        """Beside an interval, with what makes it doubtful."""
        if self.num_clusters == 1:
            return "one recording: holds for this one only"
        if not self.is_by_cluster:
            return f"{self.num_cars:,} cars one by one: the ids name no scene"
        doubt = ", too few to rely on" if self.num_clusters < MIN_CLUSTERS else ""
        return f"{self.num_clusters:,} clusters{doubt}"

    @property
    def warning(self) -> str:
        """Why the intervals must be read with care; "" where there is no reason."""
        if self.num_clusters == 1:
            what = "recording (scene and camera" if self.num_cameras else "scene (and no camera is named"
            return (
                f"Warning: by their ids all cars are of one {what}). The intervals resample its cars one by one: they "
                "hold for this one recording only, say nothing of another one, and are too narrow even for this one "
                "where its frames are neighbours of a video."
            )
        if self.num_clusters and not self.is_by_cluster:
            return (
                "Warning: the sample ids name no scene (expected <split>/<scene>/<camera>_<frame>_<i>), so cars are "
                "resampled one by one. Where several are of one video, the intervals are too narrow."
            )
        if 0 < self.num_clusters < MIN_CLUSTERS:
            return (
                f"Warning: the intervals rest on {self.num_clusters} clusters of cars. With fewer than {MIN_CLUSTERS} "
                "they are unreliable, and mostly too narrow; a p-value cannot be below "
                f"{2.0 ** (1 - self.num_clusters):.3g}."
            )
        return ""


@dataclass(frozen=True, eq=False)
class Units:
    """What is resampled as a whole.

    Attributes:
        places: (N,) the unit of each sample; -1 for one without a labelled keypoint where its unit has none at all.
        num: units, those with a labelled keypoint.
        resampled: the same in words.
    """

    places: NDArray[np.intp]
    num: int
    resampled: Resampled

    def sums(self, columns: Floats) -> Floats:
        """(U, C): rows of ``columns`` (N, C) added up by unit."""
        has_unit = self.places >= 0
        found = np.zeros((self.num, columns.shape[1]))
        np.add.at(found, self.places[has_unit], columns[has_unit])
        return found


def units_of(sample_ids: Iterable[str], is_labelled: NDArray[np.bool_]) -> Units:
    """Clusters with a labelled keypoint; where there is a single one, the cars of it that have any.

    Args:
        sample_ids: N of them.
        is_labelled: (N,) whether a sample has a labelled keypoint: what has none can say nothing of a ratio.
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
