"""Small networks with everything that the default one has, and images for them."""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from carkp.quant.calibrate import Observer, choose_thresholds, observe
from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.fold import fold
from carkp.quant.target import Target

SIZE = (16, 16)

BPU = Target(
    name="bpu",
    description="signed",
    activation_dtype="int8",
    per_channel_weights=True,
    accumulator_bits=32,
    requantisation="fixed_point",
)
CPU = Target(
    name="onnxruntime_cpu",
    description="unsigned",
    activation_dtype="uint8",
    per_channel_weights=True,
    accumulator_bits=32,
    requantisation="float32",
)


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        for layer in self:
            x = layer(x)
        return x + shortcut


def conv_norm(num_in: int, num_out: int, size: int, act: nn.Module | None = None, **options: int) -> list[nn.Module]:
    return [nn.Conv2d(num_in, num_out, size, bias=False, **options), nn.BatchNorm2d(num_out), *([act] if act else [])]


class SmallNet(nn.Module):
    """Asymmetric pads, depthwise and strided convolutions, a residual, a transposed convolution, a last convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), *conv_norm(3, 8, 3, nn.ReLU6(), stride=2))
        self.down = nn.Sequential(
            *conv_norm(8, 16, 1, nn.ReLU6()), *conv_norm(16, 16, 3, nn.ReLU6(), padding=1, groups=16)
        )
        self.narrow = nn.Sequential(*conv_norm(16, 8, 1))
        self.block = Residual(*conv_norm(8, 16, 1, nn.ReLU6()), *conv_norm(16, 8, 1))
        self.up = nn.Sequential(
            nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()
        )
        self.final = nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.final(self.up(self.block(self.narrow(self.down(self.stem(images))))))


class GatedNet(nn.Module):
    """A squeeze-and-excitation block, SiLU, and operators that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.SiLU()
        self.reduce, self.expand = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.act(self.first(images))
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))
        x = x * gate
        halves = x.chunk(2, dim=1)
        return self.last(torch.cat([x, torch.cumsum(halves[1], 1), halves[0]], 1))


def with_statistics(net: nn.Module, seed: int = 0) -> nn.Module:
    """``net`` in evaluation mode, with weights and batch norm statistics that are not those of a fresh one."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.3, 2.0, generator=generator)
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.data.normal_(0, 0.3, generator=generator)
    return net.eval()


def images(num: int = 4, seed: int = 1) -> Tensor:
    """Normalised bytes (num, 3, 16, 16)."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(0, 256, (num, 3, *SIZE), generator=generator).float() - 128) / 128


def calibrated(net: nn.Module, target: Target, percentile: float = 99.975, wide: Collection[str] = ()) -> FakeQuantNet:
    prepared = FakeQuantNet(fold(net, SIZE), target, target.per_channel_weights, wide).eval()
    histograms = observe(prepared.graph, [images(8, seed=2)])
    observers = dict.fromkeys(histograms, Observer("percentile", percentile))
    prepared.set_thresholds(choose_thresholds(histograms, prepared.num_levels, observers))
    return prepared
