"""Conversion of points to heatmaps and back: the only place that maps between image and heatmap coordinates.

Legend: B batch, K keypoints, H W heatmap height and width, k decoder window. Points are (x, y) in input pixels.
A heatmap cell (column i, row j) stands for the input pixel (stride * i, stride * j): no half-pixel shift.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from carkp.keypoints.heatmap_arrays import decode_peaks

if TYPE_CHECKING:
    from torch import Tensor

    from carkp.keypoints.heatmap_tensors import Decoded, HeatmapTarget

DecoderKind = Literal["averaged", "dark"]

_MAX_EXTENT = 2**14
"""Largest extent of a heatmap in cells: no network has a larger one."""

_SHOWN = 200

HEATMAP_STRIDE = 4
"""Input pixels per cell, for every network of carkp."""

CODEC_KEY = "codec"
"""Key of the codec, as JSON, in the notes that are stored with a model."""


def tied_window(sigma: float) -> int:
    """Return the smallest odd decoder window that reaches two sigmas to either side: 5 for sigma 1."""
    return 2 * math.ceil(2 * sigma) + 1


@dataclass(frozen=True)
class HeatmapCodec:
    """Encodes points as Gaussians and decodes heatmap peaks to points.

    Args:
        heatmap_size: (H, W) in cells.
        stride: input pixels per cell.
        sigma: standard deviation of the target in cells.
        window: odd edge length of the averaging window in cells; used by the decoder ``averaged``.
        decoder: ``averaged`` is the centre of mass around the peak, ``dark`` the Taylor step on the logarithm of the
            smoothed map (Zhang et al. 2020, Distribution-Aware Coordinate Representation, eq. 7-9).
        background_weight: loss weight of the cells beyond the Gaussian.
    """

    heatmap_size: tuple[int, int]
    stride: int
    sigma: float
    window: int
    decoder: DecoderKind
    background_weight: float

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"window must be a positive odd number, got {self.window}")

    def encode(self, points: "Tensor", validity: "Tensor") -> "HeatmapTarget":
        """Return targets and loss weights for ``points`` (B, K, 2).

        ``validity`` (B, K) is 0 for a missing keypoint.
        """
        from carkp.keypoints.heatmap_tensors import encode

        return encode(self, points, validity)

    def weigh(self, heatmaps: "Tensor") -> "Tensor":
        """Return loss weights, as in ``encode``, for a network's ``heatmaps`` (B, K, H, W) that serve as targets."""
        from carkp.keypoints.heatmap_tensors import weigh

        return weigh(self, heatmaps)

    def decode(self, heatmaps: "Tensor") -> "Decoded":
        """Return the peaks of ``heatmaps`` (B, K, H, W) as points in input pixels."""
        from carkp.keypoints.heatmap_tensors import decode

        return decode(self, heatmaps)

    def decode_array(self, heatmaps: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Decode without torch: heatmaps (B, K, H, W) -> points (B, K, 2) in input pixels and peak values (B, K)."""
        self.check_size(heatmaps.shape)
        points, scores = decode_peaks(heatmaps, self.decoder, self.window, self.sigma)
        return points * np.float32(self.stride), scores

    def check_size(self, shape: Sequence[int]) -> None:
        """Raise ValueError if heatmaps of ``shape`` (…, H, W) do not fit this codec."""
        if tuple(shape[-2:]) != self.heatmap_size:
            raise ValueError(f"heatmaps must be {self.heatmap_size}, got {tuple(shape[-2:])}")


def codec_for_input(
    input_size: tuple[int, int],
    sigma: float,
    decoder: DecoderKind,
    window: int | Literal["auto"],
    background_weight: float,
) -> HeatmapCodec:
    """Return the codec of a network with input size (height, width); the window ``auto`` is :func:`tied_window`."""
    height, width = input_size
    return HeatmapCodec(
        heatmap_size=(height // HEATMAP_STRIDE, width // HEATMAP_STRIDE),
        stride=HEATMAP_STRIDE,
        sigma=sigma,
        window=tied_window(sigma) if window == "auto" else window,
        decoder=decoder,
        background_weight=background_weight,
    )


def codec_to_json(codec: HeatmapCodec) -> str:
    """Return the codec as the JSON text that model files store."""
    return json.dumps(asdict(codec))


def codec_from_json(text: str) -> HeatmapCodec:
    """Return the codec that ``codec_to_json`` wrote.

    Raises:
        ValueError: the text is not a codec, or its values are invalid.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a codec, because it is not JSON ({error}): {text[:_SHOWN]!r}") from error
    names = {item.name for item in fields(HeatmapCodec)}
    if not isinstance(found, dict) or set(found) != names or not _has_values_of_codec(found):
        raise ValueError(f"not a codec, which has {', '.join(sorted(names))}: {text[:_SHOWN]}")
    height, width = found.pop("heatmap_size")
    return HeatmapCodec(heatmap_size=(height, width), **found)


def checked_codec(codec: HeatmapCodec) -> HeatmapCodec:
    """Return an equal codec after checking its values, which come from a file.

    Raises:
        ValueError: values have wrong types or are outside of any useful range.
    """
    return codec_from_json(codec_to_json(codec))


def _has_values_of_codec(found: Mapping[str, Any]) -> bool:
    """Return whether the types are right and no value is so large that it would use up the memory."""
    size = found["heatmap_size"]
    if not (isinstance(size, list) and len(size) == 2 and all(_is_within(extent, 1, _MAX_EXTENT) for extent in size)):
        return False
    numbers = found["sigma"], found["background_weight"]
    return (
        found["decoder"] in ("averaged", "dark")
        and _is_within(found["stride"], 1, _MAX_EXTENT)
        and _is_within(found["window"], 1, 2 * max(size) + 1)
        and all(isinstance(number, int | float) and 0 <= number <= _MAX_EXTENT for number in numbers)
    )


def _is_within(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
