"""Converts a first convolution that was trained on RGB to YUV444 images, without changing what it computes.

The images are YUV444 full swing, normalised as (v - 128) / 128. ImageNet networks expect RGB, normalised as
(v / 255 - mean) / std. Both are affine in the pixel. So the change of colour space is folded into the weights of the
first convolution, and the constant into the running mean of the batch norm after it. The result is exact, except for
the rounding of the 8-bit conversion and for the padding value at the border.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RGB_TO_YUV = ((77, 150, 29), (-43, -84, 127), (127, -106, -21))
"""Rows Y, U - 128, V - 128; columns R, G, B; in 256ths."""


@dataclass(frozen=True)
class YuvStem:
    """A first convolution and the running mean of the batch norm after it."""

    weight: Tensor
    running_mean: Tensor


def stem_for_yuv(weight: Tensor, running_mean: Tensor, mean: Sequence[float], std: Sequence[float]) -> YuvStem:
    """Return the stem that computes on normalised YUV what the given stem computes on normalised RGB.

    Args:
        weight: weight (C, 3, kh, kw), without bias, for RGB images normalised as (v / 255 - mean) / std.
        running_mean: running mean (C,) of the batch norm after it.
        mean: mean of R, G and B, as a share of 255.
        std: standard deviation of R, G and B, as a share of 255.
    """
    yuv_to_rgb = torch.linalg.inv(torch.tensor(RGB_TO_YUV, dtype=torch.float64) / 256)
    mean64, std64 = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    scale = 128 / (255 * std64)
    offset = (128 - 255 * mean64) / (255 * std64)
    weight64 = weight.double()
    colour = scale[:, None] * yuv_to_rgb
    constant = torch.einsum("oihw,i->o", weight64, offset)
    return YuvStem(
        weight=torch.einsum("oihw,ij->ojhw", weight64, colour).to(weight.dtype),
        running_mean=(running_mean.double() - constant).to(running_mean.dtype),
    )
