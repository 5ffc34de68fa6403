"""The deconvolution head: stride-32 features to stride-4 heatmaps.

Legend: B batch, K keypoints, h w height and width of the features.
"""

from torch import Tensor, nn

INIT_STD = 1e-3


class DeconvHead(nn.Module):
    """``num_deconvs`` x [transposed convolution 4x4 / 2 -> BN -> ReLU], then a 3x3 convolution to K maps.

    (B, in_channels, h, w) -> (B, num_keypoints, h * 2^num_deconvs, w * 2^num_deconvs). Weights are initialised from a
    normal distribution with standard deviation 0.001 and biases with 0, as in SimpleBaselines
    (https://arxiv.org/abs/1804.06208): heatmaps are nearly all zero, and so are the first predictions.
    """

    def __init__(self, in_channels: int, num_keypoints: int, channels: int = 128, num_deconvs: int = 3) -> None:
        super().__init__()
        if min(in_channels, num_keypoints, channels) < 1 or num_deconvs < 0:
            raise ValueError(
                f"head needs positive channels, got {in_channels=}, {num_keypoints=}, {channels=}, {num_deconvs=}"
            )
        layers: list[nn.Module] = []
        for index in range(num_deconvs):
            layers += _deconv_layers(in_channels if index == 0 else channels, channels)
        self.deconvs = nn.Sequential(*layers)
        self.final = nn.Conv2d(channels if num_deconvs else in_channels, num_keypoints, 3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d | nn.Conv2d):
                nn.init.normal_(module.weight, std=INIT_STD)
        assert self.final.bias is not None
        nn.init.zeros_(self.final.bias)

    def forward(self, features: Tensor) -> Tensor:
        heatmaps: Tensor = self.final(self.deconvs(features))
        return heatmaps


def _deconv_layers(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]
