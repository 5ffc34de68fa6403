"""Heatmaps as torch tensors: encoding of points as targets, and decoding of peaks to points.

:mod:`carkp.keypoints.heatmap_arrays` decodes peaks without torch.

Legend: B batch, K keypoints, H W heatmap height and width, k decoder window. Points are (x, y) in input pixels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from carkp.keypoints.codec import HeatmapCodec

GAUSSIAN_RADIUS_SIGMAS = 3.0
"""The target counts as nonzero within this many sigmas of its centre."""

SEEN_RADIUS_SIGMAS = 2.0
"""A heatmap of a network counts as nonzero where it exceeds the Gaussian's value at this many sigmas; the rest is
noise."""

_TINY = 1e-10


@dataclass(frozen=True)
class Decoded:
    """Keypoints read from heatmaps: ``points`` (B, K, 2) in input pixels, ``scores`` (B, K), the peak values."""

    points: Tensor
    scores: Tensor


@dataclass(frozen=True)
class HeatmapTarget:
    """``heatmaps`` (B, K, H, W) in [0, 1] and the pixel ``weights`` of the same shape."""

    heatmaps: Tensor
    weights: Tensor


def encode(codec: HeatmapCodec, points: Tensor, validity: Tensor) -> HeatmapTarget:
    """Return targets and loss weights for ``points`` (B, K, 2); ``validity`` (B, K) is 0 for a missing keypoint.

    The target is g = exp(-((i - x/s)^2 + (j - y/s)^2) / (2 sigma^2)) within three sigmas of the centre, else 0. The
    weight is 1 within three sigmas, ``background_weight`` elsewhere, and 0 on the whole map of a missing keypoint.
    """
    height, width = codec.heatmap_size
    centres = points.float() / codec.stride
    columns = torch.arange(width, device=points.device, dtype=torch.float32)
    rows = torch.arange(height, device=points.device, dtype=torch.float32)
    squared_x = (columns - centres[..., 0:1]).square()
    squared_y = (rows - centres[..., 1:2]).square()
    squared = squared_y.unsqueeze(-1) + squared_x.unsqueeze(-2)
    heatmaps = torch.exp(squared / (-2 * codec.sigma**2))
    is_near = squared <= (GAUSSIAN_RADIUS_SIGMAS * codec.sigma) ** 2
    weights = torch.where(is_near, 1.0, codec.background_weight)
    is_labelled = (validity > 0)[..., None, None]
    return HeatmapTarget(heatmaps * is_near * is_labelled, weights * is_labelled)


def weigh(codec: HeatmapCodec, heatmaps: Tensor) -> Tensor:
    """Return loss weights, as in ``encode``, for a network's ``heatmaps`` (B, K, H, W) that serve as targets."""
    is_near = heatmaps > math.exp(-(SEEN_RADIUS_SIGMAS**2) / 2)
    return torch.where(is_near, 1.0, codec.background_weight)


def decode(codec: HeatmapCodec, heatmaps: Tensor) -> Decoded:
    """Return the peaks of ``heatmaps`` (B, K, H, W) as points in input pixels."""
    codec.check_size(heatmaps.shape)
    heatmaps = heatmaps.float()
    width = codec.heatmap_size[1]
    scores, flat = heatmaps.flatten(2).max(dim=-1)
    peaks = torch.stack((flat % width, flat // width), dim=-1)
    match codec.decoder:
        case "averaged":
            cells = _centre_of_mass(heatmaps, peaks, codec.window)
        case "dark":
            cells = _taylor_step(heatmaps, peaks, codec.sigma)
    return Decoded(cells * codec.stride, scores)


def oracle_errors_px(codec: HeatmapCodec, points: Tensor, validity: Tensor) -> Tensor:
    """Return the round-trip error |decode(encode(p)) - p| in input pixels (N,) of each labelled point p.

    ``points`` is (B, K, 2). Points outside of the map are left out, because no decoder can place a peak there.
    """
    height, width = (extent * codec.stride for extent in codec.heatmap_size)
    decoded = codec.decode(codec.encode(points, validity).heatmaps).points
    x, y = points[..., 0], points[..., 1]
    is_inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    errors: Tensor = (decoded - points).norm(dim=-1)
    return errors[(validity > 0) & is_inside]


def _windows(heatmaps: Tensor, peaks: Tensor, window: int) -> Tensor:
    """Return the neighbourhoods (B, K, window, window) of ``peaks`` (B, K, 2); values outside of the map are zero."""
    radius = window // 2
    padded = F.pad(heatmaps, (radius, radius, radius, radius))
    offsets = torch.arange(window, device=heatmaps.device)
    rows = peaks[..., 1, None, None] + offsets[:, None]
    columns = peaks[..., 0, None, None] + offsets[None, :]
    flat = (rows * padded.shape[-1] + columns).flatten(2)
    values: Tensor = padded.flatten(2).gather(-1, flat)
    return values.view(*peaks.shape[:2], window, window)


def _centre_of_mass(heatmaps: Tensor, peaks: Tensor, window: int) -> Tensor:
    """Return the mean position around each peak weighted by the map; negative values weigh 0.

    A peak with an empty window keeps its position.
    """
    values = _windows(heatmaps, peaks, window).clamp_min(0)
    offsets = torch.arange(window, device=heatmaps.device) - window // 2
    mass = values.sum(dim=(-2, -1)).clamp_min(_TINY)
    shift_x = (values.sum(dim=-2) * offsets).sum(-1) / mass
    shift_y = (values.sum(dim=-1) * offsets).sum(-1) / mass
    return peaks + torch.stack((shift_x, shift_y), dim=-1)


def _gaussian_kernel(sigma: float, device: torch.device) -> Tensor:
    radius = math.ceil(3 * sigma)
    line = torch.exp(-torch.arange(-radius, radius + 1, device=device).float().square() / (2 * sigma**2))
    return line / line.sum()


def _smoothed_neighbours(heatmaps: Tensor, peaks: Tensor, sigma: float) -> Tensor:
    """Return the neighbourhoods (B, K, 3, 3) of ``peaks`` in the smoothed maps; only these cells are computed."""
    kernel = _gaussian_kernel(sigma, heatmaps.device)
    rows = torch.stack([F.pad(kernel, (shift, 2 - shift)) for shift in range(3)])
    around = _windows(heatmaps.clamp_min(0), peaks, rows.shape[1])
    smoothed: Tensor = rows @ around @ rows.T
    return smoothed


def _taylor_step(heatmaps: Tensor, peaks: Tensor, sigma: float) -> Tensor:
    """Return each peak moved by one Newton step on the log of the smoothed map, at most one cell in x and y.

    A peak keeps its position at the border of the map, where the second difference would read outside of the map, and
    where the smoothed map has no maximum.
    """
    height, width = heatmaps.shape[-2:]
    around = _smoothed_neighbours(heatmaps, peaks, sigma / 2).clamp_min(_TINY).log()
    dx = (around[..., 1, 2] - around[..., 1, 0]) / 2
    dy = (around[..., 2, 1] - around[..., 0, 1]) / 2
    dxx = around[..., 1, 2] - 2 * around[..., 1, 1] + around[..., 1, 0]
    dyy = around[..., 2, 1] - 2 * around[..., 1, 1] + around[..., 0, 1]
    dxy = (around[..., 2, 2] - around[..., 2, 0] - around[..., 0, 2] + around[..., 0, 0]) / 4
    determinant = dxx * dyy - dxy.square()
    limits = torch.tensor((width - 1, height - 1), device=peaks.device)
    is_inner = ((peaks > 0) & (peaks < limits)).all(dim=-1)
    is_peak = is_inner & (determinant > _TINY) & (dxx < 0)
    safe = torch.where(is_peak, determinant, torch.ones_like(determinant))
    step = torch.stack((dxy * dy - dyy * dx, dxy * dx - dxx * dy), dim=-1) / safe.unsqueeze(-1)
    return peaks + torch.where(is_peak.unsqueeze(-1), step.clamp(-1, 1), torch.zeros_like(step))
