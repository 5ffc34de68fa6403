"""Epochs on reduced inputs: from small images a network learns where a car's parts are in a fraction of the time."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from carkp.keypoints.codec import HeatmapCodec


def reduce_images(images: Tensor, size: Sequence[int]) -> Tensor:
    """Reduce images (B, C, H, W) to ``size`` (h, w), h <= H, w <= W; each new pixel averages all pixels it covers."""
    return F.interpolate(images, size=list(size), mode="bilinear", antialias=True)


def reduce_points(points: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Map points (..., 2), as (x, y), from an image of size ``before`` (H, W) to one of size ``after`` (h, w).

    The centre of a pixel has integer coordinates: x' = (x + 1/2) w / W - 1/2.
    """
    scale = torch.tensor([after[1] / before[1], after[0] / before[0]], dtype=points.dtype, device=points.device)
    return (points + 0.5) * scale - 0.5


def reduce_codec(codec: HeatmapCodec, size: Sequence[int]) -> HeatmapCodec:
    """Return the codec for inputs of ``size`` (h, w); sigma stays the same in cells."""
    height, width = size
    return replace(codec, heatmap_size=(height // codec.stride, width // codec.stride))
