"""The predictions of one model on one split: the input of metrics and reports."""

import io
import math
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carkp.disk import write_atomic
from carkp.keypoints import metrics
from carkp.keypoints.clusters import Units, units_of
from carkp.keypoints.sample_ids import source_of
from carkp.keypoints.schema import NUM_KEYPOINTS

MAX_BYTES = 2**30
"""Largest total size of the arrays of a file: enough for two million cars."""

_AGAIN = "run the evaluation again"
_FORMS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "sample_ids": ("U", ()),
    "points": ("f", (NUM_KEYPOINTS, 2)),
    "scores": ("f", (NUM_KEYPOINTS,)),
    "targets": ("f", (NUM_KEYPOINTS, 2)),
    "validity": ("iu", (NUM_KEYPOINTS,)),
    "lengths": ("f", ()),
    "lengths_hat": ("f", ()),
    "crop_size": ("iu", (2,)),
    "truncated": ("iu", ()),
}
"""Name of an array -> kind of its dtype, and its shape without the first axis, which is the number of samples."""


class PredictionsError(ValueError):
    """A file is not a valid predictions file; the message names it."""


@dataclass(frozen=True)
class Predictions:
    """N samples in the order of the store.

    Attributes:
        sample_ids: ids of the samples, (N,).
        points: predicted (x, y) in input pixels, (N, K, 2).
        scores: peak values of the heatmaps, (N, K).
        targets: labelled (x, y) in input pixels, (N, K, 2).
        validity: 0 missing, 1 occluded, 2 visible, (N, K).
        lengths: reference length of ``pck``, (N,).
        lengths_hat: reference length of ``pck_hat``, (N,).
        crop_size: height and width of the crop in frame pixels, (N, 2).
        truncated: 1 cut by the frame, 0 whole, -1 unknown, (N,).
    """

    sample_ids: NDArray[np.str_]
    points: NDArray[np.float32]
    scores: NDArray[np.float32]
    targets: NDArray[np.float32]
    validity: NDArray[np.uint8]
    lengths: NDArray[np.float32]
    lengths_hat: NDArray[np.float32]
    crop_size: NDArray[np.int32]
    truncated: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.sample_ids)

    @cached_property
    def units(self) -> Units:
        """The units that intervals and tests resample as a whole."""
        return units_of(self.sample_ids, np.any(self.validity > 0, axis=1))

    @cached_property
    def sources(self) -> NDArray[np.str_]:
        """Name of the source of each sample, (N,); "" if there is only one source."""
        return np.array([source_of(str(sample_id)) for sample_id in self.sample_ids], dtype=np.str_)

    def of_sources(self, names: Collection[str]) -> "Predictions":
        """Return the samples of these sources, in the same order."""
        return self.chosen(np.flatnonzero(np.isin(self.sources, list(names))))

    def of_samples(self, sample_ids: Sequence[str]) -> "Predictions":
        """Return the samples with these ids, in their order.

        Raises:
            KeyError: there is no such sample.
        """
        places = {str(name): place for place, name in enumerate(self.sample_ids)}
        return self.chosen(np.array([places[name] for name in sample_ids], dtype=np.int64))

    def chosen(self, places: NDArray[np.int64]) -> "Predictions":
        """Return the samples at these indices, in the order of the indices."""
        return Predictions(**{item.name: getattr(self, item.name)[places] for item in fields(self)})

    def score(self, alpha: float) -> metrics.Scores:
        return metrics.score(
            self.points.astype(np.float64),
            self.targets.astype(np.float64),
            self.validity,
            self.lengths.astype(np.float64),
            self.lengths_hat.astype(np.float64),
            alpha,
        )

    def pck_curve(self, alphas: NDArray[np.float64]) -> NDArray[np.float64]:
        is_scored = (self.validity > 0) & (self.lengths > 0)[:, None]
        dist = metrics.distances(self.points.astype(np.float64), self.targets.astype(np.float64))
        return metrics.pck_curve(dist, self.lengths.astype(np.float64), is_scored, alphas)

    def mean_distances(self) -> NDArray[np.float64]:
        """Return the mean distance (N,) over the labelled keypoints of each sample in input pixels; NaN without any."""
        dist = metrics.distances(self.points.astype(np.float64), self.targets.astype(np.float64))
        is_labelled = self.validity > 0
        total = np.where(is_labelled, dist, 0).sum(axis=1)
        count = is_labelled.sum(axis=1)
        means: NDArray[np.float64] = np.divide(total, count, out=np.full(len(self), np.nan), where=count > 0)
        return means

    def save(self, path: Path) -> None:
        """Write a compressed NPZ with one array per attribute."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays)
        write_atomic(path, content.getvalue())


def join(parts: Sequence[Predictions]) -> Predictions:
    """Concatenate the samples of one or more parts."""
    return Predictions(
        **{item.name: np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(Predictions)}
    )


def load_predictions(path: Path) -> Predictions:
    """Read what ``Predictions.save`` wrote.

    Raises:
        PredictionsError: the file is damaged, an array is missing or has a wrong dtype or shape, or the arrays need
            more than ``MAX_BYTES``.
    """
    try:
        arrays = _read_arrays(path)
    except PredictionsError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds of errors for a file of another kind
        raise PredictionsError(f"{path} is not a readable predictions file ({error}): {_AGAIN}") from error
    num = len(arrays["sample_ids"])
    for name, (kind, shape) in _FORMS.items():
        array = arrays[name]
        if array.dtype.kind not in kind or array.shape != (num, *shape):
            found = f"{array.dtype} {array.shape}, expected {(num, *shape)}"
            raise PredictionsError(f"{path} is not a predictions file: {name} is {found}: {_AGAIN}")
    return Predictions(**arrays)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of the file, by name."""
    names = [field.name for field in fields(Predictions)]
    with zipfile.ZipFile(path) as archive:
        missing = [name for name in names if f"{name}.npy" not in archive.namelist()]
        if missing:
            raise PredictionsError(f"{path} is not a predictions file: it lacks {', '.join(missing)}")
        if sum(item.file_size for item in archive.infolist()) > MAX_BYTES:
            raise PredictionsError(
                f"{path} unpacks to more than {MAX_BYTES // 2**20} MiB, which is too large for a predictions file"
            )
        return {name: _read_array(archive.read(f"{name}.npy")) for name in names}


def _read_array(content: bytes) -> NDArray[Any]:
    """Read an array as ``numpy.load`` does, but allocate memory only for data that is there.

    ``numpy.load`` allocates memory for the shape in the header before it reads the data.
    """
    with io.BytesIO(content) as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, is_fortran, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError("it contains Python objects, which are not allowed")
        if math.prod(shape) == 0:
            return np.zeros(shape, dtype)
        array = np.frombuffer(content, dtype, math.prod(shape), file.tell())
        return array.reshape(shape, order="F" if is_fortran else "C").copy()
