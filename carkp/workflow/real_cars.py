"""Scores of models on labelled cars in photographs: a test of how results on generated cars transfer to real ones.

``load_real_cars`` reads the cars once. ``score_real_cars`` scores a network on them, ``score_predictors`` model files.
Legend: N cars, K keypoints; sizes are (height, width).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from carkp.config.schema import DataConfig
from carkp.data.dataset import Sample, load_sample, normalise
from carkp.data.geometry import Size, fit_scale
from carkp.data.issues import DataError, Issues
from carkp.data.loose_boxes import EXACT_BOXES, BoxRule
from carkp.data.real_cars import LabelledCar, read_labelled_cars
from carkp.data.transforms import EvalTransform
from carkp.keypoints.breakdown import label_masks, score_groups, size_masks, visibility_masks
from carkp.keypoints.codec import HeatmapCodec
from carkp.keypoints.orientation import (
    Orientation,
    OrientationFlags,
    orientation_flags,
    orientation_shares,
    orientations,
)
from carkp.keypoints.paired import NUM_RESAMPLES, Interval
from carkp.keypoints.predictions import Predictions
from carkp.predictor import Predictor
from carkp.training.distributed import ProcessContext, cpu_context
from carkp.training.evaluate import Batch, EvalSplit, Forward, eval_forward, predict

ALPHAS = (0.05, 0.1, 0.2)
MAIN_ALPHA = 0.1
"""Threshold of the PCK by which cars are sorted."""

ALL, KEYPOINT = "all", "keypoint"
"""Names of two breakdowns: one group of all keypoints, and groups of visible and of occluded keypoints."""

BATCH_SIZE = 64

Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class RealCars:
    """Labelled cars, each packed as in data preparation; ``issues`` list what could not be used from the folders."""

    cars: Sequence[LabelledCar]
    issues: Issues
    _batches: dict[Size, list[Batch]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cars)

    @property
    def digest(self) -> str:
        """SHA-256 over pictures and labels. Figures of different cars cannot be compared."""
        found = hashlib.sha256()
        for car in self.cars:
            record = car.record
            found.update(f"{record.sample_id} {car.described}\n".encode())
            found.update(record.jpeg + record.points.tobytes() + record.validity.tobytes())
        return found.hexdigest()

    def split(self, input_size: Size) -> EvalSplit:
        """Return the cars with validation transforms; they are cached for other models with inputs of this size.

        Raises:
            DataError: a crop cannot be decoded.
        """
        if input_size not in self._batches:
            samples = [self.sample(index, input_size) for index in range(len(self.cars))]
            chunks = [samples[start : start + BATCH_SIZE] for start in range(0, len(samples), BATCH_SIZE)]
            self._batches[input_size] = [default_collate(chunk) for chunk in chunks]
        sample_ids = [car.record.sample_id for car in self.cars]
        return EvalSplit(batches=self._batches[input_size], sample_ids=sample_ids, input_size=input_size)

    def sample(self, index: int, input_size: Size) -> Sample:
        """Return one car with validation transforms.

        Raises:
            DataError: its crop cannot be decoded.
        """
        record = self.cars[index].record
        sample = load_sample(record, index, EvalTransform(input_size), np.random.default_rng(0))
        if sample is None:
            raise DataError(f"{record.sample_id}: its crop cannot be decoded")
        return sample


def load_real_cars(
    folders: Sequence[Path | str], jpeg_quality: int = DataConfig().jpeg_quality, rule: BoxRule = EXACT_BOXES
) -> RealCars:
    """Load the cars of all folders, each in one of the layouts of :mod:`carkp.data.real_cars`.

    ``rule`` gives the boxes of the crops.

    Raises:
        DataError: a folder cannot be used.
    """
    issues = Issues()
    return RealCars(read_labelled_cars([Path(folder) for folder in folders], jpeg_quality, issues, rule), issues)


@dataclass(frozen=True)
class GroupRow:
    """Scores on a group of keypoints.

    Attributes:
        pck: PCK at each of ``ALPHAS``, with its interval.
        mean_dist: mean distance in input pixels.
        num_clusters: number of photographs (for videos: cameras) with a keypoint in the group; intervals rest on them.
        num_turned, num_mirrored: number of turned and mirrored cars among the ``num_judged`` cars that can be judged.
    """

    name: str
    pck: Mapping[float, Interval]
    mean_dist: Interval
    num_cars: int
    num_points: int
    num_clusters: int
    num_turned: int
    num_mirrored: int
    num_judged: int


@dataclass(frozen=True, eq=False)
class RealCarScores:
    """Scores of one model.

    Attributes:
        predictions: predictions of the N cars, in pixels of an input of ``input_size``.
        groups: breakdown -> its groups that have a keypoint; ``ALL`` holds the group of all keypoints.
        orientation: predicted orientation of each car against its label.
        turned, mirrored: shares of the cars that can be judged.
    """

    predictions: Predictions
    input_size: Size
    groups: Mapping[str, Sequence[GroupRow]]
    orientation: Sequence[Orientation]
    turned: Interval
    mirrored: Interval

    @property
    def total(self) -> GroupRow:
        """The group of all keypoints of all cars."""
        return self.groups[ALL][0]

    def metrics(self, prefix: str = "real/") -> dict[str, float]:
        """Return the main scores by name, for a tracker or a log."""
        found = {f"{prefix}pck_{alpha:g}": interval.value for alpha, interval in self.total.pck.items()}
        return found | {f"{prefix}turned": self.turned.value, f"{prefix}mirrored": self.mirrored.value}


def score_real_cars(
    net: nn.Module, codec: HeatmapCodec, cars: RealCars, num_resamples: int = NUM_RESAMPLES
) -> RealCarScores:
    """Score a network (normalised YUV images in, heatmaps out) on its own device; its training mode is restored."""
    parameter = next(net.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    predictions = predict_real_cars(
        eval_forward(net, normalise, channels_last=True), codec, cars, ProcessContext(0, 1, device)
    )
    return summarise(predictions, input_size_of(codec), cars, num_resamples)


def score_predictors(
    predictors: Mapping[str, Predictor], cars: RealCars, num_resamples: int = NUM_RESAMPLES
) -> dict[str, RealCarScores]:
    """Score loaded model files (checkpoints, float ONNX, int8 ONNX) by name.

    If input sizes differ, all points are given in input pixels of the first model, so that models can be paired.
    """
    size = next(iter(predictors.values())).input_size
    found = {}
    for name, predictor in predictors.items():
        predictions = predict_real_cars(_forward_of(predictor), predictor.codec, cars, cpu_context())
        found[name] = summarise(_rescale(predictions, predictor.input_size, size), size, cars, num_resamples)
    return found


def _forward_of(predictor: Predictor) -> Forward:
    def forward(images: Tensor) -> Tensor:
        return torch.from_numpy(predictor.heatmaps(normalise(images).numpy()))

    return forward


def _rescale(predictions: Predictions, size: Size, wanted: Size) -> Predictions:
    """Convert predictions to pixels of another input size."""
    if size == wanted:
        return predictions
    crops: list[list[int]] = predictions.crop_size.tolist()
    ratios = [fit_scale((height, width), wanted) / fit_scale((height, width), size) for height, width in crops]
    factors = np.array(ratios, np.float32)
    return replace(
        predictions,
        points=predictions.points * factors[:, None, None],
        targets=predictions.targets * factors[:, None, None],
        lengths=predictions.lengths * factors,
        lengths_hat=predictions.lengths_hat * factors,
    )


def predict_real_cars(forward: Forward, codec: HeatmapCodec, cars: RealCars, context: ProcessContext) -> Predictions:
    """Predict all cars with ``forward`` (uint8 images -> heatmaps)."""
    return predict(forward, cars.split(input_size_of(codec)), codec, context)


def input_size_of(codec: HeatmapCodec) -> Size:
    """Return the input size of the network whose heatmaps the codec reads."""
    height, width = codec.heatmap_size
    return height * codec.stride, width * codec.stride


def summarise(
    predictions: Predictions, input_size: Size, cars: RealCars, num_resamples: int = NUM_RESAMPLES
) -> RealCarScores:
    """Compute all scores of one model from its predictions."""
    found = orientations(predictions)
    shares = orientation_shares(predictions, found, num_resamples)
    flags = orientation_flags(found)
    groups = {
        name: _rows(predictions, masks, flags, num_resamples) for name, masks in _breakdowns(predictions, cars).items()
    }
    return RealCarScores(predictions, input_size, groups, found, shares.turned, shares.mirrored)


def _breakdowns(predictions: Predictions, cars: RealCars) -> dict[str, Masks]:
    """Return breakdown -> group -> (N, K) mask."""
    described = [car.described for car in cars.cars]
    names = ("kind", "view", "heading", "truncated", "occluded")
    return {
        ALL: {ALL: predictions.validity > 0},
        **{name: label_masks(predictions, [labels[name] for labels in described]) for name in names},
        "size": size_masks(predictions),
        KEYPOINT: visibility_masks(predictions),
    }


def _rows(predictions: Predictions, masks: Masks, flags: OrientationFlags, num_resamples: int) -> list[GroupRow]:
    scored = {alpha: score_groups(predictions, masks, alpha, num_resamples) for alpha in ALPHAS}
    rows = []
    for index, (mask, group) in enumerate(zip(masks.values(), scored[MAIN_ALPHA], strict=True)):
        has_point = (mask & (predictions.validity > 0)).any(axis=1)
        counts = [int((flag & has_point).sum()) for flag in (flags.is_turned, flags.is_mirrored, flags.is_judged)]
        pck = {alpha: groups[index].pck for alpha, groups in scored.items()}
        row = GroupRow(group.name, pck, group.mean_dist, group.num_cars, group.num_points, group.num_units, *counts)
        if row.num_points:
            rows.append(row)
    return rows
