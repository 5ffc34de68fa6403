"""Peaks read without torch are those read with it."""

import numpy as np
import pytest
import torch

from carkp.keypoints.codec import HeatmapCodec, codec_for_input


def codec(decoder: str, sigma: float) -> HeatmapCodec:
    return codec_for_input((128, 96), sigma, decoder, "auto", 0.1)  # type: ignore[arg-type]


def noise(seed: int) -> np.ndarray:
    """Heatmaps with negative values, and peaks everywhere, at borders and in corners too."""
    return np.random.default_rng(seed).normal(0, 0.3, (64, 12, 32, 24)).astype(np.float32)


def sharp(own: HeatmapCodec, seed: int) -> np.ndarray:
    """Gaussians of random points, some off the map."""
    points = torch.from_numpy(np.random.default_rng(seed).uniform(-8, 136, (64, 12, 2)))
    return own.encode(points, torch.ones(64, 12)).heatmaps.numpy()


@pytest.mark.parametrize("decoder", ["averaged", "dark"])
@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.3])
def test_both_read_the_same(decoder: str, sigma: float) -> None:
    own = codec(decoder, sigma)
    rounded = np.round(sharp(own, 1) * 8) / 8  # int8 heatmaps have ties
    for heatmaps in (noise(0), sharp(own, 0), rounded.astype(np.float32), np.zeros((1, 12, 32, 24), np.float32)):
        expected = own.decode(torch.from_numpy(heatmaps))
        points, scores = own.decode_array(heatmaps)
        np.testing.assert_array_equal(scores, expected.scores.numpy())
        np.testing.assert_allclose(points, expected.points.numpy(), atol=2e-3)
        assert points.dtype == scores.dtype == np.float32


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="heatmaps must be"):
        codec("dark", 1.0).decode_array(np.zeros((1, 12, 24, 32), np.float32))
