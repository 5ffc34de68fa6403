import pytest
import torch
from torch import Tensor, nn

from carkp.keypoints.codec import HeatmapCodec
from carkp.training.reduction import reduce_codec, reduce_images, reduce_points
from tests.training.nets import FixedBatches, make_net, make_settings, make_trainer


class Watched(nn.Module):
    """Remembers the sizes of the pictures that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_net()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.sizes.append(tuple(images.shape[-2:]))
        heatmaps: Tensor = self.net(images)
        return heatmaps


def centre_of(images: Tensor) -> Tensor:
    """(x, y) of the centre of mass of (B, 1, H, W)."""
    weights = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    rows, columns = (torch.arange(length, dtype=torch.float64) for length in images.shape[-2:])
    return torch.stack(((weights.sum(1) * columns).sum(1), (weights.sum(2) * rows).sum(1)), dim=-1)


@pytest.mark.parametrize("size", [(96, 96), (64, 96), (32, 128), (128, 128)])
def test_points_stay_on_what_they_mark(size: tuple[int, int]) -> None:
    points = torch.tensor([[40.0, 50.0], [63.5, 63.5], [90.25, 31.0]], dtype=torch.float64)
    offsets = torch.arange(128, dtype=torch.float64) - points[..., None]
    blobs = torch.exp(-offsets.square() / (2 * 6.0**2))
    images = (blobs[:, 1, :, None] * blobs[:, 0, None, :])[:, None]
    torch.testing.assert_close(
        centre_of(reduce_images(images, size)), reduce_points(points, (128, 128), size), atol=2e-3, rtol=0
    )


def test_no_pixel_is_passed_over() -> None:
    """A line one pixel wide keeps its light, wherever it is: every fourth cell alone would lose most of them."""
    images = torch.eye(128)[:, None, None, :].expand(128, 1, 128, 128)
    light = reduce_images(images.contiguous(), (32, 32)).sum((1, 2, 3)) / 32
    torch.testing.assert_close(light[8:-8], torch.full((112,), 0.25), atol=1e-5, rtol=0)


def test_cells_keep_their_meaning() -> None:
    codec = HeatmapCodec((32, 32), 4, 1.5, 7, "dark", 0.1)
    small = reduce_codec(codec, (64, 96))
    points = torch.tensor([[[30.0, 20.0]] * 12])
    decoded = small.decode(small.encode(points, torch.full((1, 12), 2)).heatmaps).points
    torch.testing.assert_close(decoded, points, atol=0.1, rtol=0)
    assert (small.heatmap_size, small.sigma, small.stride) == ((16, 24), 1.5, 4)


def test_first_epochs_see_reduced_inputs_and_learn_from_them() -> None:
    net = Watched()
    settings = make_settings(epochs=8, reduced_epochs=6, reduced_size=(16, 16))
    trainer = make_trainer(settings, batches=FixedBatches(num_batches=4), net=net)
    losses = [trainer.run_epoch(lambda loss: None).loss for _ in range(8)]
    assert net.sizes == [(16, 16)] * 24 + [(32, 32)] * 8
    assert losses[5] < 0.7 * losses[0]
