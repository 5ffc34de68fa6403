"""The teacher of a float training: lookup, and checks that the student can learn from it."""

from dataclasses import dataclass

import torch
from torch import nn

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.tracking.runs import EXPERIMENT_TAG, LATEST
from carkp.training.checkpoint import load_checkpoint, load_net, weights_digest
from carkp.training.distillation import Distillation
from carkp.training.fit import FitSettings
from carkp.workflow.build import build_codec
from carkp.workflow.references import FLOAT, ModelFile, check_codec, check_input_size, codec_of, resolve_model

LATEST_OF = f"{LATEST}:"
NO_TEACHER = "none"
"""Value logged for a training without a teacher."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network in evaluation mode, the digest of its weights, and its reference."""

    net: nn.Module
    digest: str
    reference: str


def find_teacher(config: ExperimentConfig) -> ModelFile | None:
    """Return the file that ``train.teacher`` names; None if the setting is empty.

    Raises:
        ConfigError: the setting is just ``latest``, which would soon be the student itself.
        TrackingError: the model does not exist.
    """
    reference = config.train.teacher
    if not reference:
        return None
    if reference == LATEST:
        raise ConfigError(
            f"train.teacher={LATEST}: the newest model of this experiment would soon be the student itself; give "
            f"{LATEST_OF}<experiment of the teacher>, runs:/<id>, or a checkpoint"
        )
    if reference.startswith(LATEST_OF):
        return resolve_model(LATEST, FLOAT, {EXPERIMENT_TAG: reference.removeprefix(LATEST_OF)})
    return resolve_model(reference, FLOAT, {})


def load_teacher(config: ExperimentConfig) -> Teacher | None:
    """Load the teacher that the configuration names, if any.

    Raises:
        ConfigError: it was trained for other heatmaps.
        CheckpointError: the file holds no float network, or one with another input size.
        TrackingError: the model does not exist.
    """
    file = find_teacher(config)
    return None if file is None else read_teacher(config, file)


def read_teacher(config: ExperimentConfig, file: ModelFile) -> Teacher:
    """Load the network in ``file``; it raises the same errors as ``load_teacher``."""
    checkpoint = load_checkpoint(file.path)
    net = load_net(checkpoint).requires_grad_(False)
    check_input_size(checkpoint.architecture, config, file.path)
    check_codec(codec_of(checkpoint), config, file.path)
    return Teacher(net, weights_digest(checkpoint.weights), file.reference)


def teacher_digest(config: ExperimentConfig) -> str:
    """Return the digest of the teacher's weights; it does not depend on the file or run that holds them."""
    teacher = load_teacher(config)
    return NO_TEACHER if teacher is None else teacher.digest


def build_distillation(
    config: ExperimentConfig, teacher: Teacher | None, settings: FitSettings, device: torch.device
) -> Distillation | None:
    """Return the teacher's term of the loss; None without a teacher."""
    if teacher is None:
        return None
    memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    net = teacher.net.to(device).to(memory_format=memory_format)
    codec = build_codec(config.heatmap, config.model.input_size)
    return Distillation(net, codec, config.train.teacher_weight, settings.autocast_dtype)
