import pytest
import torch

from carkp.keypoints.loss import weighted_heatmap_loss


def test_loss_is_half_the_weighted_square_sum_over_the_batch_alone() -> None:
    heatmaps, targets = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2.0)
    weights = torch.full((2, 3, 4, 4), 0.1)
    expected = 0.5 * 4 * 0.1 * 3 * 16  # not divided by the 48 pixels
    assert weighted_heatmap_loss(heatmaps, targets, weights).item() == pytest.approx(expected, rel=1e-6)


def test_a_missing_keypoint_gives_no_gradient() -> None:
    heatmaps = torch.ones(1, 2, 4, 4, requires_grad=True)
    weights = torch.ones(1, 2, 4, 4)
    weights[0, 1] = 0
    weighted_heatmap_loss(heatmaps, torch.zeros(1, 2, 4, 4), weights).backward()
    assert heatmaps.grad is not None
    assert heatmaps.grad[0, 0].abs().min() > 0
    assert heatmaps.grad[0, 1].abs().max() == 0
