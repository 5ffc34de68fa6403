"""A small network and fixed batches, so that a training takes a second."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from carkp.keypoints.codec import HeatmapCodec
from carkp.keypoints.metrics import Scores
from carkp.training.distributed import ProcessContext
from carkp.training.evaluate import EvalSplit, eval_forward, predict
from carkp.training.fit import FitInputs, FitSettings, Trainer

INPUT_SIZE = (32, 32)
ALONE = ProcessContext(rank=0, world_size=1, device=torch.device("cpu"))
CODEC = HeatmapCodec((8, 8), 4, 1.0, 5, "averaged", 0.1)


def normalise(images: Tensor) -> Tensor:
    return (images.float() - 128) / 128


def make_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(32, 12, 5, 1, 2),
    )  # fmt: skip


def make_net_without_batch_norm() -> nn.Module:
    """Whose steps are the same however a batch is divided among processes."""
    convolution, _, *rest = make_net()
    return nn.Sequential(convolution, *rest)


class FixedBatches:
    """``num_batches`` batches of white squares whose corners are the keypoints; the order depends on the epoch."""

    def __init__(self, num_batches: int = 4, batch_size: int = 8) -> None:
        generator = torch.Generator().manual_seed(1)
        self.batches = [make_batch(i, batch_size, generator) for i in range(num_batches)]
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        yield from (self.batches[place] for place in self.order())

    def order(self) -> list[int]:
        generator = torch.Generator().manual_seed(self.epoch)
        places: list[int] = torch.randperm(len(self.batches), generator=generator).tolist()
        return places

    def sample_ids(self, number: int) -> list[str]:
        return [f"square {index}" for index in self.batches[self.order()[number]]["index"].tolist()]


def share_of_each(batches: FixedBatches, context: ProcessContext) -> FixedBatches:
    """Each batch divided among the processes of ``context``."""
    own = slice(context.rank, None, context.world_size)
    batches.batches = [{name: value[own] for name, value in batch.items()} for batch in batches.batches]
    return batches


def make_batch(number: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
    images = torch.zeros(size, 3, *INPUT_SIZE, dtype=torch.uint8)
    corners = torch.randint(2, 14, (size, 2), generator=generator)
    points = torch.zeros(size, 12, 2)
    for i, (x, y) in enumerate(corners.tolist()):
        images[i, :, y : y + 14, x : x + 14] = 255
        points[i] = torch.tensor([[x + 14 * (k % 4) / 3, y + 14 * (k // 4) / 2] for k in range(12)])
    return {
        "image": images,
        "points": points,
        "validity": torch.full((size, 12), 2, dtype=torch.uint8),
        "index": torch.arange(number * size, (number + 1) * size),
        "crop_size": torch.full((size, 2), 32, dtype=torch.int32),
        "truncated": torch.zeros(size, dtype=torch.int8),
    }


def score(net: nn.Module, batches: FixedBatches, context: ProcessContext = ALONE) -> Scores:
    num_samples = sum(len(batch["index"]) for batch in batches.batches)
    mine = batches.batches[context.rank :: context.world_size]
    split = EvalSplit(mine, [str(i) for i in range(num_samples)], INPUT_SIZE)
    return predict(eval_forward(net, normalise, False), split, CODEC, context).score(0.1)


def make_settings(epochs: int = 3, reduced_size: tuple[int, int] = INPUT_SIZE, **changes: float) -> FitSettings:
    values = {"lr": 3e-3, "weight_decay": 0.01, "warmup_epochs": 0.0, "grad_clip": 0.0, "ema_decay": 0.0}
    values["backbone_lr_scale"] = 1.0
    flags = {"trusts_start": False, "ships_last": False, "freeze_batch_norm": False, "reduced_epochs": 0}
    return FitSettings(
        epochs=epochs,
        channels_last=False,
        compile=False,
        autocast_dtype=None,
        reduced_size=reduced_size,
        **{**values, **flags, **changes},
    )


def make_dropout_net() -> nn.Module:
    """Like ``make_net``, and draws from torch's generator in training."""
    first, *rest = make_net()
    return nn.Sequential(first, nn.Dropout(0.3), *rest)


def make_trainer(
    settings: FitSettings,
    batches: FixedBatches | None = None,
    context: ProcessContext = ALONE,
    net: nn.Module | None = None,
) -> Trainer:
    batches = batches or FixedBatches()
    inputs = FitInputs(
        batches=batches,
        codec=CODEC,
        normalise=normalise,
        validate=lambda net: score(net, FixedBatches(), context),
        architecture={"name": "small"},
        config={},
    )
    return Trainer(net or make_net(), inputs, settings, context)
