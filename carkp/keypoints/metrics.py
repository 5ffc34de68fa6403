"""PCK and mean distance, both in input pixels, over labelled keypoints (visible and occluded).

Legend: N samples, K keypoints. Points are (x, y).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """Accuracy of one prediction set.

    Attributes:
        pck: share of labelled points with a distance below alpha times the extent of the car's labelled points; NaN
            without points.
        pck_hat: the same with HAT's reference length, comparable only with HAT's published figures.
        mean_dist: mean distance in input pixels.
        pck_per_keypoint: PCK of each keypoint, (K,); NaN for a keypoint that is never labelled.
        mean_dist_per_keypoint: mean distance of each keypoint in input pixels, (K,).
        num_points: number of labelled points that are scored.
        num_without_length: number of labelled points left out of ``pck`` because the labelled points of their car have
            no extent, for example a single point.
        by_source: scores by name of source, if the samples come from several sources. It may contain a source whose
            samples do not count in the other numbers.
    """

    pck: float
    pck_hat: float
    mean_dist: float
    pck_per_keypoint: Floats
    mean_dist_per_keypoint: Floats
    num_points: int
    num_without_length: int
    by_source: Mapping[str, "Scores"] = field(default_factory=dict)


def labelled_extent(points: Floats, validity: NDArray[np.uint8]) -> Floats:
    """Return the reference length (N,) of ``pck``: the larger extent in x or y of the labelled points.

    ``points`` is (N, K, 2).

    0 for a sample with fewer than two labelled points.
    """
    is_labelled = (validity > 0)[..., None]
    top = np.where(is_labelled, points, -np.inf).max(axis=1)
    bottom = np.where(is_labelled, points, np.inf).min(axis=1)
    extent = (top - bottom).max(axis=-1)
    return np.where(np.isfinite(extent), extent, 0.0)


def hat_extent(points: Floats, input_size: tuple[int, int]) -> Floats:
    """Return the reference length (N,) of ``pck_hat``: the extent of all K points, including unlabelled ones.

    HAT's definition: every coordinate is first clamped to the input size (height, width). Unlabelled points have the
    coordinates that the crop gave them. They are usually at the top left corner, so this length exceeds that of the
    car.
    """
    height, width = input_size
    clamped = np.clip(points, 0, np.array([width, height]))
    extent: Floats = (clamped.max(axis=1) - clamped.min(axis=1)).max(axis=-1)
    return extent


def distances(points: Floats, targets: Floats) -> Floats:
    """Return the Euclidean distances (N, K) between ``points`` and ``targets``, both (N, K, 2)."""
    result: Floats = np.linalg.norm(points.astype(np.float64) - targets.astype(np.float64), axis=-1)
    return result


def pck(dist: Floats, lengths: Floats, is_scored: Bools, alpha: float) -> float:
    """Return the share of scored distances below ``alpha`` * ``lengths`` (N,); NaN if no point is scored.

    ``dist`` and ``is_scored`` are (N, K).
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    is_correct = dist < alpha * lengths[:, None]
    return _mean(is_correct[is_scored])


def pck_curve(dist: Floats, lengths: Floats, is_scored: Bools, alphas: Floats) -> Floats:
    """Return PCK at each of ``alphas`` (A,)."""
    return np.array([pck(dist, lengths, is_scored, float(alpha)) for alpha in alphas])


def score(
    points: Floats,
    targets: Floats,
    validity: NDArray[np.uint8],
    lengths: Floats,
    lengths_hat: Floats,
    alpha: float,
) -> Scores:
    """Return all metrics of predicted ``points`` (N, K, 2) against ``targets`` (N, K, 2) with ``validity`` (N, K)."""
    dist = distances(points, targets)
    is_labelled = validity > 0
    has_length = is_labelled & (lengths > 0)[:, None]
    keypoints = range(points.shape[1])
    return Scores(
        pck=pck(dist, lengths, has_length, alpha),
        pck_hat=pck(dist, lengths_hat, is_labelled, alpha),
        mean_dist=_mean(dist[is_labelled]),
        pck_per_keypoint=np.array(
            [pck(dist[:, k : k + 1], lengths, has_length[:, k : k + 1], alpha) for k in keypoints]
        ),
        mean_dist_per_keypoint=np.array([_mean(dist[:, k][is_labelled[:, k]]) for k in keypoints]),
        num_points=int(is_labelled.sum()),
        num_without_length=int(is_labelled.sum() - has_length.sum()),
    )


def _mean(values: NDArray[np.generic]) -> float:
    return float(values.mean()) if values.size else float("nan")
