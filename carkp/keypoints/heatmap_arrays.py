"""Decoding of heatmap peaks with numpy, for predictors without torch.

The formulas are the same as in :mod:`carkp.keypoints.heatmap_tensors`, and also in float32.

Legend: B batch, K keypoints, H W heatmap height and width, k decoder window. Cells are (column, row).
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Places = NDArray[np.int64]

_TINY = np.float32(1e-10)


def decode_peaks(
    heatmaps: Floats, decoder: Literal["averaged", "dark"], window: int, sigma: float
) -> tuple[Floats, Floats]:
    """Return the peaks of ``heatmaps`` (B, K, H, W): subpixel positions (B, K, 2) in cells, and values (B, K)."""
    heatmaps = heatmaps.astype(np.float32, copy=False)
    flat = heatmaps.reshape(*heatmaps.shape[:2], -1)
    highest = flat.argmax(axis=-1)
    scores = np.take_along_axis(flat, highest[..., None], axis=-1)[..., 0]
    width = heatmaps.shape[-1]
    peaks = np.stack((highest % width, highest // width), axis=-1)
    if decoder == "averaged":
        return peaks.astype(np.float32) + _centre_of_mass(heatmaps, peaks, window), scores
    return peaks.astype(np.float32) + _taylor_step(heatmaps, peaks, sigma), scores


def _windows(heatmaps: Floats, peaks: Places, window: int) -> Floats:
    """Return the neighbourhoods (B, K, window, window) of ``peaks`` (B, K, 2); values outside of the map are zero."""
    radius = window // 2
    padded = np.pad(heatmaps, ((0, 0), (0, 0), (radius, radius), (radius, radius)))
    offsets = np.arange(window)
    batch, keypoint = np.ogrid[: peaks.shape[0], : peaks.shape[1]]
    rows = peaks[..., 1, None, None] + offsets[:, None]
    columns = peaks[..., 0, None, None] + offsets[None, :]
    found: Floats = padded[batch[..., None, None], keypoint[..., None, None], rows, columns]
    return found


def _centre_of_mass(heatmaps: Floats, peaks: Places, window: int) -> Floats:
    """Return the shift (B, K, 2) from each peak to the mean position weighted by the map; negative values weigh 0."""
    values = np.maximum(_windows(heatmaps, peaks, window), 0)
    offsets = (np.arange(window) - window // 2).astype(np.float32)
    mass = np.maximum(values.sum(axis=(-2, -1)), _TINY)
    shift_x, shift_y = (values.sum(axis=-2) * offsets).sum(-1), (values.sum(axis=-1) * offsets).sum(-1)
    shift: Floats = np.stack((shift_x, shift_y), axis=-1) / mass[..., None]
    return shift


def _smoothing_rows(sigma: float) -> Floats:
    """Return Gaussian weights (3, k) that compute three neighbouring cells of the smoothed map."""
    radius = math.ceil(3 * sigma)
    line = np.exp(-np.square(np.arange(-radius, radius + 1, dtype=np.float32)) / np.float32(2 * sigma**2))
    line /= line.sum()
    return np.stack([np.pad(line, (shift, 2 - shift)) for shift in range(3)])


def _taylor_step(heatmaps: Floats, peaks: Places, sigma: float) -> Floats:
    """Return the shift (B, K, 2) of one Newton step on the log of the smoothed map, at most one cell in x and y.

    The shift is 0 for a peak at the border of the map, where the second difference would read outside of the map, and
    where the smoothed map has no maximum.
    """
    height, width = heatmaps.shape[-2:]
    rows = _smoothing_rows(sigma / 2)
    around = rows @ _windows(np.maximum(heatmaps, 0), peaks, rows.shape[1]) @ rows.T
    around = np.log(np.maximum(around, _TINY))
    dx = (around[..., 1, 2] - around[..., 1, 0]) / 2
    dy = (around[..., 2, 1] - around[..., 0, 1]) / 2
    dxx = around[..., 1, 2] - 2 * around[..., 1, 1] + around[..., 1, 0]
    dyy = around[..., 2, 1] - 2 * around[..., 1, 1] + around[..., 0, 1]
    dxy = (around[..., 2, 2] - around[..., 2, 0] - around[..., 0, 2] + around[..., 0, 0]) / 4
    determinant = dxx * dyy - np.square(dxy)
    is_inner = ((peaks > 0) & (peaks < (width - 1, height - 1))).all(axis=-1)
    is_peak = is_inner & (determinant > _TINY) & (dxx < 0)
    step = np.stack((dxy * dy - dyy * dx, dxy * dx - dxx * dy), axis=-1)
    step /= np.where(is_peak, determinant, np.float32(1))[..., None]
    shift: Floats = np.where(is_peak[..., None], np.clip(step, -1, 1), np.float32(0))
    return shift
