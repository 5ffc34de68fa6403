"""The calibrator, which turns a float checkpoint into a network with thresholds. A stage builds it once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig, QuantConfig
from carkp.data.dataset import normalise
from carkp.data.store import Store
from carkp.model.pose_net import PoseNet
from carkp.quant.calibrate import CalibrationError, Observer, choose_thresholds, correct_biases, observe
from carkp.quant.equalise import equalise
from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.fold import FoldError, fold
from carkp.quant.graph import IMAGE, LayerGraph, scale_groups
from carkp.quant.histogram import AbsHistogram
from carkp.quant.rounding import round_by_second_moments, round_by_sums
from carkp.quant.target import Target
from carkp.training.checkpoint import Checkpoint, load_net
from carkp.workflow.build import build_observers, choose_wide, eval_dataset


@dataclass(frozen=True)
class Calibrator:
    """Settings for the quantisation of float networks.

    Attributes:
        target: target whose arithmetic is used.
        settings: observers, images, kind of the weight scales.
        backbone: name of the backbone, for messages.
        input_size: (height, width) of the images.
        seed: seed for the choice of images.
        channels_last: memory format of the images.
    """

    target: Target
    settings: QuantConfig
    backbone: str
    input_size: tuple[int, int]
    seed: int
    channels_last: bool

    @property
    def per_channel_weights(self) -> bool:
        weights = self.settings.weights
        return self.target.per_channel_weights if weights == "target" else weights == "per_channel"

    def prepare(self, checkpoint: Checkpoint) -> FakeQuantNet:
        """Fold the float network of a checkpoint and add fake quantisation that has no thresholds yet.

        Raises:
            ConfigError: the network cannot be folded.
            CheckpointError: the checkpoint holds no float network.
        """
        return self.quantise(load_net(checkpoint))

    def quantise(self, net: PoseNet) -> FakeQuantNet:
        """Do the same as ``prepare`` for a network."""
        try:
            graph = fold(net, self.input_size)
        except FoldError as error:
            raise ConfigError(f"model.backbone={self.backbone}: {error}") from error
        return FakeQuantNet(graph, self.target, self.per_channel_weights, self.wide(graph)).eval()

    def wide(self, graph: LayerGraph) -> list[str]:
        """Return the tensors of 16 bits.

        Raises:
            ConfigError: the target has no arithmetic for them, or ``quant.int16`` names a tensor that does not exist.
        """
        if not self.settings.int16:
            return []
        require_wide_arithmetic(self.target)
        groups = scale_groups(graph)
        return choose_wide(self.settings.int16, (name for name in groups if groups[name] != groups[IMAGE]))

    def observers(self, net: FakeQuantNet) -> dict[str, Observer]:
        """Return the observer of every tensor.

        Tensors of 16 bits use minmax, because they have enough steps to clip nothing.
        """
        wide = dict.fromkeys(net.wide, Observer("minmax", self.settings.percentile))
        return build_observers(self.settings, net.num_levels) | wide

    def images(self, store: Store, num_images: int, batch_size: int = 0) -> Iterator[Tensor]:
        """Yield normalised images (B, 3, H, W) under validation transforms: a random choice, loaded as needed.

        ``batch_size`` 0: batch size of the settings.
        """
        batch_size = batch_size or self.settings.batch_size
        generator = np.random.default_rng(self.seed)
        chosen = np.sort(generator.choice(len(store), size=min(num_images, len(store)), replace=False))
        dataset = eval_dataset(store, self.input_size, self.seed)
        for start in range(0, len(chosen), batch_size):
            images = normalise(torch.stack([dataset[int(i)]["image"] for i in chosen[start : start + batch_size]]))
            yield images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def calibrate(self, net: FakeQuantNet, store: Store, observers: Mapping[str, Observer]) -> dict[str, AbsHistogram]:
        """Equalise ``net`` and set its thresholds, rounding and biases from images of ``store``.

        Returns the histograms behind the thresholds.

        Raises:
            ConfigError: a tensor cannot be calibrated.
        """
        if self.settings.equalise:
            equalise(net.graph, self._shown_images(store, "equalise"))
        images = self._shown_images(store, "observe")
        try:
            histograms = observe(net.graph, images, torch.get_num_threads())
        except CalibrationError as error:
            raise ConfigError(f"calibration: {error}") from error
        net.set_thresholds(choose_thresholds(histograms, net.num_levels, observers))
        match self.settings.rounding:
            case "nearest":
                pass
            case "sums":
                round_by_sums(net)
            case "second_moments":
                round_by_second_moments(net, self._shown_images(store, "round", self.settings.num_rounding_images))
        if self.settings.bias_correction:
            correct_biases(net, self._shown_images(store, "correct biases"))
        return histograms

    def _shown_images(self, store: Store, title: str, num_images: int = 0) -> "tqdm[Tensor]":
        """``num_images`` 0: number of images in the settings."""
        num_images = num_images or self.settings.num_images
        num_batches = -(-min(num_images, len(store)) // self.settings.batch_size)
        return tqdm(self.images(store, num_images), title, num_batches, unit="batch")


def require_wide_arithmetic(target: Target) -> None:
    """Refuse tensors of 16 bits if the target has no arithmetic for them.

    Raises:
        ConfigError: the target has none.
    """
    if target.requantisation != "fixed_point":
        raise ConfigError(
            "quant.int16: 16-bit tensors need a target with requantisation fixed_point, but "
            f"{target.name} has {target.requantisation}: leave quant.int16 empty"
        )


def as_reference(config: ExperimentConfig) -> ExperimentConfig:
    """Return ``config`` with the reference's calibration: percentile, weights rounded to nearest, no corrections."""
    changes = {
        "observer": "percentile",
        "rules": (),
        "equalise": False,
        "rounding": "nearest",
        "bias_correction": False,
        "int16": (),
    }
    return config.model_copy(update={"quant": config.quant.model_copy(update=changes)})


def build_calibrator(config: ExperimentConfig, target: Target) -> Calibrator:
    return Calibrator(
        target=target,
        settings=config.quant,
        backbone=config.model.backbone,
        input_size=config.model.input_size,
        seed=config.seed,
        channels_last=config.train.channels_last,
    )
