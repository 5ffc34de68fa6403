"""Predictions of a network on a split."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carkp.keypoints import metrics
from carkp.keypoints.codec import HeatmapCodec
from carkp.keypoints.predictions import Predictions
from carkp.training.distributed import ProcessContext


class Batch(TypedDict):
    """B samples.

    ``image`` (B, 3, H, W) is uint8, ``points`` (B, K, 2) are in input pixels, ``validity`` is (B, K). ``index`` is each
    sample's position in the store, ``crop_size`` the size of its crop, ``truncated`` whether the frame cuts the car.
    """

    image: Tensor
    points: Tensor
    validity: Tensor
    index: Tensor
    crop_size: Tensor
    truncated: Tensor


Forward = Callable[[Tensor], Tensor]
"""uint8 images (B, 3, H, W) -> heatmaps (B, K, H, W)."""

_COLUMNS = ("index", "points", "scores", "targets", "validity", "crop_size", "truncated")


@dataclass(frozen=True)
class EvalSplit:
    """A split to score: the ``batches`` of this process, and the ids of all samples in the order of the store."""

    batches: Iterable[Batch]
    sample_ids: Sequence[str]
    input_size: tuple[int, int]


def predict(
    forward: Forward,
    split: EvalSplit,
    codec: HeatmapCodec,
    context: ProcessContext,
    on_batch: Callable[[int], None] = lambda num_samples: None,
) -> Predictions:
    """Run ``forward`` on a split; each of several processes computes its share, and all get the whole result.

    Raises:
        ValueError: the split is empty.
        RuntimeError: a sample was lost or counted twice.
        FloatingPointError: heatmaps are NaN or infinite; decoding would still find keypoints in them.
    """
    columns: dict[str, list[NDArray[np.generic]]] = {name: [] for name in _COLUMNS}
    for batch in split.batches:
        heatmaps = forward(batch["image"].to(context.device))
        _check_finite(heatmaps, split.sample_ids, batch["index"])
        decoded = codec.decode(heatmaps)
        row = {
            "index": batch["index"],
            "points": decoded.points,
            "scores": decoded.scores,
            "targets": batch["points"],
            "validity": batch["validity"],
            "crop_size": batch["crop_size"],
            "truncated": batch["truncated"],
        }
        for name, values in row.items():
            columns[name].append(values.cpu().numpy())
        on_batch(len(batch["index"]))
    parts = context.gather(columns)
    merged = {name: [array for part in parts for array in part[name]] for name in _COLUMNS}
    return _assemble(merged, split)


def _check_finite(heatmaps: Tensor, sample_ids: Sequence[str], index: Tensor) -> None:
    broken = ~heatmaps.isfinite().flatten(1).all(dim=1)
    if bool(broken.any()):
        first = sample_ids[int(index[int(broken.nonzero()[0])])]
        raise FloatingPointError(
            f"the model's heatmaps are NaN or infinite for {int(broken.sum())} of {len(broken)} samples (the first is "
            f"{first}): its training diverged or its file is damaged; use another model, or train it again"
        )


def _assemble(columns: Mapping[str, list[NDArray[np.generic]]], split: EvalSplit) -> Predictions:
    if not columns["index"]:
        raise ValueError("nothing to score: the split is empty")
    index = np.concatenate(columns["index"])
    order = np.argsort(index, kind="stable")
    if not np.array_equal(index[order], np.arange(len(split.sample_ids))):
        raise RuntimeError(f"scored {len(index)} samples of {len(split.sample_ids)}, or scored some of them twice")
    sorted_columns = {name: np.concatenate(columns[name])[order] for name in _COLUMNS[1:]}
    targets = sorted_columns["targets"].astype(np.float64)
    validity = sorted_columns["validity"].astype(np.uint8)
    return Predictions(
        sample_ids=np.array(split.sample_ids),
        points=sorted_columns["points"].astype(np.float32),
        scores=sorted_columns["scores"].astype(np.float32),
        targets=sorted_columns["targets"].astype(np.float32),
        validity=validity,
        lengths=metrics.labelled_extent(targets, validity).astype(np.float32),
        lengths_hat=metrics.hat_extent(targets, split.input_size).astype(np.float32),
        crop_size=sorted_columns["crop_size"].astype(np.int32),
        truncated=sorted_columns["truncated"].astype(np.int8),
    )


def eval_forward(net: torch.nn.Module, normalise: Forward, channels_last: bool) -> Forward:
    """Return a function that runs ``net`` on uint8 images, in evaluation mode and without gradients."""

    def forward(images: Tensor) -> Tensor:
        was_training = net.training
        net.eval()
        try:
            with torch.inference_mode():
                inputs = normalise(images)
                if channels_last:
                    inputs = inputs.contiguous(memory_format=torch.channels_last)
                heatmaps: Tensor = net(inputs)
                return heatmaps
        finally:
            net.train(was_training)

    return forward
