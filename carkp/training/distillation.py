"""Distillation: the heatmaps of a trained teacher are an additional target of the student."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from carkp.keypoints.codec import HeatmapCodec
from carkp.keypoints.loss import weighted_heatmap_loss
from carkp.training.evaluate import Batch


@dataclass(frozen=True, eq=False)
class Distillation:
    """A term of the loss that compares the student's heatmaps with the teacher's, on the same augmented images.

    The teacher gives targets for every keypoint, including those without a label.

    Attributes:
        teacher: network in evaluation mode on the training device; its weights do not change.
        codec: codec of both networks; gives the weights of the cells, as for labels.
        weight: weight of this term relative to the loss of the labels.
        autocast_dtype: dtype in which the teacher computes; None means full precision.
    """

    teacher: nn.Module
    codec: HeatmapCodec
    weight: float
    autocast_dtype: torch.dtype | None

    def __call__(self, batch: Batch, images: Tensor, heatmaps: Tensor, average: nn.Module) -> Tensor:
        """Return the term, a scalar, for ``images`` (B, 3, H, W) and the student's ``heatmaps`` (B, K, h, w)."""
        del batch, average
        targets = frozen_heatmaps(self.teacher, images, self.autocast_dtype)
        return self.weight * weighted_heatmap_loss(heatmaps, targets, self.codec.weigh(targets))


def frozen_heatmaps(net: nn.Module, images: Tensor, autocast_dtype: torch.dtype | None) -> Tensor:
    """Return float32 heatmaps (B, K, h, w) of ``images`` (B, 3, H, W) as targets, without a gradient to ``net``.

    Raises:
        ValueError: ``net`` is in training mode, which would change its batch norm statistics.
    """
    if net.training:
        raise ValueError("a network that computes targets must be in evaluation mode")
    dtype = autocast_dtype or torch.bfloat16
    with torch.no_grad(), torch.autocast(images.device.type, dtype=dtype, enabled=autocast_dtype is not None):
        heatmaps: Tensor = net(images)
    return heatmaps.float()
