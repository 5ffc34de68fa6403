"""The heatmap loss."""

from torch import Tensor


def weighted_heatmap_loss(heatmaps: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """(1/B) sum of 0.5 (p - t)^2 w over all maps, each (B, K, H, W): the reference's loss.

    Divided by the batch alone, not by pixels: a learning rate or a gradient clip does not carry over to a mean.
    """
    batch_size = heatmaps.shape[0]
    return 0.5 * ((heatmaps.float() - targets).square() * weights).sum() / batch_size
