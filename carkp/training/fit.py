"""The training loop: one for every stage that trains."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from carkp.keypoints.codec import HeatmapCodec
from carkp.keypoints.loss import weighted_heatmap_loss
from carkp.keypoints.metrics import Scores
from carkp.training.checkpoint import Checkpoint, save_checkpoint
from carkp.training.distributed import ProcessContext
from carkp.training.evaluate import Batch
from carkp.training.optim import WeightAverage, warmup_cosine


class TrainBatches(Protocol):
    """Batches of one epoch; ``set_epoch`` reshuffles, deterministically."""

    def set_epoch(self, epoch: int) -> None: ...
    def __iter__(self) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class FitSettings:
    """How to train; ``grad_clip`` and ``ema_decay`` 0 mean off, ``autocast_dtype`` None means full precision."""

    epochs: int
    lr: float
    weight_decay: float
    warmup_epochs: float
    grad_clip: float
    ema_decay: float
    channels_last: bool
    compile: bool
    autocast_dtype: torch.dtype | None


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave. ``epoch`` counts from 1; ``train_seconds`` leaves validation out."""

    epoch: int
    loss: float
    lr: float
    train_seconds: float
    samples_per_s: float
    scores: Scores
    is_best: bool

    def numbers(self) -> dict[str, float]:
        """What the history of a training keeps."""
        return {
            "epoch": self.epoch,
            "loss": self.loss,
            "lr": self.lr,
            "samples_per_s": self.samples_per_s,
            "pck": self.scores.pck,
            "pck_hat": self.scores.pck_hat,
            "mean_dist": self.scores.mean_dist,
        }


@dataclass(frozen=True)
class FitResult:
    """The epoch with the highest validation PCK, and the throughput over the epochs of this process."""

    best_epoch: int
    best_pck: float
    samples_per_s: float


@dataclass(frozen=True)
class FitInputs:
    """What training works on.

    Attributes:
        batches: training batches of this process.
        codec: makes targets on the device.
        normalise: uint8 images (B, 3, H, W) -> network input.
        validate: scores the evaluation network on the validation split; called on every rank.
        architecture, config: stored in the checkpoints.
    """

    batches: TrainBatches
    codec: HeatmapCodec
    normalise: Callable[[Tensor], Tensor]
    validate: Callable[[nn.Module], Scores]
    architecture: dict[str, Any]
    config: dict[str, Any]


class Trainer:
    """State of one training: network, optimiser, schedule, moving average, best epoch."""

    def __init__(self, net: nn.Module, inputs: FitInputs, settings: FitSettings, context: ProcessContext) -> None:
        if len(inputs.batches) == 0:
            raise ValueError("the training split has fewer samples than one batch on every process")
        self.inputs, self.settings, self.context = inputs, settings, context
        self.net = _placed(net, settings, context)
        self.average = WeightAverage(self.net, settings.ema_decay) if settings.ema_decay > 0 else None
        # torch.compile of a module gives a module; its annotation says less
        compiled = cast(nn.Module, torch.compile(self.net)) if settings.compile else self.net
        self.parallel = _parallel(compiled, context)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.epoch, self.num_steps_done = 0, 0
        self.best_epoch, self.best_pck = 0, float("-inf")
        self.history: list[dict[str, float]] = []

    @property
    def eval_net(self) -> nn.Module:
        """The network that is validated and shipped."""
        return self.average.net if self.average is not None else self.net

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        num_steps_an_epoch = len(self.inputs.batches)
        num_warmup_steps = round(self.settings.warmup_epochs * num_steps_an_epoch)
        num_steps = self.settings.epochs * num_steps_an_epoch
        return self.settings.lr * warmup_cosine(self.num_steps_done, num_warmup_steps, num_steps)

    def step(self, batch: Batch) -> Tensor:
        """One optimiser step; the loss, detached and still on the device."""
        device = self.context.device
        images = self.inputs.normalise(batch["image"].to(device, non_blocking=True))
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        points, validity = batch["points"].to(device), batch["validity"].to(device)
        target = self.inputs.codec.encode(points, validity)
        dtype = self.settings.autocast_dtype
        with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            heatmaps = self.parallel(images)
        loss = weighted_heatmap_loss(heatmaps, target.heatmaps, target.weights)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.settings.grad_clip > 0:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.settings.grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.optimizer.step()
        self.num_steps_done += 1
        if self.average is not None:
            self.average.update(self.net)
        return loss.detach()

    def run_epoch(self, on_step: Callable[[float], None]) -> EpochResult:
        """Train one epoch, then validate."""
        self.inputs.batches.set_epoch(self.epoch)
        self.net.train()
        lr = self.lr
        start = time.perf_counter()
        total: float = 0.0
        num_samples = 0
        for batch in self.inputs.batches:
            loss = float(self.step(batch))
            self._check_finite(loss)
            total += loss
            num_samples += len(batch["image"])
            on_step(loss)
        seconds = time.perf_counter() - start
        self.epoch += 1
        self.context.synchronise_buffers(self.net)
        if self.average is not None:
            self.context.synchronise_buffers(self.average.net)
        scores = self.inputs.validate(self.eval_net)
        is_best = scores.pck > self.best_pck
        if is_best:
            self.best_epoch, self.best_pck = self.epoch, scores.pck
        rate = num_samples * self.context.world_size / seconds
        mean_loss = math.fsum(self.context.gather(total)) / len(self.inputs.batches) / self.context.world_size
        result = EpochResult(self.epoch, mean_loss, lr, seconds, rate, scores, is_best)
        self.history.append(result.numbers())
        return result

    def _check_finite(self, loss: float) -> None:
        if not abs(loss) < float("inf"):
            raise FloatingPointError(
                f"the loss became {loss} in epoch {self.epoch + 1}: lower train.lr or set train.grad_clip"
            )

    def checkpoint(self, with_training_state: bool) -> Checkpoint:
        return Checkpoint(
            architecture=self.inputs.architecture,
            weights={name: value.detach().cpu() for name, value in self.eval_net.state_dict().items()},
            config=self.inputs.config,
            epoch=self.epoch,
            training_state=self._state() if with_training_state else {},
        )

    def _state(self) -> dict[str, Any]:
        return {
            "weights": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "num_steps_done": self.num_steps_done,
            "num_averaged": self.average.num_updates if self.average is not None else 0,
            "random": torch.get_rng_state(),
            "best_epoch": self.best_epoch,
            "best_pck": self.best_pck,
            "history": self.history,
            "num_steps_an_epoch": len(self.inputs.batches),
        }

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a ``last.pt``.

        Raises:
            ValueError: a checkpoint without training state, of another network, or of another number of steps.
        """
        state = checkpoint.training_state
        if not state:
            raise ValueError("this checkpoint holds weights alone (best.pt?); resume from last.pt")
        if checkpoint.architecture != self.inputs.architecture:
            raise ValueError(
                f"the checkpoint holds {checkpoint.architecture}, the config asks for {self.inputs.architecture}"
            )
        if state["num_steps_an_epoch"] != len(self.inputs.batches):
            raise ValueError(
                f"the checkpoint was trained with {state['num_steps_an_epoch']} steps an epoch, now there are "
                f"{len(self.inputs.batches)}: data, batch size and number of processes must stay the same"
            )
        self.net.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_steps_done = state["num_steps_done"]
        if self.average is not None:
            self.average.net.load_state_dict(checkpoint.weights)
            self.average.num_updates = state["num_averaged"]
        torch.set_rng_state(state["random"])
        self.epoch = checkpoint.epoch
        self.best_epoch, self.best_pck = state["best_epoch"], state["best_pck"]
        self.history = list(state["history"])


def fit(
    trainer: Trainer,
    checkpoint_dir: Path,
    on_epoch: Callable[[EpochResult], None],
    on_step: Callable[[float], None] = lambda loss: None,
) -> FitResult:
    """Train to the last epoch; rank 0 writes ``best.pt`` and ``last.pt`` after each, then calls ``on_epoch``.

    A trainer that has resumed goes on where it stopped.
    """
    num_samples, seconds = 0.0, 0.0
    while trainer.epoch < trainer.settings.epochs:
        result = trainer.run_epoch(on_step)
        num_samples += result.samples_per_s * result.train_seconds
        seconds += result.train_seconds
        if trainer.context.is_main:
            if result.is_best:
                save_checkpoint(trainer.checkpoint(with_training_state=False), checkpoint_dir / "best.pt")
            save_checkpoint(trainer.checkpoint(with_training_state=True), checkpoint_dir / "last.pt")
            on_epoch(result)
        trainer.context.barrier()
    rate = num_samples / seconds if seconds > 0 else 0.0
    return FitResult(best_epoch=trainer.best_epoch, best_pck=trainer.best_pck, samples_per_s=rate)


def _placed(net: nn.Module, settings: FitSettings, context: ProcessContext) -> nn.Module:
    """``net`` on its device, with synchronised batch norm where that exists: on several CUDA devices."""
    if context.world_size > 1 and context.device.type == "cuda":
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
    memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    return net.to(context.device, memory_format=memory_format)  # type: ignore[call-overload, no-any-return]


def _parallel(net: nn.Module, context: ProcessContext) -> nn.Module:
    if context.world_size == 1:
        return net
    device_ids = [context.device.index] if context.device.type == "cuda" else None
    return DistributedDataParallel(net, device_ids=device_ids)
