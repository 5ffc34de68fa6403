"""Epochs on reduced inputs: a coarse picture teaches where a car's parts are in a fraction of the time."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from carkp.keypoints.codec import HeatmapCodec


def reduce_images(images: Tensor, size: Sequence[int]) -> Tensor:
    """Images (B, C, H, W) at ``size`` (h, w) with h <= H, w <= W; a cell's value weighs all pixels that it covers."""
    return F.interpolate(images, size=list(size), mode="bilinear", antialias=True)


def reduce_points(points: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Points (..., 2) as (x, y) of a picture of size ``before`` (H, W), in that of size ``after`` (h, w).

    A pixel's centre has whole coordinates: x' = (x + 1/2) w / W - 1/2.
    """
    scale = torch.tensor([after[1] / before[1], after[0] / before[0]], dtype=points.dtype, device=points.device)
    return (points + 0.5) * scale - 0.5


def reduce_codec(codec: HeatmapCodec, size: Sequence[int]) -> HeatmapCodec:
    """The codec of inputs of ``size`` (h, w): sigma stays the same in cells."""
    height, width = size
    return replace(codec, heatmap_size=(height // codec.stride, width // codec.stride))
