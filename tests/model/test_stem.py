"""The converted stem computes on YUV what the original computes on RGB."""

import pytest
import torch
from torch import Tensor, nn

from carkp.model.stem import RGB_TO_YUV, stem_for_yuv

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def rgb_to_yuv(rgb: Tensor) -> Tensor:
    """Unrounded YUV444 of (B, 3, H, W) pixel values."""
    matrix = torch.tensor(RGB_TO_YUV, dtype=rgb.dtype) / 256
    yuv = torch.einsum("ij,bjhw->bihw", matrix, rgb)
    return yuv + torch.tensor([0.0, 128.0, 128.0], dtype=rgb.dtype)[:, None, None]


@pytest.mark.parametrize(("mean", "std"), [IMAGENET, INCEPTION])
def test_converted_stem_is_exact(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 8, 3, bias=False).double(), nn.BatchNorm2d(8).double().eval()
    norm.running_mean.normal_()
    rgb = 255 * torch.rand(2, 3, 9, 9, dtype=torch.float64)
    shift, scale = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
    with torch.no_grad():
        expected = norm(conv((rgb / 255 - shift) / scale))
        converted = stem_for_yuv(conv.weight, norm.running_mean, mean, std)
        conv.weight.copy_(converted.weight)
        norm.running_mean.copy_(converted.running_mean)
        got = norm(conv((rgb_to_yuv(rgb) - 128) / 128))
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)


def test_grey_depends_on_luma_alone() -> None:
    weight = torch.randn(4, 3, 3, 3)
    converted = stem_for_yuv(weight, torch.zeros(4), *INCEPTION)
    torch.testing.assert_close(converted.weight[:, 0], weight.sum(dim=1) * 128 / 127.5, atol=1e-5, rtol=0)
