"""The training loop, used by every stage that trains."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from carkp.keypoints.codec import HeatmapCodec
from carkp.keypoints.heatmap_tensors import HeatmapTarget
from carkp.keypoints.loss import weighted_heatmap_loss
from carkp.keypoints.metrics import Scores
from carkp.training.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from carkp.training.distributed import ProcessContext
from carkp.training.divergence import MAX_IN_A_ROW, Divergence, KeptBuffers, find_origin
from carkp.training.evaluate import Batch
from carkp.training.optim import WeightAverage, warmup_cosine
from carkp.training.random_state import RandomState, get_random_state, read_random_states, set_random_state
from carkp.training.reduction import reduce_codec, reduce_images, reduce_points
from carkp.training.resume import check_settings, check_state, with_own_settings

BEST_NAME, LAST_NAME = "best.pt", "last.pt"
BACKBONE_PREFIX = "backbone."
"""Prefix of the names of all modules and parameters in a network's backbone."""

SOURCE_PCK = "pck/"
"""Prefix of the names of the sources' PCK in the history."""


class TrainBatches(Protocol):
    """Batches of one epoch; ``set_epoch`` shuffles them again, deterministically."""

    def set_epoch(self, epoch: int) -> None: ...
    def __iter__(self) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...
    def sample_ids(self, number: int) -> list[str]:
        """Return the sample ids of a batch of the epoch; batches are counted from 0."""
        ...


class LossTerm(Protocol):
    """An additional term of the loss, for example distillation or pseudo-labels."""

    def __call__(self, batch: Batch, images: Tensor, heatmaps: Tensor, average: nn.Module) -> Tensor:
        """Return the term, a scalar.

        Args:
            batch: the batch as it was loaded.
            images: the network's input of this step, (B, 3, H, W).
            heatmaps: the network's output for these images, (B, K, h, w).
            average: network with the moving average of the weights, in evaluation mode; without an average, the
                network itself.
        """
        ...


@dataclass(frozen=True)
class FitSettings:
    """Settings of the training; ``grad_clip`` and ``ema_decay`` 0 mean off, ``autocast_dtype`` None full precision.

    ``trusts_start``: the initial weights are trained, so the moving average uses its full decay from the start.
    ``ships_last``: the last epoch counts as the best one, regardless of the validation score.
    ``freeze_batch_norm``: batch norms of the backbone keep their statistics; their scales and shifts are trained.
    ``reduced_epochs``: number of epochs at the start that train on inputs reduced to ``reduced_size`` (h, w).
    """

    epochs: int
    lr: float
    backbone_lr_scale: float
    weight_decay: float
    warmup_epochs: float
    grad_clip: float
    ema_decay: float
    channels_last: bool
    compile: bool
    autocast_dtype: torch.dtype | None
    trusts_start: bool
    ships_last: bool
    freeze_batch_norm: bool
    reduced_epochs: int
    reduced_size: tuple[int, int]


@dataclass(frozen=True)
class EpochResult:
    """The result of one epoch. ``epoch`` counts from 1; ``train_seconds`` does not include validation."""

    epoch: int
    loss: float
    lr: float
    train_seconds: float
    samples_per_s: float
    scores: Scores
    is_best: bool

    def numbers(self) -> dict[str, float]:
        """Return the numbers that the history of a training stores."""
        return {
            "epoch": self.epoch,
            "loss": self.loss,
            "lr": self.lr,
            "samples_per_s": self.samples_per_s,
            "pck": self.scores.pck,
            "pck_hat": self.scores.pck_hat,
            "mean_dist": self.scores.mean_dist,
            **{f"{SOURCE_PCK}{name}": found.pck for name, found in self.scores.by_source.items()},
        }


@dataclass(frozen=True)
class FitResult:
    """The best epoch, its validation PCK, and the throughput over the epochs trained by this run of the process."""

    best_epoch: int
    best_pck: float
    samples_per_s: float


@dataclass(frozen=True)
class FitInputs:
    """The inputs of training.

    Attributes:
        batches: training batches of this process.
        codec: codec that computes targets on the device.
        normalise: function from uint8 images (B, 3, H, W) to network input.
        validate: function that scores the evaluation network on the validation split; called on every rank.
        architecture, config: entries stored in the checkpoints.
        decided: other values that determine the result, by name, stored in ``last.pt``: digests, and what settings of
            "auto" were resolved to.
        extra_loss: an additional term of the loss.
        on_divergence: function called for each step that is skipped because its loss or gradient is NaN or infinite.
    """

    batches: TrainBatches
    codec: HeatmapCodec
    normalise: Callable[[Tensor], Tensor]
    validate: Callable[[nn.Module], Scores]
    architecture: dict[str, Any]
    config: dict[str, Any]
    decided: dict[str, str] = field(default_factory=dict)
    extra_loss: LossTerm | None = None
    on_divergence: Callable[[Divergence], None] = lambda found: None


class Trainer:
    """State of one training: network, optimiser, schedule, moving average, best epoch."""

    def __init__(self, net: nn.Module, inputs: FitInputs, settings: FitSettings, context: ProcessContext) -> None:
        if len(inputs.batches) == 0:
            raise ValueError("the training split has fewer samples than one batch on every process")
        self.inputs, self.settings, self.context = inputs, settings, context
        self.net = _placed(net, settings, context)
        self.average = (
            WeightAverage(self.net, settings.ema_decay, settings.trusts_start) if settings.ema_decay > 0 else None
        )
        # torch.compile of a module returns a module, but its annotation is less precise. Kernels for fixed shapes are
        # faster, and there are at most two shapes
        compiled = cast(nn.Module, torch.compile(self.net, dynamic=False)) if settings.compile else self.net
        self.parallel = _parallel(compiled, context)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.net, settings), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.epoch, self.num_steps_done = 0, 0
        self.best_epoch, self.best_pck = 0, float("-inf")
        self.best_weights: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []
        self._buffers = KeptBuffers(self.net)
        self._gradient_norm = 0.0
        self._num_left_out = 0

    @property
    def eval_net(self) -> nn.Module:
        """The network that is validated and shipped."""
        return self.average.net if self.average is not None else self.net

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self.lr_of_step(self.num_steps_done)

    def lr_of_step(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        num_steps_an_epoch = len(self.inputs.batches)
        num_warmup_steps = round(self.settings.warmup_epochs * num_steps_an_epoch)
        num_steps = self.settings.epochs * num_steps_an_epoch
        return self.settings.lr * warmup_cosine(step, num_warmup_steps, num_steps)

    def step(self, batch: Batch) -> Tensor:
        """Do one optimiser step and return the loss, detached and still on the device.

        If the loss or the gradient is NaN or infinite, weights, statistics and average do not change.
        """
        loss = self._loss(batch)
        # a loss that is not finite makes every gradient NaN, on every process; else the factor is exactly 1
        loss = loss * (1 + 0 * loss.detach())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._gradient_norm = float(self._clip_gradient())
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group["lr_scale"]
        self.num_steps_done += 1
        if not math.isfinite(self._gradient_norm):
            self._num_left_out += 1
            self._buffers.restore()
            return loss.detach()
        self._num_left_out = 0
        self.optimizer.step()
        self._buffers.keep()
        if self.average is not None:
            self.average.update(self.net)
        return loss.detach()

    def _clip_gradient(self) -> Tensor:
        """Clip the gradient if this is set, and return its norm before clipping."""
        if self.settings.grad_clip > 0:
            return nn.utils.clip_grad_norm_(self.net.parameters(), self.settings.grad_clip)
        return nn.utils.get_total_norm([value.grad for value in self.net.parameters() if value.grad is not None])

    def _loss(self, batch: Batch) -> Tensor:
        images, target = self._inputs(batch)
        heatmaps = self._forward(self.parallel, images)
        loss = weighted_heatmap_loss(heatmaps, target.heatmaps, target.weights)
        if self.inputs.extra_loss is not None:
            loss = loss + self.inputs.extra_loss(batch, images, heatmaps, self.eval_net)
        return loss

    def _forward(self, net: nn.Module, images: Tensor) -> Tensor:
        dtype = self.settings.autocast_dtype
        with torch.autocast(self.context.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            heatmaps: Tensor = net(images)
        return heatmaps

    def _inputs(self, batch: Batch) -> tuple[Tensor, HeatmapTarget]:
        """Return the inputs of the network and the targets of the loss, on the device."""
        device = self.context.device
        images = self.inputs.normalise(batch["image"].to(device, non_blocking=True))
        points, validity = batch["points"].to(device), batch["validity"].to(device)
        codec = self.inputs.codec
        if self.epoch < self.settings.reduced_epochs:
            size = self.settings.reduced_size
            points = reduce_points(points, images.shape[-2:], size)
            images, codec = reduce_images(images, size), reduce_codec(codec, size)
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, codec.encode(points, validity)

    def run_epoch(self, on_step: Callable[[float], None]) -> EpochResult:
        """Train one epoch, then validate."""
        self.inputs.batches.set_epoch(self.epoch)
        self.net.train()
        if self.settings.freeze_batch_norm:
            freeze_batch_norm(self.net)
        lr = self.lr
        start = time.perf_counter()
        self._buffers.keep()
        total: float = 0.0
        num_samples, num_steps = 0, 0
        for number, batch in enumerate(self.inputs.batches):
            loss = float(self.step(batch))
            num_samples += len(batch["image"])
            if self._num_left_out:
                self._report_divergence(number, batch, loss)
            else:
                total += loss
                num_steps += 1
            on_step(loss)
        seconds = time.perf_counter() - start
        self._check_finite_weights()
        self.epoch += 1
        self.context.synchronise_buffers(self.net)
        if self.average is not None:
            self.context.synchronise_buffers(self.average.net)
        scores = self.inputs.validate(self.eval_net)
        is_best = self._note_best(scores.pck)
        rate = num_samples * self.context.world_size / seconds
        summed = math.fsum(self.context.gather(total))
        mean_loss = summed / num_steps / self.context.world_size if num_steps else math.nan
        result = EpochResult(self.epoch, mean_loss, lr, seconds, rate, scores, is_best)
        self.history.append(result.numbers())
        return result

    def _note_best(self, pck: float) -> bool:
        """Keep the weights if the epoch is the best so far, and return whether it is."""
        if math.isnan(pck):
            raise FloatingPointError(
                "the validation PCK is NaN: no car of the validation split has two labelled keypoints at different "
                "positions, so there is no best epoch; use other validation data"
            )
        is_best = pck > self.best_pck or self.settings.ships_last
        if is_best:
            self.best_epoch, self.best_pck = self.epoch, pck
            self.best_weights = {name: value.detach().cpu().clone() for name, value in self._eval_weights().items()}
        return is_best

    def _report_divergence(self, number: int, batch: Batch, loss: float) -> None:
        """Report the origin of a skipped step; end the training after ``MAX_IN_A_ROW`` such steps in a row."""
        device, random = self.context.device, get_random_state(self.context.device)
        images, _ = self._inputs(batch)
        origin = find_origin(self.net, lambda: self._forward(self.net, images), loss)
        self._buffers.restore()
        set_random_state(random, device)
        found = Divergence(
            epoch=self.epoch + 1,
            step=number + 1,
            num_steps=len(self.inputs.batches),
            loss=loss,
            gradient_norm=self._gradient_norm,
            samples=self.inputs.batches.sample_ids(number),
            origin=origin,
            num_in_a_row=self._num_left_out,
        )
        self.inputs.on_divergence(found)
        if self._num_left_out >= MAX_IN_A_ROW:
            raise FloatingPointError(
                f"{found}, as in the {MAX_IN_A_ROW - 1} steps before: lower train.lr or set train.grad_clip"
            )

    def _check_finite_weights(self) -> None:
        """Check the weights: the loss of an epoch does not show damage from its last step."""
        values = [value for value in self.net.state_dict().values() if value.is_floating_point()]
        if not bool(torch.stack([value.isfinite().all() for value in values]).all()):
            raise FloatingPointError(
                f"weights became infinite or NaN in epoch {self.epoch + 1}: lower train.lr or set train.grad_clip"
            )

    def _eval_weights(self) -> dict[str, Tensor]:
        return self.eval_net.state_dict()

    def best_checkpoint(self) -> Checkpoint:
        """Return the network of the best epoch, for ``best.pt``."""
        return self._checkpoint(self.best_weights, self.best_epoch, {})

    def last_checkpoint(self, random: list[RandomState]) -> Checkpoint:
        """Return everything that training needs to resume, for ``last.pt``. ``random``: random state of each rank."""
        weights = {name: value.detach().cpu() for name, value in self._eval_weights().items()}
        return self._checkpoint(weights, self.epoch, self._state(random))

    def _checkpoint(self, weights: dict[str, Tensor], epoch: int, state: dict[str, Any]) -> Checkpoint:
        return Checkpoint(self.inputs.architecture, weights, self.inputs.config, epoch, state)

    def _state(self, random: list[RandomState]) -> dict[str, Any]:
        return {
            "weights": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "num_steps_done": self.num_steps_done,
            "num_averaged": self.average.num_updates if self.average is not None else 0,
            "random": random,
            "best_epoch": self.best_epoch,
            "best_pck": self.best_pck,
            "best_weights": self.best_weights,
            "history": self.history,
            "num_steps_an_epoch": len(self.inputs.batches),
            "settings": self._named_settings(),
            "decided": self.inputs.decided,
        }

    def _named_settings(self) -> dict[str, Any]:
        return {**asdict(self.settings), "autocast_dtype": str(self.settings.autocast_dtype)}

    def resume(self, checkpoint: Checkpoint) -> None:
        """Resume from a ``last.pt`` of a training with the same settings.

        A finished training may have run on another kind of device, because no step follows; it is only scored.

        Raises:
            ValueError: the checkpoint's training state is incomplete, or its network, settings, number of steps or
                number of processes differ.
        """
        state = checkpoint.training_state
        check_state(checkpoint, self.inputs.architecture, len(self.inputs.batches))
        last_lr = self.lr_of_step(state["num_steps_done"] - 1)
        check_settings(state, self._named_settings(), self.optimizer, last_lr)
        random = []  # a finished training needs no random numbers
        if checkpoint.epoch < self.settings.epochs:
            random = read_random_states(state["random"], self.context.world_size, self.context.device)
        try:
            self._load(checkpoint)
        except (RuntimeError, KeyError, TypeError) as error:
            raise ValueError(f"weights or optimiser do not fit the network: {error}") from error
        if random:
            set_random_state(random[self.context.rank], self.context.device)

    def _load(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.training_state
        self.net.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(with_own_settings(state["optimizer"], self.optimizer))
        self.num_steps_done = state["num_steps_done"]
        if self.average is not None:
            self.average.net.load_state_dict(checkpoint.weights)
            self.average.num_updates = state["num_averaged"]
        self.epoch = checkpoint.epoch
        self.best_epoch, self.best_pck = state["best_epoch"], state["best_pck"]
        self.best_weights = state["best_weights"]
        self.history = list(state["history"])


def fit(
    trainer: Trainer,
    checkpoint_dir: Path,
    on_epoch: Callable[[EpochResult], None],
    on_step: Callable[[float], None] = lambda loss: None,
) -> FitResult:
    """Train up to the last epoch; after each one rank 0 writes ``best.pt`` and ``last.pt``, then calls ``on_epoch``.

    ``best.pt`` is written only after an epoch that is the best so far. A resumed trainer continues where it stopped.
    Any other trainer needs a directory without checkpoints.

    Raises:
        CheckpointError: the directory holds checkpoints of another training, or a checkpoint cannot be written.
        FloatingPointError: the loss, weights or the validation PCK are NaN or infinite; earlier checkpoints stay.
    """
    if trainer.epoch == 0 and trainer.context.is_main:
        _require_no_checkpoints(checkpoint_dir)
    num_samples, seconds = 0.0, 0.0
    while trainer.epoch < trainer.settings.epochs:
        result = _run_epoch(trainer, checkpoint_dir, on_step)
        num_samples += result.samples_per_s * result.train_seconds
        seconds += result.train_seconds
        random = trainer.context.gather(get_random_state(trainer.context.device))
        if trainer.context.is_main:
            if result.is_best:
                save_checkpoint(trainer.best_checkpoint(), checkpoint_dir / BEST_NAME)
            save_checkpoint(trainer.last_checkpoint(random), checkpoint_dir / LAST_NAME)
            on_epoch(result)
        trainer.context.barrier()
    rate = num_samples / seconds if seconds > 0 else 0.0
    return FitResult(best_epoch=trainer.best_epoch, best_pck=trainer.best_pck, samples_per_s=rate)


def _run_epoch(trainer: Trainer, checkpoint_dir: Path, on_step: Callable[[float], None]) -> EpochResult:
    try:
        return trainer.run_epoch(on_step)
    except FloatingPointError as error:
        last = checkpoint_dir / LAST_NAME
        kept = f"; {last} of the previous epoch is complete" if last.is_file() else ""
        raise FloatingPointError(f"{error}{kept}") from error


def _require_no_checkpoints(directory: Path) -> None:
    """Refuse a directory with checkpoints: they could be mistaken for those of the new training."""
    if there := [name for name in (BEST_NAME, LAST_NAME) if (directory / name).exists()]:
        raise CheckpointError(
            f"{directory} holds {' and '.join(there)} of an earlier training, and a new one would overwrite them: "
            f"continue it (resume={directory / LAST_NAME}), or move the directory away"
        )


def freeze_batch_norm(net: nn.Module) -> None:
    """Set batch norms of ``net.backbone`` to evaluation mode: they use their statistics without changing them."""
    for name, module in net.named_modules():
        if name.startswith(BACKBONE_PREFIX) and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _parameter_groups(net: nn.Module, settings: FitSettings) -> list[dict[str, Any]]:
    """Return one group if all parameters have the same learning rate, else a separate group for the backbone."""
    if settings.backbone_lr_scale == 1.0:
        return [{"params": list(net.parameters()), "lr_scale": 1.0}]
    named = list(net.named_parameters())
    backbone = [value for name, value in named if name.startswith(BACKBONE_PREFIX)]
    others = [value for name, value in named if not name.startswith(BACKBONE_PREFIX)]
    scale = settings.backbone_lr_scale
    return [{"params": others, "lr_scale": 1.0}, {"params": backbone, "lr_scale": scale}]


def _placed(net: nn.Module, settings: FitSettings, context: ProcessContext) -> nn.Module:
    """Move ``net`` to its device; on several CUDA devices, convert its batch norms to synchronised ones."""
    if context.world_size > 1 and context.device.type == "cuda":
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
    memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    return net.to(context.device, memory_format=memory_format)  # type: ignore[call-overload, no-any-return]


def _parallel(net: nn.Module, context: ProcessContext) -> nn.Module:
    if context.world_size == 1:
        return net
    device_ids = [context.device.index] if context.device.type == "cuda" else None
    return DistributedDataParallel(net, device_ids=device_ids)
