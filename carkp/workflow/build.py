"""``build_*`` functions: each takes settings and returns an object. Below the stages no code takes a configuration."""

import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from threadpoolctl import threadpool_limits

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig, HeatmapConfig, QuantConfig, TrainConfig
from carkp.config.sources import shares
from carkp.data.dataset import CropDataset, TrainLoader, train_loader
from carkp.data.mixture import parts_of
from carkp.data.shares import mixed_loader
from carkp.data.store import Store
from carkp.data.transforms import EvalTransform, TrainTransform
from carkp.keypoints.codec import HeatmapCodec, codec_for_input
from carkp.model.cpu_memory import keep_freed_memory
from carkp.model.pose_net import BuiltModel, build_pose_net
from carkp.quant.calibrate import Observer
from carkp.training.distributed import ProcessContext
from carkp.training.fit import FitSettings


def build_codec(heatmap: HeatmapConfig, input_size: tuple[int, int]) -> HeatmapCodec:
    return codec_for_input(input_size, **heatmap.model_dump())


def build_model(config: ExperimentConfig) -> BuiltModel:
    """Build the network with its first weights; random ones depend on the configuration's seed.

    Raises:
        ConfigError: the network does not exist, or its pretrained weights are not available.
    """
    torch.manual_seed(config.seed)
    model = config.model
    try:
        return build_pose_net(
            name=model.backbone,
            pretrained=model.pretrained,
            input_size=model.input_size,
            head_channels=model.head_channels,
            activation=model.activation,
            drop_path_rate=model.drop_path_rate,
        )
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        raise ConfigError(f"model: {error}") from error


def build_train_loader(config: ExperimentConfig, store: Store, context: ProcessContext) -> TrainLoader:
    """Return training batches; with several sources, each has its share of every batch.

    Raises:
        ConfigError: the data are a mixture of other sources than the configuration names.
        DataError: there are too few samples for a batch.
    """
    require_sources(config, store)
    transform = TrainTransform(input_size=config.model.input_size, **config.augment.model_dump())
    dataset = CropDataset(store, transform, config.seed)
    wanted = shares(config.data)
    make_loader = partial(mixed_loader, shares=wanted) if wanted else train_loader
    return make_loader(
        dataset,
        batch_size=config.train.batch_size,
        num_workers=config.train.num_workers,
        seed=config.seed,
        rank=context.rank,
        world_size=context.world_size,
        pin_memory=context.device.type == "cuda",
        num_samples=config.train.num_samples,
    )


def require_sources(config: ExperimentConfig, store: Store) -> None:
    """Refuse data of other sources than the configuration names, because their shares are unknown.

    Raises:
        ConfigError: the sources differ.
    """
    found, wanted = set(parts_of(store)), set(shares(config.data))
    if found != wanted:
        raise ConfigError(
            f"{store.path}: the data are from {_named(found)}, but data.sources of the configuration names "
            f"{_named(wanted)}: give the configuration with which they were prepared, or other data (data=…)"
        )


def _named(sources: Iterable[str]) -> str:
    return ", ".join(sorted(sources)) or "a single source"


def build_eval_dataset(config: ExperimentConfig, store: Store) -> CropDataset:
    return eval_dataset(store, config.model.input_size, config.seed)


def eval_dataset(store: Store, input_size: tuple[int, int], seed: int) -> CropDataset:
    """Return a split with validation transforms."""
    return CropDataset(store, EvalTransform(input_size), seed)


def build_qat_settings(config: ExperimentConfig, device: torch.device) -> FitSettings:
    """Return the settings of float training with the changes of ``qat``, in full precision and uncompiled."""
    off = {"ema_decay": 0.0, "compile": False, "precision": "float32", "reduced_epochs": 0}
    changes = config.qat.model_dump() | off
    return build_fit_settings(config.train.model_copy(update=changes), device, trusts_start=True)


def no_match(pattern: str, names: Sequence[str]) -> str:
    """Describe why a pattern of tensor names is refused, and name similar tensors."""
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or names[:3]
    return (
        f"{pattern!r} matches no tensor; there are {len(names)}, such as {', '.join(near)}: "
        "scales.json of a calibration run lists all. `*` stands for any part of a name"
    )


def build_observers(quant: QuantConfig, tensors: Iterable[str]) -> dict[str, Observer]:
    """Return the observer of every tensor: by the last rule that matches its name, else the configuration's own.

    Raises:
        ConfigError: a rule matches no tensor.
    """
    names = list(tensors)
    observers = {name: Observer(quant.observer, quant.percentile) for name in names}
    for rule in quant.rules:
        matching = fnmatch.filter(names, rule.tensors)
        if not matching:
            raise ConfigError(f"quant.rules: {no_match(rule.tensors, names)}")
        percentile = quant.percentile if rule.percentile is None else rule.percentile
        observers |= dict.fromkeys(matching, Observer(rule.observer, percentile))
    return observers


def choose_wide(patterns: Sequence[str], tensors: Iterable[str]) -> list[str]:
    """Return the tensors that ``quant.int16`` names.

    Raises:
        ConfigError: a pattern matches no tensor.
    """
    names = list(tensors)
    chosen: list[str] = []
    for pattern in patterns:
        matching = fnmatch.filter(names, pattern)
        if not matching:
            raise ConfigError(f"quant.int16: {no_match(pattern, names)}")
        chosen += matching
    return list(dict.fromkeys(chosen))


def vary_percentile(observers: Mapping[str, Observer], quant: QuantConfig, percentile: float) -> dict[str, Observer]:
    """Return ``observers`` with another percentile. Tensors with another observer by a rule keep it."""
    own = Observer(quant.observer, quant.percentile)
    varied = Observer("percentile", percentile)
    return {name: varied if observer == own else observer for name, observer in observers.items()}


def resolve_precision(precision: str, device: torch.device) -> str:
    """Resolve ``train.precision``: ``auto`` is bfloat16 on CUDA, else float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if device.type == "cuda" else "float32"


def build_fit_settings(train: TrainConfig, device: torch.device, trusts_start: bool) -> FitSettings:
    """Return the settings of a training; ``trusts_start``: it starts from a network that already finds keypoints."""
    use_bfloat16 = resolve_precision(train.precision, device) == "bfloat16"
    return FitSettings(
        epochs=train.epochs,
        lr=train.lr,
        backbone_lr_scale=train.backbone_lr_scale,
        weight_decay=train.weight_decay,
        warmup_epochs=train.warmup_epochs,
        grad_clip=train.grad_clip,
        ema_decay=train.ema_decay,
        channels_last=train.channels_last,
        compile=train.compile,
        autocast_dtype=torch.bfloat16 if use_bfloat16 else None,
        trusts_start=trusts_start,
        ships_last=False,
        freeze_batch_norm=train.freeze_batch_norm,
        reduced_epochs=train.reduced_epochs,
        reduced_size=train.reduced_size,
    )


def prepare_torch(config: ExperimentConfig) -> None:
    """Set threads, seed and deterministic kernels: on one machine the same seed then gives the same numbers."""
    if config.train.num_threads > 0:
        torch.set_num_threads(config.train.num_threads)
        threadpool_limits(config.train.num_threads)  # numpy's BLAS too
    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    # no code here reads uninitialised memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    keep_freed_memory()
