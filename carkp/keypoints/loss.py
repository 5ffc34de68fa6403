"""The heatmap loss."""

from torch import Tensor


def weighted_heatmap_loss(heatmaps: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return (1/B) sum of 0.5 (p - t)^2 w over all maps, the loss of the reference; all arguments are (B, K, H, W).

    The sum is divided by the batch size only, not by the number of pixels. So learning rates and gradient clips do not
    carry over to a loss that is a mean.
    """
    batch_size = heatmaps.shape[0]
    return 0.5 * ((heatmaps.float() - targets).square() * weights).sum() / batch_size
