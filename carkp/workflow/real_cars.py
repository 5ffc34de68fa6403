"""Score models on labelled cars in photographs: the yardstick of what holds beyond generated cars.

``load_real_cars`` reads them once; ``score_real_cars`` scores a network on them, in a second or two for fifty cars.
Legend: N cars, K keypoints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from carkp.config.schema import DataConfig
from carkp.data.dataset import Sample, load_sample, normalise
from carkp.data.geometry import fit_scale
from carkp.data.issues import DataError, Issues
from carkp.data.real_cars import LabelledCar, read_labelled_cars
from carkp.data.transforms import EvalTransform
from carkp.keypoints.breakdown import label_masks, score_groups, size_masks, visibility_masks
from carkp.keypoints.codec import HeatmapCodec
from carkp.keypoints.orientation import Orientation, orientations
from carkp.keypoints.paired import NUM_RESAMPLES, Interval, ratio_intervals
from carkp.keypoints.predictions import Predictions
from carkp.predictor import Predictor
from carkp.training.distributed import ProcessContext
from carkp.training.evaluate import Batch, EvalSplit, Forward, eval_forward, predict

ALPHAS = (0.05, 0.1, 0.2)
MAIN_ALPHA = 0.1
ALL = "all"
BATCH_SIZE = 64
UNSAID = {None: "unknown", True: "yes", False: "no"}


@dataclass(frozen=True, eq=False)
class RealCars:
    """Labelled cars, each as data preparation packs it; ``issues`` say what of the folders could not be used."""

    cars: Sequence[LabelledCar]
    issues: Issues
    _batches: dict[tuple[int, int], list[Batch]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cars)

    @property
    def sample_ids(self) -> list[str]:
        return [car.record.sample_id for car in self.cars]

    def split(self, input_size: tuple[int, int]) -> EvalSplit:
        """The cars under validation transforms for a network's (height, width); kept for the next model.

        Raises:
            DataError: a crop cannot be decoded.
        """
        if input_size not in self._batches:
            samples = [self.sample(index, input_size) for index in range(len(self.cars))]
            chunks = [samples[start : start + BATCH_SIZE] for start in range(0, len(samples), BATCH_SIZE)]
            self._batches[input_size] = [default_collate(chunk) for chunk in chunks]
        return EvalSplit(batches=self._batches[input_size], sample_ids=self.sample_ids, input_size=input_size)

    def sample(self, index: int, input_size: tuple[int, int]) -> Sample:
        """One car as the network sees it."""
        record = self.cars[index].record
        sample = load_sample(record, index, EvalTransform(input_size), np.random.default_rng(0))
        if sample is None:
            raise DataError(f"{record.sample_id}: its crop cannot be decoded")
        return sample


def load_real_cars(folders: Sequence[Path | str], jpeg_quality: int = DataConfig().jpeg_quality) -> RealCars:
    """The cars of all folders, in one of the layouts of :mod:`carkp.data.real_cars` each.

    Raises:
        DataError: a folder that cannot be used.
    """
    issues = Issues()
    return RealCars(read_labelled_cars([Path(folder) for folder in folders], jpeg_quality, issues), issues)


@dataclass(frozen=True)
class GroupRow:
    """Some keypoints of some cars: PCK at each of ``ALPHAS``; the mean distance is in input pixels.

    Attributes:
        num_clusters: photographs (of a video: cameras) with a keypoint in the group, which intervals rest on.
    """

    name: str
    pck: Mapping[float, Interval]
    mean_dist: Interval
    num_cars: int
    num_points: int
    num_clusters: int


@dataclass(frozen=True, eq=False)
class RealCarScores:
    """What one model reaches.

    Attributes:
        predictions: of the N cars, in pixels of an input of (height, width) ``input_size``.
        groups: breakdown -> its groups; ``ALL`` holds the one of all keypoints.
        orientation: of each car.
        turned, mirrored: shares of the cars that can be judged.
        num_judged: how many those are.
    """

    predictions: Predictions
    input_size: tuple[int, int]
    groups: Mapping[str, Sequence[GroupRow]]
    orientation: Sequence[Orientation]
    turned: Interval
    mirrored: Interval
    num_judged: int

    @property
    def pck(self) -> Mapping[float, Interval]:
        """PCK of all labelled keypoints at each of ``ALPHAS``."""
        return self.groups[ALL][0].pck

    def metrics(self) -> dict[str, float]:
        """The headline numbers by name, for a tracker or a log."""
        found = {f"real/pck_{alpha:g}": interval.value for alpha, interval in self.pck.items()}
        return found | {"real/turned": self.turned.value, "real/mirrored": self.mirrored.value}


def score_real_cars(
    net: nn.Module, codec: HeatmapCodec, cars: RealCars, num_resamples: int = NUM_RESAMPLES
) -> RealCarScores:
    """Score a network (normalised YUV images in, heatmaps out) on the device that it is on; its mode is put back."""
    parameter = next(net.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    predictions = predict_real_cars(eval_forward(net, normalise, True), codec, cars, device)
    return summarise(predictions, input_size_of(codec), cars, num_resamples)


def score_predictors(
    predictors: Mapping[str, Predictor], cars: RealCars, num_resamples: int = NUM_RESAMPLES
) -> dict[str, RealCarScores]:
    """Score opened model files (checkpoints, float ONNX, int8 ONNX) by name.

    Where inputs differ in size, all points are given in input pixels of the first model, so that models can be paired.
    """
    found = {name: _predict_with(predictor, cars) for name, predictor in predictors.items()}
    size = next(iter(predictors.values())).input_size
    scaled = {name: _rescale(found[name], predictors[name].input_size, size) for name in found}
    return {name: summarise(predictions, size, cars, num_resamples) for name, predictions in scaled.items()}


def _predict_with(predictor: Predictor, cars: RealCars) -> Predictions:
    def forward(images: Tensor) -> Tensor:
        return torch.from_numpy(predictor.heatmaps(normalise(images).numpy()))

    return predict_real_cars(forward, predictor.codec, cars, torch.device("cpu"))


def _rescale(predictions: Predictions, size: tuple[int, int], wanted: tuple[int, int]) -> Predictions:
    """Predictions in pixels of an input of another (height, width)."""
    if size == wanted:
        return predictions
    crops = [(int(height), int(width)) for height, width in predictions.crop_size]
    factors = np.array([fit_scale(crop, wanted) / fit_scale(crop, size) for crop in crops], np.float32)
    return replace(
        predictions,
        points=predictions.points * factors[:, None, None],
        targets=predictions.targets * factors[:, None, None],
        lengths=predictions.lengths * factors,
        lengths_hat=predictions.lengths_hat * factors,
    )


def predict_real_cars(forward: Forward, codec: HeatmapCodec, cars: RealCars, device: torch.device) -> Predictions:
    """Predictions of ``forward`` (uint8 images -> heatmaps) on all cars."""
    return predict(forward, cars.split(input_size_of(codec)), codec, ProcessContext(0, 1, device))


def input_size_of(codec: HeatmapCodec) -> tuple[int, int]:
    """(height, width) of the input whose heatmaps a codec reads."""
    height, width = codec.heatmap_size
    return height * codec.stride, width * codec.stride


def summarise(
    predictions: Predictions, input_size: tuple[int, int], cars: RealCars, num_resamples: int = NUM_RESAMPLES
) -> RealCarScores:
    """Everything that is said of the predictions of one model."""
    found = orientations(predictions)
    is_judged = np.array([item is not Orientation.UNKNOWN for item in found])
    counts = [[item.is_turned for item in found], [item.is_mirrored for item in found]]
    sums = predictions.units.sums(np.array([*counts, is_judged, is_judged], np.float64).T)
    turned, mirrored = ratio_intervals(sums[:, :2], sums[:, 2:], num_resamples, seed=0)
    groups = {name: _rows(predictions, masks, num_resamples) for name, masks in _breakdowns(predictions, cars).items()}
    return RealCarScores(predictions, input_size, groups, found, turned, mirrored, int(is_judged.sum()))


def _breakdowns(predictions: Predictions, cars: RealCars) -> dict[str, dict[str, np.ndarray]]:
    """Breakdown -> group -> (N, K) mask."""
    traits = [car.traits for car in cars.cars]
    truncated = [{0: "no", 1: "yes"}.get(car.record.truncated, "unknown") for car in cars.cars]
    labels = {
        "kind": [item.kind for item in traits],
        "view": [item.view for item in traits],
        "heading": [item.heading for item in traits],
        "truncated": truncated,
        "occluded": [UNSAID[item.occluded] for item in traits],
    }
    return {
        ALL: {ALL: predictions.validity > 0},
        **{name: label_masks(predictions, values) for name, values in labels.items()},
        "size": size_masks(predictions),
        "keypoint": visibility_masks(predictions),
    }


def _rows(predictions: Predictions, masks: Mapping[str, np.ndarray], num_resamples: int) -> list[GroupRow]:
    """Groups without a keypoint are left out."""
    by_alpha = {alpha: score_groups(predictions, masks, alpha, num_resamples) for alpha in ALPHAS}
    rows = []
    for index, group in enumerate(by_alpha[MAIN_ALPHA]):
        if group.num_points:
            pck = {alpha: groups[index].pck for alpha, groups in by_alpha.items()}
            rows.append(GroupRow(group.name, pck, group.mean_dist, group.num_cars, group.num_points, group.num_units))
    return rows
