"""Settings of the adaptation of a model to a user's own pictures."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from carkp.config.training import (
    AugmentConfig,
    BlurProbability,
    ColorJitter,
    EraseProbability,
    GrayscaleProbability,
    LearningRate,
    MaxRotationDeg,
    MaxScale,
    MaxTranslation,
    MinScale,
    WarmupEpochs,
)
from carkp.config.values import (
    Float,
    NonNegativeFloat,
    PositiveInt,
    Probability,
    Section,
    require_warmup_within,
)


class StrongAugmentConfig(AugmentConfig):
    """As ``augment``, and strong: what a model learns from its own labels, and is held to."""

    min_scale: MinScale = 0.75
    max_scale: MaxScale = 1.3
    max_translation: MaxTranslation = 0.08
    max_rotation_deg: MaxRotationDeg = 8.0
    color_jitter: ColorJitter = 0.4
    grayscale_probability: GrayscaleProbability = 0.1
    blur_probability: BlurProbability = 0.2
    erase_probability: EraseProbability = 0.2


class AdaptConfig(Section):
    """Adaptation to a user's own pictures: as float training, but for these."""

    epochs: Annotated[
        PositiveInt, Field(description="How many epochs the adaptation takes. The model after the last one is kept.")
    ] = 5
    steps_per_epoch: Annotated[PositiveInt, Field(description="Batches of an epoch, however many cars there are.")] = (
        100
    )
    lr: LearningRate = 2.0e-4
    warmup_epochs: WarmupEpochs = 0.5
    target_share: Annotated[
        Float,
        Field(
            gt=0,
            lt=1,
            description="Share of every batch that is the user's cars. The rest is the configuration's data.",
        ),
    ] = 0.5
    ema_decay: Annotated[
        Float,
        Field(
            gt=0,
            lt=1,
            description="Decay per step of the moving average of the weights, which labels the unlabelled cars and is "
            "kept.",
        ),
    ] = 0.99
    min_confidence: Annotated[
        Probability,
        Field(
            description="Height of a heatmap's peak. Below it a keypoint that the model itself labels is not learnt."
        ),
    ] = 0.5
    unlabelled_weight: Annotated[
        NonNegativeFloat,
        Field(description="Weight in the loss of the labels that the model makes itself. Given labels have 1."),
    ] = 1.0
    holdout_share: Annotated[
        Float,
        Field(
            ge=0,
            lt=1,
            description="Share of the user's cars that are measured on and not learnt from, in whole pictures. 0: "
            "none.",
        ),
    ] = 0.2
    num_holdout_views: Annotated[
        PositiveInt,
        Field(
            description="Strongly augmented views of each held-out car in which the model must find the same keypoints."
        ),
    ] = 4
    max_loss_on_generated: Annotated[
        Probability,
        Field(
            description="Largest fall of validation PCK on the configuration's data. A model that falls further is "
            "refused; 0.01 is one point."
        ),
    ] = 0.01
    augment: StrongAugmentConfig = StrongAugmentConfig()

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Self:
        require_warmup_within(self.warmup_epochs, self.epochs)
        return self
