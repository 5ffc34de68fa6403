"""Settings of float training and its augmentation."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from carkp.config.paths import expand
from carkp.config.values import (
    MAX_PROCESSES,
    BatchSize,
    Float,
    Int,
    NonNegativeFloat,
    NonNegativeInt,
    NumProcesses,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    StrideSize,
    require_warmup_within,
)


class AugmentConfig(Section):
    """Training augmentation. The defaults are the reference's; the others are off."""

    flip_probability: Probability = 0.5
    random_padding: bool = True
    noise_probability: Probability = 0.2
    noise_sigma: Annotated[Float, Field(ge=0, le=255, description="in grey levels")] = 2.0
    min_scale: Annotated[Float, Field(ge=0.01, le=1, description="smallest random down-scaling")] = 1.0
    max_scale: Annotated[Float, Field(ge=1, le=100, description="largest random zoom")] = 1.0
    max_translation: Annotated[Float, Field(ge=0, lt=1, description="share of the input extent")] = 0.0
    max_rotation_deg: Annotated[Float, Field(ge=0, le=180)] = 0.0
    color_jitter: Annotated[Float, Field(ge=0, le=1, description="strength of all colour changes")] = 0.0
    grayscale_probability: Probability = 0.0
    gamma: Annotated[
        Float, Field(ge=0, le=2, description="largest exponent change: the tone curve's power lies in e^±gamma")
    ] = 0.0
    shade_probability: Annotated[
        Probability, Field(description="of a shadow with a straight edge over part of the crop")
    ] = 0.0
    blur_probability: Probability = 0.0
    resolution_probability: Annotated[
        Probability, Field(description="of reducing the picture and enlarging it again")
    ] = 0.0
    jpeg_probability: Annotated[Probability, Field(description="of compressing the picture hard")] = 0.0
    erase_probability: Annotated[
        Probability, Field(description="of hiding a rectangle, under one colour or under another part of the crop")
    ] = 0.0


class TrainConfig(Section):
    """Float training."""

    epochs: PositiveInt = 30
    batch_size: Annotated[BatchSize, Field(description="samples a process and step")] = 32
    num_samples: Annotated[
        NonNegativeInt,
        Field(
            description="of the training split, a random choice by the seed; 0: all. With data.sources: samples of an "
            "epoch, drawn by the shares; 0: as many as the sources hold together"
        ),
    ] = 0
    lr: PositiveFloat = 1.0e-3
    backbone_lr_scale: Annotated[
        Float, Field(ge=0, le=1, description="of lr, for the backbone; below 1 its pretrained weights change less")
    ] = 1.0
    freeze_batch_norm: Annotated[
        bool,
        Field(
            description="the backbone's batch norms keep what its first weights learnt, so that generated "
            "pictures do not replace the statistics of real ones"
        ),
    ] = False
    weight_decay: NonNegativeFloat = 5.0e-2
    reduced_epochs: Annotated[
        NonNegativeInt, Field(description="from the first on, on inputs reduced to reduced_size: coarse, but faster")
    ] = 0
    reduced_size: StrideSize = (96, 96)
    warmup_epochs: NonNegativeFloat = 0.0
    grad_clip: Annotated[Float, Field(ge=0, description="gradient norm; 0: no clipping")] = 0.0
    ema_decay: Annotated[Float, Field(ge=0, lt=1, description="0: no moving average of the weights")] = 0.0
    teacher: Annotated[
        str,
        Field(
            description="trained float model whose heatmaps are a further target: a checkpoint, runs:/<id>, or "
            "latest:<experiment>; empty: none"
        ),
        AfterValidator(expand),
    ] = ""
    teacher_weight: Annotated[
        PositiveFloat, Field(description="of the teacher's term in the loss; that of the labels has 1")
    ] = 1.0
    channels_last: bool = True
    compile: Annotated[
        bool, Field(description="torch.compile: needs a C++ compiler, pays from some 30,000 samples on")
    ] = False
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], Field(description="auto: bfloat16 on CUDA, float32 elsewhere")
    ] = "auto"
    nproc: Annotated[Int, Field(gt=0, le=MAX_PROCESSES, description="training processes under torchrun")] = 1
    num_workers: Annotated[NumProcesses, Field(description="loader processes a training process")] = 2
    num_threads: Annotated[NumProcesses, Field(description="torch threads a process; 0: torch's choice")] = 0

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        require_warmup_within(self.warmup_epochs, self.epochs)
        wanted = self.batch_size * self.nproc
        if 0 < self.num_samples < wanted:
            raise ValueError(
                f"num_samples={self.num_samples} make no batch of batch_size={self.batch_size} in each of "
                f"nproc={self.nproc} processes: {wanted} are needed at least"
            )
        return self
