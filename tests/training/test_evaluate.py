"""Predictions on a split: what is no number is no prediction."""

import pytest
import torch
from torch import Tensor

from carkp.keypoints.codec import HeatmapCodec
from carkp.training.distributed import ProcessContext
from carkp.training.evaluate import Batch, EvalSplit, predict


def batches() -> list[Batch]:
    """Two batches of two samples."""
    return [
        {
            "image": torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
            "points": torch.full((2, 12, 2), 9.0),
            "validity": torch.full((2, 12), 2, dtype=torch.uint8),
            "index": torch.tensor([start, start + 1]),
            "crop_size": torch.full((2, 2), 32),
            "truncated": torch.zeros(2, dtype=torch.int8),
        }
        for start in (0, 2)
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_heatmaps_that_are_no_numbers_are_refused_with_the_sample(value: float) -> None:
    num_seen = 0

    def forward(images: Tensor) -> Tensor:
        nonlocal num_seen
        heatmaps = torch.rand(len(images), 12, 8, 8)
        if num_seen == 2:
            heatmaps[1, 4, 3, 3] = value
        num_seen += len(images)
        return heatmaps

    codec = HeatmapCodec((8, 8), 4, 1.0, 5, "averaged", 0.1)
    context = ProcessContext(rank=0, world_size=1, device=torch.device("cpu"))
    split = EvalSplit(batches(), ["a", "b", "c", "d"], (32, 32))
    with pytest.raises(FloatingPointError, match=r"NaN or infinite for 1 of 2 samples \(the first is d\)"):
        predict(forward, split, codec, context)
