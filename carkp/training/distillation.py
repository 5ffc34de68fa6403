"""Distillation: a trained teacher's heatmaps as a further target of the student."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from carkp.keypoints.codec import HeatmapCodec
from carkp.keypoints.loss import weighted_heatmap_loss
from carkp.training.evaluate import Batch


@dataclass(frozen=True, eq=False)
class Distillation:
    """A term of the loss: the student's heatmaps against the teacher's, on the same augmented images.

    The teacher says something of every keypoint, also of those that nobody labelled.

    Attributes:
        teacher: in evaluation mode, on the device that trains; its weights stay as they are.
        codec: of both networks; weighs the cells as it does for labels.
        weight: of the term beside that of the labels.
        autocast_dtype: what the teacher computes in; None: full precision.
    """

    teacher: nn.Module
    codec: HeatmapCodec
    weight: float
    autocast_dtype: torch.dtype | None

    def __call__(self, batch: Batch, images: Tensor, heatmaps: Tensor, average: nn.Module) -> Tensor:
        """``images`` (B, 3, H, W) and the student's ``heatmaps`` (B, K, h, w) -> a scalar."""
        del batch, average
        targets = frozen_heatmaps(self.teacher, images, self.autocast_dtype)
        return self.weight * weighted_heatmap_loss(heatmaps, targets, self.codec.weigh(targets))


def frozen_heatmaps(net: nn.Module, images: Tensor, autocast_dtype: torch.dtype | None) -> Tensor:
    """float32 heatmaps (B, K, h, w) of ``images`` (B, 3, H, W), as targets: no gradient reaches ``net``.

    Raises:
        ValueError: ``net`` is in training mode: its batch norm would learn.
    """
    if net.training:
        raise ValueError("a network that makes targets must be in evaluation mode")
    dtype = autocast_dtype or torch.bfloat16
    with torch.no_grad(), torch.autocast(images.device.type, dtype=dtype, enabled=autocast_dtype is not None):
        heatmaps: Tensor = net(images)
    return heatmaps.float()
