"""Self-training: the moving average of a network labels unlabelled crops, and the network learns from these labels.

The moving average (the teacher) sees a weakly augmented view of a crop, the network (the student) a strongly augmented
view of it. The keypoints that the teacher finds are mapped to the student's view. Sources: Tarvainen and Valpola 2017,
Mean teachers are better role models; confidence as in Sohn et al. 2020, FixMatch.

Legend: B samples of a batch, U samples without labels among them, K keypoints, H W height and width of the input, h w
of the heatmaps.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypedDict, cast

import torch
from torch import Tensor, nn

from carkp.keypoints.codec import HeatmapCodec
from carkp.keypoints.heatmap_tensors import Decoded
from carkp.keypoints.loss import weighted_heatmap_loss
from carkp.keypoints.schema import FLIP_ORDER
from carkp.training.distillation import frozen_heatmaps
from carkp.training.evaluate import Batch, Forward


class BatchViews(TypedDict):
    """Views of the samples without labels.

    Attributes:
        rows: indices of these samples in the batch, (U,).
        weak: images for the teacher, (U, 3, H, W) uint8; the images of the batch are for the student.
        to_strong: affine maps from input pixels of the weak view to those of the strong view, (U, 2, 3).
        is_mirrored: whether one view is a mirror image of the other, (U,) bool.
    """

    rows: Tensor
    weak: Tensor
    to_strong: Tensor
    is_mirrored: Tensor


class ViewedBatch(Batch):
    """A batch that contains samples without labels."""

    views: BatchViews


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Labels made by the teacher.

    ``points`` (U, K, 2) are in input pixels of the strong view. ``confidence`` (U, K) is from 0 to 1; keypoints with
    confidence 0 are not used for training.
    """

    points: Tensor
    confidence: Tensor


def carry_points(points: Tensor, to_strong: Tensor, is_mirrored: Tensor) -> Tensor:
    """Map ``points`` (U, K, 2) from the weak to the strong view; in a mirror image left and right are exchanged.

    ``to_strong`` (U, 2, 3) and ``is_mirrored`` (U,) as in ``BatchViews``.
    """
    linear, shift = to_strong[:, None, :, :2], to_strong[:, None, :, 2]
    moved = (linear * points[:, :, None, :]).sum(dim=-1) + shift
    return _renamed(moved, is_mirrored)


def trust(scores: Tensor, min_confidence: float) -> Tensor:
    """Return the confidence, 0 to 1, of heatmap peaks: their height, or 0 below ``min_confidence``.

    If a network is unsure between two positions, both have low peaks.
    """
    return torch.where(scores >= min_confidence, scores.clamp(0, 1), 0.0)


def pseudo_labels(
    decoded: Decoded, views: BatchViews, input_size: tuple[int, int], min_confidence: float
) -> PseudoLabels:
    """Convert keypoints found in the weak view to labels of the strong view.

    ``input_size`` is the (height, width) of the strong view. Keypoints outside of it get confidence 0.
    """
    points = carry_points(decoded.points, views["to_strong"], views["is_mirrored"])
    confidence = _renamed(trust(decoded.scores, min_confidence), views["is_mirrored"])
    extent = points.new_tensor((input_size[1], input_size[0]))
    is_inside = ((points >= -0.5) & (points <= extent - 0.5)).all(dim=-1)
    return PseudoLabels(points, confidence * is_inside)


def _renamed(values: Tensor, is_mirrored: Tensor) -> Tensor:
    """Return ``values`` (U, K, ...) with left and right exchanged in mirror images."""
    shape = (-1, *[1] * (values.dim() - 1))
    return torch.where(is_mirrored.view(shape), values[:, list(FLIP_ORDER)], values)


class MeanTeacher:
    """A term of the loss that compares the student's heatmaps of the strong views with the teacher's labels.

    Args:
        codec: codec of the network.
        normalise: function from uint8 images to network input.
        min_confidence: peak height below which a keypoint is not used.
        weight: weight of this term relative to the loss of the labels.
        channels_last: whether the network's input has the channels_last memory format.
        autocast_dtype: dtype in which the teacher computes; None means full precision.
    """

    def __init__(
        self,
        codec: HeatmapCodec,
        normalise: Callable[[Tensor], Tensor],
        min_confidence: float,
        weight: float,
        channels_last: bool,
        autocast_dtype: torch.dtype | None,
    ) -> None:
        self.codec, self.normalise = codec, normalise
        self.min_confidence, self.weight = min_confidence, weight
        self.channels_last, self.autocast_dtype = channels_last, autocast_dtype
        self._num_trusted, self._num_asked = 0, 0

    def __call__(self, batch: Batch, images: Tensor, heatmaps: Tensor, average: nn.Module) -> Tensor:
        """Return the term, a scalar, for the student's ``heatmaps`` (B, K, h, w); it is 0 for a batch without views."""
        if "views" not in batch:
            return heatmaps.new_zeros((), dtype=torch.float32)
        views = _on_device(cast(ViewedBatch, batch)["views"], heatmaps.device)
        found = self.codec.decode(frozen_heatmaps(average, self._prepared(views["weak"]), self.autocast_dtype))
        labels = pseudo_labels(found, views, (images.shape[-2], images.shape[-1]), self.min_confidence)
        self._num_trusted += int((labels.confidence > 0).sum())
        self._num_asked += labels.confidence.numel()
        target = self.codec.encode(labels.points, labels.confidence)
        weights = target.weights * labels.confidence[..., None, None]
        own = heatmaps[views["rows"]]
        share = len(own) / len(heatmaps)
        return self.weight * share * weighted_heatmap_loss(own, target.heatmaps, weights)

    def take_trusted_share(self) -> float:
        """Return the share of keypoints used since the last call, and reset it; NaN if there were no keypoints."""
        share = self._num_trusted / self._num_asked if self._num_asked else float("nan")
        self._num_trusted, self._num_asked = 0, 0
        return share

    def _prepared(self, images: Tensor) -> Tensor:
        inputs = self.normalise(images)
        return inputs.contiguous(memory_format=torch.channels_last) if self.channels_last else inputs


@dataclass(frozen=True)
class Consistency:
    """Agreement of a network with itself over views of the same crops.

    Attributes:
        agreement: share of the trusted keypoints that the network finds at the same position under strong
            augmentation; NaN without trusted keypoints.
        trusted: share of keypoints that are trusted in the plain view, among those inside the strong view.
        confidence: mean peak height in the plain view, over all keypoints.
        num_cars: number of cars compared.
    """

    agreement: float
    trusted: float
    confidence: float
    num_cars: int


def measure_consistency(
    forward: Forward,
    batches: Iterable[ViewedBatch],
    codec: HeatmapCodec,
    alpha: float,
    min_confidence: float,
    device: torch.device,
) -> Consistency:
    """Compare the keypoints found in plain views with those found in strong views of the same crops.

    Args:
        forward: function from uint8 images to heatmaps, for the network that is shipped.
        batches: batches whose weak views are the plain views that validation uses.
        codec: codec of the network.
        alpha: largest distance between equal positions, as a share of the crop's longer side.
        min_confidence: smallest peak height of a trusted keypoint.
        device: device of ``forward``.
    """
    agrees, trusted, scores, cars = [], [], [], set[int]()
    for batch in batches:
        views = _on_device(batch["views"], device)
        plain, strong = (codec.decode(forward(images.to(device))) for images in (views["weak"], batch["image"]))
        input_size = batch["image"].shape[-2], batch["image"].shape[-1]
        shown = pseudo_labels(Decoded(plain.points, torch.ones_like(plain.scores)), views, input_size, 0.5)
        own = pseudo_labels(plain, views, input_size, min_confidence)
        limits = alpha * _longer_sides(batch["crop_size"].to(device), input_size) * _scales(views["to_strong"])
        is_near = (own.points - strong.points).norm(dim=-1) < limits[:, None]
        is_trusted = own.confidence > 0
        agrees.append(is_near[is_trusted])
        trusted.append(is_trusted[shown.confidence > 0])
        scores.append(plain.scores.flatten())
        cars.update(batch["index"].tolist())
    return Consistency(_mean(agrees), _mean(trusted), _mean(scores), len(cars))


def _longer_sides(crop_sizes: Tensor, input_size: tuple[int, int]) -> Tensor:
    """Return the longer side of each crop in input pixels of the plain view; ``crop_sizes`` (U, 2): height, width."""
    sizes = crop_sizes.float()
    fit = (sizes.new_tensor(input_size) / sizes).amin(dim=1)
    return fit * sizes.amax(dim=1)


def _scales(matrices: Tensor) -> Tensor:
    """Return the scale factor of each affine map (U, 2, 3)."""
    return (matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] * matrices[:, 1, 0]).abs().sqrt()


def _mean(values: list[Tensor]) -> float:
    joined = torch.cat(values).float()
    return float(joined.mean()) if len(joined) else float("nan")


def _on_device(views: BatchViews, device: torch.device) -> BatchViews:
    return BatchViews(
        rows=views["rows"].to(device),
        weak=views["weak"].to(device),
        to_strong=views["to_strong"].to(device),
        is_mirrored=views["is_mirrored"].to(device),
    )
